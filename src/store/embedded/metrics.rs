//! Metrics of the engine.

use std::sync::atomic::Ordering;

use fjall::Database;

use super::{readers::Readers, shared::Shared};
use crate::store::Figure;

pub(super) fn of(db: &Database, shared: &Shared, readers: &Readers) -> Vec<Figure> {
    let gauge = |name, help, value| Figure {
        name,
        help,
        value,
        is_counter: false,
    };
    let counter = |name, help, value| Figure {
        is_counter: true,
        ..gauge(name, help, value)
    };
    let mut figures = vec![
        gauge(
            "store_memtable_bytes",
            "Data in memory that has not been written to a table on disk yet",
            db.write_buffer_size() as f64,
        ),
        gauge(
            "store_cache_bytes",
            "Blocks of tables cached in memory",
            db.cache_size() as f64,
        ),
        gauge(
            "store_flushes_pending",
            "Memtables waiting to be written to disk; if the number grows, the disk is too slow and commits will be delayed",
            db.outstanding_flushes() as f64,
        ),
        gauge(
            "store_compactions_running",
            "Compactions that are running",
            shared.compactions.running.load(Ordering::Relaxed) as f64,
        ),
        counter(
            "store_compactions",
            "Completed compactions",
            shared.compactions.completed.load(Ordering::Relaxed) as f64,
        ),
        counter(
            "store_compaction_seconds",
            "Time spent in compactions",
            shared.compactions.micros.load(Ordering::Relaxed) as f64 / 1e6,
        ),
        counter(
            "store_group_commits",
            "Group commits, each written to the disk with one sync",
            shared.group_commits.load(Ordering::Relaxed) as f64,
        ),
        counter(
            "store_reads_abandoned",
            "Reads that were dropped before they began, because their requests had been cancelled",
            readers.abandoned.load(Ordering::Relaxed) as f64,
        ),
    ];
    // This asks the file system. If that fails, writes fail too, and the log says so.
    if let Ok(bytes) = db.disk_space() {
        let help = "Disk space used by tables and journals";
        figures.push(gauge("store_disk_bytes", help, bytes as f64));
    }
    figures
}
