//! The epoch: the generation number at the front of every version, and the lineage: where each epoch began and ended.
//!
//! An epoch ends, and the next one begins, whenever the store may have lost commits that clients know of: each time that a
//! service opens an embedded store, whose folder may be a copy that was put back, and on FoundationDB when an operator says
//! so after a restore. A version of the lost life lies above the recorded end of its epoch, or below the beginning of an
//! epoch that was begun again, or in an epoch without a row. So it can be told from the versions of this life; see
//! [`crate::lineage`].

use async_trait::async_trait;
use rand::RngExt;

use super::{
    Batch, Condition, Error, Found, Plan, Range, Reads, Result, SNAPSHOT_AGE_TICKS_MAX, Snapshot,
    Store, Transaction,
    keys::{self, Keys, TIME_STEP},
    transact, values,
};
use crate::{
    clock::WallTime,
    version::{TICKS_PER_SECOND, Version},
};

/// 2025-01-01 in seconds since 1970. Epochs count from here.
const ORIGIN_S: u64 = 1_735_689_600;
/// Added to an epoch, at random, when the wall clock is known to be wrong.
const RANDOM_MAX: u32 = 1_024;
/// How often a raise is tried on condition that nothing is appended meanwhile.
const UNDISTURBED_ATTEMPTS: usize = 5;
/// By how many ticks more than its wall clock a cluster may have gone on: each of its recoveries skips some.
const SKIPPED_TICKS_MAX: u64 = 3_600 * TICKS_PER_SECOND;
/// Lineage rows per read.
const ROWS_PER_READ: usize = 2_000;

/// A row of the lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub epoch: u32,
    /// At or below all versions of the epoch, and above those of an earlier life that began the same epoch.
    pub began: Version,
    /// The last moment of the epoch before this one; [`Version::ZERO`] in the first row.
    pub previous_end: Version,
}

impl Row {
    /// The writes that begin the epoch.
    pub fn puts(&self, keys: &Keys) -> Vec<(Vec<u8>, Vec<u8>)> {
        vec![
            (keys.epoch(), self.epoch.to_be_bytes().to_vec()),
            (keys.lineage(self.epoch), values::encode_lineage(self)),
        ]
    }

    /// The first row of a key space that is created on `snapshot`.
    pub(super) fn first(snapshot: &dyn Snapshot, wall: &WallTime) -> Result<Self> {
        Self::next(
            snapshot.version(),
            snapshot.taken_at(),
            wall,
            false,
            Version::ZERO,
        )
    }

    /// The row of a new life of an embedded store, whose last commit was at `last`. It begins at `tick`.
    pub(super) fn of_new_life(last: Version, tick: u64, wall: &WallTime) -> Result<Self> {
        Self::next(last, tick, wall, true, last)
    }

    /// The row after the epoch of the moment `last`, which ended at `previous_end`. It begins at `tick`. `by_wall`: the ticks
    /// of the engine are those of the wall clock.
    ///
    /// An epoch is the number of seconds since 2025, so that two lives of a store never share one, unless they begin in the
    /// same second; then they are told apart by where they began. When the wall clock is known to be behind, the epoch is
    /// only the next number, and a random one keeps lives apart.
    fn next(
        last: Version,
        tick: u64,
        wall: &WallTime,
        by_wall: bool,
        previous_end: Version,
    ) -> Result<Self> {
        let overflow = || Error::Refused("the epoch cannot be raised any further".into());
        let next = last.epoch().checked_add(1).ok_or_else(overflow)?;
        let now = wall.micros();
        let seconds = (now / 1_000_000).checked_sub(ORIGIN_S);
        let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
        let is_right = match (seconds, by_wall) {
            (None, _) => false,
            (Some(_), true) => now >= last.time(),
            (Some(seconds), false) => seconds >= last.epoch(),
        };
        let random = match is_right {
            true => 0,
            false => rand::rng().random_range(0..=RANDOM_MAX),
        };
        let epoch = next.max(seconds.unwrap_or(0)).checked_add(random);
        let epoch = epoch.ok_or_else(overflow)?;
        Ok(Self {
            epoch,
            began: Version::new(epoch, tick, 0),
            previous_end,
        })
    }
}

/// The epoch of a copy of a store whose last moment was `last`.
pub(super) fn after(last: Version, wall: &WallTime) -> Result<u32> {
    Row::next(last, 0, wall, false, last).map(|row| row.epoch)
}

/// The current epoch.
pub async fn current(store: &dyn Store) -> Result<u32> {
    Ok(store.snapshot().await?.version().epoch())
}

/// The rows of the epochs above `newest`, in order.
pub async fn rows(snapshot: &dyn Snapshot, keys: &Keys, newest: Option<u32>) -> Result<Vec<Row>> {
    let (mut begin, end) = keys.lineages(newest);
    let mut rows = Vec::new();
    loop {
        let range = Range {
            limit: ROWS_PER_READ,
            ..Range::all(begin, end.clone())
        };
        let slices = snapshot.ranges(vec![range]).await?;
        let slice = slices.into_iter().next().unwrap_or_default();
        for item in &slice.items {
            rows.push(values::decode_lineage(item)?);
        }
        match slice.items.last() {
            Some(last) if slice.more => begin = keys::next_key(last.key.to_vec()),
            _ => return Ok(rows),
        }
    }
}

