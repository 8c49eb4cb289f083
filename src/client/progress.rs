//! Progress of long commands.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// Interval between progress lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A progress bar on a terminal, occasional lines elsewhere. Both go to stderr, so that stdout has only the result.
pub struct Progress {
    bar: ProgressBar,
    line_last: Instant,
}

impl Progress {
    /// `length` is in the unit of [`Progress::set`]. Without it there is text but no bar.
    pub fn new(length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => "{bar:30} {percent:>3}%  {msg}",
            None => "{spinner} {msg}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        Self {
            bar: bar.with_style(style).with_finish(ProgressFinish::AndClear),
            line_last: Instant::now(),
        }
    }

    pub fn set(&mut self, position: u64, text: impl FnOnce() -> String) {
        self.bar.set_position(position);
        self.say(text);
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(text());
        } else if self.line_last.elapsed() >= LINE_EVERY {
            self.line_last = Instant::now();
            eprintln!("{}", text());
        }
    }
}
