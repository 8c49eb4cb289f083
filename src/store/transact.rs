//! The one retry loop of the program.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Batch, Error, Found, Reads, Snapshot, Store};
use crate::version::Version;

/// How long a transaction is tried again before its caller hears that the store is not available.
pub const RETRY_FOR: Duration = Duration::from_secs(20);

const BACKOFF_MIN: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Failed attempts since the start, by reason.
#[derive(Debug, Default)]
pub struct Retries(Mutex<BTreeMap<&'static str, u64>>);

impl Retries {
    fn note(&self, error: &Error) {
        let reason = match error {
            Error::TooOld => "too_old",
            Error::Conflict => "conflict",
            Error::ConditionFailed(_) => "condition_failed",
            Error::Unknown => "unknown_result",
            Error::Unavailable(_) => "unavailable",
            Error::Full => "full",
            Error::Refused(_) => "refused",
            Error::Closed => "closed",
            Error::Corrupt { .. } | Error::Damaged(_) => "corrupt",
            Error::Open(_) => "open",
        };
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(reason)
            .or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What a transaction wants to do, having read its snapshot.
pub enum Plan<T> {
    /// Nothing to write.
    Answer(T),
    Commit(Batch),
}

/// Reads a snapshot, writes a batch. Planned afresh on a new snapshot at every attempt.
#[async_trait]
pub trait Transaction: Send {
    type Output;
    type Error: From<Error>;

    /// What the plan needs to know in any case; read together with the snapshot.
    fn first_reads(&self) -> Reads {
        Reads::default()
    }

    /// `first` is what [`Self::first_reads`] found. `unsure` says that an earlier attempt may have committed (its
    /// outcome is unknown): what the snapshot shows may be this transaction's own work.
    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<Self::Output>, Self::Error>;

    /// The planned batch committed at `version`.
    fn committed(&mut self, version: Version) -> Self::Output;
}

enum Attempt<T> {
    Done(T),
    Failed(Error),
}

pub async fn transact<T: Transaction>(
    store: &dyn Store,
    transaction: &mut T,
) -> Result<T::Output, T::Error>
where
    T::Error: RetryableError,
{
    transact_until(store, transaction, Instant::now() + RETRY_FOR).await
}

/// For those who have waited already: tries once, and again until `give_up_at`.
pub async fn transact_until<T: Transaction>(
    store: &dyn Store,
    transaction: &mut T,
    give_up_at: Instant,
) -> Result<T::Output, T::Error>
where
    T::Error: RetryableError,
{
    let mut backoff = BACKOFF_MIN;
    let mut unsure = false;
    loop {
        let error = match attempt(store, transaction, unsure).await? {
            Attempt::Done(output) => return Ok(output),
            Attempt::Failed(error) => error,
        };
        unsure |= matches!(error, Error::Unknown);
        store.retries().note(&error);
        if !error.is_retryable() || Instant::now() >= give_up_at {
            return Err(match error {
                // That holds for this attempt, not for the one before.
                Error::Full if unsure => Error::Unknown.into(),
                error => error.into(),
            });
        }
        tracing::debug!(%error, "trying a transaction again");
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Lets the loop look for the store's error inside a transaction's own.
pub trait RetryableError: Sized {
    fn into_store_error(self) -> Result<Error, Self>;
}

impl RetryableError for Error {
    fn into_store_error(self) -> Result<Error, Self> {
        Ok(self)
    }
}

async fn attempt<T: Transaction>(
    store: &dyn Store,
    transaction: &mut T,
    unsure: bool,
) -> Result<Attempt<T::Output>, T::Error>
where
    T::Error: RetryableError,
{
    let (snapshot, first) = match store.begin(transaction.first_reads()).await {
        Ok(begun) => begun,
        Err(error) => return Ok(Attempt::Failed(error)),
    };
    let batch = match transaction.plan(&*snapshot, first, unsure).await {
        Ok(Plan::Answer(output)) => return Ok(Attempt::Done(output)),
        Ok(Plan::Commit(batch)) => batch,
        Err(error) => return error.into_store_error().map(Attempt::Failed),
    };
    Ok(match snapshot.commit(batch).await {
        Ok(version) => Attempt::Done(transaction.committed(version)),
        Err(error) => Attempt::Failed(error),
    })
}
