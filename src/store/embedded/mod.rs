//! The embedded engine: fjall (an LSM tree), one writer thread, and group commit with one fsync per group.
//!
//! Invariants:
//! - Readers see the view that was published after the fsync of the last group: nothing that a crash could undo.
//! - The version of a snapshot is the tick of the last published group. The tick of the next group is later, even after a
//!   restart with the wall clock set back, because the last tick is stored. So no commit is stamped at or below a version
//!   that a reader has been given.
//! - If a batch asks for it, its claims are checked at commit: events that were appended normally have no twins.
//! - A commit is refused if its tick is [`SNAPSHOT_AGE_TICKS_MAX`](super::SNAPSHOT_AGE_TICKS_MAX) or more after the
//!   snapshot was taken.
//! - Nothing is committed in the epoch of an earlier life of the store, see [`Embedded::open_to_serve`].
//! - After a failed write, nothing is written until the database has been reopened from what is on disk. Until then,
//!   reads continue: everything visible was on disk before it became visible.
//!
//! - [`threads`]: the background threads and how they end. [`shared`]: what they share. [`view`]: snapshots.
//! - [`writer`]: group commit. [`recovery`]: monitoring of the disk, and reopening. [`space`]: the reserve of disk space.
//! - [`readers`]: reads, outside the async runtime. [`tables`]: where keys are stored, and [`settings`], in which form.
//!   [`recent`]: which logs are empty.
//! - [`open`] and [`check`]: opening a database, and finding damaged files. [`private`]: permissions of the folder.
//!   [`metrics`]: metrics of fjall. [`pin`](mod@pin): a copy of the store for a backup. [`compaction`]: merging files of
//!   tables. [`removals`] and [`cleaning`]: taking removed data off the disk.

pub mod check;
mod cleaning;
mod compaction;
mod metrics;
mod open;
mod pin;
mod private;
mod readers;
mod recent;
mod recovery;
mod removals;
mod settings;
mod shared;
mod space;
mod tables;
mod threads;
mod view;
mod writer;

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use self::{
    cleaning::{Extent, clean},
    open::{NOTHING, must_exist, open_database},
    pin::pin,
    readers::{JOBS_MAX, Readers},
    shared::{EngineKeys, Shared, State},
    threads::Threads,
    view::View,
    writer::begin_epoch,
};
pub use self::{
    open::{check_files, no_store},
    pin::table_files,
    space::disk_bytes,
};
use super::{Error, Figure, Found, Pinned, Reads, Result, Snapshot, Store, StoreErrors};
use crate::{
    clock::{TickClock, WallTime},
    version::Version,
};

pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` once closed.
    threads: Mutex<Option<Threads>>,
    readers: Arc<Readers>,
    errors: StoreErrors,
    closed: CancellationToken,
}

impl Embedded {
    /// Opens or creates the store in `folder`. Blocks on the disk.
    pub fn open(folder: &Path, wall: WallTime) -> Result<Self> {
        let (shared, _) = Self::load(folder, wall, 0)?;
        shared.is_whole()?;
        Self::start(shared)
    }

    /// Opens or creates the store in `folder` as the target of a copy, which may be unfinished. `reserve_bytes` as for
    /// [`Self::open_to_serve`]. Blocks on the disk.
    pub fn open_to_copy(folder: &Path, wall: WallTime, reserve_bytes: u64) -> Result<Self> {
        let (shared, _) = Self::load(folder, wall, reserve_bytes)?;
        Self::start(shared)
    }

    /// Opens the store in `folder`, which must exist. Blocks on the disk.
    pub fn open_existing(folder: &Path, wall: WallTime) -> Result<Self> {
        must_exist(folder)?;
        Self::open(folder, wall)
    }

    /// Opens or creates the store in `folder` for a service: a new life of the store, with an epoch of its own, because the
    /// folder may be a copy that was put back. If the disk cannot be written now, the epoch begins with the first commit.
    ///
    /// Keeps `reserve_bytes` of the file system free: below that, commits fail with [`Error::Full`]. Blocks on the disk.
    pub fn open_to_serve(folder: &Path, wall: WallTime, reserve_bytes: u64) -> Result<Self> {
        let (shared, exists) = Self::load(folder, wall, reserve_bytes)?;
        shared.is_whole()?;
        if exists {
            if let Some(state) = &mut *shared.state() {
                state.begins_epoch = true;
            }
            match begin_epoch(&shared) {
                Ok(()) => {}
                Err(error @ (Error::Full | Error::Unavailable(_) | Error::Unknown)) => {
                    tracing::warn!(
                        %error,
                        "the store cannot be written; reads are answered, and a new epoch begins with the first append"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Self::start(shared)
    }

    /// Also returns whether there was a store.
    fn load(folder: &Path, wall: WallTime, reserve_bytes: u64) -> Result<(Arc<Shared>, bool)> {
        private::create(folder).map_err(|error| {
            Error::Open(format!(
                "cannot create the data folder {}: {error}",
                folder.display()
            ))
        })?;
        let keys = EngineKeys::new();
        let (open, visible) = open_database(folder, &keys)?;
        let exists = visible != NOTHING;
        let clock = TickClock::new(wall.clone(), visible)
            .map_err(|error| Error::Open(error.to_string()))?;
        let state = State {
            open: Some(open),
            clock,
            visible,
            committing: None,
            begins_epoch: false,
        };
        let shared = Shared::new(folder, keys, wall, state, reserve_bytes);
        Ok((Arc::new(shared), exists))
    }

    /// Rewrites all files of the store: what was removed is taken off the disk. Blocks until that is done.
    pub fn compact(&self) -> Result<()> {
        clean(&self.shared, Extent::All, &|| false)
    }

    fn start(shared: Arc<Shared>) -> Result<Self> {
        Ok(Self {
            threads: Mutex::new(Some(Threads::start(&shared)?)),
            shared,
            readers: Arc::default(),
            errors: StoreErrors::default(),
            closed: CancellationToken::new(),
        })
    }

    async fn view(&self) -> Result<View> {
        self.shared.reopened().await;
        let queue = match &*self.threads.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(threads) => threads.queue(),
            None => return Err(Error::Closed),
        };
        View::of(&self.shared, queue, &self.readers)
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

    async fn wait_for_commit(&self, seen: Version) -> Result<()> {
        let mut published = self.shared.published.subscribe();
        let commit = async {
            let commit = published.wait_for(|&version| version > seen).await;
            commit.map(|_| ()).map_err(|_| Error::Closed)
        };
        self.closed
            .run_until_cancelled(commit)
            .await
            .unwrap_or(Err(Error::Closed))
    }

    fn moment_if_unchanged(&self, prefix: &[u8], since: Version) -> Option<Version> {
        let (tables, now) = {
            let state = self.shared.state();
            let state = state.as_ref()?;
            (Arc::clone(&state.open.as_ref()?.tables), state.visible)
        };
        // A group is noted before it becomes visible, so all groups up to `now` have been noted.
        tables.recent.is_unchanged(prefix, since).then_some(now)
    }

    fn errors(&self) -> &StoreErrors {
        &self.errors
    }

    async fn pin(&self) -> Result<Option<Pinned>> {
        let shared = Arc::clone(&self.shared);
        let pinned = tokio::task::spawn_blocking(move || pin(&shared)).await;
        let pinned = pinned.unwrap_or_else(|_| Err(Error::Damaged("the engine panicked".into())));
        pinned.map(Some)
    }

    fn reads_at_once(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        JOBS_MAX.max(2 * processors)
    }

    fn figures(&self) -> Vec<Figure> {
        let tables = self.shared.tables();
        tables.map_or_else(Vec::new, |tables| {
            metrics::of(tables.db(), &self.shared, &self.readers)
        })
    }

    fn is_alive(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed store has no threads.
        threads.as_ref().is_none_or(Threads::are_running)
    }

    async fn close(&self) {
        let threads = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(threads) = threads {
            self.closed.cancel();
            threads.stop().await;
            let state = self.shared.state().take();
            let _ = tokio::task::spawn_blocking(move || drop(state)).await;
        }
    }
}
