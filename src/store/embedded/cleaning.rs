//! Takes removed data off the disk.
//!
//! What was removed, or replaced, remains in the journals and in the files of its table. A cleaning
//!
//! 1. fills the journal until the engine begins a new one. It does that at a size that cannot be set;
//! 2. flushes all tables, so that the engine deletes the old journals;
//! 3. merges each level of the tables that had removals into the next one, down to the last: only there, old values and the
//!    notes of their removal can go;
//! 4. waits until nobody reads the old files, which are then deleted.
//!
//! Appends and reads go on. A level is always merged into the one next to it, whatever other compactions do meanwhile: so
//! newer values stay above older ones.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use fjall::{AbstractTree, Keyspace, PersistMode};
use lsm_tree::compaction::PullDown;

use super::{
    check,
    shared::{Health, Shared},
    tables::Tables,
};
use crate::store::{Error, Result};

/// Removed data leaves the disk at the latest this long after its removal, plus the time that the cleaning takes.
const AFTER: Duration = Duration::from_hours(12);
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The pause after a failed cleaning.
const RETRY_AFTER: Duration = Duration::from_mins(10);

/// The last level of a table.
const LAST_LEVEL: u8 = 6;
/// How long each condition is waited for. Snapshots live 5 s, and another compaction may be under way.
const WAIT_MAX: Duration = Duration::from_mins(10);
const POLL_EVERY: Duration = Duration::from_millis(20);
const FORGET_EVERY: Duration = Duration::from_millis(100);

/// What a journal is filled with: removals of a key that does not exist.
static FILLER_KEY: [u8; 60_000] = [0xff; 60_000];
const FILLER_ITEMS: usize = 16;
/// The engine looks at the size of the journal when it flushes a table. Fillers between two flushes.
const FILLERS_PER_FLUSH: usize = 8;
/// Fillers after which a journal must have been full.
const FILLERS_MAX: usize = 200;
/// Files of the first level at which it is merged although the engine cannot do it: it slows down commits at 20.
const FIRST_LEVEL_FILES_MAX: usize = 8;

/// Runs until the sender of `ended` is dropped.
pub(super) fn run(shared: &Shared, ended: &Receiver<()>) {
    let mut failed = None::<Instant>;
    let is_ended = || ended.recv_timeout(Duration::ZERO) != Err(RecvTimeoutError::Timeout);
    while ended.recv_timeout(CHECK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if !shared.removals.is_due(shared.wall.micros(), AFTER)
            || failed.is_some_and(|at| at.elapsed() < RETRY_AFTER)
        {
            continue;
        }
        let began = Instant::now();
        match clean(shared, Extent::Removals, &is_ended) {
            Ok(()) => {
                let seconds = began.elapsed().as_secs();
                tracing::info!(seconds, "removed data has been taken off the disk");
                failed = None;
            }
            Err(_) if is_ended() => {}
            Err(error) => {
                tracing::warn!(%error, "removed data cannot be taken off the disk yet");
                failed = Some(Instant::now());
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The tables that had removals.
    Removals,
    All,
}

/// Takes all data off the disk that was removed before. Blocks until it is done, or fails soon after `is_ended`.
pub(super) fn clean(shared: &Shared, extent: Extent, is_ended: &dyn Fn() -> bool) -> Result<()> {
    let wait = Wait { is_ended };
    let begin = || {
        // Between two groups: what is noted has been committed.
        let _writing = shared
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.removals.begin()
    };
    let mut removals = None;
    wait.until("another cleaning to end", || {
        removals = begin();
        Ok(removals.is_some())
    })?;
    let result = Cleaning::begin(shared, wait).and_then(|cleaning| {
        cleaning.run(|name| extent == Extent::All || removals.iter().flatten().any(|it| it == name))
    });
    shared.removals.end(result.is_ok());
    result
}

struct Wait<'a> {
    is_ended: &'a dyn Fn() -> bool,
}

impl Wait<'_> {
    fn until(&self, what: &str, mut is_true: impl FnMut() -> Result<bool>) -> Result<()> {
        let since = Instant::now();
        while !is_true()? {
            if (self.is_ended)() {
                return Err(Error::Closed);
            }
            if since.elapsed() >= WAIT_MAX {
                return Err(Error::Unavailable(format!("waited too long for {what}")));
            }
            sleep(POLL_EVERY);
        }
        Ok(())
    }
}

struct Cleaning<'a> {
    shared: &'a Shared,
    tables: Arc<Tables>,
    wait: Wait<'a>,
}

impl<'a> Cleaning<'a> {
    fn begin(shared: &'a Shared, wait: Wait<'a>) -> Result<Self> {
        shared.refusal()?;
        let tables = shared.open_tables()?;
        Ok(Self {
            shared,
            tables,
            wait,
        })
    }

    fn run(&self, is_affected: impl Fn(&str) -> bool) -> Result<()> {
        let all = self.tables.all();
        let affected: Vec<&Keyspace> = all.iter().filter(|it| is_affected(it.name())).collect();
        self.check_space(&affected)?;
        // Everything that is to go was written before this.
        let removed = self.tables.db().visible_seqno();
        let journal = self.last_journal()?;
        self.fill_journal(journal)?;
        self.flush()?;
        self.wait.until("old journals to be deleted", || {
            self.is_well()?;
            Ok(self.first_journal()? > journal)
        })?;
        self.wait.until("old snapshots to end", || {
            self.forget_snapshots()?;
            Ok(self.tables.oldest_snapshot() + 1 >= removed)
        })?;
        let old: Vec<PathBuf> = affected.iter().flat_map(|table| files(table)).collect();
        for table in affected {
            for level in 0..LAST_LEVEL {
                self.merge(table, level)?;
            }
        }
        self.wait.until("old files to be deleted", || {
            self.forget_snapshots()?;
            Ok(!old.iter().any(|file| file.exists()))
        })
    }

