//! Hybrid clocks: for the versions of the embedded engine, and for the `at` of every node.
//!
//! [`WallTime`] is the only source of wall time, so that tests can control it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use hybrid_clocks::{Clock, ClockSource, OffsetLimiter, Timestamp};

use crate::version::Version;

/// Wall time in µs since 1970: of the system, possibly with an offset, or set manually.
#[derive(Debug, Clone)]
pub struct WallTime(Arc<Source>);

#[derive(Debug)]
enum Source {
    /// The system clock, plus an offset in µs.
    System(AtomicI64),
    Manual(AtomicU64),
}

impl WallTime {
    /// The system clock plus `offset` µs, which is 0 except in tests of skewed clocks.
    pub fn system(offset: i64) -> Self {
        Self(Arc::new(Source::System(AtomicI64::new(offset))))
    }

    /// A clock that stands at `micros` until [`WallTime::set`].
    pub fn manual(micros: u64) -> Self {
        Self(Arc::new(Source::Manual(AtomicU64::new(micros))))
    }

    /// Sets a manual clock, in µs. Has no effect on a system clock.
    pub fn set(&self, micros: u64) {
        if let Source::Manual(now) = &*self.0 {
            now.store(micros, Ordering::SeqCst);
        }
    }

    pub fn micros(&self) -> u64 {
        match &*self.0 {
            Source::System(offset) => {
                let since_1970 = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO);
                (since_1970.as_micros() as u64)
                    .saturating_add_signed(offset.load(Ordering::Relaxed))
            }
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
    }
}

impl ClockSource for WallTime {
    type Time = u64;
    type Delta = u64;

    fn now(&mut self) -> hybrid_clocks::Result<u64> {
        Ok(self.micros())
    }
}

/// The clock of the embedded engine: each tick is later than all before it, even when the wall clock steps back.
#[derive(Debug)]
pub struct TickClock {
    clock: Clock<WallTime>,
    last: u64,
}

impl TickClock {
    /// A clock whose ticks are later than that of `last`, the last stored version.
    pub fn new(wall: WallTime, last: Version) -> hybrid_clocks::Result<Self> {
        let mut clock = Clock::new(wall)?;
        clock.set_epoch(last.epoch());
        clock.observe(&Timestamp {
            count: 0,
            ..last.timestamp()
        });
        Ok(Self {
            clock,
            last: last.time(),
        })
    }

    pub fn set_epoch(&mut self, epoch: u32) {
        self.clock.set_epoch(epoch);
    }

    /// The next tick; it is later than any before.
    pub fn tick(&mut self) -> hybrid_clocks::Result<u64> {
        let mut now = self.clock.now()?;
        if now.time <= self.last {
            now = Timestamp {
                time: self.last + 1,
                count: 0,
                ..now
            };
            self.clock.observe(&now);
        }
        self.last = now.time;
        Ok(now.time)
    }
}

/// How far an observed `at` may be ahead of the node's wall clock and still advance the node's own `at`. This tolerates
/// clocks that are wrong by hours, but a node whose clock is set to the year 2100 does not affect the others.
pub const AT_OFFSET_MAX: Duration = Duration::from_secs(24 * 3600);

/// A node's hybrid clock for `at`: never behind any `at` it has observed (within [`AT_OFFSET_MAX`]).
#[derive(Debug)]
pub struct AtClock(Mutex<OffsetLimiter<WallTime>>);

impl AtClock {
    pub fn new(wall: WallTime) -> hybrid_clocks::Result<Self> {
        Ok(Self(Mutex::new(
            Clock::new(wall)?.with_max_diff(AT_OFFSET_MAX.as_micros() as u64),
        )))
    }

    /// The current time in µs since 1970; at or after every `at` observed so far.
    pub fn now(&self) -> i64 {
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clock.now().map_or(0, |now| now.time as i64)
    }

    pub fn observe(&self, at: i64) {
        let seen = Timestamp {
            epoch: 0,
            time: at.max(0) as u64,
            count: 0,
        };
        let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.observe(&seen).is_err() {
            tracing::warn!(
                at,
                "ignored an `at` that is more than a day ahead of this node's clock; check the clocks of all nodes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_grow_when_the_clock_stands_still_or_steps_back_and_after_a_restart() {
        let wall = WallTime::manual(1_000);
        let mut clock = TickClock::new(wall.clone(), Version::ZERO).expect("clock");
        let mut ticks: Vec<u64> = (0..3).map(|_| clock.tick().expect("tick")).collect();
        wall.set(10);
        ticks.push(clock.tick().expect("tick"));
        wall.set(5_000);
        ticks.push(clock.tick().expect("tick"));
        assert_eq!(ticks, [1_000, 1_001, 1_002, 1_003, 5_000]);

        wall.set(20);
        let mut clock = TickClock::new(wall, Version::new(0, 5_000, 7)).expect("clock");
        assert_eq!(clock.tick().expect("tick"), 5_001);
    }

    #[test]
    fn at_follows_observed_times_except_those_far_in_the_future() {
        let wall = WallTime::manual(1_000_000);
        let clock = AtClock::new(wall.clone()).expect("clock");
        clock.observe(3_600_000_000);
        assert_eq!(clock.now(), 3_600_000_000);
        clock.observe(i64::MAX);
        assert_eq!(clock.now(), 3_600_000_000);
        wall.set(4_000_000_000);
        assert_eq!(clock.now(), 4_000_000_000);
    }
}
