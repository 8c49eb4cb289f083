//! The FoundationDB engine: a snapshot is a transaction, and a version is a versionstamp of the cluster.
//!
//! Invariants:
//! - All reads are snapshot reads (without conflict ranges), except those of the epoch and of a commit's conditions.
//!   Commits can therefore only abort because of a changed epoch or condition.
//! - Every transaction reads the epoch with a conflict range. A raise therefore aborts all transactions in flight, and the
//!   database refuses a commit, even of blind writes only, whose snapshot is older than its memory of conflicts (5 s).
//! - The retry loop of the client library is not used: [`super::transact`] is the only one.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use foundationdb::{
    Database, FdbError, RangeOption, Transaction,
    api::{FdbApiBuilder, NetworkAutoStop},
    future::FdbSlice,
    options::{DatabaseOption, MutationType, StreamingMode, TransactionOption},
};
use futures_util::future::try_join_all;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Batch, Condition, Error, Found, KeyValue, Range, Reads, Result, Slice, Snapshot, Stamped,
    Store, StoreErrors,
    keys::{Keys, UNREAD_BIT},
};
use crate::{
    fairness::WorkBudget,
    version::{BYTES_LEN, Version},
};

/// The version of the client API that this program uses.
const API_VERSION: i32 = 730;
/// Length of a versionstamp: commit version (8 bytes) and order in the commit batch (2 bytes).
const STAMP_BYTES: usize = 10;
/// A watch is renewed at least this often, in case the cluster has dropped it.
const WATCH_TIME_MAX: Duration = Duration::from_secs(30);

/// Reads of requests and streams at a time. Most of them wait for the network.
const FDB_READS_AT_ONCE: usize = 64;

const TOO_OLD: i32 = 1007;
const FUTURE_VERSION: i32 = 1009;
const NOT_COMMITTED: i32 = 1020;
const UNKNOWN_RESULT: i32 = 1021;
const TIMED_OUT: i32 = 1031;
const CLUSTER_VERSION_CHANGED: i32 = 1039;

/// The network thread of the client library. Must be dropped before the process exits, and after every [`Fdb`].
#[must_use]
pub struct Network {
    _running: NetworkAutoStop,
}

/// Starts the client library. May be called once per process.
pub fn boot() -> Result<Network> {
    let open = |error: FdbError| {
        Error::Open(format!(
            "the FoundationDB client library refused API version {API_VERSION} ({error}): \
             install the client package of FoundationDB 7.3"
        ))
    };
    let builder = FdbApiBuilder::default()
        .set_runtime_version(API_VERSION)
        .build()
        .map_err(open)?;
    // SAFETY: the returned value must be dropped before the process exits. `main` keeps it until it returns, and every
    // other way to end the process (a second signal, an abort) skips the exit handlers.
    #[allow(unsafe_code)]
    let running = unsafe { builder.boot() }.map_err(open)?;
    Ok(Network { _running: running })
}

/// Settings of the client.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// A read or commit that takes longer fails, and may be retried.
    pub timeout: Duration,
}

pub struct Fdb {
    db: Arc<Database>,
    epoch: Vec<u8>,
    wake: Vec<u8>,
    retries: StoreErrors,
    closed: CancellationToken,
    /// Commits in flight hold its tokens.
    commits: TaskTracker,
}

impl Fdb {
    /// Connects to the cluster of `cluster_file`, for the key space under `prefix`. Does not wait for the cluster.
    pub fn open(cluster_file: &Path, prefix: &[u8], tuning: Tuning) -> Result<Self> {
        let file = cluster_file.display();
        if let Err(error) = std::fs::read(cluster_file) {
            return Err(Error::Open(format!(
                "cannot read the cluster file {file} ({error}): specify the file of your cluster"
            )));
        }
        let open =
            |error: FdbError| Error::Open(format!("cannot use the cluster file {file}: {error}"));
        let path = cluster_file.to_str().ok_or_else(|| {
            Error::Open(format!(
                "the path of the cluster file {file} is not valid UTF-8"
            ))
        })?;
        let db = Database::from_path(path).map_err(open)?;
        let millis = i32::try_from(tuning.timeout.as_millis()).unwrap_or(i32::MAX);
        db.set_option(DatabaseOption::TransactionTimeout(millis))
            .map_err(open)?;
        let keys = Keys::before_opening(prefix);
        Ok(Self {
            db: Arc::new(db),
            epoch: keys.epoch(),
            wake: keys.wake(),
            retries: StoreErrors::default(),
            closed: CancellationToken::new(),
            commits: TaskTracker::new(),
        })
    }
}

