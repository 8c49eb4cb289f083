//! Reads, outside the async runtime: a read may wait for the disk, and must not block live delivery, which runs there.
//!
//! A few jobs on tokio's blocking pool share a queue. A job takes the next read without a system call or a context
//! switch. And many concurrent reads do not displace the threads of the runtime from the processors, as one job per
//! read would.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::tables::Tables;
use crate::store::{Error, Found, Reads, Result};

/// Maximum number of concurrent reads.
const JOBS_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Readers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Bounded, because each read is awaited by its caller, and the number of requests is limited.
    reads: VecDeque<Read>,
    jobs: usize,
}

struct Read {
    tables: Arc<Tables>,
    view: fjall::Snapshot,
    reads: Reads,
    reply: oneshot::Sender<Result<Found>>,
}

impl Readers {
    pub(super) async fn read(
        self: &Arc<Self>,
        tables: Arc<Tables>,
        view: fjall::Snapshot,
        reads: Reads,
    ) -> Result<Found> {
        let (reply, answer) = oneshot::channel();
        let start = {
            let mut waiting = self.waiting();
            waiting.reads.push_back(Read {
                tables,
                view,
                reads,
                reply,
            });
            let start = waiting.jobs < JOBS_MAX;
            waiting.jobs += usize::from(start);
            start
        };
        if start {
            let readers = Arc::clone(self);
            tokio::task::spawn_blocking(move || readers.work());
        }
        answer.await.unwrap_or_else(|_| {
            Err(Error::Unavailable(
                "a read failed; see the log of the service".into(),
            ))
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readers {
    /// Answers waiting reads until there are none.
    fn work(&self) {
        // Finding the queue empty and ending the job is one atomic step: a later read starts another job.
        while let Some(read) = self.next() {
            let Read {
                tables,
                view,
                reads,
                reply,
            } = read;
            // Damaged files can make the engine panic; the job continues.
            let found = catch_unwind(AssertUnwindSafe(|| tables.read(&view, &reads)));
            let found = found.unwrap_or_else(|_| Err(Error::Damaged("a read panicked".into())));
            // The database cannot be reopened while these are held.
            drop((tables, view));
            // The caller may have been cancelled.
            let _ = reply.send(found);
        }
    }

    fn next(&self) -> Option<Read> {
        let mut waiting = self.waiting();
        let next = waiting.reads.pop_front();
        waiting.jobs -= usize::from(next.is_none());
        next
    }
}
