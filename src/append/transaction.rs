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
//!   of the conditions that held. Those that failed need no check: they failed at the moment of the
//!   snapshot, whatever is erased afterwards. Changes of entries do not matter to conditions.
//!
//! Anybody who adds to one of these feeds meanwhile aborts the whole transaction. The next attempt takes only half as many
//! events, so that an array of many conditions on busy feeds gets through; see [`Append::shrink`].
//!
//! # Atomic appends
//! They are a transaction of their own, which always takes all their events. Two rules differ:
//! - All conditions are judged on the snapshot: the events themselves do not violate them, in whatever order they stand.
//! - The ids of the events that are written must be free at commit. A blind append can be a twin of what another node
//!   commits at the same moment; if that could happen here, an event of others with the same id and other content would
//!   replace a part of the whole. So an atomic append is never a twin. An abort for this reason is followed by an attempt
//!   that finds the id taken.
//!
//! Each abort is due to a commit that decides the fate of an event or of a condition, so there are only a few of them.

use std::{collections::HashMap, sync::OnceLock};

use async_trait::async_trait;
use foldhash::HashMapExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    Accepted, Answer, Context, Culprit, Outcome, Refusal, Unit,
    assumption::Assumption,
    claims::{Scattered, Search},
    writes,
};
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
        values::Claim,
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
    // An atomic unit is alone in its batch.
    let atomic = units.first().and_then(|unit| unit.atomic.as_deref());
    let outcomes = async {
        match atomic {
            Some(conditions) => commit_atomic(context, &events, conditions, give_up_at).await,
            None => Ok(commit(context, &events, give_up_at).await),
        }
    };
    let outcomes = outcomes.instrument(span).await;
    metrics.note_batch(events.len(), bytes, begun.elapsed());
    let mut outcomes = outcomes.map(Vec::into_iter);
    for unit in units {
        match &mut outcomes {
            Ok(outcomes) => {
                let Unit { events, reply, .. } = unit;
                let ids = events.into_iter().map(|Accepted { event, .. }| event.id);
                let outcomes: Vec<_> = ids.zip(outcomes).collect();
                super::count(metrics, &outcomes);
                // The client may be gone; its events are committed nevertheless.
                let _ = reply.send(Answer::Ok(outcomes));
            }
            Err(refusal) => unit.refuse(refusal.clone(), metrics),
        }
    }
}

/// Commits `events` in one transaction if all conditions hold.
async fn commit_atomic(
    context: &Context,
    events: &[(&Event, i64)],
    conditions: &[Expect],
    give_up_at: Instant,
) -> std::result::Result<Vec<Outcome>, Refusal> {
    let mut append = Append {
        atomic: Some(conditions),
        ..Append::new(context, events)
    };
    let base = transact_until(&*context.store, &mut append, give_up_at).await?;
    match append.refused {
        None => Ok(append.outcomes(base).collect()),
        Some((culprit, failure)) => {
            let id = match culprit {
                Culprit::Event(position) => Some(&events[position].0.id),
                Culprit::Condition(_) => None,
            };
            Err(Refusal {
                culprit: Some(culprit),
                error: failure.error(id, None),
            })
        }
    }
}

