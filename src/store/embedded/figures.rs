//! What fjall tells of itself.

use fjall::Database;

use crate::store::Figure;

pub(super) fn of(db: &Database) -> Vec<Figure> {
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
            "Written, and not yet in a table of the disk",
            db.write_buffer_size() as f64,
        ),
        gauge(
            "store_cache_bytes",
            "Blocks of tables held in memory",
            db.cache_size() as f64,
        ),
        gauge(
            "store_flushes_pending",
            "Memtables that wait to become tables; if they grow, the disk is too slow and commits will be held up",
            db.outstanding_flushes() as f64,
        ),
        gauge(
            "store_compactions_running",
            "Compactions that run now",
            db.active_compactions() as f64,
        ),
        counter(
            "store_compactions",
            "Compactions that are done",
            db.compactions_completed() as f64,
        ),
        counter(
            "store_compaction_seconds",
            "Time spent in compactions",
            db.time_compacting().as_secs_f64(),
        ),
    ];
    // It asks the file system; if that does not answer, the log of the writer says more.
    if let Ok(bytes) = db.disk_space() {
        let help = "Disk space of the store, tables and journal";
        figures.push(gauge("store_disk_bytes", help, bytes as f64));
    }
    figures
}
