//! The embedded engine: fjall, one writer thread, group commit with one fsync.
//!
//! Invariants:
//! - A reader's view is the one published after the last group's fsync, so nobody sees what a crash could undo.
//! - A snapshot's version is the last published tick. The next group's tick is later (also after a restart with
//!   the wall clock set back, since that tick is stored), so no commit lands at or below a version handed out.
//! - Claims are checked as they are committed if the batch asks for it: what is appended has no twins here.
//! - A commit is refused when its tick lies [`SNAPSHOT_AGE_TICKS_MAX`] or more after the snapshot was taken.

mod figures;
mod readers;
mod recent;
mod tables;
mod writer;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use fjall::Database;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::{
    readers::Readers,
    tables::Tables,
    writer::{Request, write_groups},
};
use super::{
    Batch, Error, Figure, Found, Range, Reads, Result, Retries, SNAPSHOT_AGE_TICKS_MAX, Slice,
    Snapshot, Store,
};
use crate::{
    clock::{TickClock, WallTime},
    store::keys::Keys,
    version::Version,
};

/// Commits waiting for the writer; a further one waits in its task.
const QUEUE_BATCHES_MAX: usize = 64;
/// Block cache, in bytes.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;

pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<Writer>>,
    readers: Arc<Readers>,
    retries: Retries,
    closed: CancellationToken,
}

struct Writer {
    queue: mpsc::Sender<Request>,
    thread: std::thread::JoinHandle<()>,
}

struct Shared {
    wall: WallTime,
    /// `None` once closed.
    state: Mutex<Option<State>>,
    published: watch::Sender<Version>,
}

struct State {
    db: Database,
    tables: Arc<Tables>,
    clock: TickClock,
    view: fjall::Snapshot,
    visible: Version,
    /// The tick of the group being written: already stamped, not yet in `view`.
    committing: Option<u64>,
}

impl Embedded {
    /// Opens or creates the store in `folder`. Blocks on the disk.
    pub fn open(folder: &Path, wall: WallTime) -> Result<Self> {
        let failed = |error: fjall::Error| open_error(folder, error);
        std::fs::create_dir_all(folder).map_err(|error| {
            Error::Open(format!(
                "cannot create the data folder {}: {error}",
                folder.display()
            ))
        })?;
        let db = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .open()
            .map_err(failed)?;
        let keys = EngineKeys::new();
        let tables = Arc::new(Tables::open(&db, Keys::before_opening(b""))?);
        let view = db.snapshot();
        let visible = match tables.get(&view, &keys.last)? {
            None => Version::moment(0, 0),
            Some(last) => match <[u8; 16]>::try_from(&last[..]) {
                Ok(last) => Version::from_bytes(last),
                Err(_) => return Err(super::keys::corrupt(&keys.last, "not a version")),
            },
        };
        tables.recent.begin(visible);
        let clock = TickClock::new(wall.clone(), visible)
            .map_err(|error| Error::Open(error.to_string()))?;
        let state = State {
            view,
            db,
            tables,
            clock,
            visible,
            committing: None,
        };
        let shared = Arc::new(Shared {
            wall,
            state: Mutex::new(Some(state)),
            published: watch::Sender::new(visible),
        });

        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write_groups(&shared, &keys, requests)
            })
            .map_err(|error| Error::Open(format!("cannot start the writer thread: {error}")))?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(Writer { queue, thread })),
            readers: Arc::default(),
            retries: Retries::default(),
            closed: CancellationToken::new(),
        })
    }
}

fn open_error(folder: &Path, error: fjall::Error) -> Error {
    let folder = folder.display();
    Error::Open(match error {
        fjall::Error::Locked => format!(
            "the data folder {folder} is in use by another process: stop that one, or give this one another --data"
        ),
        fjall::Error::InvalidVersion(found) => {
            format!(
                "the data folder {folder} is of another storage format ({found:?}): use the newsfeed version that wrote it"
            )
        }
        other => format!("cannot open the data folder {folder}: {other}"),
    })
}

