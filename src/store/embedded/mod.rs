//! The embedded engine: fjall, one writer thread, group commit with one fsync.
//!
//! Invariants:
//! - A reader's view is the one published after the last group's fsync, so nobody sees what a crash could undo.
//! - A snapshot's version is the last published tick. The next group's tick is later (also after a restart with
//!   the wall clock set back, since that tick is stored), so no commit lands at or below a version handed out.
//! - Claims are checked as they are committed if the batch asks for it: what is appended has no twins here.
//! - A commit is refused when its tick lies [`SNAPSHOT_AGE_TICKS_MAX`] or more after the snapshot was taken.
//! - After a failed write nothing is written until the database has been opened again, from what the disk holds; what
//!   was visible stays readable meanwhile, since it was on disk before it was visible.

pub mod check;
mod figures;
mod open;
mod readers;
mod recent;
mod space;
mod tables;
mod watch;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::open::check;
use self::{
    open::open_database,
    readers::Readers,
    space::Space,
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

/// How long a read waits while the database is opened again.
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(15);
/// A commit under way when the database failed is answered at the latest after this.
const FAILED_ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long closing waits for the writer, which may wait for a disk that has no room, and for the watch.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);

pub struct Embedded {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    readers: Arc<Readers>,
    retries: Retries,
    closed: CancellationToken,
}

struct Threads {
    queue: mpsc::Sender<Request>,
    writer: JoinHandle<()>,
    /// Dropped, it ends the watch.
    end_watch: blocking::Sender<()>,
    watch: JoinHandle<()>,
}

struct Shared {
    folder: PathBuf,
    keys: EngineKeys,
    wall: WallTime,
    space: Space,
    /// Reading has found damage.
    is_damaged: AtomicBool,
    /// `None` once closed.
    state: Mutex<Option<State>>,
    health: tokio::sync::watch::Sender<Health>,
    published: tokio::sync::watch::Sender<Version>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    /// A write failed: this database is read, and no longer written.
    Failed,
    /// It is being opened again.
    Away,
}

struct State {
    /// `None` while it is opened again.
    open: Option<Open>,
    clock: TickClock,
    visible: Version,
    /// The tick of the group being written: already stamped, not yet in the view.
    committing: Option<u64>,
}

/// An open database and what readers see of it.
struct Open {
    tables: Arc<Tables>,
    view: fjall::Snapshot,
}

impl Embedded {
    /// Opens or creates the store in `folder`, which may fill the disk. Blocks on the disk.
    pub fn open(folder: &Path, wall: WallTime) -> Result<Self> {
        Self::open_with(folder, wall, 0)
    }

    /// Opens or creates the store in `folder`, and leaves `reserve_bytes` of its file system free. Blocks on the disk.
    pub fn open_with(folder: &Path, wall: WallTime, reserve_bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| {
            Error::Open(format!(
                "cannot create the data folder {}: {error}",
                folder.display()
            ))
        })?;
        let keys = EngineKeys::new();
        let (open, visible) = open_database(folder, &keys)?;
        let clock = TickClock::new(wall.clone(), visible)
            .map_err(|error| Error::Open(error.to_string()))?;
        let state = State {
            open: Some(open),
            clock,
            visible,
            committing: None,
        };
        let shared = Arc::new(Shared {
            space: Space::new(folder, reserve_bytes),
            is_damaged: AtomicBool::new(false),
            folder: folder.to_owned(),
            keys,
            wall,
            state: Mutex::new(Some(state)),
            health: tokio::sync::watch::Sender::new(Health::Well),
            published: tokio::sync::watch::Sender::new(visible),
        });

        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = spawn("store-writer", {
            let shared = Arc::clone(&shared);
            move || write_groups(&shared, requests)
        })?;
        let (end_watch, ended) = blocking::channel();
        let watch = spawn("store-watch", {
            let shared = Arc::clone(&shared);
            move || watch::run(&shared, &ended)
        })?;
        Ok(Self {
            shared,
            threads: Mutex::new(Some(Threads {
                queue,
                writer,
                end_watch,
                watch,
            })),
            readers: Arc::default(),
            retries: Retries::default(),
            closed: CancellationToken::new(),
        })
    }
}

