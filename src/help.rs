//! `newsfeed --help` with the commands in groups instead of one list.

use std::fmt::Write;

use clap::Command;

const GROUPS: [(&str, &[&str]); 4] = [
    (
        "Read and write feeds",
        &[
            "append", "event", "edit", "erase", "tail", "history", "export", "import", "state",
            "mark", "readers",
        ],
    ),
    ("Run the service", &["serve", "config", "admin"]),
    ("Try it", &["demo", "replay"]),
    ("Help", &["completions", "help"]),
];

const EXAMPLES: &str = "Examples:\n  \
    newsfeed serve                                                  run the service on http://127.0.0.1:8080\n  \
    newsfeed tail user:ben                                          in a second terminal\n  \
    newsfeed append --kind message --feed user:ben --text 'Hi Ben'  in a third terminal\n\n\
    `newsfeed COMMAND --help` shows all options of a command and more examples.";

/// Groups the subcommands in the help of `command`.
pub fn grouped(command: Command) -> Command {
    let heading = *command.get_styles().get_header();
    let name = *command.get_styles().get_literal();
    let mut list = String::new();
    for (group, members) in GROUPS {
        let _ = writeln!(list, "{heading}{group}:{heading:#}");
        for member in members {
            let _ = writeln!(
                list,
                "  {name}{member:12}{name:#} {}",
                about(&command, member)
            );
        }
        list.push('\n');
    }
    command
        .help_template(format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}{heading}Options:{heading:#}\n{{options}}{{after-help}}"
        ))
        .after_help(EXAMPLES)
}

fn about(command: &Command, member: &str) -> String {
    match command.find_subcommand(member).and_then(Command::get_about) {
        Some(about) => about.to_string(),
        // `help`, which clap adds later.
        None => "Print this message or the help of a command".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_is_in_one_group() {
        let command = Cli::command();
        let mut commands: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|group| group.1).copied().collect();
        commands.push("help");
        commands.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(commands, grouped);
    }

    #[test]
    fn the_command_line_is_consistent() {
        grouped(Cli::command()).debug_assert();
    }
}
