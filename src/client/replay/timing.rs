//! When each message is due: the original times, sped up by a factor.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::list::Message;

/// Upper bound for due times, so that a slow replay does not exceed the range of the clock.
const DUE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

pub fn parse(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(times),
        _ => Err("must be a number above 0, such as 3600".to_owned()),
    }
}

/// Maps original times to our clock. The first message is due at the start.
pub struct Timing {
    times: f64,
    start: Instant,
    /// Original time of the first message, in Unix seconds.
    first: i64,
}

impl Timing {
    pub fn start(times: f64, first: i64) -> Self {
        Self {
            times,
            start: Instant::now(),
            first,
        }
    }

    /// A message older than the first is due immediately.
    pub fn due(&self, sent: i64) -> Instant {
        let original_seconds = sent.saturating_sub(self.first).max(0) as f64;
        let after = Duration::try_from_secs_f64(original_seconds / self.times).unwrap_or(DUE_MAX);
        self.start + after.min(DUE_MAX)
    }

    /// Waits until the first of `messages` is due, and returns it and the following ones that are due by then.
    pub async fn due_of<'a>(&self, messages: &'a [Message]) -> &'a [Message] {
        let Some(first) = messages.first() else {
            return messages;
        };
        sleep_until(self.due(first.sent)).await;
        let now = Instant::now();
        let due = messages
            .iter()
            .take_while(|message| self.due(message.sent) <= now)
            .count();
        &messages[..due]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn due_times_are_the_original_ones_divided() {
        let after = |times, first, sent| {
            let timing = Timing::start(times, first);
            timing.due(sent) - timing.start
        };
        assert_eq!(after(1.0, 100, 160), Duration::from_secs(60));
        assert_eq!(after(3600.0, 100, 1_900), Duration::from_millis(500));
        assert_eq!(after(0.5, 100, 101), Duration::from_secs(2));
        assert_eq!(after(1.0, 100, 40), Duration::ZERO);
        assert_eq!(after(1e-300, 0, 1), DUE_MAX);
        assert_eq!(after(1.0, i64::MIN, i64::MAX), DUE_MAX);
        assert!(parse("0").is_err() && parse("-1").is_err() && parse("inf").is_err());
        assert_eq!(parse("0.5"), Ok(0.5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_all_messages_that_are_due() {
        let messages = [1000, 1000, 1010, 1011, 1012, 1020].map(|sent| Message::new(1, 2, sent));
        let timing = Timing::start(10.0, 1000);
        let mut rest = &messages[..];
        for (count, due_ms, stall_ms) in [(2, 0, 0), (1, 1000, 0), (1, 1100, 950), (2, 2050, 0)] {
            let due = timing.due_of(rest).await;
            assert_eq!(due.len(), count);
            let elapsed = timing.start.elapsed().as_millis();
            assert!(elapsed.abs_diff(due_ms) <= 1, "{elapsed} ms");
            rest = &rest[count..];
            tokio::time::advance(Duration::from_millis(stall_ms)).await;
        }
        assert_eq!(rest, []);
    }
}
