//! The background threads of an open store: those that write, compact, clean and recover.

use std::{
    sync::{Arc, mpsc as blocking},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    cleaning, compaction,
    open::worker_threads,
    recovery,
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
    /// In the order in which they end.
    others: Vec<Worker>,
}

/// A thread that ends when `end` is dropped, after the work under way.
struct Worker {
    end: blocking::Sender<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(
        name: &str,
        shared: &Arc<Shared>,
        run: fn(&Shared, &blocking::Receiver<()>),
    ) -> Result<Self> {
        let (end, ended) = blocking::channel();
        let shared = Arc::clone(shared);
        let thread = spawn(name, move || run(&shared, &ended))?;
        Ok(Self { end, thread })
    }
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = spawn("store-writer", {
            let shared = Arc::clone(shared);
            move || write_groups(&shared, requests)
        })?;
        let compacting =
            (1..worker_threads()).map(|_| Worker::start("store-compact", shared, compaction::run));
        let cleaning = Worker::start("store-cleaning", shared, cleaning::run);
        let recovery = Worker::start("store-recovery", shared, recovery::run);
        let others = compacting.chain([cleaning, recovery]);
        Ok(Self {
            queue,
            writer,
            others: others.collect::<Result<_>>()?,
        })
    }

    /// The queue of the writer. Weak, so that the writer can end although snapshots are still held.
    pub(super) fn queue(&self) -> mpsc::WeakSender<Request> {
        self.queue.downgrade()
    }

    pub(super) fn are_running(&self) -> bool {
        let mut threads = self.others.iter().map(|worker| &worker.thread);
        !self.writer.is_finished() && !threads.any(JoinHandle::is_finished)
    }

    /// Ends the threads. The writer ends after it has answered the last commit in flight, which holds a sender too.
    pub(super) async fn stop(self) {
        let (ends, threads): (Vec<_>, Vec<_>) = self
            .others
            .into_iter()
            .map(|worker| (worker.end, worker.thread))
            .unzip();
        drop((self.queue, ends));
        for thread in threads.into_iter().chain([self.writer]) {
            let ended = tokio::task::spawn_blocking(move || has_ended(thread)).await;
            if !matches!(ended, Ok(true)) {
                tracing::error!(
                    "a thread of the store panicked, is in a long compaction, or is blocked by a disk that does not respond"
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
