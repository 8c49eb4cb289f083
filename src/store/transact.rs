//! The one retry loop of the program.

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

/// How long a transaction is tried again before its caller hears that the store is not available.
pub const RETRY_FOR: Duration = Duration::from_secs(20);

const BACKOFF_MIN: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What failed.
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

/// What failed since the start, by reason.
#[derive(Debug, Default)]
pub struct Retries(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    attempts: BTreeMap<&'static str, u64>,
    errors: BTreeMap<(Operation, &'static str), u64>,
}

impl Retries {
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt of a transaction.
    fn note(&self, operation: Operation, error: &Error) {
        let reason = error.reason();
        let mut failures = self.failures();
        *failures.attempts.entry(reason).or_default() += 1;
        *failures.errors.entry((operation, reason)).or_default() += 1;
    }

    /// A read outside a transaction, which nobody tries again here.
    pub fn note_read(&self, error: &Error) {
        let key = (Operation::Read, error.reason());
        *self.failures().errors.entry(key).or_default() += 1;
    }

    /// Failed attempts of transactions.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.failures().attempts.clone()
    }

    /// Failed reads and commits, those of transactions too.
    pub fn errors(&self) -> BTreeMap<(Operation, &'static str), u64> {
        self.failures().errors.clone()
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
    Failed(Operation, Error),
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
        let (operation, error) = match attempt(store, transaction, unsure).await? {
            Attempt::Done(output) => return Ok(output),
            Attempt::Failed(operation, error) => (operation, error),
        };
        unsure |= matches!(error, Error::Unknown);
        store.retries().note(operation, &error);
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
