//! A step: one transaction, which moves the checkpoint of one or several projections.
//!
//! Projections with the same checkpoint take their steps together, so that the log is read once for all of them. One that
//! is behind the others stops at their checkpoint, and goes on with them from there.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Projection;
use crate::{
    log::{self, LogEvent, Scan},
    store::{
        Batch, Condition, Error, Found, Plan, Reads, Result, Snapshot, Transaction, entries_at,
        keys::Keys,
        values::{Checkpoint, decode_checkpoint, decode_version_or_zero, encode_checkpoint},
    },
    types::FeedName,
    version::Version,
};

/// A step reads no further after this time, because its snapshot can be committed on for a few seconds only.
const STEP_TIME_MAX: Duration = Duration::from_secs(1);

/// How much a step does at most. It goes beyond these limits only if it would not make progress otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events of the log.
    pub events: usize,
    /// Derived keys.
    pub puts: usize,
    /// Bytes of derived keys and their values.
    pub put_bytes: usize,
    /// Keys of the log, which hold up to a batch of events each, and bytes of their values.
    pub log_keys: usize,
    pub log_bytes: usize,
}

impl Default for Limits {
    /// A few milliseconds of work on either engine.
    fn default() -> Self {
        Self {
            events: 500,
            puts: 2_000,
            put_bytes: 512 * 1024,
            log_keys: 1_000,
            log_bytes: 1024 * 1024,
        }
    }
}

/// Which projections take a step, if their checkpoints differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Those that are furthest.
    First,
    /// Those that are furthest behind.
    Last,
}

/// What a step has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The moment of the step's snapshot.
    pub moment: Version,
    /// The projections whose turn it was, as places in the list, and how far they are behind the moment now, in ticks.
    pub members: Vec<usize>,
    pub lag_ticks: u64,
    /// Their checkpoint has moved. If not, there was nothing to do.
    pub has_moved: bool,
    /// The events that were projected.
    pub events: usize,
    /// All events up to `moment` are projected.
    pub is_complete: bool,
}

/// The transaction of a step. It should be attempted once: after a failure, look again when another node may have gone on.
pub struct Step<'a> {
    keys: &'a Keys,
    projections: &'a [Projection],
    turn: Turn,
    limits: Limits,
    planned: Option<Progress>,
}

impl<'a> Step<'a> {
    pub fn new(keys: &'a Keys, projections: &'a [Projection], turn: Turn, limits: Limits) -> Self {
        Self {
            keys,
            projections,
            turn,
            limits,
            planned: None,
        }
    }

    /// The projections whose turn it was, as places in the list.
    pub fn members(&self) -> &[usize] {
        let planned = self.planned.as_ref();
        planned.map_or(&[], |planned| &planned.members)
    }

    /// The feeds of the event that still hold it, for members that index feeds. Nothing above `trimmed` has been removed.
    async fn held(
        &self,
        snapshot: &dyn Snapshot,
        event: &LogEvent,
        members: &[usize],
        trimmed: Version,
    ) -> Result<Vec<FeedName>> {
        let kind = &event.entry.kind;
        let is_wanted =
            |member: &usize| self.projections[*member] == Projection::FeedByKind(kind.clone());
        if !members.iter().any(is_wanted) {
            return Ok(Vec::new());
        }
        let mut feeds = event.feeds.clone();
        if event.entry.version <= trimmed {
            let place = |feed| (self.keys.feed(feed), event.entry.version);
            let stored = entries_at(snapshot, feeds.iter().map(place)).await?;
            let mut stored = stored.iter();
            feeds.retain(|_| stored.next().is_some_and(Option::is_some));
        }
        Ok(feeds)
    }

