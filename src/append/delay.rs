//! Queueing delay of appends: appends that would wait too long are refused.
//!
//! A burst drains by itself, so it may grow until its oldest event has waited for the maximum delay. A queue that has not
//! drained for that long is a standing queue: it adds delay without adding throughput, and competes with readers and
//! streams for memory and CPU. Its length is then limited to what is processed in a tenth of the maximum delay, which is
//! enough to keep batches full (cf. CoDel, RFC 8289).
//!
//! The limit remains until nothing has been refused for the maximum delay. Otherwise a queue under constant overload would
//! fill up as by a burst whenever it has drained, and drain completely whenever it is full.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::BATCH_EVENTS_MAX;

/// A standing queue is limited to what is processed in this fraction of the maximum delay.
const STANDING_PART: u32 = 10;
/// Lower bound of that limit, so that batches are full.
const STANDING_EVENTS_MIN: usize = 3 * BATCH_EVENTS_MAX;
/// Appends that can wait, such as lines of NDJSON, join only while at most this many events are queued.
const PATIENT_EVENTS_MAX: usize = BATCH_EVENTS_MAX;
/// The processing rate is measured over the last one to two of these periods.
const RATE_PERIOD: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct QueueDelay {
    queue: Mutex<Queue>,
    max: Duration,
    /// Notified when events leave the queue.
    left: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: usize,
    /// When the oldest event joined the queue.
    oldest_since: Option<Instant>,
    /// Since when the queue has been non-empty.
    filled_since: Option<Instant>,
    /// When an append was last refused.
    refused_at: Option<Instant>,
    /// The beginnings of the last two rate periods, with the value of `left` at that time.
    marks: [Option<(Instant, u64)>; 2],
    /// How many events have left the queue.
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

    /// Counts events that join the queue. This happens before the batcher sees them, so that a stalled batcher is noticed.
    pub(super) fn note_joined(&self, at: Instant, events: usize) {
        let mut queue = self.queue();
        queue.events += events;
        queue.oldest_since.get_or_insert(at);
        queue.filled_since.get_or_insert(at);
    }

    /// Counts events that have left the queue: they are in a batch, or were given up.
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

    /// Notes when the oldest event that is still waiting joined.
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

    /// How long the oldest event has been waiting; 0 if the queue is empty.
    pub(super) fn age(&self) -> Duration {
        let oldest = self.queue().oldest_since;
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether an append must be refused now, because it would wait too long.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        let mut queue = self.queue();
        let is_over = |since: Option<Instant>| since.is_some_and(|since| now - since > self.max);
        let was_refused = |at: Instant| now - at <= self.max;
        let is_limited = is_over(queue.filled_since) || queue.refused_at.is_some_and(was_refused);
        let refuses = is_over(queue.oldest_since)
            || (is_limited && queue.events > queue.standing_max(now, self.max / STANDING_PART));
        if refuses {
            queue.refused_at = Some(now);
        }
        refuses
    }

    /// Waits until the queue is short enough for appends that can wait. Only one caller may wait at a time.
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
    /// The limit of a standing queue: how many events are processed within `time`, at the measured rate.
    fn standing_max(&self, now: Instant, time: Duration) -> usize {
        let processed = match self.marks.iter().flatten().next() {
            Some((begun, left_before)) => {
                let took = (now - *begun).max(Duration::from_millis(1));
                let rate = (self.left - left_before) as f64 / took.as_secs_f64();
                (rate * time.as_secs_f64()) as usize
            }
            None => 0,
        };
        processed.max(STANDING_EVENTS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(1);

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    /// Every 10 ms, a batch of `each` events begins, and as many events join.
    fn process(delay: &QueueDelay, begin: Instant, millis: std::ops::Range<u64>, each: usize) {
        for now in millis.step_by(10).map(|ms| after(begin, ms)) {
            delay.note_joined(now, each);
            delay.note_left(each);
            delay.note_oldest(Some(now), now);
        }
    }

    #[test]
    fn the_oldest_event_may_wait_for_the_maximum_delay() {
        let (delay, begin) = (QueueDelay::new(MAX), Instant::now());
        assert!(!delay.refuses(begin));
        delay.note_joined(begin, 60_000);
        assert!(!delay.refuses(after(begin, 1_000)));
        assert!(delay.refuses(after(begin, 1_001)));
        // The remaining events came later.
        delay.note_left(59_000);
        delay.note_oldest(Some(after(begin, 900)), after(begin, 1_001));
        assert!(!delay.refuses(after(begin, 1_001)));
    }

    #[test]
    fn a_standing_queue_is_limited_to_what_is_processed_in_a_tenth_of_the_maximum_delay() {
        let (delay, begin) = (QueueDelay::new(MAX), Instant::now());
        let now = after(begin, 2_000);
        delay.note_joined(begin, 0);
        // 60,000 per second: 6,000 in a tenth of a second.
        process(&delay, begin, 0..2_000, 600);
        delay.note_joined(now, 5_900);
        assert!(!delay.refuses(now));
        delay.note_joined(now, 200);
        assert!(delay.refuses(now));

        // A queue that has been empty is not a standing queue, however long it is: but not at once.
        delay.note_left(6_100);
        delay.note_oldest(None, now);
        delay.note_joined(now, 60_000);
        assert!(delay.refuses(after(now, 500)));
        delay.note_left(60_000);
        delay.note_oldest(None, after(now, 600));
        let later = after(now, 1_501);
        delay.note_joined(later, 60_000);
        assert!(!delay.refuses(later));
        assert!(!delay.refuses(after(later, 1_000)));
    }

    #[test]
    fn the_limit_leaves_room_for_full_batches_at_any_rate() {
        let (delay, begin) = (QueueDelay::new(MAX), Instant::now());
        process(&delay, begin, 0..2_000, 1);
        let now = after(begin, 2_000);
        delay.note_joined(now, STANDING_EVENTS_MIN);
        assert!(!delay.refuses(now));
        delay.note_joined(now, 1);
        assert!(delay.refuses(now));
    }

    #[tokio::test]
    async fn appends_that_can_wait_join_a_short_queue() {
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
