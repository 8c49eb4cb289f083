//! When each request is due. The schedule does not wait for responses: a slow service delays requests, and their
//! latency counts from when they were due. This avoids coordinated omission.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Resolution of the thread that releases requests. Timers of the async runtime only have milliseconds.
const TICK: Duration = Duration::from_micros(200);

#[derive(Debug)]
pub enum Pace {
    /// Evenly spaced requests.
    Even { per_second: f64, count: u64 },
    /// Requests at given times after the start, in ascending order.
    At(Vec<Duration>),
    /// No requests for this time.
    Idle(Duration),
    /// A closed loop: a request is due whenever a connection is free, at most `count_max` of them.
    WhenFree { length: Duration, count_max: u64 },
}

impl Pace {
    /// `events` per second in requests of `batch` events: at least one request, or none if `events` is 0.
    pub fn of_events(events: f64, batch: u16, seconds: u32) -> Self {
        if events == 0.0 {
            return Self::Idle(Duration::from_secs(seconds.into()));
        }
        let per_second = events / f64::from(batch);
        Self::Even {
            per_second,
            count: ((per_second * f64::from(seconds)).round() as u64).max(1),
        }
    }

    pub fn count(&self) -> u64 {
        match self {
            Self::Even { count, .. } => *count,
            Self::At(moments) => moments.len() as u64,
            Self::Idle(_) => 0,
            Self::WhenFree { count_max, .. } => *count_max,
        }
    }

    /// How long the schedule takes if the service keeps up.
    fn length(&self) -> Duration {
        match self {
            Self::Even { count, .. } => self.due(*count),
            Self::At(moments) => moments.last().copied().unwrap_or_default(),
            Self::Idle(length) | Self::WhenFree { length, .. } => *length,
        }
    }

    /// When a request is due, counted from the start.
    fn due(&self, number: u64) -> Duration {
        match self {
            Self::Even { per_second, .. } => Duration::from_secs_f64(number as f64 / per_second),
            Self::At(moments) => moments[number as usize],
            Self::Idle(length) | Self::WhenFree { length, .. } => *length,
        }
    }

    /// When the schedule ends, counted from the start: at the last request.
    fn end(&self) -> Duration {
        match self.count() {
            0 => self.length(),
            count => self.due(count - 1),
        }
    }
}

/// Hands out each request, when it is due, to a connection that is free.
#[derive(Debug)]
pub struct Schedule {
    pace: Pace,
    started: OnceLock<Instant>,
    due: Semaphore,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Schedule {
    pub fn new(pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            pace,
            started: OnceLock::new(),
            due: Semaphore::new(0),
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    /// Starts the schedule: the first request of an evenly spaced schedule is due now.
    pub fn start(self: &Arc<Self>) {
        self.started.get_or_init(Instant::now);
        if self.is_closed_loop() {
            return;
        }
        let schedule = Arc::downgrade(self);
        thread::spawn(move || release(&schedule));
    }

    /// Waits for the next request; returns its number and when it was due, or `None` when there are no more.
    pub async fn next(&self) -> Option<(u64, Instant)> {
        if self.is_closed_loop() {
            return self.next_when_free();
        }
        self.due.acquire().await.ok()?.forget();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number < self.pace.count() {
            return Some((number, self.due(number)));
        }
        self.due.close();
        None
    }

    fn next_when_free(&self) -> Option<(u64, Instant)> {
        let now = Instant::now();
        let over = now.duration_since(self.start_moment()) >= self.pace.length();
        if over || self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.pace.count()).then_some((number, now))
    }

    /// Ends the schedule: no further requests are handed out.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.due.close();
    }

    pub fn is_closed_loop(&self) -> bool {
        matches!(self.pace, Pace::WhenFree { .. })
    }

    pub fn due(&self, number: u64) -> Instant {
        self.start_moment() + self.pace.due(number)
    }

    /// The start, or the current time before it.
    pub fn start_moment(&self) -> Instant {
        self.started.get().copied().unwrap_or_else(Instant::now)
    }

    /// Duration of the work, which ends now. At least the length of the schedule, unless that was stopped.
    pub fn elapsed(&self) -> Duration {
        let elapsed = self.start_moment().elapsed();
        if self.stopped.load(Ordering::Relaxed) {
            return elapsed;
        }
        elapsed.max(self.pace.length())
    }