#[async_trait]
impl Store for Fdb {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        if self.closed.is_cancelled() {
            return Err(Error::Closed);
        }
        let transaction = self.db.create_trx().map_err(read_error)?;
        // No transaction reads its own writes, so the client need not keep track of them.
        transaction
            .set_option(TransactionOption::ReadYourWritesDisable)
            .map_err(read_error)?;
        // The client sends the reads as soon as it has a read version, without waiting for the epoch.
        let (version, found) =
            tokio::try_join!(self.moment(&transaction), read(&transaction, &reads))?;
        let view = View {
            transaction,
            version,
            wake: self.wake.clone(),
            closed: self.closed.clone(),
            commits: self.commits.clone(),
        };
        Ok((Box::new(view), found))
    }

    async fn wait_for_commit(&self, seen: Version) -> Result<()> {
        self.closed
            .run_until_cancelled(self.wait_for_notification(seen))
            .await
            .unwrap_or(Err(Error::Closed))
    }

    fn errors(&self) -> &StoreErrors {
        &self.retries
    }

    fn reads_at_once(&self) -> usize {
        FDB_READS_AT_ONCE
    }

    async fn close(&self) {
        self.closed.cancel();
        self.commits.close();
        self.commits.wait().await;
    }
}

impl Fdb {
    /// The moment that `transaction` reads. Reads the epoch with a conflict range.
    async fn moment(&self, transaction: &Transaction) -> Result<Version> {
        let (time, epoch) = tokio::try_join!(
            transaction.get_read_version(),
            transaction.get(&self.epoch, false)
        )
        .map_err(read_error)?;
        let epoch = match epoch.as_deref().map(<[u8; 4]>::try_from) {
            None => 0,
            Some(Ok(epoch)) => u32::from_be_bytes(epoch),
            Some(Err(_)) => {
                return Err(super::keys::corrupt(
                    &self.epoch,
                    "the epoch is not 4 bytes",
                ));
            }
        };
        Ok(Version::moment(epoch, time.unsigned_abs()))
    }

    async fn wait_for_notification(&self, seen: Version) -> Result<()> {
        let transaction = self.db.create_trx().map_err(read_error)?;
        let wake = async {
            let wake = transaction.get(&self.wake, true).await;
            wake.map_err(read_error)
        };
        let (now, notified) = tokio::try_join!(self.moment(&transaction), wake)?;
        let notified = notified
            .as_deref()
            .and_then(|stamp| stamp.first_chunk())
            .map_or(0, |time| u64::from_be_bytes(*time));
        // A stamp above now is from before a restore to a lower version, and means nothing.
        if now.epoch() != seen.epoch() || (seen.time() + 1..=now.time()).contains(&notified) {
            return Ok(());
        }
        let watch = transaction.watch(&self.wake);
        transaction
            .commit()
            .await
            .map_err(|error| read_error(error.into()))?;
        match tokio::time::timeout(WATCH_TIME_MAX, watch).await {
            Ok(changed) => changed.map_err(read_error),
            Err(_elapsed) => Ok(()),
        }
    }
}

struct View {
    transaction: Transaction,
    version: Version,
    wake: Vec<u8>,
    closed: CancellationToken,
    commits: TaskTracker,
}

