//! What the handle of a store, its snapshots and its threads share.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{
    check,
    compaction::Compactions,
    removals::Removals,
    space::Space,
    tables::{TABLES, Tables},
    threads::spawn,
};
use crate::{
    clock::{TickClock, WallTime},
    store::{Error, Result, copy::Unfinished, keys::Keys},
    version::Version,
};

/// How long a read waits while the database is being reopened.
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(15);

pub(super) struct Shared {
    pub(super) folder: PathBuf,
    pub(super) keys: EngineKeys,
    pub(super) wall: WallTime,
    pub(super) space: Space,
    pub(super) removals: Removals,
    /// Held while a group is written.
    pub(super) writing: Mutex<()>,
    /// Groups written since the start.
    pub(super) group_commits: AtomicU64,
    pub(super) compactions: Compactions,
    /// A read has found damage.
    is_damaged: AtomicBool,
    /// `None` once closed.
    state: Mutex<Option<State>>,
    pub(super) health: watch::Sender<Health>,
    /// The last published version whose commit asked to notify.
    pub(super) published: watch::Sender<Version>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    /// A write failed: the database can be read, but not written.
    Failed,
    /// The database is being reopened.
    Reopening,
}

pub(super) struct State {
    /// `None` while the database is being reopened.
    pub(super) open: Option<Open>,
    pub(super) clock: TickClock,
    /// The moment of `Open::view`.
    pub(super) visible: Version,
    /// The tick of the group being written: already stamped, but not yet in the view.
    pub(super) committing: Option<u64>,
    /// The store was opened for a new life: before anything else is committed, its epoch begins.
    pub(super) begins_epoch: bool,
}

/// An open database, and the view of it that readers get.
pub(super) struct Open {
    pub(super) tables: Arc<Tables>,
    pub(super) view: fjall::Snapshot,
}

/// The keys that the engine itself reads or writes.
pub(super) struct EngineKeys {
    pub(super) epoch: Vec<u8>,
    pub(super) last: Vec<u8>,
}

impl EngineKeys {
    pub(super) fn new() -> Self {
        let keys = Keys::before_opening(b"");
        Self {
            epoch: keys.epoch(),
            last: keys.last(),
        }
    }
}

impl Shared {
    pub(super) fn new(
        folder: &Path,
        keys: EngineKeys,
        wall: WallTime,
        state: State,
        reserve_bytes: u64,
    ) -> Self {
        Self {
            space: Space::new(folder, reserve_bytes),
            removals: Removals::load(folder, TABLES.iter().map(|(name, _)| *name)),
            writing: Mutex::new(()),
            group_commits: AtomicU64::new(0),
            compactions: Compactions::default(),
            is_damaged: AtomicBool::new(false),
            folder: folder.to_owned(),
            keys,
            wall,
            published: watch::Sender::new(state.visible),
            state: Mutex::new(Some(state)),
            health: watch::Sender::new(Health::Well),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables of the open database; `None` while it is being reopened, and once the store is closed.
    pub(super) fn tables(&self) -> Option<Arc<Tables>> {
        let state = self.state();
        Some(Arc::clone(&state.as_ref()?.open.as_ref()?.tables))
    }

    /// Fails if the store is an unfinished copy.
    pub(super) fn is_whole(&self) -> Result<()> {
        let key = Keys::before_opening(b"").meta();
        let state = self.state();
        let open = state.as_ref().and_then(|state| state.open.as_ref());
        let meta = open.map(|open| open.tables.get(&open.view, &key));
        match meta.transpose()?.flatten() {
            Some(meta) if Unfinished::is_in(&meta) => Err(Unfinished::refusal(&key, &meta)),
            _ => Ok(()),
        }
    }

    /// The tables of the open database.
    pub(super) fn open_tables(&self) -> Result<Arc<Tables>> {
        match &*self.state() {
            None => Err(Error::Closed),
            Some(State {
                open: Some(open), ..
            }) => Ok(Arc::clone(&open.tables)),
            Some(_) => Err(Error::Unavailable("the database is being reopened".into())),
        }
    }

    /// Replaces the view by one that shows the same but is newer for the engine, so that it can delete what the old one held.
    pub(super) fn renew_view(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = &mut *self.state()
            && let Some(open) = &mut state.open
        {
            open.view = open.tables.db().snapshot();
        }
    }

    /// Why nothing can be written now.
    pub(super) fn refusal(&self) -> Result<()> {
        if self.space.is_low() {
            return Err(Error::Full);
        }
        match *self.health.borrow() {
            Health::Well => Ok(()),
            Health::Failed | Health::Reopening => Err(Error::Unavailable(
                "a write failed; the database will be reopened".into(),
            )),
        }
    }

    pub(super) fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// Waits up to [`REOPEN_WAIT_MAX`] while the database is being reopened.
    pub(super) async fn reopened(&self) {
        if *self.health.borrow() == Health::Reopening {
            let mut health = self.health.subscribe();
            let back = health.wait_for(|&health| health != Health::Reopening);
            // If it is still away, taking the view fails.
            let _ = timeout(REOPEN_WAIT_MAX, back).await;
        }
    }

    /// Called after a failed write, after which the database refuses all further writes.
    pub(super) fn note_failed_write(&self, error: &fjall::Error) {
        match is_full(error) {
            true => self.space.note_full(),
            false => self.space.note_failure(),
        }
        self.set_health(Health::Failed);
        tracing::error!(
            %error,
            "the store cannot write; reads continue, and the database will be reopened once the disk can be written"
        );
    }

    /// Searches for the damaged file, once, and logs it. This reads the whole store, in a thread of its own.
    pub(super) fn find_damage(&self) {
        if self.is_damaged.swap(true, Ordering::Relaxed) {
            return;
        }
        let folder = self.folder.clone();
        let search = spawn("store-check", move || {
            for damage in check::damaged_tables(&folder) {
                tracing::error!(%damage, "the store is damaged: restore its data folder from a backup");
            }
        });
        if let Err(error) = search {
            tracing::warn!(%error, "cannot search for the damaged file");
        }
    }
}

fn is_full(error: &fjall::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            matches!(error.kind(), StorageFull | QuotaExceeded)
        }
        _ => false,
    }
}
