//! The engine contract: consistent snapshots, commits stamped in one total order, and a notification of commits.
//!
//! A [`Store`] holds ordered keys and values. Reads go through a [`Snapshot`]. A commit belongs to the snapshot it was
//! planned on: it is refused when the snapshot is older than [`SNAPSHOT_AGE_TICKS_MAX`] or when the epoch has changed
//! since, which limits how far apart twins can be. No engine type is visible above this module.

pub mod audit;
pub mod copy;
pub mod embedded;
pub mod epoch;
#[cfg(feature = "fdb")]
pub mod fdb;
mod fetch;
pub mod keys;
pub mod rows;
mod transact;
pub mod values;

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::fetch::{Fetch, entries_at};
use self::keys::version_of;
pub use self::transact::{
    Operation, Plan, RETRY_FOR, RetryableError, StoreErrors, Transaction, transact, transact_until,
};
use crate::version::{TICKS_PER_SECOND, Version};

/// A snapshot of this age (in ticks) can be neither read nor committed on. Twins are therefore closer together than this.
pub const SNAPSHOT_AGE_TICKS_MAX: u64 = 5 * TICKS_PER_SECOND;

/// Maximum number of items in a batch that are stamped with a version: the index takes 16 bits of the version.
pub const BATCH_ITEMS_MAX: usize = 1 << 16;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the snapshot is older than 5 s")]
    TooOld,
    #[error("the epoch, a condition's range or a claim changed since the snapshot")]
    Conflict,
    #[error("condition {0} does not hold")]
    ConditionFailed(usize),
    /// The commit may or may not have happened; only reading can tell.
    #[error("the outcome of the commit is unknown")]
    Unknown,
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The disk has too little free space. Nothing of the commit was stored.
    #[error("the disk is full, or has less free space than --disk-reserve-mib reserves")]
    Full,
    /// Retrying would fail in the same way.
    #[error("the store refused the request: {0}")]
    Refused(String),
    #[error("the store is closed")]
    Closed,
    #[error("the store contains an invalid value at key {key}: {what}")]
    Corrupt { key: String, what: String },
    /// A file of the store is damaged, or the disk under it.
    #[error(
        "the store is damaged ({0}): stop the service and run `newsfeed admin check` on its data folder to find the damaged file"
    )]
    Damaged(String),
    #[error("{0}")]
    Open(String),
}

impl Error {
    /// The kind of error, as a label in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::Conflict => "conflict",
            Self::ConditionFailed(_) => "condition_failed",
            Self::Unknown => "unknown_result",
            Self::Unavailable(_) => "unavailable",
            Self::Full => "full",
            Self::Refused(_) => "refused",
            Self::Closed => "closed",
            Self::Corrupt { .. } | Self::Damaged(_) => "corrupt",
            Self::Open(_) => "open",
        }
    }

    /// Whether planning again on a fresh snapshot can succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::TooOld
                | Self::Conflict
                | Self::ConditionFailed(_)
                | Self::Unknown
                | Self::Unavailable(_)
        )
    }
}

/// A consistent view of everything committed at or before [`Snapshot::version`].
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The moment of the snapshot (vN): commits it shows are stamped at or below it, all others above it.
    fn version(&self) -> Version;

    /// The tick at which the snapshot was taken: at or after that of its version, and before that of every commit on it or on
    /// a later snapshot. (The version of an embedded store stands still while nothing is committed.)
    fn taken_at(&self) -> u64 {
        self.version().time()
    }

    /// Reads everything that is asked for, concurrently.
    async fn read(&self, reads: Reads) -> Result<Found>;

    async fn get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Bytes>>> {
        let reads = Reads {
            keys,
            ..Reads::default()
        };
        Ok(self.read(reads).await?.values)
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Slice>> {
        let reads = Reads {
            ranges,
            ..Reads::default()
        };
        Ok(self.read(reads).await?.slices)
    }

    /// Whether the engine honours [`Batch::unclaimed`]. An engine that commits one batch after the other does. In others,
    /// checking claims at commit would make appends conflict; there, readers hide twins.
    fn checks_claims(&self) -> bool {
        false
    }

    /// Commits `batch` if its conditions still hold and the epoch is still that of the snapshot. Returns the version of
    /// the item with index 0; see [`Version::at_index`].
    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version>;
}

#[async_trait]
pub trait Store: Send + Sync {
    /// Takes a snapshot and performs its first reads, in as few round trips as possible.
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)>;

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(self.begin(Reads::default()).await?.0)
    }

    /// Waits until there may be a commit above `seen` with [`Batch::notify`] set. Does not hold a snapshot.
    async fn wait_for_commit(&self, seen: Version) -> Result<()>;

    /// The moment of a snapshot taken now, if the engine knows, without a read, that no key `prefix ‖ version` has been written
    /// or removed above `since`. An engine that keeps track of some prefixes begins to keep track of this one.
    fn moment_if_unchanged(&self, _prefix: &[u8], _since: Version) -> Option<Version> {
        None
    }

    /// Counts of failed operations.
    fn errors(&self) -> &StoreErrors;

    /// Metrics of the engine. May block on the disk; must be called outside the async runtime.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }

    /// Opens the files of the engine that together are a copy of the store. `None`: the engine has a backup tool of its own.
    async fn pin(&self) -> Result<Option<Pinned>> {
        Ok(None)
    }

    /// The number of reads, with the work on their results, that keep the engine and the processors busy. More only make
    /// each other wait.
    fn reads_at_once(&self) -> usize;

    /// Whether the background threads of the engine are running. If not, the process has to be restarted.
    fn is_alive(&self) -> bool {
        true
    }

    /// Finishes commits in flight and releases the storage. Later calls fail with [`Error::Closed`].
    async fn close(&self);
}