/// Begins a new epoch and returns it. Transactions in flight abort and are retried in the new epoch. All later versions are
/// above all earlier ones.
///
/// Where the old epoch ended is read from the store: nothing is stored above it. The embedded engine knows it exactly, and
/// so it does not matter how often this happens. On FoundationDB, moments at which the store was only read may lie above
/// it; and after a restore it is the last commit of the backup. `restored` is the version to which the cluster was restored,
/// if the operator knows it; then the old epoch ended exactly there.
pub async fn raise(
    store: &dyn Store,
    keys: &Keys,
    wall: &WallTime,
    restored: Option<u64>,
) -> Result<u32> {
    let mut raise = Raise {
        keys,
        wall,
        restored,
        attempts: 0,
        to: 0,
    };
    transact(store, &mut raise).await
}

struct Raise<'a> {
    keys: &'a Keys,
    wall: &'a WallTime,
    restored: Option<u64>,
    attempts: usize,
    to: u32,
}

/// Where an epoch ended, and on which conditions that is so.
struct End {
    moment: Version,
    conditions: Vec<Condition>,
}

impl Raise<'_> {
    /// The end in an engine that stores the moment of its last commit.
    fn of_last(&self, last: &[u8]) -> Result<End> {
        if self.restored.is_some() {
            return Err(Error::Refused(
                "the embedded store recognises restored copies by itself, so it takes no restored version".into(),
            ));
        }
        let key = self.keys.last();
        let moment = values::decode_version(&key, last)?;
        let unchanged = Condition::KeyEquals {
            key,
            value: Some(last.to_vec()),
        };
        Ok(End {
            moment,
            conditions: vec![unchanged],
        })
    }

    /// The end in any other engine: the last of everything that carries a version, in the epoch of `now`.
    fn of_stored(&self, now: Version, wake: Option<&[u8]>, found: &Found) -> Result<End> {
        let (epoch, now) = (now.epoch(), now.time());
        let mut conditions = Vec::with_capacity(found.slices.len());
        let mut slices = found.slices.iter();
        let recorded = slices.next().and_then(|times| times.items.first());
        let recorded = match recorded {
            Some(row) => Some((self.keys.time_of(&row.key)?, values::decode_time(row)?)),
            None => None,
        };
        let recorded = recorded.filter(|(_, version)| version.epoch() == epoch);
        let latest = recorded.map_or(u64::MAX, |(number, version)| {
            let since = self
                .wall
                .micros()
                .saturating_sub(number * TIME_STEP.as_micros() as u64);
            version
                .time()
                .saturating_add(since)
                .saturating_add(SKIPPED_TICKS_MAX)
        });
        let recorded = recorded.map_or(0, |(_, version)| version.time());
        let mut appended = 0;
        for (partition, slice) in (0..).zip(slices) {
            let last = slice.items.first();
            let last = last.map(|item| keys::version_of(&item.key)).transpose()?;
            if let Some(last) = last.filter(|last| last.epoch() == epoch) {
                appended = appended.max(last.time());
            }
            let log = self.keys.log(partition);
            let (begin, end) = keys::after_until(&log, last, Version::MAX);
            conditions.push(Condition::RangeEmpty { begin, end });
        }
        // The raise that began the epoch, at the latest, has changed this stamp.
        let notified = wake.and_then(|stamp| stamp.first_chunk());
        let notified = notified.map_or(0, |time| u64::from_be_bytes(*time));
        let time = match self.restored {
            None => appended.max(notified).max(recorded),
            Some(restored) if restored < appended => {
                return Err(Error::Refused(format!(
                    "the store has entries up to version {appended}, above the restored version {restored}: \
                     give the version that fdbrestore printed when this cluster was restored"
                )));
            }
            Some(restored) if restored > latest.max(now) => {
                return Err(Error::Refused(format!(
                    "the restored version {restored} is in the future: the store had reached version {recorded} when it \
                     was last recorded; give the version that fdbrestore printed when this cluster was restored"
                )));
            }
            Some(restored) => restored,
        };
        Ok(End {
            moment: Version::moment(epoch, time),
            conditions,
        })
    }
}

#[async_trait]
impl Transaction for Raise<'_> {
    const NAME: &'static str = "epoch";

    type Output = u32;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        let last = |partition| {
            let log = self.keys.log(partition);
            keys::range(&log, None, Version::MAX, true, 1, usize::MAX)
        };
        Reads {
            keys: vec![self.keys.epoch(), self.keys.last(), self.keys.wake()],
            ranges: std::iter::once(self.keys.last_time())
                .chain((0..self.keys.partitions()).map(last))
                .collect(),
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<u32>> {
        let current = snapshot.version().epoch();
        if unsure && current >= self.to {
            return Ok(Plan::Answer(current));
        }
        let value = |index: usize| first.values.get(index).and_then(Option::as_deref);
        let (epoch, last, wake) = (value(0), value(1), value(2));
        let mut end = match last {
            Some(last) => self.of_last(last)?,
            None => self.of_stored(snapshot.version(), wake, &first)?,
        };
        self.attempts += 1;
        if self.attempts > UNDISTURBED_ATTEMPTS && self.restored.is_none() {
            // Somebody goes on appending, which would be an error after a restore. Whatever commits before this raise
            // does so before the snapshot is too old.
            let latest = snapshot.taken_at() + SNAPSHOT_AGE_TICKS_MAX;
            end.moment = Version::moment(current, latest);
            end.conditions.clear();
        }
        let row = Row::next(
            snapshot.version(),
            snapshot.taken_at(),
            self.wall,
            last.is_some(),
            end.moment,
        )?;
        self.to = row.epoch;
        end.conditions.push(Condition::KeyEquals {
            key: self.keys.epoch(),
            value: epoch.map(<[u8]>::to_vec),
        });
        Ok(Plan::Commit(Batch {
            conditions: end.conditions,
            puts: row.puts(self.keys),
            notify: true,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) -> u32 {
        self.to
    }
}
