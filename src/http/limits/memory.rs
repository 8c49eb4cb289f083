//! A budget of memory that clients decide how long to hold: answers they have not read, bodies they have not sent. It has a
//! total for the node, and shares per caller and per network. All counters are atomic; nothing waits.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

use super::Of;
use crate::{
    http::{
        caller::Caller,
        problem::{Code, Problem, Result},
    },
    metrics::Metrics,
};

/// Counters of callers. Callers are spread over them by a keyed hash, so that nobody can choose whom to share one with.
const COUNTERS: usize = 16 * 1024;
/// The least that [`Memory::reserve_some`] gives.
const SOME_BYTES_MIN: usize = 16 * 1024;
/// Once half of a budget is in use, [`Memory::reserve_some`] gives this fraction of the rest. So many requests at the same
/// time, which need little in the end, do not refuse each other because each might need much.
const SOME_OF_REST: usize = 64;

/// The sizes of a budget; `None` is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget {
    pub total_bytes: Option<NonZeroUsize>,
    pub caller_bytes: Option<NonZeroUsize>,
}

/// What the memory of a budget holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Answers that their clients have not read yet.
    Answers,
    /// Bodies that have arrived in part, or are being processed.
    Bodies,
}

pub struct Memory {
    holds: Holds,
    metrics: Arc<Metrics>,
    total: Account,
    /// Of callers and of networks. A caller's account is found by its hash.
    shares: [Option<Shares>; 2],
    hasher: RandomState,
}

struct Account {
    max: usize,
    used: Gauge,
}

struct Shares {
    max: usize,
    used: Box<[AtomicUsize]>,
}

/// The indices of a caller's counters: its own and its network's.
type Place = [Option<usize>; 2];

impl Memory {
    /// A network has `network_callers` times the share of a caller.
    pub fn new(
        holds: Holds,
        budget: Budget,
        network_callers: Option<usize>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let shares = |times: usize| {
            let max = budget.caller_bytes?.get().saturating_mul(times);
            let used = std::iter::repeat_with(AtomicUsize::default);
            Some(Shares {
                max,
                used: used.take(COUNTERS).collect(),
            })
        };
        Arc::new(Self {
            holds,
            total: Account {
                max: budget.total_bytes.map_or(usize::MAX, NonZeroUsize::get),
                used: match holds {
                    Holds::Answers => metrics.limits.answer_bytes.clone(),
                    Holds::Bodies => metrics.limits.body_bytes.clone(),
                },
            },
            metrics,
            shares: [shares(1), network_callers.and_then(shares)],
            hasher: RandomState::new(),
        })
    }

    /// Nothing yet, for a caller and its network. Takes no counter.
    pub fn account(
        self: &Arc<Self>,
        caller: Option<&Caller>,
        network: Option<&Caller>,
    ) -> Reserved {
        let index = |caller: &Caller| (self.hasher.hash_one(caller) % COUNTERS as u64) as usize;
        let mut place = [caller.map(index), network.map(index)];
        for (index, shares) in place.iter_mut().zip(&self.shares) {
            *index = index.filter(|_| shares.is_some());
        }
        Reserved {
            memory: Arc::clone(self),
            place,
            bytes: 0,
        }
    }

    fn shares_of(&self, place: Place) -> impl Iterator<Item = (&AtomicUsize, usize, Of)> {
        let who = [Of::Caller, Of::Network];
        let shares = self.shares.iter().zip(place).zip(who);
        shares.filter_map(|((shares, index), who)| {
            let shares = shares.as_ref()?;
            Some((shares.used.get(index?)?, shares.max, who))
        })
    }