/// The files of a store at one moment. They do not change, and take disk space until this is dropped.
#[derive(Debug)]
pub struct Pinned {
    /// The copy contains what was committed up to here, and nothing above.
    pub version: Version,
    pub files: Vec<PinnedFile>,
}

#[derive(Debug)]
pub struct PinnedFile {
    /// The path of the file in the folder of the store, with `/`.
    pub name: String,
    pub bytes: u64,
    /// The XXH3 hash of 128 bits.
    pub checksum: u128,
    pub content: PinnedContent,
}

#[derive(Debug)]
pub enum PinnedContent {
    Bytes(Bytes),
    File(std::fs::File),
}

/// A metric of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The name with its unit, without `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub value: f64,
    /// Whether the value only grows.
    pub is_counter: bool,
}

/// A set of reads.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    pub keys: Vec<Vec<u8>>,
    pub ranges: Vec<Range>,
    /// Dropped when the engine has done these reads, or has dropped them: also if the caller has stopped waiting before.
    pub held: Option<Arc<dyn Any + Send + Sync>>,
}

impl Reads {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    /// How often an engine has to search for a key or for the beginning of a range.
    pub fn searches(&self) -> usize {
        let beside = self.ranges.iter().filter(|range| range.beside.is_some());
        self.keys.len() + self.ranges.len() + beside.count()
    }
}

/// The results of [`Reads`], in the order of the requests.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub values: Vec<Option<Bytes>>,
    pub slices: Vec<Slice>,
}

/// A range read: `begin` inclusive, `end` exclusive.
#[derive(Debug, Clone)]
pub struct Range {
    pub begin: Vec<u8>,
    pub end: Vec<u8>,
    /// Begin and end of a second range. Then the keys of both are versioned, and their items are read in one order: that of
    /// their versions.
    pub beside: Option<(Vec<u8>, Vec<u8>)>,
    pub reverse: bool,
    /// Maximum number of keys.
    pub limit: usize,
    /// The read ends with the item that brings the total size of keys and values to this many bytes.
    pub bytes_max: usize,
}

impl Range {
    /// Everything in the range, in ascending order.
    pub fn all(begin: Vec<u8>, end: Vec<u8>) -> Self {
        Self {
            begin,
            end,
            beside: None,
            reverse: false,
            limit: usize::MAX,
            bytes_max: usize::MAX,
        }
    }

