//! The pace of work in the background: a node leaves time to its own appends, and to other nodes that do the same work.

use std::time::Duration;

use rand::RngExt;
use tokio::time::sleep;

use crate::metrics::Metrics;

/// A node rests after a step, for this many times as long as the step took: so work in the background uses a part of the
/// processor and the store, and a smaller part while the node has appends to commit.
const REST: u32 = 1;
const REST_WHILE_APPENDING: u32 = 6;

/// How long a node leaves the steps to another one after that was first, at least and at most. It doubles each time, up to
/// twice as long as the last of these is drawn at random.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A random time between `least` and twice as much.
pub fn jittered(least: Duration) -> Duration {
    least.mul_f64(rand::rng().random_range(1.0..2.0))
}

/// Rests after a step that took `time`, for at most `most`.
pub async fn rest(metrics: &Metrics, time: Duration, most: Duration) {
    let times = match metrics.appends.batches_in_flight.get() {
        0 => REST,
        _ => REST_WHILE_APPENDING,
    };
    sleep((time * times).min(most)).await;
}

/// Waits longer after each failure.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_MIN }
    }
}

impl Backoff {
    pub async fn wait(&mut self) {
        sleep(jittered(self.next)).await;
        self.next = (self.next * 2).min(BACKOFF_MAX);
    }

    /// After a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}
