//! The background threads of an open store: the writer, the recovery thread and the cleaning thread.

use std::{
    sync::{Arc, mpsc as blocking},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    cleaning, recovery,
    shared::Shared,
    writer::{Request, write_groups},
};
use crate::store::{Error, Result};

/// Commits waiting for the writer. When the queue is full, further commits wait in their tasks.
const QUEUE_BATCHES_MAX: usize = 64;
/// How long closing waits for each thread. A thread may be blocked by a full disk.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) struct Threads {
    queue: mpsc::Sender<Request>,
    writer: JoinHandle<()>,
    /// The recovery thread ends when this is dropped.
    end_recovery: blocking::Sender<()>,
    recovery: JoinHandle<()>,
    /// The cleaning thread ends when this is dropped, after the compaction under way.
    end_cleaning: blocking::Sender<()>,
    cleaning: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = spawn("store-writer", {
            let shared = Arc::clone(shared);
            move || write_groups(&shared, requests)
        })?;
        let (end_recovery, ended) = blocking::channel();
        let recovery = spawn("store-recovery", {
            let shared = Arc::clone(shared);
            move || recovery::run(&shared, &ended)
        })?;
        let (end_cleaning, ended) = blocking::channel();
        let cleaning = spawn("store-cleaning", {
            let shared = Arc::clone(shared);
            move || cleaning::run(&shared, &ended)
        })?;
        Ok(Self {
            queue,
            writer,
            end_recovery,
            recovery,
            end_cleaning,
            cleaning,
        })
    }

    /// The queue of the writer. Weak, so that the writer can end although snapshots are still held.
    pub(super) fn queue(&self) -> mpsc::WeakSender<Request> {
        self.queue.downgrade()
    }

    pub(super) fn are_running(&self) -> bool {
        let threads = [&self.writer, &self.recovery, &self.cleaning];
        !threads.into_iter().any(JoinHandle::is_finished)
    }

    /// Ends the threads. The writer ends after it has answered the last commit in flight, which holds a sender too.
    pub(super) async fn stop(self) {
        drop((self.queue, self.end_recovery, self.end_cleaning));
        for thread in [self.cleaning, self.recovery, self.writer] {
            let ended = tokio::task::spawn_blocking(move || has_ended(thread)).await;
            if !matches!(ended, Ok(true)) {
                tracing::error!(
                    "a thread of the store panicked, or is blocked by a disk that does not respond"
                );
            }
        }
    }
}

/// Waits for `thread` to end; `false` if it panicked or takes longer than [`CLOSE_TIME_MAX`]. Blocks.
fn has_ended(thread: JoinHandle<()>) -> bool {
    let since = Instant::now();
    while !thread.is_finished() {
        if since.elapsed() >= CLOSE_TIME_MAX {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().is_ok()
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| Error::Open(format!("cannot start the thread {name}: {error}")))
}
