//! What happens to events after they were appended: edits and erasures.
//!
//! A change is one transaction. It rewrites every copy of the event, and puts news of itself at its own version: beside the
//! feeds of the event ([`Keys::change`]) and into the log. So pages and the log show events as they are now, and whoever
//! continues from below that version, by pages, streams or the log, is told. There is at most one piece of news for each
//! event and feed: a later change removes that of the one before.
//!
//! Changes of one event exclude each other by a condition on its claim; those of events that share a key of the log, by a
//! condition on that key. Appends neither read nor write these, so nothing here conflicts with them, except that a twin
//! aborts an erasure of the same id, which is then planned again.
//!
//! - [`edit`]: replaces the data of an event. [`erase`]: removes one. [`erasure`]: a transaction that removes events, with all
//!   their twins.
//! - [`jobs`]: erasures of any size, in steps that any node takes. [`worker`]: the task of a node that takes them.
//! - [`retention`]: removes what is too old or too much, feed by feed, in steps that any node takes.
//! - [`commits`]: all copies of an event. [`rewrite`]: the keys of the log that a change rewrites. [`news`]: what a change tells.
//!   [`unmark`]: what readers have said of an entry.

mod commits;
mod edit;
mod erase;
mod erasure;
mod jobs;
mod news;
pub mod retention;
mod rewrite;
mod unmark;
mod worker;

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

pub use self::{
    edit::{CHANGE_ID_BYTES_MAX, Edited, NewData},
    erase::Erased,
    erasure::ERASED_AT_ONCE_MAX,
    jobs::{JOBS_OPEN_MAX, JobState},
    worker::run as run_worker,
};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
    store::{Batch, Stamped, Store, keys::Keys},
    types::{Entry, FeedName},
    version::{BYTES_LEN, Version},
};

#[derive(Default)]
struct Left {
    ids: Mutex<Vec<Version>>,
    added: Notify,
}

impl Left {
    fn add(&self, id: Version) {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id);
        self.added.notify_one();
    }

    fn take(&self) -> Vec<Version> {
        mem::take(&mut self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Most edits and erasures that a node works on at once. More are refused.
pub const CHANGES_AT_ONCE_MAX: usize = 64;

/// The changing side of the service; cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    store: Arc<dyn Store>,
    keys: Keys,
    metrics: Arc<Metrics>,
    /// Erasures that this node has begun, and leaves to its worker.
    left: Arc<Left>,
    changes: Arc<Semaphore>,
}

impl Lifecycle {
    pub fn new(store: Arc<dyn Store>, keys: Keys, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            keys,
            metrics,
            left: Arc::default(),
            changes: Arc::new(Semaphore::new(CHANGES_AT_ONCE_MAX)),
        }
    }
}

impl Lifecycle {
    /// A place among the changes that this node works on.
    fn place(&self) -> Result<SemaphorePermit<'_>> {
        self.changes.try_acquire().map_err(|_| Error::ChangesBusy)
    }
}

/// Whether the caller may change an event with this entry in these feeds.
pub type Allow<'a> = &'a (dyn Fn(&Entry, &[FeedName]) -> Result<()> + Send + Sync);

/// A batch that notes, with the version of its commit, that something was changed: whatever else it does is news.
fn changing_batch(keys: &Keys) -> Batch {
    Batch {
        stamped: vec![Stamped {
            key: keys.changed(),
            // Not below any other version of the commit.
            index: u16::MAX,
            value: vec![0; BYTES_LEN],
            at: 0,
        }],
        notify: true,
        ..Batch::default()
    }
}