    /// Adds `bytes`, beyond the limits if need be.
    fn add(&self, place: Place, bytes: usize) {
        self.total.used.inc_by(bytes as i64);
        for (used, ..) in self.shares_of(place) {
            used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn subtract(&self, place: Place, bytes: usize) {
        self.total.used.dec_by(bytes as i64);
        for (used, ..) in self.shares_of(place) {
            used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Adds `bytes` unless that exceeds a limit. The caller's is reported first.
    fn try_add(&self, place: Place, bytes: usize) -> Result<()> {
        self.add(place, bytes);
        match self.exceeded(place) {
            None => Ok(()),
            Some((of, max)) => {
                self.subtract(place, bytes);
                Err(self.problem(of, max))
            }
        }
    }

    fn exceeded(&self, place: Place) -> Option<(Of, usize)> {
        let mut shares = self.shares_of(place);
        let share = shares.find(|(used, max, _)| used.load(Ordering::Relaxed) > *max);
        let node = || (self.in_use() > self.total.max).then_some((Of::Node, self.total.max));
        share.map(|(_, max, of)| (of, max)).or_else(node)
    }

    fn problem(&self, of: Of, max: usize) -> Problem {
        let limit = match self.holds {
            Holds::Answers => "answer_bytes",
            Holds::Bodies => "body_bytes",
        };
        self.metrics.limits.exceeded(limit, of.label());
        let code = match (self.holds, of) {
            (Holds::Answers, Of::Node) => Code::TooManyAnswers,
            (Holds::Answers, _) => Code::TooManyCallerAnswers,
            (Holds::Bodies, Of::Node) => Code::TooManyBodies,
            (Holds::Bodies, _) => Code::TooManyCallerBodies,
        };
        let what = match self.holds {
            Holds::Answers => {
                "answers that have not been read; read them, or try again after Retry-After"
            }
            Holds::Bodies => {
                "request bodies that have not arrived completely or are being processed; send fewer at a time, or try \
                 again after Retry-After"
            }
        };
        let of = of.subject();
        Problem::new(code, format!("{of} may have {max} bytes of {what}"))
    }

    fn in_use(&self) -> usize {
        self.total.used.get().try_into().unwrap_or(0)
    }
}

/// What part of `most` to give if `used` of `max` is in use.
fn some(most: usize, used: usize, max: usize) -> usize {
    let rest = max.saturating_sub(used);
    match rest >= max / 2 {
        true => most.min(rest),
        false => most.min((rest / SOME_OF_REST).max(SOME_BYTES_MIN)),
    }
}

/// Memory that one answer or body holds. Dropping it gives it back.
pub struct Reserved {
    memory: Arc<Memory>,
    place: Place,
    bytes: usize,
}

impl Reserved {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows to `bytes`, or stays as it is.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.memory.try_add(self.place, more)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Grows to `most` bytes, or to fewer if memory is short.
    pub fn grow_some(&mut self, most: usize) -> Result<()> {
        let memory = &self.memory;
        let shares = memory.shares_of(self.place);
        let given = shares.fold(most, |most, (used, max, _)| {
            some(most, used.load(Ordering::Relaxed), max)
        });
        let given = some(given, memory.in_use(), memory.total.max);
        self.grow(given)
    }

    /// Sets the real size, which is known now, beyond the limits if need be.
    pub fn settle(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.memory.add(self.place, more),
            None => self.memory.subtract(self.place, self.bytes - bytes),
        }
        self.bytes = bytes;
    }

    /// `data` as bytes that hold this memory until the last part of them is dropped, wherever they are by then.
    pub fn hold(mut self, data: Vec<u8>) -> Bytes {
        self.settle(data.len());
        Bytes::from_owner(Held {
            data,
            _memory: self,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.subtract(self.place, self.bytes);
        }
    }
}

struct Held {
    data: Vec<u8>,
    _memory: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn memory(total: usize, caller: usize) -> (Arc<Memory>, Gauge) {
        let metrics = Arc::<Metrics>::default();
        let used = metrics.limits.answer_bytes.clone();
        let budget = Budget {
            total_bytes: NonZeroUsize::new(total),
            caller_bytes: NonZeroUsize::new(caller),
        };
        let memory = Memory::new(Holds::Answers, budget, Some(2), metrics);
        (memory, used)
    }

    fn caller(name: &str) -> Caller {
        Caller::Subject(name.into())
    }

    #[test]
    fn nobody_gets_more_than_its_share_and_all_together_no_more_than_the_total() {
        let (memory, used) = memory(500, 200);
        let network = caller("network");
        let reserve = |name: &str, bytes| {
            let network = name.starts_with("in-").then_some(&network);
            let mut reserved = memory.account(Some(&caller(name)), network);
            reserved.grow(bytes).map(|()| reserved)
        };
        let failed = |name, bytes| {
            let problem = reserve(name, bytes).err().expect("no room");
            (problem.code, problem.to_error()["detail"].to_string())
        };
        let refused = |name, bytes, code, who: &str| {
            let (given, detail) = failed(name, bytes);
            assert_eq!(given, code, "{detail}");
            assert!(detail.contains(who), "{detail}");
        };
        let first = reserve("in-a", 150).expect("room");
        refused("in-a", 51, Code::TooManyCallerAnswers, "this caller may");
        let second = reserve("in-b", 200).expect("room");
        refused("in-c", 51, Code::TooManyCallerAnswers, "network");
        let _third = reserve("d", 150).expect("the rest");
        refused("e", 1, Code::TooManyAnswers, "this node");
        assert_eq!(used.get(), 500);
        drop(first);
        let _fourth = reserve("e", 100).expect("what the first gave back");
        drop(second);
        assert_eq!(used.get(), 250);
    }

    #[test]
    fn held_bytes_are_given_back_with_their_last_part() {
        let (memory, used) = memory(1_000, 1_000);
        let mut reserved = memory.account(None, None);
        reserved.grow(900).expect("room");
        let mut bytes = reserved.hold(vec![7; 300]);
        assert_eq!(used.get(), 300);
        let part = bytes.split_to(1);
        drop(bytes);
        assert_eq!(used.get(), 300);
        drop(part);
        assert_eq!(used.get(), 0);
    }

    /// Pages that run at the same time and turn out small do not refuse each other.
    #[test]
    fn many_at_the_same_time_get_less_each() {
        let most = 4 * 1024 * KIB;
        let (memory, used) = memory(256 * 1024 * KIB, 64 * 1024 * KIB);
        let mut all = Vec::new();
        for number in 0..256 {
            let mut reserved = memory.account(Some(&caller("one")), None);
            reserved.grow_some(most).expect("some");
            assert_eq!(reserved.bytes() == most, number < 9, "{number}");
            assert!(reserved.bytes() >= SOME_BYTES_MIN);
            all.push(reserved);
        }
        drop(all);
        assert_eq!(used.get(), 0);
    }
}
