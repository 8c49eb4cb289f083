//! The deduplicating transaction: reads claims, judges conditions, writes new events, and determines the outcome of each
//! event.
//!
//! # Conditional events
//! A transaction plays its events in their order: each one is judged as if those before it had been appended already.
//! Events may therefore share a transaction, and a group commit, whatever they expect:
//! - A repeated id is a duplicate of the first event with that id that was appended; rejected events do not claim theirs.
//! - The versions of a transaction's own events lie above its snapshot, and a version that an event expects may not. So an
//!   event that expects a feed to which an earlier event of the transaction was added is rejected, whatever it expects.
//! - An expected version of another life of the store is refused, like one that has not been reached.
//! - Any other condition is judged on the snapshot. The store checks at commit that nothing has been added to the feeds
//!   of the conditions that held. Those that failed need no check: entries are never taken back.
//!
//! Anybody who adds to one of these feeds meanwhile aborts the whole transaction. The next attempt takes only half as many
//! events, so that an array of many conditions on busy feeds gets through; see [`Append::shrink`].

use std::collections::HashMap;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::Instrument;

use super::{Accepted, Context, Outcome, Unit, writes};
use crate::{
    clock::AtClock,
    dedup::{self, Latest},
    error::{Error, Result},
    lineage::{Known, Lineage},
    metrics::Held,
    store::{
        Batch, Condition, Found, Plan, Reads, Snapshot, Transaction,
        keys::{self, Keys},
        transact_until,
        values::{Claim, decode_claim},
    },
    types::{Entry, Event, EventId, Expect, FeedName, NO_TWIN},
    version::Version,
};

/// Commits the events of `units` and answers each unit.
pub(super) async fn commit_batch(context: &Context, units: Vec<Unit>) {
    let metrics = &context.metrics.appends;
    let _in_flight = Held::by(&metrics.batches_in_flight);
    let begun = Instant::now();
    let bytes = units.iter().map(|unit| unit.weight).sum();
    let accepted = units.iter().flat_map(|unit| &unit.events);
    let events: Vec<_> = accepted
        .map(|accepted| (&accepted.event, accepted.at))
        .collect();
    let span = tracing::debug_span!("append_batch", events = events.len(), bytes);
    let oldest = units.iter().map(|unit| unit.give_up_at).min();
    let give_up_at = oldest.unwrap_or_else(Instant::now);
    let outcomes = commit(context, &events, give_up_at).instrument(span).await;
    metrics.note_batch(events.len(), bytes, begun.elapsed());
    let mut outcomes = outcomes.into_iter();
    for Unit { events, reply, .. } in units {
        let ids = events.into_iter().map(|Accepted { event, .. }| event.id);
        let outcomes: Vec<_> = ids.zip(&mut outcomes).collect();
        super::count(metrics, &outcomes);
        // The client may be gone; its events are committed nevertheless.
        let _ = reply.send(outcomes);
    }
}

/// Commits `events`, usually in one transaction, and returns the outcome of each.
async fn commit(context: &Context, events: &[(&Event, i64)], give_up_at: Instant) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(events.len());
    let mut size = events.len();
    while let Some(rest @ [_, ..]) = events.get(outcomes.len()..) {
        let mut append = Append::new(context, &rest[..size.min(rest.len())]);
        match transact_until(&*context.store, &mut append, give_up_at).await {
            Ok(base) => {
                size = 2 * append.events.len();
                outcomes.extend(append.outcomes(base));
            }
            // The store is unavailable, or it is time to give up.
            Err(error) => outcomes.extend(rest.iter().map(|_| Outcome::Rejected(error.clone()))),
        }
    }
    outcomes
}

/// Where an entry is: at a known version, or at an index of the batch to be committed.
#[derive(Clone, Copy)]
enum Place {
    At(Version),
    Planned(u16),
}

impl Place {
    /// `base` is the version of the committed batch.
    fn version(self, base: Version) -> Version {
        match self {
            Self::At(version) => version,
            Self::Planned(index) => base.at_index(index),
        }
    }
}

/// What becomes of an event.
enum Verdict<'a> {
    Appended(Place),
    Duplicate(Place),
    /// The id belongs to other content.
    IdReused(Place),
    /// The expected feed has this entry.
    VersionConflict(&'a Expect, Option<Place>),
    /// The event expects a version that is unknown, or has not been reached.
    NoSuchVersion(Error),
}

/// A taken id: the event that has it, and its content hash; `None` if the event was erased.
struct Taken {
    place: Place,
    digest: Option<u128>,
    /// The event was committed by an earlier attempt whose outcome was unknown, and is not answered yet.
    is_ours: bool,
}

/// A feed that events of the batch expect to be at a version.
struct Expected {
    latest: Latest,
    /// The last event of the batch that is added to the feed.
    planned: Option<u16>,
    /// A condition held because nothing was added to the feed since the snapshot.
    relied_on: bool,
}

