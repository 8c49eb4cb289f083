//! Output of the commands: lines for people on a terminal, JSON lines for programs.

use std::{
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use anstream::{AutoStream, ColorChoice};
use anstyle::Style;
use tokio::{io::Interest, net::unix::pipe};

use super::{Error, line::Painter, text::printable_json};

#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// Output format [default: text on a terminal, json elsewhere]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// When to colour text (auto, always, never). auto: on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    color: clap::ColorChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// The JSON objects of the API, one per line
    Json,
}

impl Output {
    pub fn open(&self) -> Printer {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let format = self
            .format
            .unwrap_or(if terminal { Format::Text } else { Format::Json });
        let color = match self.color {
            clap::ColorChoice::Always => true,
            clap::ColorChoice::Never => false,
            clap::ColorChoice::Auto => AutoStream::choice(&stdout) != ColorChoice::Never,
        };
        Printer {
            out: BufWriter::new(stdout),
            format,
            terminal,
            painter: Painter::new(color),
        }
    }
}

/// Standard output, buffered until it is flushed.
pub struct Printer {
    out: BufWriter<Stdout>,
    format: Format,
    terminal: bool,
    pub painter: Painter,
}

impl Printer {
    /// Whether entries as text show their version and id.
    pub fn long(self, long: bool) -> Self {
        Self {
            painter: self.painter.long(long),
            ..self
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line: `json` or the text, depending on the format.
    pub fn print(
        &mut self,
        json: &str,
        text: impl FnOnce(&Painter) -> String,
    ) -> Result<(), Error> {
        match self.format {
            // Data may have characters that control the terminal. Programs get the JSON as it is.
            Format::Json if self.terminal => self.line(&printable_json(json)),
            Format::Json => self.line(json),
            Format::Text => self.line(&text(&self.painter)),
        }
    }

    pub fn line(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.out, "{line}").map_err(unwritten)
    }

    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(unwritten)
    }
}

/// Maps a failed write to standard output.
pub fn unwritten(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Write {
            path: PathBuf::from("standard output"),
            source,
        },
    }
}

/// Completes when the reader of our standard output is gone. Never completes for a file.
pub async fn closed() {
    // A duplicate descriptor, used only to wait for errors; nothing is written through it.
    if let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned()
        && let Ok(stdout) = pipe::Sender::from_owned_fd_unchecked(stdout)
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Prints a progress notice on stderr.
pub fn status(text: &str) {
    let mut stderr = io::stderr();
    let style = match AutoStream::choice(&stderr) {
        ColorChoice::Never => Style::new(),
        _ => Style::new().dimmed(),
    };
    let text = super::text::printable(text);
    // A failed write to stderr cannot be reported anywhere.
    let _ = writeln!(stderr, "{style}-- {text}{style:#}");
}
