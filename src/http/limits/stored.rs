//! Rates of what a caller's appends write: events, and bytes of keys and values.
//!
//! An append is charged in full before it begins, whatever it writes: one small body may write hundreds of times its size,
//! because every feed of an event gets a copy. It is let in while the caller owes no more than the burst, so it may leave
//! the caller with a debt, which further appends wait for. (The limiters of the other rates know no debts, and have one rate
//! for all callers, while a token may lower these.)

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::request::Parts;
use tokio::time::Instant;

use super::{Limited, Quotas, rate};
use crate::{
    auth::{AppendLimits, Grant},
    http::{
        caller::Caller,
        problem::{Code, Problem, Result},
    },
    types::Event,
};

/// What a caller may owe before its appends wait, as the time in which it is paid off.
const STORED_BURST: Duration = Duration::from_secs(4);

/// A full table is searched at most this often.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// What callers owe.
#[derive(Default)]
pub(super) struct Stored {
    events: Debts,
    bytes: Debts,
}

/// When each caller has paid off what it owes, by a keyed hash of the caller.
#[derive(Default)]
struct Debts {
    until: Mutex<Table>,
    hasher: RandomState,
}

#[derive(Default)]
struct Table {
    until: HashMap<u64, Instant>,
    /// When a full table was last searched for callers that owe nothing.
    searched: Option<Instant>,
}

impl Debts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long until `caller` may append.
    fn wait(&self, caller: &Caller, now: Instant) -> Option<Duration> {
        let until = &self.table().until;
        let key = self.hasher.hash_one(caller);
        let shared = key % rate::SHARED;
        let owed = [key, shared].map(|key| until.get(&key).copied());
        let owed = owed.into_iter().flatten().max()?;
        let wait = owed.saturating_duration_since(now + STORED_BURST);
        (!wait.is_zero()).then_some(wait)
    }

    fn charge(&self, caller: &Caller, cost: usize, per_s: NonZeroU32, now: Instant) {
        let Table { until, searched } = &mut *self.table();
        let mut key = self.hasher.hash_one(caller);
        if until.len() >= rate::CALLERS_MAX && !until.contains_key(&key) {
            if searched.is_none_or(|at| now - at >= SEARCH_EVERY) {
                until.retain(|_, until| *until > now);
                *searched = Some(now);
            }
            // Further callers share debts, as in the other limits.
            if until.len() >= rate::CALLERS_MAX {
                key %= rate::SHARED;
            }
        }
        let time = Duration::from_secs_f64(cost as f64 / f64::from(per_s.get()));
        let until = until.entry(key).or_insert(now);
        *until = now.max(*until) + time;
    }

    fn sweep(&self) {
        let now = Instant::now();
        let until = &mut self.table().until;
        until.retain(|_, until| *until > now);
        until.shrink_to_fit();
    }
}

impl Stored {
    pub(super) fn sweep(&self) {
        self.events.sweep();
        self.bytes.sweep();
    }
}

/// Whose appends are charged, and their rates. `None`: nobody's.
#[derive(Clone)]
pub struct Storing(Option<Charged>);

#[derive(Clone)]
struct Charged {
    quotas: Arc<Quotas>,
    caller: Caller,
    /// `None` is no limit.
    events_per_s: Option<NonZeroU32>,
    bytes_per_s: Option<NonZeroU32>,
}

impl Storing {
    /// That of a request which has passed [`super::enforce`].
    pub fn of(request: &Parts) -> Self {
        let limited = request.extensions.get::<Limited>().cloned();
        let grant = request.extensions.get::<Arc<Grant>>();
        let claimed = grant.map_or_else(AppendLimits::default, |grant| grant.limits);
        // A token can only lower the limits of the configuration.
        let lower = |configured: Option<NonZeroU32>, claimed: Option<NonZeroU32>| {
            configured.into_iter().chain(claimed).min()
        };
        Self(limited.and_then(|limited| {
            let quotas = limited.quotas;
            Some(Charged {
                events_per_s: lower(quotas.limits.events_per_s, claimed.events_per_s),
                bytes_per_s: lower(quotas.limits.stored_bytes_per_s, claimed.bytes_per_s),
                quotas,
                caller: limited.caller?,
            })
        }))
    }

    /// Charges `events`, or fails if the caller owes too much.
    pub fn charge(&self, events: &[Event]) -> Result<()> {
        let Some(Charged {
            quotas,
            caller,
            events_per_s,
            bytes_per_s,
        }) = &self.0
        else {
            return Ok(());
        };
        let stored = &quotas.stored;
        let now = Instant::now();
        let bytes = || events.iter().map(Event::weight).sum();
        if let (Some(per_s), Some(wait)) = (events_per_s, stored.events.wait(caller, now)) {
            return Err(refused(&format!("{per_s} events/s"), wait));
        }
        if let (Some(per_s), Some(wait)) = (bytes_per_s, stored.bytes.wait(caller, now)) {
            let what =
                format!("{per_s} bytes/s of keys and values (each feed of an event has a copy)");
            return Err(refused(&what, wait));
        }
        if let Some(per_s) = events_per_s {
            stored.events.charge(caller, events.len(), *per_s, now);
        }
        if let Some(per_s) = bytes_per_s {
            stored.bytes.charge(caller, bytes(), *per_s, now);
        }
        Ok(())
    }

    /// Charges `events` once the caller owes little enough.
    pub async fn charge_later(&self, events: &[Event]) {
        while let Err(problem) = self.charge(events) {
            tokio::time::sleep(problem.wait()).await;
        }
    }
}

fn refused(what: &str, wait: Duration) -> Problem {
    let detail = format!(
        "this caller may write {what}, and nothing of this request was appended; send the same events again after Retry-After"
    );
    Problem::new(Code::TooManyAppends, detail).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_s(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).expect("not 0")
    }

    #[tokio::test(start_paused = true)]
    async fn an_append_of_any_size_is_let_in_and_the_next_ones_wait_until_it_is_paid_off() {
        let debts = Debts::default();
        let (anna, ben) = (
            Caller::Subject("anna".into()),
            Caller::Subject("ben".into()),
        );
        let now = Instant::now();
        assert_eq!(debts.wait(&anna, now), None);
        debts.charge(&anna, 1_000, per_s(100), now);
        assert_eq!(debts.wait(&anna, now), Some(Duration::from_secs(6)));
        assert_eq!(debts.wait(&ben, now), None);
        let later = now + Duration::from_secs(6);
        assert_eq!(debts.wait(&anna, later), None);
        // At a lower rate, the same is a greater debt.
        debts.charge(&anna, 1_000, per_s(10), later);
        assert_eq!(debts.wait(&anna, later), Some(Duration::from_secs(100)));
        tokio::time::advance(Duration::from_secs(111)).await;
        debts.sweep();
        assert!(debts.table().until.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_callers_is_bounded() {
        let debts = Debts::default();
        let now = Instant::now();
        let caller = |number: usize| Caller::Subject(number.to_string().into());
        for number in 0..rate::CALLERS_MAX + 10_000 {
            debts.charge(&caller(number), 10, per_s(1), now);
        }
        let known = debts.table().until.len();
        assert!(
            known <= rate::CALLERS_MAX + rate::SHARED as usize,
            "{known}"
        );
        let last = caller(rate::CALLERS_MAX + 9_999);
        assert!(debts.wait(&last, now).is_some(), "it shares a debt");
    }
}
