//! A minimum gap between rounds.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Rounds begin at least `gap` apart. After a longer pause the next one begins at once.
pub(super) struct Throttle {
    gap: Duration,
    last: Option<Instant>,
}

impl Throttle {
    pub(super) fn new(gap: Duration) -> Self {
        Self { gap, last: None }
    }

    /// Waits until the next round may begin.
    pub(super) async fn next(&mut self) {
        if let Some(last) = self.last.filter(|_| !self.gap.is_zero()) {
            sleep_until(last + self.gap).await;
        }
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rounds_begin_a_gap_apart_and_do_not_wait_after_a_pause() {
        let gap = Duration::from_millis(5);
        let mut throttle = Throttle::new(gap);
        let mut begun = Vec::new();
        let start = Instant::now();
        for pause in [0, 0, 3, 20, 0] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            throttle.next().await;
            begun.push(start.elapsed().as_millis());
        }
        assert_eq!(begun, [0, 5, 10, 30, 35]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_gap_nothing_waits() {
        let mut throttle = Throttle::new(Duration::ZERO);
        let start = Instant::now();
        for _ in 0..3 {
            throttle.next().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
