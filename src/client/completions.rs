//! `newsfeed completions`: completion scripts for shells.

use std::io::{self, Write};

use clap_complete::{Shell, generate};

use super::{Error, output::unwritten};

/// Print the completion script of a shell
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed completions bash > ~/.local/share/bash-completion/completions/newsfeed\n  \
    newsfeed completions zsh > ~/.zfunc/_newsfeed            needs fpath+=~/.zfunc before compinit in ~/.zshrc\n  \
    newsfeed completions fish > ~/.config/fish/completions/newsfeed.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// `command` is the whole command line of `newsfeed`.
pub fn run(args: &CompletionsArgs, command: &mut clap::Command) -> Result<(), Error> {
    let mut script = Vec::new();
    generate(args.shell, command, "newsfeed", &mut script);
    io::stdout().write_all(&script).map_err(unwritten)
}