/// Commits `events`, usually in one transaction, and returns the outcome of each.
async fn commit(context: &Context, events: &[(&Event, i64)], give_up_at: Instant) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(events.len());
    let mut size = events.len();
    while let Some(rest @ [_, ..]) = events.get(outcomes.len()..) {
        let mut append = Append::new(context, &rest[..size.min(rest.len())]);
        if !append.is_conditional() {
            append.assumes = context.new_ids.holds();
        }
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
    Erased(Place),
    Rejected(Failure<'a>),
}

/// Why an event, or an atomic append, is rejected.
enum Failure<'a> {
    /// The id belongs to other content.
    IdReused(&'a EventId, Place),
    /// The expected feed has this entry.
    VersionConflict(&'a Expect, Option<Place>),
    /// A version is expected that is unknown, or has not been reached.
    NoSuchVersion(Error),
}

impl Failure<'_> {
    /// `id` is that of the event; `base` is the version of the committed batch, if one was committed.
    fn error(self, id: Option<&EventId>, base: Option<Version>) -> Error {
        let version = |place| match (place, base) {
            (Place::At(version), _) => Some(version),
            (place, Some(base)) => Some(place.version(base)),
            (Place::Planned(_), None) => None,
        };
        match self {
            Self::IdReused(id, place) => Error::IdReused {
                id: id.clone(),
                version: version(place),
            },
            Self::VersionConflict(expect, place) => Error::VersionConflict {
                id: id.cloned(),
                feed: expect.feed.clone(),
                current: place.and_then(version),
            },
            Self::NoSuchVersion(error) => error,
        }
    }
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
    new_ids: &'a Assumption,
    scattered: &'a Scattered,
    /// The greatest `at` of any entry, as long as attempts assume that all ids are new.
    assumes: Option<i64>,
    events: &'a [(&'a Event, i64)],
    /// All events or none, and only if these conditions hold, too.
    atomic: Option<&'a [Expect]>,
    /// Why nothing is appended, if the append is atomic.
    refused: Option<(Culprit, Failure<'a>)>,
    /// For each event, the position of its id in `ids`. Both may cover more events: those of the first attempt.
    id_of: Vec<usize>,
    /// The distinct ids, in the order of their first events.
    ids: Vec<&'a EventId>,
    /// Looks for their claims, unless attempts assume that there are none.
    search: OnceLock<Search<'a>>,
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
        let mut positions: foldhash::HashMap<&EventId, usize> = HashMapExt::with_capacity(size);
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
            new_ids: &context.new_ids,
            scattered: &context.scattered,
            assumes: None,
            events,
            atomic: None,
            refused: None,
            id_of,
            ids,
            search: OnceLock::new(),
            began: None,
            verdicts: Vec::with_capacity(size),
            planned: Vec::with_capacity(size),
        }
    }

    /// Called before every further attempt. Each attempt is aborted by a change of any feed that its events expect, so it
    /// takes half as many events as the one before, down to one. (One event is aborted at most a few times: what aborted it
    /// lies above the version that it expects, so that the next attempt rejects it.) `unsure`: whether earlier attempts
    /// may have committed; then all events stay, because a later transaction could not tell that they are our own. An atomic
    /// append always keeps all.
    fn shrink(&mut self, unsure: bool) {
        if self.is_conditional() && !unsure && self.atomic.is_none() {
            self.events = &self.events[..self.events.len().div_ceil(2)];
        }
    }

    fn is_conditional(&self) -> bool {
        self.events.iter().any(|(event, _)| event.expect.is_some())
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

    fn search(&self) -> &Search<'a> {
        let search = || Search::new(&self.ids, self.scattered);
        self.search.get_or_init(search)
    }

    /// For each id, who has it, by what [`Self::first_reads`] found.
    async fn taken(
        &self,
        snapshot: &dyn Snapshot,
        first: &Found,
        began: Version,
        unsure: bool,
    ) -> Result<Vec<Option<Taken>>> {
        let search = self.search();
        let claims = search.claims(self.keys, snapshot, &first.slices, self.scattered);
        let taken = |Claim { version, event }| Taken {
            place: Place::At(version),
            digest: event.map(|event| event.digest),
            is_ours: unsure && version > began,
        };
        let claims = claims.await?.into_iter();
        Ok(claims.map(|claim| claim.map(taken)).collect())
    }

    /// The feeds that the events with free ids expect, and those of the further conditions if there are such events.
    fn expected_feeds(&self, taken: &[Option<Taken>]) -> Vec<&'a FeedName> {
        let events = self.events.iter().zip(&self.id_of);
        let mut free = events.filter(|&(_, &id)| taken[id].is_none()).peekable();
        let further = free.peek().and(self.atomic).unwrap_or_default();
        let expects = free.filter_map(|((event, _), _)| event.expect.as_ref());
        let mut feeds: Vec<&FeedName> = expects.chain(further).map(|expect| &expect.feed).collect();
        feeds.sort_unstable();
        feeds.dedup();
        feeds
    }

    async fn expected(
        &self,
        snapshot: &dyn Snapshot,
        taken: &[Option<Taken>],
    ) -> Result<HashMap<&'a FeedName, Expected>> {
        let feeds = self.expected_feeds(taken);
        let prefixes = feeds.iter().map(|feed| self.keys.feed(feed)).collect();
        let latest = dedup::latest_of(snapshot, prefixes).await?;
        let expected = latest.into_iter().map(|latest| Expected {
            latest,
            planned: None,
            relied_on: false,
        });
        Ok(feeds.into_iter().zip(expected).collect())
    }

    /// Plays the events: fills `verdicts` and `planned`. If an atomic append is not possible, nothing is planned.
    fn judge(
        &mut self,
        known: Option<&Known>,
        taken: &mut [Option<Taken>],
        expected: &mut HashMap<&FeedName, Expected>,
    ) {
        self.verdicts.clear();
        self.planned.clear();
        self.refused = None;
        for (position, &(event, _)) in self.events.iter().enumerate() {
            let taken = &mut taken[self.id_of[position]];
            let verdict = match taken {
                // Whether the content is that of an erased event is unknown; a retry of it must not store it again.
                Some(taken) if taken.digest.is_some_and(|digest| digest != event.digest) => {
                    Verdict::Rejected(Failure::IdReused(&event.id, taken.place))
                }
                Some(taken) => match std::mem::take(&mut taken.is_ours) {
                    true => Verdict::Appended(taken.place),
                    false if taken.digest.is_none() => Verdict::Erased(taken.place),
                    false => Verdict::Duplicate(taken.place),
                },
                None => match violation(event.expect.as_ref(), known, expected) {
                    Some(violation) => Verdict::Rejected(violation),
                    None => {
                        // A batch has fewer events than an index has values.
                        let index = self.planned.len() as u16;
                        let place = Place::Planned(index);
                        self.planned.push(position);
                        if !expected.is_empty() && self.atomic.is_none() {
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
            match verdict {
                Verdict::Rejected(failure) if self.atomic.is_some() => {
                    self.planned.clear();
                    self.refused = Some((Culprit::Event(position), failure));
                    return;
                }
                verdict => self.verdicts.push(verdict),
            }
        }
        // They need not hold if there is nothing to append.
        let conditions = self.atomic.filter(|_| !self.planned.is_empty());
        for (position, condition) in conditions.into_iter().flatten().enumerate() {
            if let Some(failure) = violation(Some(condition), known, expected) {
                self.planned.clear();
                self.refused = Some((Culprit::Condition(position), failure));
                return;
            }
        }
    }

    /// Conditions by which the ids of the planned events must still be free at commit.
    fn unclaimed(&self) -> impl Iterator<Item = Condition> {
        self.planned.iter().map(|&position| {
            let prefix = self.keys.claim(&self.events[position].0.id);
            let (begin, end) = keys::after_until(&prefix, None, Version::MAX);
            Condition::RangeEmpty { begin, end }
        })
    }

    /// The batch that writes the planned events.
    async fn build(&self, snapshot: &dyn Snapshot, at_floor: i64) -> Batch {
        let unclaimed = snapshot.checks_claims();
        let read_at = match unclaimed || self.atomic.is_some() {
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
        events.map(move |(&(event, _), verdict)| match verdict {
            Verdict::Appended(place) => Outcome::Appended(place.version(base)),
            Verdict::Duplicate(place) => Outcome::Duplicate(place.version(base)),
            Verdict::Erased(place) => Outcome::Erased(place.version(base)),
            Verdict::Rejected(failure) => {
                Outcome::Rejected(failure.error(Some(&event.id), Some(base)))
            }
        })
    }
}

/// Why a condition does not hold, if it does not. (A twin above the expected version is invisible, so it is no violation.)
fn violation<'a>(
    expect: Option<&'a Expect>,
    known: Option<&Known>,
    expected: &mut HashMap<&FeedName, Expected>,
) -> Option<Failure<'a>> {
    let (expect, known) = (expect?, known?);
    let version = expect.version.map(|version| known.check(version));
    let version = match version.transpose() {
        Ok(version) => version,
        Err(error) => return Some(Failure::NoSuchVersion(error)),
    };
    let feed = expected.get_mut(&expect.feed)?;
    if let Some(index) = feed.planned {
        let place = Some(Place::Planned(index));
        return Some(Failure::VersionConflict(expect, place));
    }
    // `None` is below the version of every entry.
    if feed.latest.entry > version {
        let place = feed.latest.entry.map(Place::At);
        return Some(Failure::VersionConflict(expect, place));
    }
    feed.relied_on = true;
    None
}

#[async_trait]
impl Transaction for Append<'_> {
    const NAME: &'static str = "append";

    /// The version of the committed batch; meaningless if there was nothing to commit.
    type Output = Version;
    type Error = Error;

    /// The first claim of each id, and the greatest `at` of any entry.
    fn first_reads(&self) -> Reads {
        if self.assumes.is_some() {
            return Reads::default();
        }
        Reads {
            keys: vec![self.keys.at()],
            ranges: self.search().ranges(self.keys),
            ..Reads::default()
        }
    }

    fn assumed(&mut self) -> bool {
        let assumed = self.assumes.take().is_some();
        if assumed {
            self.new_ids.was_wrong();
        }
        assumed
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
        let (at, mut taken) = match self.assumes {
            Some(at) => (at, self.ids.iter().map(|_| None).collect()),
            None => (
                self.greatest_at(&first)?,
                self.taken(snapshot, &first, began, unsure).await?,
            ),
        };
        let mut expected = self.expected(snapshot, &taken).await?;
        let known = match expected.is_empty() {
            true => None,
            false => Some(self.lineage.at(snapshot).await?.until(began)),
        };
        self.judge(known.as_ref(), &mut taken, &mut expected);
        if self.planned.is_empty() {
            return Ok(Plan::Answer(Version::ZERO));
        }
        if snapshot.checks_claims() {
            self.new_ids.note_at(at);
        }
        self.clock.observe(at);
        // The clock ignores an `at` that is far in the future; so must the floor.
        let floor = at.min(self.clock.now());
        let mut batch = self.build(snapshot, floor).await;
        let relied_on = expected.iter().filter(|(_, feed)| feed.relied_on);
        let relied_on = relied_on.flat_map(|(name, feed)| {
            let (prefix, after) = (self.keys.feed(name), feed.latest.key);
            let ranges = [keys::after_until, keys::unread_after_until];
            ranges.map(|range| {
                let (begin, end) = range(&prefix, after, Version::MAX);
                Condition::RangeEmpty { begin, end }
            })
        });
        // Engines that check claims do so by themselves.
        let unclaimed = self.unclaimed();
        let unclaimed = unclaimed.filter(|_| self.atomic.is_some() && !batch.unclaimed);
        batch.conditions = relied_on.chain(unclaimed).collect();
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, version: Version) -> Version {
        if self.assumes.is_some() {
            let planned = self.planned.iter().map(|&position| self.events[position].1);
            self.new_ids.note_at(planned.max().unwrap_or_default());
        }
        version
    }
}
