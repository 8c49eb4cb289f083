//! How long and how often to retry.

use std::time::{Duration, Instant};

use super::Error;

/// Bounds of the pause before a retry, whether we choose it or `Retry-After` does.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Limits retries to a time from the first failure, with pauses that double.
pub struct Patience {
    max: Duration,
    failing_since: Option<Instant>,
    pause_next: Duration,
}

impl Patience {
    pub const ENDLESS: Duration = Duration::MAX;

    pub fn new(max: Duration) -> Self {
        Self {
            max,
            failing_since: None,
            pause_next: PAUSE_MIN,
        }
    }

    /// Waits before the next try, for the time the service `asked` for, if it did. Fails with `last` once patience ends.
    pub async fn pause(&mut self, asked: Option<Duration>, last: Error) -> Result<(), Error> {
        if self.max.is_zero() {
            return Err(last);
        }
        let seconds = self.max.as_secs();
        match self.failing_since {
            Some(since) if since.elapsed() >= self.max => {
                let last = Box::new(last);
                return Err(Error::GaveUp { seconds, last });
            }
            Some(_) => {}
            None => {
                match self.max {
                    Self::ENDLESS => tracing::warn!("{last}; retrying until Ctrl-C"),
                    _ => tracing::warn!("{last}; retrying for up to {seconds} s"),
                }
                self.failing_since = Some(Instant::now());
            }
        }
        tokio::time::sleep(asked.unwrap_or(self.pause_next).clamp(PAUSE_MIN, PAUSE_MAX)).await;
        self.pause_next = (self.pause_next * 2).min(PAUSE_MAX);
        Ok(())
    }
}