/// Whether `thread` ends well, and in time. Blocks.
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

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| Error::Open(format!("cannot start the thread {name}: {error}")))
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

    /// Why nothing can be written now.
    fn refusal(&self) -> Option<Error> {
        if self.space.is_low() {
            return Some(Error::Full);
        }
        let health = *self.health.borrow();
        (health != Health::Well).then(|| {
            Error::Unavailable("a write failed; the database is being opened again".into())
        })
    }

    /// Looks for the file that is damaged, once: that takes as long as reading all there is.
    fn name_damage(&self) {
        if self.is_damaged.swap(true, Ordering::Relaxed) {
            return;
        }
        let folder = self.folder.clone();
        let search = spawn("store-check", move || {
            for damage in check::damaged_tables(&folder) {
                tracing::error!(%damage, "the store is damaged: restore its folder from a backup");
            }
        });
        if let Err(error) = search {
            tracing::warn!(%error, "cannot look for the damaged file");
        }
    }

    fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }
}

impl Embedded {
    async fn view(&self) -> Result<View> {
        if *self.shared.health.borrow() == Health::Away {
            let mut health = self.shared.health.subscribe();
            let back = health.wait_for(|&health| health != Health::Away);
            // In either case the next line tells.
            let _ = tokio::time::timeout(REOPEN_WAIT_MAX, back).await;
        }
        self.view_now()
    }

    fn view_now(&self) -> Result<View> {
        let queue = match &*self.threads.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(threads) => threads.queue.downgrade(),
            None => return Err(Error::Closed),
        };
        let mut state = self.shared.state();
        let state = state.as_mut().ok_or(Error::Closed)?;
        let Some(open) = &state.open else {
            return Err(Error::Unavailable(
                "the database is being opened again".into(),
            ));
        };
        // A group being written may hold a twin of what this snapshot's owner will append: count from before it.
        let taken_at = match state.committing {
            Some(tick) => tick - 1,
            None => state
                .clock
                .tick()
                .map_err(|error| Error::Unavailable(error.to_string()))?,
        };
        Ok(View {
            tables: Arc::clone(&open.tables),
            view: open.view.clone(),
            version: state.visible,
            taken_at,
            shared: Arc::clone(&self.shared),
            queue,
            readers: Arc::clone(&self.readers),
        })
    }
}

#[async_trait]
impl Store for Embedded {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        let view = self.view().await?;
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
        let tables = self
            .shared
            .state()
            .as_ref()
            .and_then(|state| Some(Arc::clone(&state.open.as_ref()?.tables)));
        tables.map_or_else(Vec::new, |tables| figures::of(tables.db()))
    }

    fn is_alive(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // Without them the store was closed.
        threads
            .as_ref()
            .is_none_or(|threads| !threads.writer.is_finished() && !threads.watch.is_finished())
    }

    async fn close(&self) {
        let threads = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Threads {
            queue,
            writer,
            end_watch,
            watch,
        }) = threads
        {
            self.closed.cancel();
            drop((queue, end_watch));
            // The writer ends when the last commit under way, which holds a sender too, is answered.
            for thread in [watch, writer] {
                let ended = tokio::task::spawn_blocking(move || has_ended(thread)).await;
                if !matches!(ended, Ok(true)) {
                    tracing::error!(
                        "a thread of the store panicked, or waits for a disk that does not answer"
                    );
                }
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
    shared: Arc<Shared>,
    /// Weak, so that the writer ends when the store closes although snapshots are held.
    queue: mpsc::WeakSender<Request>,
    readers: Arc<Readers>,
}

#[async_trait]
impl Snapshot for View {
    fn version(&self) -> Version {
        self.version
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        if self.shared.wall.micros().saturating_sub(self.taken_at) >= SNAPSHOT_AGE_TICKS_MAX {
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
        let found = self.readers.read(tables, view, reads).await;
        if let Err(Error::Damaged(_)) = found {
            self.shared.name_damage();
        }
        found
    }

    fn checks_claims(&self) -> bool {
        true
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self {
            version,
            taken_at,
            queue,
            shared,
            tables,
            view,
            ..
        } = *self;
        // The database cannot be opened again while they are held.
        drop((view, tables));
        if let Some(refusal) = shared.refusal() {
            return Err(refusal);
        }
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
        let mut health = shared.health.subscribe();
        let gone = async {
            let _ = health.wait_for(|&health| health != Health::Well).await;
            // The writer may be waiting, inside the engine, for a flush that failed.
            tokio::time::sleep(FAILED_ANSWER_WAIT_MAX).await;
        };
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or(Err(Error::Unknown)),
            () = gone => Err(Error::Unknown),
        }
    }
}