/// The keys the engine itself reads or writes.
struct EngineKeys {
    epoch: Vec<u8>,
    last: Vec<u8>,
}

impl EngineKeys {
    fn new() -> Self {
        let keys = Keys::before_opening(b"");
        Self {
            epoch: keys.epoch(),
            last: keys.last(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Embedded {
    fn view(&self) -> Result<View> {
        let queue = match &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => writer.queue.downgrade(),
            None => return Err(Error::Closed),
        };
        let mut state = self.shared.state();
        let state = state.as_mut().ok_or(Error::Closed)?;
        // A group being written may hold a twin of what this snapshot's owner will append: count from before it.
        let taken_at = match state.committing {
            Some(tick) => tick - 1,
            None => state
                .clock
                .tick()
                .map_err(|error| Error::Unavailable(error.to_string()))?,
        };
        Ok(View {
            tables: Arc::clone(&state.tables),
            view: state.view.clone(),
            version: state.visible,
            taken_at,
            wall: self.shared.wall.clone(),
            queue,
            readers: Arc::clone(&self.readers),
        })
    }
}

#[async_trait]
impl Store for Embedded {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        let view = self.view()?;
        let found = match reads.is_empty() {
            true => Found::default(),
            false => view.read(reads).await?,
        };
        Ok((Box::new(view), found))
    }

    async fn changed(&self, seen: Version) -> Result<()> {
        let mut published = self.shared.published.subscribe();
        let rung = async {
            let rung = published.wait_for(|&version| version > seen).await;
            rung.map(|_| ()).map_err(|_| Error::Closed)
        };
        self.closed
            .run_until_cancelled(rung)
            .await
            .unwrap_or(Err(Error::Closed))
    }

    fn retries(&self) -> &Retries {
        &self.retries
    }

    fn figures(&self) -> Vec<Figure> {
        let db = self.shared.state().as_ref().map(|state| state.db.clone());
        db.map_or_else(Vec::new, |db| figures::of(&db))
    }

    fn is_alive(&self) -> bool {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Without one the store was closed.
        writer
            .as_ref()
            .is_none_or(|writer| !writer.thread.is_finished())
    }

    async fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Writer { queue, thread }) = writer {
            self.closed.cancel();
            drop(queue);
            // The thread ends when the last commit under way, which holds a sender too, is answered.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer thread panicked");
            }
            let state = self.shared.state().take();
            let _ = tokio::task::spawn_blocking(move || drop(state)).await;
        }
    }
}

struct View {
    tables: Arc<Tables>,
    view: fjall::Snapshot,
    version: Version,
    taken_at: u64,
    wall: WallTime,
    /// Weak, so that the writer ends when the store closes although snapshots are held.
    queue: mpsc::WeakSender<Request>,
    readers: Arc<Readers>,
}

fn unavailable(error: fjall::Error) -> Error {
    Error::Unavailable(error.to_string())
}

#[async_trait]
impl Snapshot for View {
    fn version(&self) -> Version {
        self.version
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        if self.wall.micros().saturating_sub(self.taken_at) >= SNAPSHOT_AGE_TICKS_MAX {
            return Err(Error::TooOld);
        }
        let silent = |range: &Range| self.tables.recent.is_silent(range);
        if reads.keys.is_empty() && reads.ranges.iter().all(silent) {
            return Ok(Found {
                slices: vec![Slice::default(); reads.ranges.len()],
                values: Vec::new(),
            });
        }
        let (tables, view) = (Arc::clone(&self.tables), self.view.clone());
        self.readers.read(tables, view, reads).await
    }

    fn checks_claims(&self) -> bool {
        true
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self {
            version,
            taken_at,
            queue,
            view,
            ..
        } = *self;
        drop(view);
        let queue = queue.upgrade().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            batch,
            epoch: version.epoch(),
            taken_at,
            reply,
        };
        queue.send(request).await.map_err(|_| Error::Closed)?;
        drop(queue);
        answer.await.unwrap_or(Err(Error::Unknown))
    }
}
