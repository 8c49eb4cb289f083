//! How much waits for a batch to begin, and whether more may join. Whoever would wait too long is refused rather than
//! admitted.
//!
//! A queue that is a burst empties by itself, and may be as long as its oldest may wait. One that does not empty for
//! that long stands: it only makes everybody wait, and costs memory and the time of those that read and follow. It is
//! then held at what is worked off in a tenth of the time, which keeps batches full (cf. CoDel, RFC 8289).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::BATCH_EVENTS_MAX;

/// A queue that stands is held at what it works off in this part of the time it may make the oldest wait.
const STANDING_PART: u32 = 10;
/// But not below this, so that batches are full.
const STANDING_EVENTS_MIN: usize = 3 * BATCH_EVENTS_MAX;
/// What may wait for others that have all the time there is to join, which leaves room for those in a hurry.
const PATIENT_EVENTS_MAX: usize = BATCH_EVENTS_MAX;
/// The rate at which the queue is worked off is that of the last one or two of these.
const RATE_PERIOD: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct QueueDelay {
    queue: Mutex<Queue>,
    max: Duration,
    /// Something has left.
    left: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: usize,
    /// Since when the oldest has been waiting.
    oldest_since: Option<Instant>,
    /// Since when the queue has not been empty.
    filled_since: Option<Instant>,
    /// When the last two rate periods began, and how many events had left by then.
    marks: [Option<(Instant, u64)>; 2],
    left: u64,
}

impl QueueDelay {
    pub(super) fn new(max: Duration) -> Self {
        Self {
            queue: Mutex::default(),
            max,
            left: Notify::new(),
        }
    }

    /// Of those who join the queue, before the batcher has seen them: so a batcher that is not run is noticed, too.
    pub(super) fn note_joined(&self, at: Instant, events: usize) {
        let mut queue = self.queue();
        queue.events += events;
        queue.oldest_since.get_or_insert(at);
        queue.filled_since.get_or_insert(at);
    }

    /// Of those who are in a batch now, or have given up.
    pub(super) fn note_left(&self, events: usize) {
        if events == 0 {
            return;
        }
        let mut queue = self.queue();
        queue.events -= events;
        queue.left += events as u64;
        drop(queue);
        self.left.notify_one();
    }

    /// What the batcher has left waiting.
    pub(super) fn note_oldest(&self, oldest: Option<Instant>, now: Instant) {
        let mut queue = self.queue();
        queue.oldest_since = oldest;
        if oldest.is_none() {
            queue.filled_since = None;
        }
        match queue.marks[1] {
            Some((begun, _)) if now - begun < RATE_PERIOD => {}
            last => queue.marks = [last, Some((now, queue.left))],
        }
    }

    /// How long the oldest has waited; 0 if nobody does.
    pub(super) fn age(&self) -> Duration {
        let oldest = self.queue().oldest_since;
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whoever joined now would have to wait for too long.
    pub(super) fn is_too_long(&self, now: Instant) -> bool {
        let queue = self.queue();
        let is_over = |since: Option<Instant>| since.is_some_and(|since| now - since > self.max);
        is_over(queue.oldest_since)
            || (is_over(queue.filled_since)
                && queue.events > queue.standing_max(now, self.max / STANDING_PART))
    }

    /// Waits until the queue is short enough for those who are in no hurry. Only one may wait at a time.
    pub(super) async fn short(&self) {
        while self.queue().events > PATIENT_EVENTS_MAX {
            self.left.notified().await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// How many events leave within `time`, as far as is known.
    fn standing_max(&self, now: Instant, time: Duration) -> usize {
        let worked_off = match self.marks.iter().flatten().next() {
            Some((begun, left_before)) => {
                let took = (now - *begun).max(Duration::from_millis(1));
                let rate = (self.left - left_before) as f64 / took.as_secs_f64();
                (rate * time.as_secs_f64()) as usize
            }
            None => 0,
        };
        worked_off.max(STANDING_EVENTS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(1);

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    /// A batch of `each` begins every 10 ms up to `until`, and as much joins.
    fn works(delay: &QueueDelay, begin: Instant, millis: std::ops::Range<u64>, each: usize) {
        for now in millis.step_by(10).map(|ms| after(begin, ms)) {
            delay.note_joined(now, each);
            delay.note_left(each);
            delay.note_oldest(Some(now), now);
        }
    }

    #[test]
    fn the_oldest_may_wait_for_so_long_and_no_longer() {
        let (delay, begin) = (QueueDelay::new(MAX), Instant::now());
        assert!(!delay.is_too_long(begin));
        delay.note_joined(begin, 60_000);
        assert!(!delay.is_too_long(after(begin, 1_000)));
        assert!(delay.is_too_long(after(begin, 1_001)));
        // What is left came later.
        delay.note_left(59_000);
        delay.note_oldest(Some(after(begin, 900)), after(begin, 1_001));
        assert!(!delay.is_too_long(after(begin, 1_001)));
    }

    #[test]
    fn a_queue_that_stands_is_held_at_what_is_worked_off_in_a_tenth_of_the_time() {
        let (delay, begin) = (QueueDelay::new(MAX), Instant::now());
        let now = after(begin, 2_000);
        delay.note_joined(begin, 0);
        // 60,000 a second: 6,000 in a tenth.
        works(&delay, begin, 0..2_000, 600);
        delay.note_joined(now, 5_900);
        assert!(!delay.is_too_long(now));
        delay.note_joined(now, 200);
        assert!(delay.is_too_long(now));

        // One that has been empty is none that stands, however long it is then.
        delay.note_left(6_100);
        delay.note_oldest(None, now);
        delay.note_joined(now, 60_000);
        assert!(!delay.is_too_long(after(now, 500)));
    }

    #[test]
    fn however_slowly_it_is_worked_off_batches_are_full() {
        let (delay, begin) = (QueueDelay::new(MAX), Instant::now());
        works(&delay, begin, 0..2_000, 1);
        let now = after(begin, 2_000);
        delay.note_joined(now, STANDING_EVENTS_MIN);
        assert!(!delay.is_too_long(now));
        delay.note_joined(now, 1);
        assert!(delay.is_too_long(now));
    }

    #[tokio::test]
    async fn those_in_no_hurry_wait_until_little_waits() {
        let delay = QueueDelay::new(MAX);
        delay.short().await;
        delay.note_joined(Instant::now(), 2 * BATCH_EVENTS_MAX);
        let leave = async {
            delay.note_left(BATCH_EVENTS_MAX - 1);
            tokio::task::yield_now().await;
            let before = delay.queue().events;
            delay.note_left(1);
            before
        };
        let short = async {
            delay.short().await;
            delay.queue().events
        };
        let (short, before) = tokio::join!(short, leave);
        assert_eq!((before, short), (BATCH_EVENTS_MAX + 1, BATCH_EVENTS_MAX));
    }
}
