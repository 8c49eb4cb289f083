//! Reads, off the async runtime: a read may wait for the disk, and live delivery, which runs there, must not.
//!
//! A few jobs on tokio's blocking pool share a queue. A job goes on to the next read without a system call or a change of
//! context; and however many reads there are, they do not crowd the runtime's own threads off the processors, as a job
//! for each of them would.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::tables::Tables;
use crate::store::{Error, Found, Reads, Result};

/// Reads that run, or wait for the disk, side by side.
const JOBS_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Readers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Each has somebody waiting for its answer, so there are never more than requests.
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
        answer
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable("a read failed; the log says why".into())))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readers {
    /// Answers what waits, until nothing does.
    fn work(&self) {
        // The last look and the end of the job are one step: a read that comes after it starts another.
        while let Some(read) = self.next() {
            let Read {
                tables,
                view,
                reads,
                reply,
            } = read;
            // What the engine did not expect in a file may make it panic; the job goes on.
            let found = catch_unwind(AssertUnwindSafe(|| tables.read(&view, &reads)));
            let found = found.unwrap_or_else(|_| Err(Error::Damaged("a read panicked".into())));
            // Nobody can open the database again while it is held.
            drop((tables, view));
            // Whoever asked may be gone.
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
