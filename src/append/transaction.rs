//! The deduplicating transaction: reads claims, writes new events, and determines the outcome of each event.

use std::collections::HashMap;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::Instrument;

use super::{Accepted, Context, Outcome, Unit, writes};
use crate::{
    clock::AtClock,
    dedup,
    error::{Error, Result},
    metrics::Held,
    store::{
        self, Batch, Condition, Found, Plan, Reads, Snapshot, Transaction,
        keys::{self, Keys},
        transact_until,
    },
    types::{Entry, Event, EventId, Expect, NO_TWIN},
    version::Version,
};

/// Commits the events of `units` and answers each unit.
pub(super) async fn commit_batch(context: &Context, units: Vec<Unit>) {
    let metrics = &context.metrics.appends;
    let _in_flight = Held::by(&metrics.batches_in_flight);
    let begun = Instant::now();
    let bytes = units.iter().map(Unit::weight).sum();
    let (mut transaction, places) = Append::new(context, &units);
    let span = tracing::debug_span!("append_batch", events = places.len(), bytes);
    let oldest = units.iter().map(|unit| unit.give_up_at).min();
    let give_up_at = oldest.unwrap_or_else(Instant::now);
    let failed = transact_until(&*context.store, &mut transaction, give_up_at)
        .instrument(span)
        .await
        .err();
    metrics.note_batch(places.len(), bytes, begun.elapsed());
    let verdicts = transaction.verdicts;
    let mut places = places.into_iter();
    for Unit { events, reply, .. } in units {
        let outcomes: Vec<_> = events
            .into_iter()
            .zip(&mut places)
            .map(|(Accepted { event, .. }, place)| {
                let outcome = match (&failed, &verdicts[place.position]) {
                    (Some(error), _) => Outcome::Rejected(error.clone()),
                    (None, Some(verdict)) => verdict.outcome(&event, place.repeated),
                    (None, None) => Outcome::Rejected(Error::Store(store::Error::Unknown)),
                };
                (event.id, outcome)
            })
            .collect();
        super::count(metrics, &outcomes);
        // The client may be gone; its events are committed nevertheless.
        let _ = reply.send(outcomes);
    }
}

/// The position of an event's id among the ids of the batch, and whether an earlier event has the same id.
struct Place {
    position: usize,
    repeated: bool,
}

/// What is known about an id: the version and content hash of its first commit, and whether this batch made it.
struct Verdict {
    version: Version,
    digest: u128,
    fresh: bool,
}

impl Verdict {
    fn outcome(&self, event: &Event, repeated: bool) -> Outcome {
        if event.digest != self.digest {
            Outcome::Rejected(Error::IdReused {
                id: event.id.clone(),
                version: Some(self.version),
            })
        } else if self.fresh && !repeated {
            Outcome::Appended(self.version)
        } else {
            Outcome::Duplicate(self.version)
        }
    }
}

/// One batch: the first event of each id, in order.
struct Append<'a> {
    keys: &'a Keys,
    clock: &'a AtClock,
    events: Vec<(&'a Event, i64)>,
    expect: Option<&'a Expect>,
    /// The snapshot of the first attempt. A claim above it, found after an attempt with unknown outcome, is our own.
    began: Option<Version>,
    /// For each of `events`, once known.
    verdicts: Vec<Option<Verdict>>,
    /// Positions in `events` of the events that the planned batch writes. The place in this list is the index in the batch.
    planned: Vec<usize>,
}

impl<'a> Append<'a> {
    fn new(context: &'a Context, units: &'a [Unit]) -> (Self, Vec<Place>) {
        let count = units.iter().map(|unit| unit.events.len()).sum();
        let mut positions: HashMap<&EventId, usize> = HashMap::with_capacity(count);
        let mut events = Vec::with_capacity(count);
        let mut places = Vec::with_capacity(count);
        for accepted in units.iter().flat_map(|unit| &unit.events) {
            let next = events.len();
            let position = *positions.entry(&accepted.event.id).or_insert(next);
            let repeated = position != next;
            if !repeated {
                events.push((&accepted.event, accepted.at));
            }
            places.push(Place { position, repeated });
        }
        let expect = events.iter().find_map(|(event, ..)| event.expect.as_ref());
        let append = Self {
            keys: &context.keys,
            clock: &context.clock,
            verdicts: events.iter().map(|_| None).collect(),
            planned: Vec::with_capacity(events.len()),
            events,
            expect,
            began: None,
        };
        (append, places)
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

    /// Checks the condition on the snapshot. Returns the condition that the store checks at commit: that nothing has been
    /// added to the feed since the snapshot. (A twin above the expected version is invisible, so it is no violation.)
    async fn check_expectation(
        &self,
        snapshot: &dyn Snapshot,
        expect: &Expect,
    ) -> Result<Condition> {
        let prefix = self.keys.feed(&expect.feed);
        let latest = dedup::latest(snapshot, &prefix).await?;
        if !expect.holds(latest.entry) {
            let Some((event, ..)) = self.events.first() else {
                return Err(store::Error::Conflict.into());
            };
            return Err(Error::VersionConflict {
                id: event.id.clone(),
                feed: expect.feed.clone(),
                current: latest.entry,
            });
        }
        let (begin, end) = keys::after_until(&prefix, latest.key, Version::MAX);
        Ok(Condition::RangeEmpty { begin, end })
    }

    /// The batch that writes the planned events.
    fn build(&self, snapshot: &dyn Snapshot, at_floor: i64) -> Batch {
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
        let batch = writes::of_events(self.keys, &entries);
        Batch { unclaimed, ..batch }
    }
}

fn read_claim(item: &store::KeyValue) -> store::Result<(Version, u128)> {
    let digest = (&item.value[..])
        .try_into()
        .map_err(|_| keys::corrupt(&item.key, "not a content hash"))?;
    Ok((keys::version_of(&item.key)?, u128::from_be_bytes(digest)))
}

#[async_trait]
impl Transaction for Append<'_> {
    type Output = ();
    type Error = Error;

    /// The first claim of each id, and the greatest `at` of any entry.
    fn first_reads(&self) -> Reads {
        let first_claim = |(event, _): &(&Event, i64)| {
            let claims = self.keys.claim(&event.id);
            keys::range(&claims, None, Version::MAX, false, 1, usize::MAX)
        };
        Reads {
            keys: vec![self.keys.at()],
            ranges: self.events.iter().map(first_claim).collect(),
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<()>> {
        let now = snapshot.version();
        let began = *self.began.get_or_insert(now);
        let at = self.greatest_at(&first)?;
        self.planned.clear();
        for (position, claims) in first.slices.iter().enumerate() {
            match claims.items.first().map(read_claim).transpose()? {
                Some((version, digest)) => {
                    self.verdicts[position] = Some(Verdict {
                        version,
                        digest,
                        fresh: unsure && version > began,
                    });
                }
                None => {
                    self.verdicts[position] = None;
                    self.planned.push(position);
                }
            }
        }
        if self.planned.is_empty() {
            return Ok(Plan::Answer(()));
        }
        self.clock.observe(at);
        // The clock ignores an `at` that is far in the future; so must the floor.
        let floor = at.min(self.clock.now());
        let mut batch = self.build(snapshot, floor);
        if let Some(expect) = self.expect {
            batch
                .conditions
                .push(self.check_expectation(snapshot, expect).await?);
        }
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, version: Version) {
        for (&position, index) in self.planned.iter().zip(0..) {
            let (event, _) = self.events[position];
            self.verdicts[position] = Some(Verdict {
                version: version.at_index(index),
                digest: event.digest,
                fresh: true,
            });
        }
    }
}
