//! Reads, outside the async runtime: a read may wait for the disk, and must not block live delivery, which runs there.
//!
//! A few jobs on tokio's blocking pool share a queue. A job takes the next read without a system call or a context
//! switch. And many concurrent reads do not displace the threads of the runtime from the processors, as one job per read
//! would. A read whose caller has stopped waiting is dropped from the queue, or ends early.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::oneshot;

use super::tables::Tables;
use crate::store::{Error, Found, Reads, Result};

/// Maximum number of concurrent reads.
pub(super) const JOBS_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Readers {
    waiting: Mutex<Waiting>,
    /// Reads that were not begun because nobody waited for them any more.
    pub(super) abandoned: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// Bounded, because the number of requests is limited, and a request holds its place in these limits until its reads
    /// have left the queue.
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
            if reply.is_closed() {
                self.abandoned.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // Damaged files can make the engine panic; the job continues.
            let read = || tables.read(&view, &reads, &|| !reply.is_closed());
            let found = catch_unwind(AssertUnwindSafe(read));
            let found = found.unwrap_or_else(|_| Err(Error::Damaged("a read panicked".into())));
            // The database cannot be reopened while these are held.
            drop((tables, view));
            drop(reads);
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

#[cfg(test)]
mod tests {
    use fjall::Database;
    use futures_util::FutureExt;

    use super::*;
    use crate::store::{Range, keys::Keys};

    fn everything() -> Reads {
        Reads {
            ranges: vec![Range::all(vec![0], vec![0xff])],
            ..Reads::default()
        }
    }

    fn tables(folder: &tempfile::TempDir) -> (Arc<Tables>, fjall::Snapshot) {
        let db = Database::builder(folder.path()).open().expect("opens");
        let view = db.snapshot();
        let tables = Tables::open(db, Keys::before_opening(b"")).expect("opens");
        (Arc::new(tables), view)
    }

    #[tokio::test]
    async fn reads_that_nobody_waits_for_are_not_begun_and_hold_their_places_until_they_are_dropped()
     {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (tables, view) = tables(&folder);
        let readers = Arc::new(Readers::default());
        // No job starts.
        readers.waiting().jobs = JOBS_MAX;
        let place = Arc::new(());
        let read = || {
            let mut reads = everything();
            reads.held = Some(Arc::clone(&place) as _);
            Box::pin(readers.read(Arc::clone(&tables), view.clone(), reads))
        };
        let mut reads = vec![read(), read(), read()];
        for read in &mut reads {
            assert!(read.as_mut().now_or_never().is_none());
        }
        drop(reads.split_off(1));
        assert_eq!(
            Arc::strong_count(&place),
            4,
            "held although two were cancelled"
        );
        readers.work();
        assert_eq!(readers.abandoned.load(Ordering::Relaxed), 2);
        assert_eq!(Arc::strong_count(&place), 1);
        let found = reads.remove(0).await.expect("read");
        assert_eq!(found.slices.len(), 1);
    }

    #[test]
    fn a_long_read_ends_soon_after_its_caller_stopped_waiting() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (tables, view) = tables(&folder);
        let rest = tables.db().keyspace("rest-2", Default::default);
        let rest = rest.expect("opens");
        for number in 0..10_000_u32 {
            rest.insert(number.to_be_bytes(), b"").expect("inserted");
        }
        drop(view);
        let view = tables.db().snapshot();
        let found = |wanted_times: u64| {
            let asked = AtomicU64::new(0);
            let is_wanted = || asked.fetch_add(1, Ordering::Relaxed) < wanted_times;
            let found = tables.read(&view, &everything(), &is_wanted);
            found.expect("read").slices
        };
        assert_eq!(found(u64::MAX)[0].items.len(), 10_000);
        assert_eq!(found(0), []);
        let some = &found(10)[0];
        assert!(
            some.items.len() < 1_000 && some.more,
            "{}",
            some.items.len()
        );
    }
}