    /// The second range alone, with the same limits.
    pub(crate) fn second(&self) -> Option<Self> {
        let (begin, end) = self.beside.clone()?;
        Some(Self {
            begin,
            end,
            beside: None,
            ..*self
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
}

/// The items found by a range read, in the order of the read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    pub items: Vec<KeyValue>,
    /// The read stopped at a limit; there may be more items.
    pub more: bool,
}

impl Slice {
    /// What `range` asks for, from what was found in each of its two ranges under its limits.
    pub(crate) fn merged(range: &Range, first: Self, second: Self) -> Result<Self> {
        match (&*first.items, &*second.items) {
            (_, []) if !second.more => return Ok(first),
            ([], _) if !first.more => return Ok(second),
            _ => {}
        }
        let (first_more, second_more) = (first.more, second.more);
        let mut items = Vec::with_capacity(range.limit.min(first.items.len() + second.items.len()));
        let mut first = first.items.into_iter().peekable();
        let mut second = second.items.into_iter().peekable();
        let mut bytes = 0;
        let more = loop {
            let next = match (first.peek(), second.peek()) {
                (None, None) => break first_more || second_more,
                // What was not read of the other one may come before.
                (Some(_), None) if second_more => break true,
                (None, Some(_)) if first_more => break true,
                (Some(_), None) => &mut first,
                (None, Some(_)) => &mut second,
                (Some(a), Some(b)) => {
                    match (version_of(&b.key)? < version_of(&a.key)?) != range.reverse {
                        true => &mut second,
                        false => &mut first,
                    }
                }
            };
            if items.len() >= range.limit || bytes >= range.bytes_max {
                break true;
            }
            items.extend(
                next.next()
                    .inspect(|item| bytes += item.key.len() + item.value.len()),
            );
        };
        Ok(Self { items, more })
    }
}

/// Blind writes, committed atomically. They are applied in the order: clears, puts and maxima, versioned and stamped puts.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub conditions: Vec<Condition>,
    pub clears: Vec<(Vec<u8>, Vec<u8>)>,
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Sets the key to the greater of its present value and this one, compared as byte strings of equal length.
    pub maxima: Vec<(Vec<u8>, Vec<u8>)>,
    pub versioned: Vec<Versioned>,
    /// Entries that count as unread and have no notify key: versioned puts with keys as [`keys::unread_versioned`] makes them.
    pub unread: Vec<Versioned>,
    /// Puts whose values carry the version of the commit.
    pub stamped: Vec<Stamped>,
    /// Fail with [`Error::Conflict`] if any id that the batch claims is already claimed at commit. Only for snapshots with
    /// [`Snapshot::checks_claims`]; the batch must not claim an id twice.
    pub unclaimed: bool,
    /// Wake the callers of [`Store::wait_for_commit`].
    pub notify: bool,
}

/// A put with the key `prefix ‖ version`. The version is assigned at commit; `index` is its last part.
#[derive(Debug, Clone)]
pub struct Versioned {
    pub prefix: Vec<u8>,
    pub index: u16,
    pub value: Vec<u8>,
}

/// A put whose value carries the version of the commit, in the 16 bytes at `at`. `index` is the last part of that version.
#[derive(Debug, Clone)]
pub struct Stamped {
    pub key: Vec<u8>,
    pub index: u16,
    pub value: Vec<u8>,
    pub at: usize,
}

#[derive(Debug, Clone)]
pub enum Condition {
    KeyEquals {
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    RangeEmpty {
        begin: Vec<u8>,
        end: Vec<u8>,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{dedup::testing::Memory, version::Version};

    fn memory(times: &[(u64, bool)]) -> (Memory, Vec<KeyValue>) {
        let mut memory = Memory::of(&[]);
        let mut all = Vec::new();
        for &(time, is_unread) in times {
            let version = Version::new(1, time, 0);
            let key = match is_unread {
                true => keys::unread_versioned(b"p", version),
                false => keys::versioned(b"p", version),
            };
            let value = vec![0; (time % 3) as usize];
            memory.put(key.clone(), value.clone());
            all.push(KeyValue {
                key: key.into(),
                value: value.into(),
            });
        }
        (memory, all)
    }

    proptest! {
        /// Against a plain list: in order, within the limits, and with nothing left out before the last item.
        #[test]
        fn two_ranges_are_read_in_the_order_of_versions(
            entries in proptest::collection::btree_map(1..30u64, any::<bool>(), 0..20),
            (after, until) in (0..31u64, 0..31u64),
            (limit, bytes_max) in (1..12usize, prop_oneof![1..200usize, Just(usize::MAX)]),
            (reverse, guesses_more) in any::<(bool, bool)>(),
        ) {
            let entries: Vec<_> = entries.into_iter().collect();
            let (mut memory, mut all) = memory(&entries);
            memory.guesses_more = guesses_more;
            let bounds = [after, until].map(|time| Version::moment(1, time));
            let range = keys::entries(b"p", Some(bounds[0]), bounds[1], reverse, limit, bytes_max);
            let slice = memory.slice(range);
            if reverse {
                all.reverse();
            }
            all.retain(|item| {
                let version = version_of(&item.key).expect("a version");
                bounds[0] < version && version <= bounds[1]
            });
            prop_assert!(all.starts_with(&slice.items));
            let size = |items: &[KeyValue]| items.iter().map(|item| item.key.len() + item.value.len()).sum::<usize>();
            let read = slice.items.len();
            prop_assert!(read <= limit);
            if let Some((_, before)) = slice.items.split_last() {
                prop_assert!(size(before) < bytes_max);
            }
            if read < all.len() {
                prop_assert!(slice.more);
                // It ended because of a limit, not before.
                prop_assert!(read == limit || size(&slice.items) >= bytes_max, "{} of {}", read, all.len());
            } else if !guesses_more {
                prop_assert!(!slice.more);
            }
        }

        /// Engines may end a read before a limit: what comes after the end of one slice is not known, and nothing above is taken
        /// from the other.
        #[test]
        fn two_slices_are_merged_as_far_as_both_are_known(
            entries in proptest::collection::btree_map(1..30u64, any::<bool>(), 0..20),
            ends in (0..20usize, 0..20usize),
            reverse in any::<bool>(),
        ) {
            let entries: Vec<_> = entries.into_iter().collect();
            let (memory, mut all) = memory(&entries);
            let moment = Version::moment(1, 99);
            let range = keys::entries(b"p", None, moment, reverse, usize::MAX, usize::MAX);
            let second = memory.slice(range.second().expect("two"));
            let first = memory.slice(Range { beside: None, ..range.clone() });
            let cut = |mut slice: Slice, end: usize| {
                slice.more = end < slice.items.len();
                slice.items.truncate(end);
                slice
            };
            let (first, second) = (cut(first, ends.0), cut(second, ends.1));
            let (count, more) = (first.items.len() + second.items.len(), first.more || second.more);
            let merged = Slice::merged(&range, first, second).expect("versioned keys");
            if reverse {
                all.reverse();
            }
            prop_assert!(all.starts_with(&merged.items), "{:?}", merged);
            prop_assert_eq!(merged.more, more);
            prop_assert!(merged.items.len() <= count);
            if !more {
                prop_assert_eq!(merged.items, all);
            }
        }
    }
}
