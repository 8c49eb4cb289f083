//! A rate limit per caller.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock};

use crate::http::caller::Caller;

/// Maximum number of callers tracked individually.
pub const CALLERS_MAX: usize = 100_000;
/// The number of callers is checked once in this many requests, so it can exceed [`CALLERS_MAX`] by as many.
const LOOK_EVERY: u32 = 4096;
/// Beyond [`CALLERS_MAX`], new callers share this many allowances. So an attacker gains nothing by filling the table
/// with addresses, and others still get something.
pub(super) const SHARED: u64 = 4096;

/// Highest rate per second: one per nanosecond.
pub const PER_S_MAX: u32 = 1_000_000_000;

pub struct Rate {
    pub per_s: NonZeroU32,
    pub burst: NonZeroU32,
    /// By a keyed hash of the caller, so that nobody can construct collisions. A random collision does little harm.
    limiter: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    looks: AtomicU32,
    full: AtomicBool,
    callers_max: usize,
}

impl Rate {
    pub fn new(per_s: NonZeroU32, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(per_s);
        Self {
            per_s,
            burst,
            limiter: DefaultKeyedRateLimiter::keyed(Quota::per_second(per_s).allow_burst(burst)),
            hasher: RandomState::new(),
            looks: AtomicU32::new(0),
            full: AtomicBool::new(false),
            callers_max: CALLERS_MAX,
        }
    }

    /// Takes `count` from the allowance of `caller`, or returns how long to wait for that much. A `count` above the
    /// burst counts as the burst.
    pub fn take(&self, caller: &Caller, count: usize) -> Result<(), Duration> {
        let count = u32::try_from(count)
            .unwrap_or(u32::MAX)
            .min(self.burst.get());
        let Some(count) = NonZeroU32::new(count) else {
            return Ok(());
        };
        match self.limiter.check_key_n(&self.key(caller), count) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(wait)) => Err(wait.wait_time_from(self.limiter.clock().now())),
        }
    }

    fn key(&self, caller: &Caller) -> u64 {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        if looks.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
        let key = self.hasher.hash_one(caller);
        match self.full.load(Ordering::Relaxed) {
            true => key % SHARED,
            false => key,
        }
    }

    fn look(&self) {
        let full = || self.limiter.len() >= self.callers_max;
        if full() {
            self.sweep();
        }
        self.full.store(full(), Ordering::Relaxed);
    }

    /// Drops the callers whose allowance is full again.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::caller::Peer;

    fn caller(number: u32) -> Caller {
        Caller::Party(Peer::Ip(std::net::Ipv4Addr::from_bits(number).into()))
    }

    fn rate(per_s: u32, burst: u32) -> Rate {
        Rate::new(NonZeroU32::new(per_s).expect("not 0"), burst)
    }

    #[test]
    fn each_caller_has_a_burst_and_then_a_time_to_wait() {
        let rate = rate(1, 10);

        assert_eq!(rate.take(&caller(1), 7), Ok(()));
        let wait = rate.take(&caller(1), 10).expect_err("above the burst");
        assert!((1..=7).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(rate.take(&caller(2), 10), Ok(()));
        // A count above the burst takes the whole burst.
        assert_eq!(rate.take(&caller(3), usize::MAX), Ok(()));
        assert!(rate.take(&caller(3), 1).is_err());
        assert_eq!(rate.take(&caller(3), 0), Ok(()));
    }

    #[test]
    fn callers_with_a_full_allowance_are_dropped() {
        let rate = rate(1_000_000, 1);
        for number in 0..100 {
            let _ = rate.take(&caller(number), 1);
        }
        std::thread::sleep(Duration::from_millis(1));
        rate.sweep();
        assert_eq!(rate.limiter.len(), 0);
    }

    #[test]
    fn beyond_the_maximum_new_callers_share_allowances() {
        let mut rate = rate(1, 1_000);
        rate.callers_max = 100;
        for number in 0..100 {
            let _ = rate.take(&caller(number), 1_000);
        }
        rate.look();
        for number in 100..100 + 10 * SHARED as u32 {
            let _ = rate.take(&caller(number), 1);
        }
        let known = rate.limiter.len();
        let most = 100 + SHARED as usize + LOOK_EVERY as usize;
        assert!(known <= most, "{known}");
        // Below the maximum, each caller has its own allowance again.
        rate.callers_max = 10 * known;
        rate.look();
        assert_eq!(rate.take(&caller(1 << 20), 1_000), Ok(()));
    }
}
