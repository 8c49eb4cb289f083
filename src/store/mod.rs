//! The engine contract: consistent snapshots, commits stamped in one order, a doorbell.
//!
//! A [`Store`] holds ordered keys and values. Reads go through a [`Snapshot`]; a commit belongs to the
//! snapshot it was planned on, which is what bounds twins: it is refused when the snapshot is older than
//! [`SNAPSHOT_AGE_TICKS_MAX`] or the epoch has changed since. No engine type leaks above this module.

pub mod audit;
pub mod embedded;
pub mod epoch;
#[cfg(feature = "fdb")]
pub mod fdb;
pub mod keys;
mod transact;
pub mod values;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::transact::{
    Operation, Plan, RETRY_FOR, Retries, RetryableError, Transaction, transact, transact_until,
};
use crate::version::{TICKS_PER_SECOND, Version};

/// A snapshot this old (ticks) can neither be read nor committed on. Twins therefore lie closer than this.
pub const SNAPSHOT_AGE_TICKS_MAX: u64 = 5 * TICKS_PER_SECOND;

/// Most items one batch may stamp with a version: their index takes 16 bits of it.
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
    /// The commit may have happened, or not: only reading tells.
    #[error("the outcome of the commit is unknown")]
    Unknown,
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Nothing of the commit was stored: there is no room, and there is none until somebody makes some.
    #[error("the disk is full, or less of it is free than --disk-reserve-mib says")]
    Full,
    /// Trying again would end the same way.
    #[error("the store refused: {0}")]
    Refused(String),
    #[error("the store is closed")]
    Closed,
    #[error("the store holds something this program did not write at {key}: {what}")]
    Corrupt { key: String, what: String },
    /// A file of the store, or the disk under it, is not as it was written.
    #[error(
        "the store is damaged ({0}): stop the service, and run `newsfeed admin check` on its folder, which names the file"
    )]
    Damaged(String),
    #[error("{0}")]
    Open(String),
}

impl Error {
    /// Its kind, for counting.
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
    /// The snapshot's own moment: later commits are stamped above it, all others at or below it.
    fn version(&self) -> Version;

    /// Reads everything asked for side by side.
    async fn read(&self, reads: Reads) -> Result<Found>;

    async fn get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Bytes>>> {
        let ranges = Vec::new();
        Ok(self.read(Reads { keys, ranges }).await?.values)
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Slice>> {
        let keys = Vec::new();
        Ok(self.read(Reads { keys, ranges }).await?.slices)
    }

    /// Whether [`Batch::unclaimed`] is heeded: on an engine that commits one batch after the other. Elsewhere a check at
    /// commit would make appends conflict, and twins are left to readers.
    fn checks_claims(&self) -> bool {
        false
    }

    /// Commits `batch` if its conditions still hold and the epoch is still the snapshot's.
    /// Answers the version of index 0; see [`Version::at_index`].
    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version>;
}

#[async_trait]
pub trait Store: Send + Sync {
    /// A snapshot of now and its first reads, in as few round trips as the engine can.
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)>;

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(self.begin(Reads::default()).await?.0)
    }

    /// Resolves when there may be commits above `seen` that asked to [`Batch::ring`]; never holds a snapshot.
    async fn changed(&self, seen: Version) -> Result<()>;

    /// What was tried again, and why.
    fn retries(&self) -> &Retries;

    /// What the engine tells of itself at little cost; called off the async runtime, for it may wait for the disk.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }

    /// Whether what it runs by itself still runs; if not, only a restart helps.
    fn is_alive(&self) -> bool {
        true
    }

    /// Finishes commits under way and lets go of the storage. Everything after it answers [`Error::Closed`].
    async fn close(&self);
}

/// One of an engine's own figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// With its unit; without `_total`.
    pub name: &'static str,
    pub help: &'static str,
    pub value: f64,
    /// Whether it only grows.
    pub is_counter: bool,
}

/// What to read at once.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    pub keys: Vec<Vec<u8>>,
    pub ranges: Vec<Range>,
}

impl Reads {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }
}

/// What [`Reads`] found, each in the order asked for.
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
    pub reverse: bool,
    /// Stops after so many keys …
    pub limit: usize,
    /// … or with the value that brings keys and values to so many bytes.
    pub bytes_max: usize,
}

impl Range {
    /// All that lies there, in order.
    pub fn all(begin: Vec<u8>, end: Vec<u8>) -> Self {
        Self {
            begin,
            end,
            reverse: false,
            limit: usize::MAX,
            bytes_max: usize::MAX,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
}

/// What a range read found, in the order asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    pub items: Vec<KeyValue>,
    /// Whether the read stopped at a limit: there may be more.
    pub more: bool,
}

/// Blind writes, applied in the order: clears, puts and maxima, versioned puts. All or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub conditions: Vec<Condition>,
    pub clears: Vec<(Vec<u8>, Vec<u8>)>,
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// The key keeps the greater of its value and this one, as byte strings of one length.
    pub maxima: Vec<(Vec<u8>, Vec<u8>)>,
    pub versioned: Vec<Versioned>,
    /// Refuse the batch, as [`Error::Conflict`], if one of the ids it claims has been claimed by then. Only for snapshots
    /// that say [`Snapshot::checks_claims`]; there each id must be claimed once in a batch.
    pub unclaimed: bool,
    /// Wake whoever waits in [`Store::changed`].
    pub ring: bool,
}

/// A put whose key is `prefix ‖ version`, the version being minted at commit with `index`.
#[derive(Debug, Clone)]
pub struct Versioned {
    pub prefix: Vec<u8>,
    pub index: u16,
    pub value: Vec<u8>,
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
