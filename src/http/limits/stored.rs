//! Rates of what a caller's appends write: events, and bytes of keys and values.
//!
//! An append is charged in full before it begins, whatever it will write: one small body may write hundreds of times its
//! size, because every feed of an event gets a copy. It is let in while the caller owes no more than the burst, so it may
//! leave the caller with a debt, which further appends wait for. What turns out not to be written is given back. (The
//! limiters of the other rates know no debts, and have one rate for all callers, while a token may lower these.)

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::request::Parts;
use tokio::time::Instant;

use super::{Limited, Of, Quotas, rate};
use crate::{
    append::Outcome,
    auth::{AppendLimits, Grant},
    error::Error,
    http::{
        caller::Caller,
        problem::{Code, Problem, Result},
    },
    store,
    types::{Event, EventId},
};

/// What a caller may owe before its appends wait, as the time in which it is paid off.
const STORED_BURST: Duration = Duration::from_secs(4);

/// A full table is searched at most this often.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// The rates of each caller or network, and what they owe. `None` is no limit.
pub(super) struct Stored {
    events_per_s: Option<NonZeroU32>,
    bytes_per_s: Option<NonZeroU32>,
    events: Debts,
    bytes: Debts,
}

impl Stored {
    pub(super) fn new(events_per_s: Option<NonZeroU32>, bytes_per_s: Option<NonZeroU32>) -> Self {
        Self {
            events_per_s,
            bytes_per_s,
            events: Debts::default(),
            bytes: Debts::default(),
        }
    }

    pub(super) fn sweep(&self) {
        self.events.sweep();
        self.bytes.sweep();
    }
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

/// A part of a debt.
struct Owed {
    key: u64,
    per_s: NonZeroU32,
    /// When it is paid off.
    until: Instant,
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

    fn charge(&self, caller: &Caller, cost: usize, per_s: NonZeroU32, now: Instant) -> Owed {
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
        let until = until.entry(key).or_insert(now);
        *until = now.max(*until) + time(cost, per_s);
        Owed {
            key,
            per_s,
            until: *until,
        }
    }

    /// Takes `cost` off a debt, except what has been paid off meanwhile: that would become credit.
    fn give_back(&self, owed: &Owed, cost: usize, now: Instant) {
        let unpaid = owed.until.saturating_duration_since(now);
        if let Some(until) = self.table().until.get_mut(&owed.key) {
            *until -= time(cost, owed.per_s).min(unpaid);
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        let until = &mut self.table().until;
        until.retain(|_, until| *until > now);
        until.shrink_to_fit();
    }
}

/// In which `cost` is paid off.
fn time(cost: usize, per_s: NonZeroU32) -> Duration {
    Duration::from_secs_f64(cost as f64 / f64::from(per_s.get()))
}

/// Whose appends are charged. `None`: nobody's.
#[derive(Clone)]
pub struct Storing(Option<Charged>);

#[derive(Clone)]
struct Charged {
    quotas: Arc<Quotas>,
    caller: Caller,
    /// The limits of its token, which can only lower those of the configuration.
    claimed: AppendLimits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Events,
    Bytes,
}

/// Where appends are charged: what a caller or network owes of one unit.
struct Account<'a> {
    of: Of,
    unit: Unit,
    per_s: NonZeroU32,
    debts: &'a Debts,
    caller: Cow<'a, Caller>,
}

impl Charged {
    fn accounts(&self) -> Vec<Account<'_>> {
        let mut accounts = Vec::with_capacity(2);
        for (used, caller) in self.quotas.levels(&self.caller) {
            let stored = &used.stored;
            let claimed = match used.of {
                Of::Caller => self.claimed,
                _ => AppendLimits::default(),
            };
            for (unit, configured, claimed, debts) in [
                (
                    Unit::Events,
                    stored.events_per_s,
                    claimed.events_per_s,
                    &stored.events,
                ),
                (
                    Unit::Bytes,
                    stored.bytes_per_s,
                    claimed.bytes_per_s,
                    &stored.bytes,
                ),
            ] {
                if let Some(per_s) = configured.into_iter().chain(claimed).min() {
                    accounts.push(Account {
                        of: used.of,
                        unit,
                        per_s,
                        debts,
                        caller: caller.clone(),
                    });
                }
            }
        }
        accounts
    }

    fn refusal(&self, account: &Account, wait: Duration) -> Problem {
        let (limit, unit) = match account.unit {
            Unit::Events => ("events", "events/s"),
            Unit::Bytes => (
                "stored_bytes",
                "bytes/s of keys and values (each feed of an event has a copy)",
            ),
        };
        self.quotas
            .metrics
            .limits
            .exceeded(limit, account.of.label());
        let detail = format!(
            "{} may write {} {unit}, and nothing of this request was appended; send the same events again after Retry-After",
            account.of.subject(),
            account.per_s
        );
        Problem::new(Code::TooManyAppends, detail).retry_after(wait)
    }
}

impl Storing {
    /// That of a request which has passed [`Enforce`](super::Enforce).
    pub fn of(request: &Parts) -> Self {
        let limited = request.extensions.get::<Limited>().cloned();
        let grant = request.extensions.get::<Arc<Grant>>();
        let claimed = grant.map_or_else(AppendLimits::default, |grant| grant.limits);
        Self(limited.and_then(|limited| {
            Some(Charged {
                quotas: limited.quotas,
                caller: limited.caller?,
                claimed,
            })
        }))
    }

