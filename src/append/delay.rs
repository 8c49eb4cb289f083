//! How long the append queue makes its oldest wait: whoever would wait too long is refused rather than admitted.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Since when somebody has been waiting for a batch to begin.
#[derive(Debug)]
pub(super) struct QueueDelay {
    waiting_since: Mutex<Option<Instant>>,
    max: Duration,
}

impl QueueDelay {
    pub(super) fn new(max: Duration) -> Self {
        Self {
            waiting_since: Mutex::new(None),
            max,
        }
    }

    /// Of whoever joins the queue, before the batcher has seen it: so a batcher that is not run is noticed, too.
    pub(super) fn note_joined(&self, at: Instant) {
        self.lock().get_or_insert(at);
    }

    /// What the batcher has left waiting.
    pub(super) fn note_oldest(&self, oldest: Option<Instant>) {
        *self.lock() = oldest;
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.age() > self.max
    }

    /// How long the oldest has waited; 0 if nobody does.
    pub(super) fn age(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.waiting_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