    /// Tables are rewritten one after the other. Both forms of a table are on the disk until the old one is deleted.
    fn check_space(&self, affected: &[&Keyspace]) -> Result<()> {
        let sizes = affected.iter().map(|table| table.disk_space());
        match self.shared.space.has_room(sizes.sum()) {
            true => Ok(()),
            false => Err(Error::Full),
        }
    }

    fn is_well(&self) -> Result<()> {
        match *self.shared.health.borrow() {
            Health::Well => Ok(()),
            Health::Failed | Health::Reopening => Err(Error::Unavailable("a write failed".into())),
        }
    }

    fn journals(&self) -> Result<Vec<u64>> {
        let journals = check::journals(&self.shared.folder);
        let journals = journals.map_err(|damage| Error::Damaged(damage.to_string()))?;
        Ok(journals.into_iter().map(|(number, _)| number).collect())
    }

    fn first_journal(&self) -> Result<u64> {
        Ok(self.journals()?.first().copied().unwrap_or_default())
    }

    fn last_journal(&self) -> Result<u64> {
        Ok(self.journals()?.last().copied().unwrap_or_default())
    }

    /// Fills the journal with this number until there is a later one.
    fn fill_journal(&self, number: u64) -> Result<()> {
        for fillers in 1..=FILLERS_MAX {
            if self.last_journal()? > number {
                return Ok(());
            }
            if (self.wait.is_ended)() {
                return Err(Error::Closed);
            }
            self.write_filler(FILLER_ITEMS)?;
            if fillers.is_multiple_of(FILLERS_PER_FLUSH) {
                self.flush_table(self.tables.rest())?;
            }
        }
        Err(Error::Unavailable(
            "the engine does not begin a new journal".into(),
        ))
    }

    fn write_filler(&self, items: usize) -> Result<()> {
        let mut batch = self
            .tables
            .db()
            .batch()
            .durability(Some(PersistMode::Buffer));
        let key = fjall::Slice::from(&FILLER_KEY[..]);
        for _ in 0..items {
            batch.remove(self.tables.rest(), key.clone());
        }
        batch.commit().map_err(|error| {
            self.shared.note_failed_write(&error);
            Error::Unavailable(error.to_string())
        })
    }

    fn flush(&self) -> Result<()> {
        let all = self.tables.all();
        all.iter().try_for_each(|table| self.flush_table(table))
    }

    fn flush_table(&self, table: &Keyspace) -> Result<()> {
        table.rotate_memtable().map_err(unavailable)?;
        self.wait.until("a flush", || {
            self.is_well()?;
            Ok(table.sealed_memtable_count() == 0)
        })
    }

    /// Lets the engine forget the snapshots that nobody holds. It does so when it seals the data in memory of a table.
    fn forget_snapshots(&self) -> Result<()> {
        sleep(FORGET_EVERY);
        self.is_well()?;
        self.shared.renew_view();
        self.write_filler(1)?;
        self.flush_table(self.tables.rest())
    }

    /// Merges a level of `table` into the next one. The last two levels are always merged, so that the last one is rewritten.
    fn merge(&self, table: &Keyspace, level: u8) -> Result<()> {
        let into = level + 1;
        let version = table.tree.current_version();
        let ids = |level: u8| version.level(level.into()).map(|level| level.list_ids());
        let mut old: BTreeSet<u64> = ids(level).into_iter().flatten().collect();
        if into == LAST_LEVEL {
            old.extend(ids(into).into_iter().flatten());
        }
        drop(version);
        if old.is_empty() {
            return Ok(());
        }
        // The engine leaves the files alone if another compaction has them.
        self.wait.until("a compaction", || {
            self.is_well()?;
            let tables = &*self.tables;
            scope(|threads| {
                let merging = threads.spawn(|| merge_into_next(tables, table, level));
                while !merging.is_finished() {
                    sleep(POLL_EVERY);
                    if level > 1 && table.l0_table_count() >= FIRST_LEVEL_FILES_MAX {
                        merge_into_next(tables, table, 0)?;
                    }
                }
                let merged = merging.join();
                merged.unwrap_or_else(|_| Err(Error::Damaged("a compaction panicked".into())))
            })?;
            let version = table.tree.current_version();
            Ok(!version.iter_tables().any(|file| old.contains(&file.id())))
        })
    }
}

/// Does nothing if files of one of the two levels are being compacted.
fn merge_into_next(tables: &Tables, table: &Keyspace, level: u8) -> Result<()> {
    let merged = tables.compact(table, PullDown(level, level + 1));
    merged.map_err(|error| unavailable(error.into()))
}

/// The files of a table.
pub(super) fn files(table: &Keyspace) -> Vec<PathBuf> {
    let folder = table.path().join("tables");
    let version = table.tree.current_version();
    version
        .iter_tables()
        .map(|file| folder.join(file.id().to_string()))
        .collect()
}

fn unavailable(error: fjall::Error) -> Error {
    Error::Unavailable(error.to_string())
}