    /// Current position and length: in requests, or in milliseconds if their number is not given.
    pub fn progress(&self) -> (u64, u64) {
        match self.pace {
            Pace::Even { count, .. } => (self.handed_out(), count),
            Pace::At(ref moments) => (self.handed_out(), moments.len() as u64),
            Pace::Idle(length) | Pace::WhenFree { length, .. } => {
                let elapsed = self.start_moment().elapsed().min(length);
                (elapsed.as_millis() as u64, length.as_millis() as u64)
            }
        }
    }

    /// Number of requests handed out so far.
    pub fn handed_out(&self) -> u64 {
        let next = self.next.load(Ordering::Relaxed);
        next.min(self.pace.count())
    }

    /// Number of requests; in a closed loop, of those handed out so far.
    pub fn count(&self) -> u64 {
        if self.is_closed_loop() {
            return self.handed_out();
        }
        self.pace.count()
    }
}

/// Adds a permit for each request when it is due, and one more at the end, which makes [`Schedule::next`] return
/// `None`. Ends with the schedule, or when that is dropped.
fn release(schedule: &Weak<Schedule>) {
    let mut released = 0;
    while let Some(schedule) = schedule.upgrade() {
        let now = Instant::now();
        if schedule.due.is_closed() {
            return;
        }
        let count = schedule.count();
        let before = released;
        while released < count && schedule.due(released) <= now {
            released += 1;
        }
        let end = schedule.start_moment() + schedule.pace.end();
        if released == count && end <= now {
            schedule.due.add_permits((released - before) as usize + 1);
            return;
        }
        schedule.due.add_permits((released - before) as usize);
        let next = if released < count {
            schedule.due(released)
        } else {
            end
        };
        drop(schedule);
        // In slices, so that the thread ends soon after the run is interrupted.
        let pause = next.saturating_duration_since(Instant::now());
        thread::sleep(pause.clamp(TICK, Duration::from_secs(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_or_at_given_times() {
        let pace = Pace::of_events(1_000.0, 10, 3);
        assert_eq!(pace.count(), 300);
        assert_eq!(pace.due(0), Duration::ZERO);
        assert_eq!(pace.due(150), Duration::from_millis(1_500));
        assert_eq!(Pace::of_events(0.1, 1, 1).count(), 1);
        let idle = Pace::of_events(0.0, 1, 3);
        assert_eq!((idle.count(), idle.end()), (0, Duration::from_secs(3)));
        let moments = Pace::At(vec![Duration::ZERO, Duration::from_secs(2)]);
        assert_eq!(
            (moments.count(), moments.due(1)),
            (2, Duration::from_secs(2))
        );
    }

    #[tokio::test]
    async fn a_stopped_schedule_hands_out_no_more_requests() {
        let length = Duration::from_secs(3_600);
        for pace in [
            Pace::of_events(1_000.0, 1, 3_600),
            Pace::Idle(length),
            Pace::WhenFree {
                length,
                count_max: 1_000,
            },
        ] {
            let schedule = Schedule::new(pace);
            schedule.start();
            schedule.stop();
            assert_eq!(schedule.next().await, None);
            assert!(schedule.elapsed() < length);
        }
    }

    #[tokio::test]
    async fn a_closed_loop_ends_after_its_time_or_its_count() {
        let minute = Duration::from_secs(60);
        for (length, count_max, handed_out) in [(minute, 3, 3), (Duration::ZERO, 3, 0)] {
            let schedule = Schedule::new(Pace::WhenFree { length, count_max });
            schedule.start();
            for number in 0..handed_out {
                let next = schedule.next().await;
                assert_eq!(next.map(|(number, _)| number), Some(number));
                assert_eq!(schedule.count(), number + 1);
            }
            assert_eq!(schedule.next().await, None);
            assert_eq!(schedule.count(), handed_out);
        }
    }

    #[tokio::test]
    async fn each_request_is_handed_out_once_and_not_before_it_is_due() {
        let schedule = Schedule::new(Pace::of_events(10_000.0, 1, 1));
        schedule.start();
        let workers: Vec<_> = (0..7)
            .map(|_| {
                let schedule = Arc::clone(&schedule);
                tokio::spawn(async move {
                    let mut numbers = Vec::new();
                    while let Some((number, due)) = schedule.next().await {
                        assert!(due <= Instant::now());
                        numbers.push(number);
                    }
                    numbers
                })
            })
            .collect();
        let mut numbers = Vec::new();
        for worker in workers {
            numbers.extend(worker.await.expect("no panic"));
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..10_000));
    }
}