/// A transaction of `events`, in their order.
struct Append<'a> {
    keys: &'a Keys,
    lineage: &'a Lineage,
    clock: &'a AtClock,
    events: &'a [(&'a Event, i64)],
    /// For each event, the position of its id in `ids`. Both may cover more events: those of the first attempt.
    id_of: Vec<usize>,
    /// The distinct ids, in the order of their first events.
    ids: Vec<&'a EventId>,
    /// The snapshot of the first attempt. A claim above it, found after an attempt with unknown outcome, is our own. And no
    /// client can know a version above it, except by guessing.
    began: Option<Version>,
    /// For each event, once planned.
    verdicts: Vec<Verdict<'a>>,
    /// Positions in `events` of the events that the planned batch writes. The place in this list is the index in the batch.
    planned: Vec<usize>,
}

impl<'a> Append<'a> {
    fn new(context: &'a Context, events: &'a [(&'a Event, i64)]) -> Self {
        let size = events.len();
        let mut positions: HashMap<&EventId, usize> = HashMap::with_capacity(size);
        let mut ids = Vec::with_capacity(size);
        let mut id_of = Vec::with_capacity(size);
        for (event, _) in events {
            let position = *positions.entry(&event.id).or_insert(ids.len());
            if position == ids.len() {
                ids.push(&event.id);
            }
            id_of.push(position);
        }
        Self {
            keys: &context.keys,
            lineage: &context.lineage,
            clock: &context.clock,
            events,
            id_of,
            ids,
            began: None,
            verdicts: Vec::with_capacity(size),
            planned: Vec::with_capacity(size),
        }
    }

    /// Called before every further attempt. Each attempt is aborted by a change of any feed that its events expect, so it
    /// takes half as many events as the one before, down to one. (One event is aborted at most a few times: what aborted it
    /// lies above the version that it expects, so that the next attempt rejects it.) `unsure`: whether earlier attempts
    /// may have committed; then all events stay, because a later transaction could not tell that they are our own.
    fn shrink(&mut self, unsure: bool) {
        let is_conditional = self.events.iter().any(|(event, _)| event.expect.is_some());
        if is_conditional && !unsure {
            self.events = &self.events[..self.events.len().div_ceil(2)];
        }
    }

    /// The greatest `at` of any entry so far.
    fn greatest_at(&self, first: &Found) -> Result<i64> {
        let Some(at) = first.values.first().and_then(Option::as_ref) else {
            return Ok(0);
        };
        let at = (&at[..])
            .try_into()
            .map_err(|_| keys::corrupt(&self.keys.at(), "not a timestamp"))?;
        Ok(i64::from_be_bytes(at))
    }

    /// Reads the feeds that the events with free ids expect.
    async fn expected(
        &self,
        snapshot: &dyn Snapshot,
        taken: &[Option<Taken>],
    ) -> Result<HashMap<&'a FeedName, Expected>> {
        let mut feeds: Vec<&FeedName> = self
            .events
            .iter()
            .zip(&self.id_of)
            .filter(|&(_, &id)| taken[id].is_none())
            .filter_map(|((event, _), _)| Some(&event.expect.as_ref()?.feed))
            .collect();
        feeds.sort_unstable();
        feeds.dedup();
        let prefixes = feeds.iter().map(|feed| self.keys.feed(feed)).collect();
        let latest = dedup::latest_of(snapshot, prefixes).await?;
        let expected = latest.into_iter().map(|latest| Expected {
            latest,
            planned: None,
            relied_on: false,
        });
        Ok(feeds.into_iter().zip(expected).collect())
    }

    /// Plays the events: fills `verdicts` and `planned`.
    fn judge(
        &mut self,
        known: Option<&Known>,
        taken: &mut [Option<Taken>],
        expected: &mut HashMap<&FeedName, Expected>,
    ) {
        self.verdicts.clear();
        self.planned.clear();
        for (position, &(event, _)) in self.events.iter().enumerate() {
            let taken = &mut taken[self.id_of[position]];
            let verdict = match taken {
                // Whether the content is that of an erased event is unknown; a retry of it must not store it again.
                Some(taken) if taken.digest.is_some_and(|digest| digest != event.digest) => {
                    Verdict::IdReused(taken.place)
                }
                Some(taken) => match std::mem::take(&mut taken.is_ours) {
                    true => Verdict::Appended(taken.place),
                    false => Verdict::Duplicate(taken.place),
                },
                None => match violation(event.expect.as_ref(), known, expected) {
                    Some(violation) => violation,
                    None => {
                        // A batch has fewer events than an index has values.
                        let index = self.planned.len() as u16;
                        let place = Place::Planned(index);
                        self.planned.push(position);
                        if !expected.is_empty() {
                            for feed in &event.feeds {
                                if let Some(feed) = expected.get_mut(feed) {
                                    feed.planned = Some(index);
                                }
                            }
                        }
                        *taken = Some(Taken {
                            place,
                            digest: Some(event.digest),
                            is_ours: false,
                        });
                        Verdict::Appended(place)
                    }
                },
            };
            self.verdicts.push(verdict);
        }
    }

    /// The batch that writes the planned events.
    async fn build(&self, snapshot: &dyn Snapshot, at_floor: i64) -> Batch {
        let unclaimed = snapshot.checks_claims();
        let read_at = match unclaimed {
            true => NO_TWIN,
            false => snapshot.version().time(),
        };
        let entries: Vec<(&Event, Entry)> = self
            .planned
            .iter()
            .map(|&position| {
                let (event, at) = self.events[position];
                (event, writes::entry(event, at.max(at_floor), read_at))
            })
            .collect();
        let batch = writes::of_events(self.keys, &entries).await;
        Batch { unclaimed, ..batch }
    }

    /// The outcomes of the events. `base` is the version of the committed batch.
    fn outcomes(self, base: Version) -> impl Iterator<Item = Outcome> {
        let events = self.events.iter();
        let events = events.zip(self.verdicts);
        events.map(move |(&(event, _), verdict)| {
            let (id, version) = (event.id.clone(), |place: Place| place.version(base));
            match verdict {
                Verdict::Appended(place) => Outcome::Appended(version(place)),
                Verdict::Duplicate(place) => Outcome::Duplicate(version(place)),
                Verdict::IdReused(place) => Outcome::Rejected(Error::IdReused {
                    id,
                    version: Some(version(place)),
                }),
                Verdict::VersionConflict(expect, place) => {
                    Outcome::Rejected(Error::VersionConflict {
                        id,
                        feed: expect.feed.clone(),
                        current: place.map(version),
                    })
                }
                Verdict::NoSuchVersion(error) => Outcome::Rejected(error),
            }
        })
    }
}

/// Why a condition does not hold, if it does not. (A twin above the expected version is invisible, so it is no violation.)
fn violation<'a>(
    expect: Option<&'a Expect>,
    known: Option<&Known>,
    expected: &mut HashMap<&FeedName, Expected>,
) -> Option<Verdict<'a>> {
    let (expect, known) = (expect?, known?);
    let version = expect.version.map(|version| known.check(version));
    let version = match version.transpose() {
        Ok(version) => version,
        Err(error) => return Some(Verdict::NoSuchVersion(error)),
    };
    let feed = expected.get_mut(&expect.feed)?;
    if let Some(index) = feed.planned {
        let place = Some(Place::Planned(index));
        return Some(Verdict::VersionConflict(expect, place));
    }
    // `None` is below the version of every entry.
    if feed.latest.entry > version {
        let place = feed.latest.entry.map(Place::At);
        return Some(Verdict::VersionConflict(expect, place));
    }
    feed.relied_on = true;
    None
}

