//! The only retry loop of the program for the database.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::Instrument;

use super::{Batch, Error, Found, Reads, Snapshot, Store};
use crate::version::Version;

/// How long a transaction is retried before it fails.
pub const RETRY_FOR: Duration = Duration::from_secs(20);

const BACKOFF_MIN: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// An operation of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Commit,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Commit => "commit",
        }
    }
}

/// Counts of failed operations since the start, by reason.
#[derive(Debug, Default)]
pub struct StoreErrors(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    /// By name of the transaction and reason.
    attempts: BTreeMap<(&'static str, &'static str), u64>,
    errors: BTreeMap<(Operation, &'static str), u64>,
}

impl StoreErrors {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failed attempt of a transaction with this name.
    fn note(&self, transaction: &'static str, operation: Operation, error: &Error) {
        let reason = error.reason();
        let mut failures = self.failures();
        *failures.attempts.entry((transaction, reason)).or_default() += 1;
        *failures.errors.entry((operation, reason)).or_default() += 1;
    }

    /// Counts a failed read outside of a transaction, which is not retried here.
    pub fn note_read(&self, error: &Error) {
        let key = (Operation::Read, error.reason());
        *self.failures().errors.entry(key).or_default() += 1;
    }

    /// Failed attempts of transactions, by [`Transaction::NAME`] and reason.
    pub fn failed_attempts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.failures().attempts.clone()
    }

    /// Failed reads and commits, inside and outside of transactions, by operation and reason.
    pub fn by_operation(&self) -> BTreeMap<(Operation, &'static str), u64> {
        self.failures().errors.clone()
    }
}

/// What a transaction decides after it has read its snapshot.
pub enum Plan<T> {
    /// There is nothing to write.
    Answer(T),
    Commit(Batch),
}

/// A transaction: it reads a snapshot and writes a batch. Every attempt plans again, on a new snapshot.
#[async_trait]
pub trait Transaction: Send {
    /// What it is called in metrics.
    const NAME: &'static str;

    type Output;
    type Error: From<Error>;

    /// The reads that every attempt begins with; they are done together with taking the snapshot.
    fn first_reads(&self) -> Reads {
        Reads::default()
    }

    /// The commit has failed. Returns whether the transaction had assumed what the engine checks at commit, and will read it
    /// from now on. Then that is no failure, and it plans again at once: there may be nothing to commit.
    fn assumed(&mut self) -> bool {
        false
    }

    /// Decides what to write. `first` is what [`Self::first_reads`] found. `unsure` says that the outcome of an earlier
    /// attempt is unknown: the snapshot may show this transaction's own writes.
    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<Self::Output>, Self::Error>;

    /// The planned batch has been committed at `version`.
    fn committed(&mut self, version: Version) -> Self::Output;
}

enum Attempt<T> {
    Done(T),
    Failed(Operation, Error),
}

/// Runs a transaction, and retries it for up to [`RETRY_FOR`].
pub async fn transact<T: Transaction>(
    store: &dyn Store,
    transaction: &mut T,
) -> Result<T::Output, T::Error>
where
    T::Error: RetryableError,
{
    transact_until(store, transaction, Instant::now() + RETRY_FOR).await
}

/// Runs a transaction at least once, and retries it until `give_up_at`.
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
        let (operation, error) = match attempt(store, transaction, unsure).await? {
            Attempt::Done(output) => return Ok(output),
            // Whether an unknown commit happened is found out like that of any other transaction.
            Attempt::Failed(Operation::Commit, error)
                if transaction.assumed() && !matches!(error, Error::Unknown) =>
            {
                continue;
            }
            Attempt::Failed(operation, error) => (operation, error),
        };
        unsure |= matches!(error, Error::Unknown);
        store.errors().note(T::NAME, operation, &error);
        if !error.is_retryable() || Instant::now() >= give_up_at {
            return Err(match error {
                // This attempt stored nothing, but an earlier one may have.
                Error::Full if unsure => Error::Unknown.into(),
                error => error.into(),
            });
        }
        tracing::debug!(transaction = T::NAME, %error, "retrying a transaction");
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// A transaction's error, which may be an error of the store that the retry loop handles.
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
        Err(error) => return Ok(Attempt::Failed(Operation::Read, error)),
    };
    let batch = match transaction.plan(&*snapshot, first, unsure).await {
        Ok(Plan::Answer(output)) => return Ok(Attempt::Done(output)),
        Ok(Plan::Commit(batch)) => batch,
        Err(error) => {
            let failed = |error| Attempt::Failed(Operation::Read, error);
            return error.into_store_error().map(failed);
        }
    };
    let commit = snapshot.commit(batch);
    Ok(
        match commit.instrument(tracing::debug_span!("commit")).await {
            Ok(version) => Attempt::Done(transaction.committed(version)),
            Err(error) => Attempt::Failed(Operation::Commit, error),
        },
    )
}
