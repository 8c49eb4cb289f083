//! How much may come from each caller in a time.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock};

use crate::http::caller::Caller;

/// Callers that are known one by one.
pub const CALLERS_MAX: usize = 100_000;
/// Looks at how many there are once in so many requests: that many more than [`CALLERS_MAX`] are possible.
const LOOK_EVERY: u32 = 4096;
/// Beyond them, strangers share so many allowances. Whoever fills the table with addresses gets no more for it, and
/// all others get something.
const SHARED: u64 = 4096;

pub struct Rate {
    quota: Quota,
    /// By a hash of the caller: nobody finds two callers with the same, and a collision costs little.
    limiter: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    looks: AtomicU32,
    full: AtomicBool,
}

impl Rate {
    pub fn new(per_s: NonZeroU32, burst: u32) -> Self {
        let quota = Quota::per_second(per_s).allow_burst(NonZeroU32::new(burst).unwrap_or(per_s));
        Self {
            quota,
            limiter: DefaultKeyedRateLimiter::keyed(quota),
            hasher: RandomState::new(),
            looks: AtomicU32::new(0),
            full: AtomicBool::new(false),
        }
    }

    pub fn per_s(&self) -> u64 {
        let nanos = self.quota.replenish_interval().as_nanos().max(1);
        (Duration::from_secs(1).as_nanos() / nanos) as u64
    }

    pub fn burst(&self) -> NonZeroU32 {
        self.quota.burst_size()
    }

    /// Takes `count` for `caller`; if there is not so much now, says how long to wait for it. (More than the burst
    /// counts as the burst.)
    pub fn take(&self, caller: &Caller, count: usize) -> Result<(), Duration> {
        let count = u32::try_from(count)
            .unwrap_or(u32::MAX)
            .min(self.burst().get());
        let Some(count) = NonZeroU32::new(count) else {
            return Ok(());
        };
        match self.limiter.check_key_n(&self.key(caller), count) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(wait)) => Err(wait.wait_time_from(self.limiter.clock().now())),
        }
    }

    fn key(&self, caller: &Caller) -> u64 {
        if self.looks.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == 0 {
            self.look(CALLERS_MAX);
        }
        let key = self.hasher.hash_one(caller);
        match self.full.load(Ordering::Relaxed) {
            true => key % SHARED,
            false => key,
        }
    }

    fn look(&self, max: usize) {
        if self.limiter.len() >= max {
            self.sweep();
        }
        self.full
            .store(self.limiter.len() >= max, Ordering::Relaxed);
    }

    /// Drops who has all of its allowance again.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u32) -> Caller {
        Caller::Party(std::net::Ipv4Addr::from_bits(number).into())
    }

    fn rate(per_s: u32, burst: u32) -> Rate {
        Rate::new(NonZeroU32::new(per_s).expect("not 0"), burst)
    }

    #[test]
    fn each_caller_has_a_burst_and_is_told_how_long_to_wait_for_more() {
        let rate = rate(1, 10);
        assert_eq!((rate.per_s(), rate.burst().get()), (1, 10));
        assert_eq!(rate.take(&caller(1), 7), Ok(()));
        let wait = rate.take(&caller(1), 10).expect_err("not so much");
        assert!((1..=7).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(rate.take(&caller(2), 10), Ok(()));
        // More than ever is there at once takes all.
        assert_eq!(rate.take(&caller(3), usize::MAX), Ok(()));
        assert!(rate.take(&caller(3), 1).is_err());
        assert_eq!(rate.take(&caller(3), 0), Ok(()));
    }

    #[test]
    fn who_has_all_of_its_allowance_again_is_forgotten() {
        let rate = rate(u32::MAX, 1);
        for number in 0..100 {
            let _ = rate.take(&caller(number), 1);
        }
        std::thread::sleep(Duration::from_millis(1));
        rate.sweep();
        assert_eq!(rate.limiter.len(), 0);
    }

    #[test]
    fn beyond_the_most_callers_strangers_share() {
        let rate = rate(1, 1_000);
        for number in 0..100 {
            let _ = rate.take(&caller(number), 1_000);
        }
        rate.look(100);
        for number in 100..100 + 4 * SHARED as u32 {
            let _ = rate.take(&caller(number), 1);
        }
        let known = rate.limiter.len();
        assert!(known <= 100 + SHARED as usize, "{known}");
        // Room again: each its own.
        rate.look(known + 1);
        assert_eq!(rate.take(&caller(1 << 20), 1_000), Ok(()));
    }
}
