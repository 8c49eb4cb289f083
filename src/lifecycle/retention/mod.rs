//! Retention: what of the feeds and of the log is kept, and the sweep, which removes the rest.
//!
//! A [`Rule`] is about feeds and kinds, and the first one that fits an entry decides. The sweep is a walk through all feeds
//! and the log, again and again, in steps that any node takes: one transaction each, which removes what is due and notes
//! how far the walk has got, on condition that nobody else has taken the step. Everything that a pass removes was due at the
//! moment at which the pass began, so all nodes agree about it.
//!
//! Of an event that goes from a feed, its entry, notify key, index key and the news of its last edit go from there; its claim
//! goes with the last copy, in feeds or in the log. The twins of what goes from a sequence go with it: nothing would hide them.
//! What [`Keys::trimmed`](crate::store::keys::Keys::trimmed) says is raised in the same transaction, so that whoever
//! continues from below is told.
//!
//! Nothing here conflicts with appends: twins of what is [old enough](TWINS_TICKS_MAX) to be removed cannot come any more.
//! Changes of an event exclude its removal by its claim. Projections have a condition on the row of the sweep.
//!
//! - [`sweep`]: the step. [`feeds`], [`news`], [`log`]: what it does in each part of the walk. [`removal`]: its batch.
//! - [`pass`]: which versions are due. [`worker`]: the task of a node. [`survey`]: what rules would remove.

mod feeds;
mod log;
mod news;
mod pass;
mod removal;
mod survey;
mod sweep;
#[cfg(test)]
mod tests;
mod worker;

use std::{fmt, sync::Arc, time::Duration};

pub use self::{
    pass::Pass,
    survey::{Due, Survey, survey},
    sweep::{Limits, Outcome, Progress, Step},
    worker::run,
};
use super::erasure::TWINS_TICKS_MAX;
use crate::types::{FeedName, Kind};

/// Most rules.
pub const RULES_MAX: usize = 100;
/// Most entries that a rule can keep in a feed.
pub const ENTRIES_MAX: u64 = 1_000_000;
/// The age of what is removed, at least: until then, twins can come.
pub const AGE_MIN: Duration = Duration::from_secs(10);

/// A pass begins this part of the shortest age after the one before, within these bounds.
const PASSES_PER_AGE: u32 = 60;
const INTERVAL_MIN: Duration = Duration::from_secs(2);
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// With rules that count, which have to look at each feed that has grown.
const INTERVAL_COUNTING: Duration = Duration::from_secs(300);

/// What of some kinds is kept in some feeds: what is younger than `age`, of the newest `entries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The name of a feed, or a beginning followed by `*`.
    pub feeds: String,
    /// Empty: all.
    pub kinds: Vec<Kind>,
    pub age: Option<Duration>,
    pub entries: Option<u64>,
}

impl Rule {
    fn is_about(&self, feed: &FeedName) -> bool {
        match self.feeds.strip_suffix('*') {
            Some(beginning) => feed.as_str().starts_with(beginning),
            None => feed.as_str() == self.feeds,
        }
    }

    fn includes(&self, kind: &Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(kind)
    }
}

/// As in the configuration.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "feeds={}", self.feeds)?;
        for kind in &self.kinds {
            let kind = kind.as_str().replace(',', "\\,").replace(';', "\\;");
            write!(f, ",kinds={kind}")?;
        }
        if let Some(age) = self.age {
            write!(f, ",age={}s", age.as_secs())?;
        }
        match self.entries {
            Some(entries) => write!(f, ",entries={entries}"),
            None => Ok(()),
        }
    }
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The first one that fits an entry decides. What none fits is kept.
    pub rules: Arc<[Rule]>,
    /// The age of events in the log.
    pub log_age: Option<Duration>,
}

impl Retention {
    /// Whether everything is kept.
    pub fn keeps_everything(&self) -> bool {
        self.rules.is_empty() && self.log_age.is_none()
    }

    /// The rule for entries of `kind` in `feed`, as a place in the list.
    pub fn rule_of(&self, feed: &FeedName, kind: &Kind) -> Option<usize> {
        let fits = |rule: &Rule| rule.is_about(feed) && rule.includes(kind);
        self.rules.iter().position(fits)
    }

    /// The rules that may decide in `feed`.
    fn rules_of(&self, feed: &FeedName) -> Vec<usize> {
        let mut found = Vec::new();
        let rules = self.rules.iter().enumerate();
        for (index, rule) in rules.filter(|(_, rule)| rule.is_about(feed)) {
            found.push(index);
            if rule.kinds.is_empty() {
                break;
            }
        }
        found
    }

    /// From the beginning of a pass to that of the next.
    pub fn interval(&self) -> Duration {
        let ages = self.rules.iter().filter_map(|rule| rule.age);
        let shortest = ages.chain(self.log_age).min();
        let by_age = shortest.map_or(INTERVAL_MAX, |age| age / PASSES_PER_AGE);
        let counts = self.rules.iter().any(|rule| rule.entries.is_some());
        let most = match counts {
            true => INTERVAL_COUNTING,
            false => INTERVAL_MAX,
        };
        by_age.clamp(INTERVAL_MIN, most)
    }

    /// Tells different settings apart.
    fn digest(&self) -> u128 {
        let rules = self.rules.iter().map(ToString::to_string);
        let log = self.log_age.map(|age| format!("log={}s", age.as_secs()));
        let text: Vec<String> = rules.chain(log).collect();
        twox_hash::XxHash3_128::oneshot(text.join(";").as_bytes())
    }
}