#[async_trait]
impl Snapshot for View {
    fn version(&self) -> Version {
        self.version
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        read(&self.transaction, &reads).await
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        // Taken before the flag is read: either `close` waits for this commit, or this commit sees that it is closed.
        let _under_way = self.commits.token();
        if self.closed.is_cancelled() {
            return Err(Error::Closed);
        }
        self.check(&batch.conditions).await?;
        self.write(&batch).await?;
        let Self {
            transaction,
            version,
            ..
        } = *self;
        let stamp = transaction.get_versionstamp();
        transaction
            .commit()
            .await
            .map_err(|error| commit_error(error.into()))?;
        // The commit has happened; without the stamp only its version is unknown.
        let stamp = stamp.await.map_err(|_| Error::Unknown)?;
        let stamp: [u8; STAMP_BYTES] = (&stamp[..]).try_into().map_err(|_| Error::Unknown)?;
        let (time, order) = stamp.split_at(8);
        let time = time
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| Error::Unknown)?;
        let order = order
            .try_into()
            .map(u16::from_be_bytes)
            .map_err(|_| Error::Unknown)?;
        Ok(Version::new(version.epoch(), time, u32::from(order) << 16))
    }
}

impl View {
    /// Checks the conditions with reads that add conflict ranges: a later change aborts the commit.
    async fn check(&self, conditions: &[Condition]) -> Result<()> {
        let held = try_join_all(conditions.iter().map(|condition| self.holds(condition))).await?;
        match held.iter().position(|holds| !holds) {
            Some(failed) => Err(Error::ConditionFailed(failed)),
            None => Ok(()),
        }
    }

    async fn holds(&self, condition: &Condition) -> Result<bool> {
        Ok(match condition {
            Condition::KeyEquals { key, value } => {
                let stored = self.transaction.get(key, false).await.map_err(read_error)?;
                stored.as_deref() == value.as_deref()
            }
            Condition::RangeEmpty { begin, end } if begin >= end => true,
            Condition::RangeEmpty { begin, end } => {
                let option = RangeOption {
                    limit: Some(1),
                    ..RangeOption::from((&begin[..], &end[..]))
                };
                let found = self.transaction.get_range(&option, 1, false).await;
                found.map_err(read_error)?.is_empty()
            }
        })
    }

    async fn write(&self, batch: &Batch) -> Result<()> {
        let mut budget = WorkBudget::default();
        let transaction = &self.transaction;
        for (begin, end) in batch.clears.iter().filter(|(begin, end)| begin < end) {
            transaction.clear_range(begin, end);
        }
        for (key, value) in &batch.puts {
            transaction.set(key, value);
        }
        for (key, value) in &batch.maxima {
            transaction.atomic_op(key, value, MutationType::ByteMax);
        }
        // The database adds a write conflict range for each stamped key; conditions of other commits conflict with these.
        for put in &batch.versioned {
            let key = stamped_key(&put.prefix, self.version.epoch(), put.index);
            transaction.atomic_op(&key, &put.value, MutationType::SetVersionstampedKey);
            budget.spend(1).await;
        }
        for put in &batch.unread {
            let key = unread_stamped_key(&put.prefix, self.version.epoch(), put.index);
            transaction.atomic_op(&key, &put.value, MutationType::SetVersionstampedKey);
            budget.spend(1).await;
        }
        for put in &batch.stamped {
            let value = stamped_value(put, self.version.epoch());
            transaction.atomic_op(&put.key, &value, MutationType::SetVersionstampedValue);
        }
        if batch.notify {
            transaction
                .set_option(TransactionOption::NextWriteNoWriteConflictRange)
                .map_err(read_error)?;
            let stamp_at_0 = [0; STAMP_BYTES + 4];
            transaction.atomic_op(
                &self.wake,
                &stamp_at_0,
                MutationType::SetVersionstampedValue,
            );
        }
        Ok(())
    }
}

/// Snapshot reads: without conflict ranges.
async fn read(transaction: &Transaction, reads: &Reads) -> Result<Found> {
    let values = async {
        let values = try_join_all(reads.keys.iter().map(|key| transaction.get(key, true)));
        values.await.map_err(read_error)
    };
    let ranges = reads.ranges.iter();
    let slices = try_join_all(ranges.map(|range| read_range(transaction, range)));
    let (values, slices) = tokio::try_join!(values, slices)?;
    let owned = |value: Option<FdbSlice>| value.map(|value| Bytes::copy_from_slice(&value));
    Ok(Found {
        values: values.into_iter().map(owned).collect(),
        slices,
    })
}

