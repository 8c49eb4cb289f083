//! A step of the sweep: one transaction.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Retention,
    feeds::{self, Ahead},
    log, news,
    pass::Pass,
    removal::Removal,
};
use crate::{
    lineage::Lineage,
    store::{
        Condition, Error, Found, Plan, Reads, Result, Snapshot, Transaction,
        keys::Keys,
        rows::{Sweep, decode_sweep, encode_sweep},
        values::decode_version_or_zero,
    },
    types::FeedName,
    version::{BYTES_LEN, Version},
};

/// A step reads no further after this time, because its snapshot can be committed on for a few seconds only.
const STEP_TIME_MAX: Duration = Duration::from_millis(500);

/// How much a step does at most. It goes a little beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, and events of the log, that are removed.
    pub removed: usize,
    /// Reads of keys or ranges, and bytes that they find.
    pub reads: usize,
    pub bytes: usize,
}

impl Default for Limits {
    /// A few milliseconds of work on either engine.
    fn default() -> Self {
        Self {
            removed: 200,
            reads: 1_000,
            bytes: 1024 * 1024,
        }
    }
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is not yet time for the next pass.
    Rests,
    /// The pass goes on.
    GoesOn,
    /// The pass is complete.
    IsComplete,
    /// A node with other rules has begun later.
    HasOtherRules,
}

/// What a step has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub outcome: Outcome,
    /// Everything that was due at this time (in µs since 1970) has been removed; 0 if that is not known.
    pub done: u64,
    /// The first pass by these rules began at this time, if it is not complete.
    pub began: u64,
    /// Entries that were removed from feeds, and events from the log.
    pub entries: u64,
    pub events: u64,
}

/// How far a pass has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Position {
    /// Before the next feed with a key at or above this one.
    Feeds(Vec<u8>),
    /// Counting the newest entries of a feed, for a rule.
    Count {
        feed: FeedName,
        rule: usize,
        counted: u64,
        until: Version,
    },
    /// Removing what a rule does not keep of a feed, in `(after, until]`.
    Remove {
        feed: FeedName,
        rule: usize,
        after: Version,
        until: Version,
    },
    /// Before the next news of a change with a key at or above this one.
    News(Vec<u8>),
    /// After this version in a partition of the log.
    Log { partition: u16, after: Version },
}

impl Position {
    fn encode(&self) -> Bytes {
        let feed = |tag: u8, feed: &FeedName, rule: usize, rest: &[u8]| {
            let name = feed.as_str().as_bytes();
            [&[tag][..], &(rule as u32).to_be_bytes(), rest, name].concat()
        };
        match self {
            Self::Feeds(key) => [&[0][..], key].concat(),
            Self::Count {
                feed: name,
                rule,
                counted,
                until,
            } => {
                let rest = [&counted.to_be_bytes()[..], &[0; 8], &until.to_bytes()].concat();
                feed(1, name, *rule, &rest)
            }
            Self::Remove {
                feed: name,
                rule,
                after,
                until,
            } => {
                let rest = [after.to_bytes(), until.to_bytes()].concat();
                feed(2, name, *rule, &rest)
            }
            Self::News(key) => [&[3][..], key].concat(),
            Self::Log { partition, after } => {
                [&[4][..], &partition.to_be_bytes(), &after.to_bytes()].concat()
            }
        }
        .into()
    }