#[async_trait]
impl Transaction for Append<'_> {
    /// The version of the committed batch; meaningless if there was nothing to commit.
    type Output = Version;
    type Error = Error;

    /// The first claim of each id, and the greatest `at` of any entry.
    fn first_reads(&self) -> Reads {
        let ids = self.ids.iter();
        Reads {
            keys: vec![self.keys.at()],
            ranges: ids.map(|id| self.keys.first_claim(id)).collect(),
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<Version>> {
        if self.began.is_some() {
            self.shrink(unsure);
        }
        let began = *self.began.get_or_insert(snapshot.version());
        let at = self.greatest_at(&first)?;
        let mut taken = Vec::with_capacity(self.ids.len());
        for claims in &first.slices {
            let claim = claims.items.first().map(decode_claim).transpose()?;
            taken.push(claim.map(|Claim { version, event }| Taken {
                place: Place::At(version),
                digest: event.map(|event| event.digest),
                is_ours: unsure && version > began,
            }));
        }
        let mut expected = self.expected(snapshot, &taken).await?;
        let known = match expected.is_empty() {
            true => None,
            false => Some(self.lineage.at(snapshot).await?.until(began)),
        };
        self.judge(known.as_ref(), &mut taken, &mut expected);
        if self.planned.is_empty() {
            return Ok(Plan::Answer(Version::ZERO));
        }
        self.clock.observe(at);
        // The clock ignores an `at` that is far in the future; so must the floor.
        let floor = at.min(self.clock.now());
        let mut batch = self.build(snapshot, floor).await;
        let relied_on = expected.iter().filter(|(_, feed)| feed.relied_on);
        batch.conditions = relied_on
            .map(|(name, feed)| {
                let prefix = self.keys.feed(name);
                let (begin, end) = keys::after_until(&prefix, feed.latest.key, Version::MAX);
                Condition::RangeEmpty { begin, end }
            })
            .collect();
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, version: Version) -> Version {
        version
    }
}