async fn read_range(transaction: &Transaction, range: &Range) -> Result<Slice> {
    let Some(second) = range.second() else {
        return read_one_range(transaction, range).await;
    };
    let (first, second) = tokio::try_join!(
        read_one_range(transaction, range),
        read_one_range(transaction, &second)
    )?;
    Slice::merged(range, first, second)
}

async fn read_one_range(transaction: &Transaction, range: &Range) -> Result<Slice> {
    let mut slice = Slice::default();
    if range.begin >= range.end || range.limit == 0 {
        return Ok(slice);
    }
    let mut option = Some(RangeOption {
        limit: Some(range.limit),
        target_bytes: range.bytes_max.min(i32::MAX as usize),
        mode: StreamingMode::WantAll,
        reverse: range.reverse,
        ..RangeOption::from((&range.begin[..], &range.end[..]))
    });
    let mut budget = WorkBudget::default();
    let (mut bytes, mut iteration) = (0, 1);
    while let Some(asked) = option {
        let found = transaction
            .get_range(&asked, iteration, true)
            .await
            .map_err(read_error)?;
        for item in &found {
            if bytes >= range.bytes_max {
                slice.more = true;
                return Ok(slice);
            }
            bytes += item.key().len() + item.value().len();
            slice.items.push(KeyValue {
                key: Bytes::copy_from_slice(item.key()),
                value: Bytes::copy_from_slice(item.value()),
            });
        }
        budget.spend(found.len()).await;
        slice.more = found.more();
        if bytes >= range.bytes_max || slice.items.len() >= range.limit {
            return Ok(slice);
        }
        option = asked.next_range(&found);
        iteration += 1;
    }
    Ok(slice)
}

/// `prefix ‖ epoch ‖ versionstamp ‖ index`, followed by the offset of the stamp as the database expects it.
pub fn stamped_key(prefix: &[u8], epoch: u32, index: u16) -> Vec<u8> {
    let stamp_at = (prefix.len() + 4) as u32;
    let mut key = Vec::with_capacity(prefix.len() + 20);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(&[0xff; STAMP_BYTES]);
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&stamp_at.to_le_bytes());
    key
}

/// The same for the key of an entry that counts as unread and has no notify key.
pub fn unread_stamped_key(prefix: &[u8], epoch: u32, index: u16) -> Vec<u8> {
    let mut key = stamped_key(prefix, epoch, index);
    key[prefix.len()] |= UNREAD_BIT;
    key
}

/// The value with epoch and index, followed by the offset of the stamp as the database expects it.
fn stamped_value(put: &Stamped, epoch: u32) -> Vec<u8> {
    let stamp_at = put.at + 4;
    let mut value = put.value.clone();
    value[put.at..stamp_at].copy_from_slice(&epoch.to_be_bytes());
    value[stamp_at + STAMP_BYTES..put.at + BYTES_LEN].copy_from_slice(&put.index.to_be_bytes());
    value.extend_from_slice(&(stamp_at as u32).to_le_bytes());
    value
}

fn read_error(error: FdbError) -> Error {
    match error.code() {
        TOO_OLD | FUTURE_VERSION => Error::TooOld,
        NOT_COMMITTED => Error::Conflict,
        code if error.is_retryable() || code == TIMED_OUT => {
            Error::Unavailable(format!("FoundationDB {code}: {error}"))
        }
        code => Error::Refused(format!("FoundationDB {code}: {error}")),
    }
}

fn commit_error(error: FdbError) -> Error {
    match error.code() {
        // A transaction that timed out may still commit.
        UNKNOWN_RESULT | TIMED_OUT | CLUSTER_VERSION_CHANGED => Error::Unknown,
        _ if error.is_maybe_committed() => Error::Unknown,
        _ => read_error(error),
    }
}
