//! How long and how often to retry.

use std::time::Duration;

use tokio::time::Instant;

use super::Error;

/// Bounds of the pause before a retry. `Retry-After` may ask for more.
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

    /// Waits before the next try, at least for the time the service `asked` for, if it did. Fails with `last` once patience
    /// ends, or would end during the time asked for.
    pub async fn pause(&mut self, asked: Option<Duration>, last: Error) -> Result<(), Error> {
        if self.max.is_zero() {
            return Err(last);
        }
        let seconds = self.max.as_secs();
        let failing_for = match self.failing_since {
            Some(since) => since.elapsed(),
            None => Duration::ZERO,
        };
        let left = self.max.saturating_sub(failing_for);
        if left.is_zero() {
            let last = Box::new(last);
            return Err(Error::GaveUp { seconds, last });
        }
        if let Some(asked) = asked.filter(|asked| *asked > left) {
            return Err(Error::AskedToWait {
                asked_seconds: asked.as_secs(),
                last: Box::new(last),
            });
        }
        if self.failing_since.is_none() {
            match self.max {
                Self::ENDLESS => tracing::warn!("{last}; retrying until Ctrl-C"),
                _ => tracing::warn!("{last}; retrying for up to {seconds} s"),
            }
            self.failing_since = Some(Instant::now());
        }
        if let Some(asked) = asked.filter(|asked| *asked > PAUSE_MAX) {
            tracing::warn!("waiting {} s, as the service asks", asked.as_secs());
        }
        tokio::time::sleep(asked.unwrap_or(self.pause_next).max(PAUSE_MIN)).await;
        self.pause_next = (self.pause_next * 2).min(PAUSE_MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn pause(patience: &mut Patience, asked_seconds: Option<u64>) -> Result<u64, Error> {
        let (begin, last) = (Instant::now(), Error::Arguments("busy".to_owned()));
        let asked = asked_seconds.map(Duration::from_secs);
        patience.pause(asked, last).await?;
        Ok(begin.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_is_never_earlier_than_the_service_asks() {
        let mut patience = Patience::new(MINUTE);
        assert_eq!(pause(&mut patience, Some(30)).await.expect("a retry"), 30);
        assert_eq!(pause(&mut patience, None).await.expect("a retry"), 0);
        let later = pause(&mut patience, Some(30)).await.expect_err("too late");
        assert_eq!(
            later.to_string(),
            "busy. The service asks to wait 30 s, longer than the command would still retry: run it again then"
        );
        let hour = pause(&mut Patience::new(Patience::ENDLESS), Some(3_600)).await;
        assert_eq!(hour.expect("a retry"), 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_after_the_time_without_progress() {
        let (mut patience, begin) = (Patience::new(MINUTE), Instant::now());
        let error = loop {
            if let Err(error) = pause(&mut patience, None).await {
                break error;
            }
        };
        assert!(
            matches!(error, Error::GaveUp { seconds: 60, .. }),
            "{error}"
        );
        assert!((MINUTE..MINUTE + PAUSE_MAX * 2).contains(&begin.elapsed()));
    }
}
