//! Compactions: merges files of the tables, in threads of our own.
//!
//! The engine queues compactions together with flushes, and keeps one of its threads free for the latter. While a compaction
//! is under way, that thread takes the next one out of the queue and puts it back, again and again, as fast as a processor
//! can (`worker_tick` of fjall 3.1). So the tables have settings with which the engine finds nothing to compact, and empties
//! its queue, unless these threads are far behind: see [`Settings`](super::settings::Settings).

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use fjall::{AbstractTree, Keyspace, compaction::Leveled};

use super::{
    shared::{Health, Shared},
    tables::Tables,
};

/// How often a thread looks for tables that have changed.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// What the threads have done since the start.
#[derive(Debug, Default)]
pub(super) struct Compactions {
    pub(super) running: AtomicUsize,
    pub(super) completed: AtomicU64,
    pub(super) micros: AtomicU64,
}

/// Runs until the sender of `ended` is dropped, and the compaction under way is complete.
pub(super) fn run(shared: &Shared, ended: &Receiver<()>) {
    // By table, the version of its files that needs no compaction.
    let mut settled = HashMap::new();
    let lasts = |time| ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    while lasts(CHECK_EVERY) {
        if *shared.health.borrow() != Health::Well {
            continue;
        }
        let Some(tables) = shared.tables() else {
            continue;
        };
        while let Some(table) = most_urgent(&tables, &settled)
            && *shared.health.borrow() == Health::Well
        {
            match compact(&tables, &table, &shared.compactions) {
                Ok(Some(version)) => {
                    settled.insert(table.name().to_string(), version);
                }
                Ok(None) => {}
                Err(error) => {
                    // If the files are damaged, opening the database again finds that.
                    shared.note_failed_write(&error.into());
                    break;
                }
            }
            if !lasts(Duration::ZERO) {
                return;
            }
        }
    }
}

/// A table that has changed since it needed no compaction: the one with the most files that every read has to look at.
fn most_urgent(tables: &Tables, settled: &HashMap<String, u64>) -> Option<Keyspace> {
    let tables = tables.all().into_iter().filter(|table| {
        let version = table.tree.current_version().id();
        settled.get(&**table.name()) != Some(&version)
    });
    tables.min_by_key(|table| Reverse(table.l0_table_count()))
}

/// Does what is most urgent in `table`. Returns the version of its files if nothing is, or if others compact the same files.
fn compact(
    tables: &Tables,
    table: &Keyspace,
    compactions: &Compactions,
) -> lsm_tree::Result<Option<u64>> {
    let began = Instant::now();
    let before = table.tree.current_version().id();
    compactions.running.fetch_add(1, Ordering::Relaxed);
    let compacted = tables.compact(table, Leveled::default());
    compactions.running.fetch_sub(1, Ordering::Relaxed);
    compacted?;
    if table.tree.current_version().id() == before {
        return Ok(Some(before));
    }
    let micros = began.elapsed().as_micros() as u64;
    compactions.micros.fetch_add(micros, Ordering::Relaxed);
    compactions.completed.fetch_add(1, Ordering::Relaxed);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::{
        clock::WallTime,
        store::embedded::{Embedded, cleaning::files},
    };

    /// Writes `count` files to the first level of a table. Each has all keys.
    fn write_files(table: &Keyspace, count: usize) {
        for _ in 0..count {
            for key in 0..100u32 {
                table.insert(key.to_be_bytes(), "value").expect("inserted");
            }
            table.rotate_memtable_and_wait().expect("written");
        }
    }

    fn wait_until(what: &str, is_true: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_true() {
            assert!(since.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn files_are_merged_before_the_engine_does_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path(), WallTime::system(0)).expect("opens");
        let tables = store.shared.tables().expect("open");
        let table = &tables.all()[0];
        let completed = || store.shared.compactions.completed.load(Ordering::Relaxed);
        for round in 0..3 {
            // The engine itself would begin at twelve.
            write_files(table, 6);
            wait_until("merged", || {
                table.l0_table_count() < 4 && completed() > round
            });
        }
        assert_eq!(
            table.get(7u32.to_be_bytes()).expect("read").as_deref(),
            Some(&b"value"[..])
        );
    }

    #[test]
    fn a_failed_compaction_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path(), WallTime::system(0)).expect("opens");
        let tables = store.shared.tables().expect("open");
        let table = &tables.all()[0];
        write_files(table, 3);
        for file in files(table) {
            let file = OpenOptions::new().write(true).open(file).expect("a file");
            file.set_len(10).expect("cut");
        }
        write_files(table, 3);
        wait_until("noticed", || *store.shared.health.borrow() != Health::Well);
    }
}