    /// `None` if there is none, or if it cannot be understood: then the pass begins again.
    fn decode(bytes: &Bytes) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let version = |bytes: &[u8]| {
            <[u8; BYTES_LEN]>::try_from(bytes)
                .ok()
                .map(Version::from_bytes)
        };
        match tag {
            0 => Some(Self::Feeds(rest.to_vec())),
            1 | 2 => {
                let (rule, rest) = rest.split_first_chunk()?;
                let (first, rest) = rest.split_at_checked(BYTES_LEN)?;
                let (until, name) = rest.split_at_checked(BYTES_LEN)?;
                let rule = u32::from_be_bytes(*rule) as usize;
                let feed = FeedName::stored(Bytes::copy_from_slice(name)).ok()?;
                let until = version(until)?;
                Some(match tag {
                    1 => Self::Count {
                        feed,
                        rule,
                        counted: u64::from_be_bytes(*first.first_chunk()?),
                        until,
                    },
                    _ => Self::Remove {
                        feed,
                        rule,
                        after: version(first)?,
                        until,
                    },
                })
            }
            3 => Some(Self::News(rest.to_vec())),
            4 => {
                let (partition, rest) = rest.split_first_chunk()?;
                Some(Self::Log {
                    partition: u16::from_be_bytes(*partition),
                    after: version(rest)?,
                })
            }
            _ => None,
        }
    }
}

/// What the parts of a step share.
pub(super) struct Work<'a> {
    pub(super) keys: &'a Keys,
    pub(super) snapshot: &'a dyn Snapshot,
    pub(super) retention: &'a Retention,
    pub(super) pass: &'a Pass,
    pub(super) removal: Removal<'a>,
    pub(super) ahead: Option<Ahead>,
    limits: Limits,
    begun: Instant,
    reads: usize,
    bytes: usize,
}

impl Work<'_> {
    /// Notes that something was read.
    pub(super) fn note(&mut self, reads: usize, bytes: usize) {
        self.reads += reads;
        self.bytes += bytes;
    }

    /// Must be called for each feed from which something goes.
    pub(super) fn begin(&mut self, feed: &FeedName) {
        let rules = self.retention.rules_of(feed);
        let all = |rule: &usize| self.retention.rules[*rule].kinds.is_empty();
        if !rules.first().is_some_and(all) {
            self.removal.mixes(feed, self.pass.floor);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.removal.len() >= self.limits.removed
            || self.reads >= self.limits.reads
            || self.bytes >= self.limits.bytes
            || self.begun.elapsed() >= STEP_TIME_MAX
    }

    /// How many entries or events may still be removed.
    pub(super) fn room(&self) -> usize {
        self.limits
            .removed
            .saturating_sub(self.removal.len())
            .max(1)
    }
}

/// The transaction. It should be attempted once: after a failure, look again when another node may have gone on.
pub struct Step<'a> {
    keys: &'a Keys,
    lineage: &'a Lineage,
    retention: &'a Retention,
    pass: &'a mut Option<Pass>,
    now: u64,
    /// Whether to begin again by these rules if others have been in use.
    pub replaces_rules: bool,
    pub limits: Limits,
    planned: Option<Progress>,
}

impl<'a> Step<'a> {
    /// A step at the time `now`, in µs since 1970. `pass` keeps the bounds of the present pass from step to step.
    pub fn new(
        keys: &'a Keys,
        lineage: &'a Lineage,
        retention: &'a Retention,
        pass: &'a mut Option<Pass>,
        now: u64,
    ) -> Self {
        Self {
            keys,
            lineage,
            retention,
            pass,
            now,
            replaces_rules: true,
            limits: Limits::default(),
            planned: None,
        }
    }

    /// The row to go on with, or what there is to say if there is nothing to do.
    fn row(&self, stored: Option<Sweep>, now: Version) -> std::result::Result<Sweep, Progress> {
        let rules = self.retention.digest();
        let mut row = match stored {
            Some(row) if row.rules == rules => row,
            Some(_) if !self.replaces_rules => {
                return Err(progress_of(None, Outcome::HasOtherRules));
            }
            _ => Sweep {
                rules,
                done: 0,
                done_at: Version::ZERO,
                began: 0,
                began_at: Version::ZERO,
                position: Bytes::new(),
            },
        };
        if row.position.is_empty() {
            let interval = self.retention.interval().as_micros() as u64;
            // A clock that was ahead must not stop the sweep for long.
            let is_early = self.now.abs_diff(row.began) < interval;
            if row.began > 0 && is_early {
                return Err(progress_of(Some(&row), Outcome::Rests));
            }
            (row.began, row.began_at) = (self.now, now);
        }
        Ok(row)
    }
}

