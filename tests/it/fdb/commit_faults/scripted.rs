//! A store whose first attempts go as a test wants it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::{
    store::{Batch, Error, Found, Reads, Result, Retries, Snapshot, Store},
    version::Version,
};
use tokio::sync::oneshot;

/// What becomes of one attempt of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The commit happens, but nobody is told.
    DoneButUnknown,
    /// The commit does not happen, and nobody is told.
    LostAndUnknown,
    CommitTooOld,
    CommitConflict,
    ReadTooOld,
    ReadUnavailable,
}

pub const FAULTS: [Fault; 6] = [
    Fault::DoneButUnknown,
    Fault::LostAndUnknown,
    Fault::CommitTooOld,
    Fault::CommitConflict,
    Fault::ReadTooOld,
    Fault::ReadUnavailable,
];

impl Fault {
    pub fn of_reads(self) -> bool {
        matches!(self, Self::ReadTooOld | Self::ReadUnavailable)
    }
}

/// A commit in the test's hands.
pub struct Held {
    pub snapshot: Box<dyn Snapshot>,
    pub batch: Batch,
    pub answer: oneshot::Sender<Result<Version>>,
}

impl Held {
    /// Lets the commit go on, and its transaction hear of it.
    pub async fn release(self) {
        let committed = self.snapshot.commit(self.batch).await;
        assert!(self.answer.send(committed).is_ok(), "somebody waits for it");
    }

    /// The transaction hears that it is unknown what became of the commit; which can still happen.
    pub fn unknown(self) -> (Box<dyn Snapshot>, Batch) {
        let heard = self.answer.send(Err(Error::Unknown));
        assert!(heard.is_ok(), "somebody waits for it");
        (self.snapshot, self.batch)
    }
}

pub enum Step {
    Fail(Fault),
    Hold(oneshot::Sender<Held>),
}

/// A store whose first attempts go as the test wants it.
pub struct Scripted {
    inner: Arc<dyn Store>,
    steps: Mutex<VecDeque<Step>>,
    pub attempts: AtomicUsize,
}

impl Scripted {
    pub fn new(inner: Arc<dyn Store>, steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            steps: Mutex::new(steps.into_iter().collect()),
            attempts: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Store for Scripted {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let step = {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            steps.pop_front()
        };
        let inner = self.inner.snapshot().await?;
        let attempt = Attempt { inner, step };
        let found = match reads.is_empty() {
            true => Found::default(),
            false => attempt.read(reads).await?,
        };
        Ok((Box::new(attempt), found))
    }

    async fn changed(&self, seen: Version) -> Result<()> {
        self.inner.changed(seen).await
    }

    fn retries(&self) -> &Retries {
        self.inner.retries()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct Attempt {
    inner: Box<dyn Snapshot>,
    step: Option<Step>,
}

impl Attempt {
    fn readable(&self) -> Result<()> {
        match self.step {
            Some(Step::Fail(Fault::ReadTooOld)) => Err(Error::TooOld),
            Some(Step::Fail(Fault::ReadUnavailable)) => Err(Error::Unavailable("away".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Snapshot for Attempt {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        self.readable()?;
        self.inner.read(reads).await
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self { inner, step } = *self;
        match step {
            None => inner.commit(batch).await,
            Some(Step::Fail(fault)) => match fault {
                Fault::DoneButUnknown => {
                    inner.commit(batch).await?;
                    Err(Error::Unknown)
                }
                Fault::LostAndUnknown => Err(Error::Unknown),
                Fault::CommitTooOld => Err(Error::TooOld),
                Fault::CommitConflict => Err(Error::Conflict),
                Fault::ReadTooOld | Fault::ReadUnavailable => {
                    panic!("a commit after {fault:?}")
                }
            },
            Some(Step::Hold(sender)) => {
                let (answer, answered) = oneshot::channel();
                let held = Held {
                    snapshot: inner,
                    batch,
                    answer,
                };
                assert!(sender.send(held).is_ok(), "the test waits for it");
                answered.await.expect("the test answers")
            }
        }
    }
}
