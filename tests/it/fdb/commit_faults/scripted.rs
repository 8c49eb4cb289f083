//! Scripts for the attempts of a transaction: each fails in a given way, or stops at its commit.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::{
    store::{Batch, Error, Result, Snapshot},
    version::Version,
};
use tokio::sync::oneshot;

use crate::support::stores::Trouble;

/// What happens to one attempt of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The commit happens, but its outcome is reported as unknown.
    DoneButUnknown,
    /// The commit does not happen, and its outcome is reported as unknown.
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

/// A commit that the test carries out.
pub struct Held {
    pub snapshot: Box<dyn Snapshot>,
    pub batch: Batch,
    pub answer: oneshot::Sender<Result<Version>>,
}

impl Held {
    /// Commits, and reports the outcome to the transaction.
    pub async fn release(self) {
        let committed = self.snapshot.commit(self.batch).await;
        assert!(self.answer.send(committed).is_ok(), "somebody waits for it");
    }

    /// Reports an unknown outcome to the transaction; the test can still commit.
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

/// The attempts of one transaction after another; those after the script are undisturbed.
pub struct Script {
    steps: Mutex<VecDeque<Step>>,
    /// The step of the attempt under way.
    current: Mutex<Option<Step>>,
    pub attempts: AtomicUsize,
}

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: Mutex::new(steps.into_iter().collect()),
            current: Mutex::new(None),
            attempts: AtomicUsize::new(0),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Step>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Trouble for Script {
    fn before_begin(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        *self.current() = steps.pop_front();
    }

    async fn before_read(&self) -> Result<()> {
        match *self.current() {
            Some(Step::Fail(Fault::ReadTooOld)) => Err(Error::TooOld),
            Some(Step::Fail(Fault::ReadUnavailable)) => Err(Error::Unavailable("away".into())),
            _ => Ok(()),
        }
    }

    async fn commit(&self, snapshot: Box<dyn Snapshot>, batch: Batch) -> Result<Version> {
        let step = self.current().take();
        match step {
            None => snapshot.commit(batch).await,
            Some(Step::Fail(fault)) => match fault {
                Fault::DoneButUnknown => {
                    snapshot.commit(batch).await?;
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
                    snapshot,
                    batch,
                    answer,
                };
                assert!(sender.send(held).is_ok(), "the test waits for it");
                answered.await.expect("the test answers")
            }
        }
    }
}