fn progress_of(row: Option<&Sweep>, outcome: Outcome) -> Progress {
    Progress {
        outcome,
        done: row.map_or(0, |row| row.done),
        began: row.map_or(0, |row| row.began),
        entries: 0,
        events: 0,
    }
}

#[async_trait]
impl Transaction for Step<'_> {
    const NAME: &'static str = "retention";

    type Output = Progress;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        Reads {
            keys: vec![self.keys.sweep(), self.keys.trimmed_log()],
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<Progress>> {
        let (key, trimmed_key) = (self.keys.sweep(), self.keys.trimmed_log());
        let mut values = first.values.into_iter();
        let stored = values.next().flatten();
        let trimmed = values.next().flatten();
        let trimmed = decode_version_or_zero(&trimmed_key, trimmed.as_ref())?;
        let row = stored.as_ref().map(|value| decode_sweep(&key, value));
        let mut row = match self.row(row.transpose()?, snapshot.version()) {
            Ok(row) => row,
            Err(progress) => return Ok(Plan::Answer(progress)),
        };
        let pass = match self.pass.take().filter(|pass| pass.is_of(&row)) {
            Some(pass) => pass,
            None => {
                let (keys, lineage) = (self.keys, self.lineage);
                Pass::read(snapshot, keys, lineage, self.retention, &row).await?
            }
        };
        let pass = &*self.pass.insert(pass);
        let mut work = Work {
            keys: self.keys,
            snapshot,
            retention: self.retention,
            pass,
            removal: Removal::new(self.keys, snapshot, trimmed),
            ahead: None,
            limits: self.limits,
            begun: Instant::now(),
            reads: 0,
            bytes: 0,
        };
        let start = || Position::Feeds(self.keys.feeds().0);
        let mut position = Some(Position::decode(&row.position).unwrap_or_else(start));
        while let Some(at) = position.take() {
            position = match at {
                Position::Feeds(from) => Some(feeds::next(&mut work, from).await?),
                Position::Count {
                    feed,
                    rule,
                    counted,
                    until,
                } => Some(feeds::count(&mut work, feed, rule, (counted, until)).await?),
                Position::Remove {
                    feed,
                    rule,
                    after,
                    until,
                } => Some(feeds::remove(&mut work, feed, rule, (after, until)).await?),
                Position::News(from) => Some(news::next(&mut work, from).await?),
                Position::Log { partition, after } => {
                    log::next(&mut work, partition, after).await?
                }
            };
            if work.is_full() {
                break;
            }
        }
        let (mut batch, counts) = work.removal.finish().await?;
        let is_complete = position.is_none();
        row.position = position.map_or_else(Bytes::new, |position| position.encode());
        if is_complete {
            (row.done, row.done_at) = (row.began, row.began_at);
        }
        batch.conditions.push(Condition::KeyEquals {
            key: key.clone(),
            value: stored.as_deref().map(<[u8]>::to_vec),
        });
        batch.puts.push((key, encode_sweep(&row)));
        let outcome = match is_complete {
            true => Outcome::IsComplete,
            false => Outcome::GoesOn,
        };
        self.planned = Some(Progress {
            entries: counts.entries,
            events: counts.events,
            ..progress_of(Some(&row), outcome)
        });
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, _version: Version) -> Progress {
        self.planned.expect("what has been committed was planned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        let feed: FeedName = "chat:1".parse().expect("a name");
        let version = |time| Version::new(1, time, 3);
        for position in [
            Position::Feeds(vec![1, 0, 255]),
            Position::Count {
                feed: feed.clone(),
                rule: 3,
                counted: 1 << 40,
                until: version(9),
            },
            Position::Remove {
                feed,
                rule: 0,
                after: version(1),
                until: version(2),
            },
            Position::News(vec![]),
            Position::Log {
                partition: 700,
                after: version(5),
            },
        ] {
            assert_eq!(Position::decode(&position.encode()), Some(position));
        }
        assert_eq!(Position::decode(&Bytes::new()), None);
    }
}