    /// Reads the log in `(from, until]`, and derives what `members` derive from it.
    async fn derive(
        &self,
        snapshot: &dyn Snapshot,
        (from, until): (Version, Version),
        members: &[usize],
        trimmed: Version,
    ) -> Result<Derivation> {
        let limits = self.limits;
        let begun = Instant::now();
        let scan_limits = log::Limits {
            keys: limits.log_keys,
            bytes: limits.log_bytes,
            events: limits.events,
        };
        let mut scan = Scan::oldest_first(self.keys, from, until, scan_limits);
        let (mut puts, mut put_bytes, mut events) = (Vec::new(), 0, 0);
        loop {
            let is_full = events >= limits.events
                || puts.len() >= limits.puts
                || put_bytes >= limits.put_bytes
                || begun.elapsed() >= STEP_TIME_MAX;
            // The position moves with the first event.
            if is_full && events > 0 {
                break;
            }
            let Some(event) = scan.next(snapshot).await? else {
                break;
            };
            let held = self.held(snapshot, &event, members, trimmed).await?;
            let before = puts.len();
            for &member in members {
                self.projections[member].derive(self.keys, &event, &held, &mut puts);
            }
            let size = |(key, value): &(Vec<u8>, Vec<u8>)| key.len() + value.len();
            put_bytes += puts[before..].iter().map(size).sum::<usize>();
            events += 1;
        }
        Ok(Derivation {
            puts,
            events,
            reached: scan.position(),
            found_anything: events > 0 || scan.hidden() > 0 || !scan.is_done(),
        })
    }
}

/// What the log says.
struct Derivation {
    puts: Vec<(Vec<u8>, Vec<u8>)>,
    events: usize,
    /// Everything up to here has been read.
    reached: Version,
    /// Reading the same again would cost something.
    found_anything: bool,
}

#[async_trait]
impl Transaction for Step<'_> {
    const NAME: &'static str = "projection";

    type Output = Progress;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        let checkpoints = self.projections.iter().map(|it| it.key(self.keys));
        let removals = [self.keys.changed(), self.keys.sweep()];
        let trimmed = [self.keys.trimmed_log(), self.keys.trimmed_anywhere()];
        Reads {
            keys: checkpoints.chain(removals).chain(trimmed).collect(),
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<Progress>> {
        let moment = snapshot.version();
        let at = self.first_reads().keys;
        let equal = |index: usize| Condition::KeyEquals {
            key: at[index].clone(),
            value: first.values[index].as_deref().map(<[u8]>::to_vec),
        };
        let stored = at.iter().zip(&first.values).take(self.projections.len());
        let stored = stored.map(|(key, value)| decode_checkpoint(key, value.as_ref()));
        let stored = stored.collect::<Result<Vec<_>>>()?;
        let checkpoints: Vec<Version> = stored.iter().map(|it| it.until).collect();
        // Only read: it changes with the row of the sweep.
        let trimmed = at
            .iter()
            .zip(&first.values)
            .skip(self.projections.len() + 2);
        let trimmed = trimmed.map(|(key, value)| decode_version_or_zero(key, value.as_ref()));
        let trimmed = trimmed.collect::<Result<Vec<_>>>()?;
        let (trimmed, trimmed_anywhere) = (trimmed[0], trimmed[1]);
        let from = match self.turn {
            Turn::First => checkpoints.iter().max(),
            Turn::Last => checkpoints.iter().min(),
        };
        let from = from.copied().unwrap_or(moment);
        let of = |place: &usize| checkpoints[*place] == from;
        let members: Vec<usize> = (0..checkpoints.len()).filter(of).collect();
        let next = checkpoints.iter().filter(|it| **it > from).min();
        let until = next.map_or(moment, |next| moment.min(*next));

        let derived = self
            .derive(snapshot, (from, until), &members, trimmed_anywhere)
            .await?;
        let joins_others = next.is_some() && derived.reached == until;
        let progress = Progress {
            moment,
            is_complete: derived.reached >= moment && members.len() == checkpoints.len(),
            lag_ticks: match derived.reached < moment {
                true => moment.time().saturating_sub(derived.reached.time()),
                false => 0,
            },
            members,
            has_moved: derived.found_anything || joins_others,
            events: derived.events,
        };
        if !progress.has_moved {
            return Ok(Plan::Answer(progress));
        }
        let mut batch = Batch {
            puts: derived.puts,
            ..Batch::default()
        };
        for &member in &progress.members {
            batch.conditions.push(equal(member));
            let until = derived.reached;
            let from = match from < trimmed {
                // Of what was trimmed, something may be missing.
                true => trimmed,
                false => stored[member].from,
            };
            let checkpoint = encode_checkpoint(Checkpoint { from, until });
            batch.puts.push((at[member].clone(), checkpoint));
        }
        // What it derives from must still be there.
        let removals = self.projections.len()..self.projections.len() + 2;
        batch.conditions.extend(removals.map(equal));
        self.planned = Some(progress);
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, _version: Version) -> Progress {
        self.planned
            .clone()
            .expect("what has been committed was planned")
    }
}
