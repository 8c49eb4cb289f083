use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// Without a terminal, progress is a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar on a terminal, a line now and then elsewhere; both on stderr, so that stdout is the result alone.
pub struct Progress {
    bar: ProgressBar,
    line_last: Instant,
}

impl Progress {
    /// `length` in whatever [`Progress::set`] counts; without one there is no bar, only the text.
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
        if !self.bar.is_hidden() {
            self.bar.set_message(text());
        } else if self.line_last.elapsed() >= LINE_EVERY {
            self.line_last = Instant::now();
            eprintln!("{}", text());
        }
    }
}