    /// Charges `events`, or fails if the caller or its network owes too much.
    pub fn charge(&self, events: &[Event]) -> Result<Charge<'_>> {
        match self.0 {
            None => Ok(Charge::default()),
            Some(_) => self.charge_weights(events.iter().map(Event::weight).collect()),
        }
    }

    /// The same for events that write this many bytes.
    pub fn charge_weights(&self, weights: Vec<usize>) -> Result<Charge<'_>> {
        let Some(charged) = &self.0 else {
            return Ok(Charge::default());
        };
        let now = Instant::now();
        let accounts = charged.accounts();
        for account in &accounts {
            if let Some(wait) = account.debts.wait(&account.caller, now) {
                return Err(charged.refusal(account, wait));
            }
        }
        let mut charge = Charge {
            weights: match accounts.is_empty() {
                true => Vec::new(),
                false => weights,
            },
            owed: Vec::with_capacity(accounts.len()),
        };
        let all = charge.all();
        for account in accounts {
            let cost = all.of(account.unit);
            let owed = account
                .debts
                .charge(&account.caller, cost, account.per_s, now);
            charge.owed.push((account.unit, account.debts, owed));
        }
        Ok(charge)
    }

    /// Charges `events` once the caller owes little enough.
    pub async fn charge_later(&self, events: &[Event]) -> Charge<'_> {
        loop {
            match self.charge(events) {
                Ok(charge) => return charge,
                Err(problem) => tokio::time::sleep(problem.wait()).await,
            }
        }
    }
}

/// What an append was charged. It stays charged unless it is given back.
#[must_use]
#[derive(Default)]
pub struct Charge<'a> {
    /// The weight of each event.
    weights: Vec<usize>,
    owed: Vec<(Unit, &'a Debts, Owed)>,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    events: usize,
    bytes: usize,
}

impl Cost {
    fn of_bytes(bytes: usize) -> Self {
        Self { events: 0, bytes }
    }

    /// What an event of `weight` that was rejected with `error` did not cost.
    fn not_spent(error: &Error, weight: usize) -> Self {
        match error {
            Error::IdReused { .. }
            | Error::VersionConflict { .. }
            | Error::VersionAhead { .. }
            | Error::CursorUnknown { .. } => Self::of_bytes(weight),
            Error::Store(store::Error::Full) => Self {
                events: 1,
                bytes: weight,
            },
            _ => Self::default(),
        }
    }

    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
    }

    fn of(self, unit: Unit) -> usize {
        match unit {
            Unit::Events => self.events,
            Unit::Bytes => self.bytes,
        }
    }
}

impl Charge<'_> {
    fn all(&self) -> Cost {
        Cost {
            events: self.weights.len(),
            bytes: self.weights.iter().sum(),
        }
    }

    /// Gives everything back: the events were refused unseen.
    pub fn give_back(&self) {
        self.return_cost(self.all());
    }

    /// Gives back what the events with these outcomes did not cost after all. An event that was looked up and not written
    /// (a duplicate, a reused id, a condition that failed) still counts as an event, because that is work; it wrote no
    /// bytes. What may have been written stays charged.
    pub fn settle(self, outcomes: &[(EventId, Outcome)]) {
        let mut unused = Cost::default();
        for (weight, (_, outcome)) in self.weights.iter().zip(outcomes) {
            unused.add(match outcome {
                Outcome::Appended(_) => Cost::default(),
                Outcome::Duplicate(_) | Outcome::Erased(_) => Cost::of_bytes(*weight),
                Outcome::Rejected(error) => Cost::not_spent(error, *weight),
            });
        }
        self.return_cost(unused);
    }

    /// As [`Charge::settle`], if none of the events was appended because of `error`.
    pub fn settle_refused(self, error: &Error) {
        let mut unused = Cost::default();
        for weight in &self.weights {
            unused.add(Cost::not_spent(error, *weight));
        }
        self.return_cost(unused);
    }

    fn return_cost(&self, unused: Cost) {
        let now = Instant::now();
        for (unit, debts, owed) in &self.owed {
            match unused.of(*unit) {
                0 => {}
                cost => debts.give_back(owed, cost, now),
            }
        }
    }
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
        let _ = debts.charge(&anna, 1_000, per_s(100), now);
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
    async fn what_is_given_back_is_no_longer_owed_and_never_becomes_credit() {
        let debts = Debts::default();
        let anna = Caller::Subject("anna".into());
        let start = Instant::now();
        let first = debts.charge(&anna, 1_000, per_s(100), start);
        let second = debts.charge(&anna, 500, per_s(100), start);
        assert_eq!(debts.wait(&anna, start), Some(Duration::from_secs(11)));
        debts.give_back(&first, 1_000, start);
        assert_eq!(debts.wait(&anna, start), Some(Duration::from_secs(1)));
        debts.give_back(&second, 100, start);
        assert_eq!(debts.wait(&anna, start), None);
        // Two of the ten seconds are left of a charge when it is given back. The next one is owed in full.
        let third = debts.charge(&anna, 600, per_s(100), start);
        assert_eq!(third.until, start + Duration::from_secs(10));
        let later = start + Duration::from_secs(8);
        let fourth = debts.charge(&anna, 900, per_s(100), later);
        debts.give_back(&third, 600, later);
        assert_eq!(debts.wait(&anna, later), Some(Duration::from_secs(5)));
        // One that has been paid off is not given back.
        debts.give_back(&third, 600, start + Duration::from_secs(10));
        assert_eq!(debts.wait(&anna, later), Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(60)).await;
        debts.sweep();
        debts.give_back(&fourth, 900, later);
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
