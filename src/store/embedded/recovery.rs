//! The recovery thread: it monitors the disk, and reopens the database after a failed write.
//!
//! After a failed write or fsync the engine refuses all further writes, because the file system may have dropped data that
//! it still shows to readers. Therefore the contents of the journals are rewritten and synced before the database is
//! reopened from them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use fjall::PersistMode;

use super::{
    open::open_database,
    shared::{Health, Shared},
    tables::Tables,
};
use crate::store::{Error, Result};

const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The pause between two attempts to reopen the database. It doubles with each attempt, and starts again from the minimum
/// after the database has been well for as long as the last pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long reopening waits for reads and commits in flight to release the failed database.
const HELD_TIME_MAX: Duration = Duration::from_secs(30);
const COPY_BYTES: usize = 256 * 1024;

/// Runs until the sender of `ended` is dropped.
pub(super) fn run(shared: &Shared, ended: &Receiver<()>) {
    let mut pause = PAUSE_MIN;
    let mut last_attempt = None::<Instant>;
    while ended.recv_timeout(CHECK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let was_low = shared.space.is_low();
        shared.space.check();
        let is_low = shared.space.is_low();
        notice_failure(shared);
        let since = last_attempt.map_or(PAUSE_MAX, |at| at.elapsed());
        if *shared.health.borrow() == Health::Well {
            if since >= pause {
                pause = PAUSE_MIN;
            }
            continue;
        }
        let returned = was_low && !is_low;
        if is_low || !(returned || since >= pause) {
            continue;
        }
        match reopen(shared) {
            Ok(()) => tracing::warn!("the database has been reopened; appends are accepted"),
            Err(error) => tracing::error!(%error, "cannot reopen the database yet"),
        }
        last_attempt = Some(Instant::now());
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Notices a flush or compaction that failed while nothing was being appended.
fn notice_failure(shared: &Shared) {
    if *shared.health.borrow() != Health::Well {
        return;
    }
    if let Some(tables) = shared.tables()
        && let Err(error) = tables.db().persist(PersistMode::Buffer)
    {
        shared.note_failed_write(&error);
    }
}

/// Closes the failed database, if it is still open, and opens it again from what is on disk.
fn reopen(shared: &Shared) -> Result<()> {
    let unwell = |error: io::Error| Error::Unavailable(error.to_string());
    // While the disk cannot be written, the failed database stays open and serves reads.
    write_probe(&shared.folder).map_err(unwell)?;
    shared.set_health(Health::Reopening);
    let failed = shared.state().as_mut().and_then(|state| state.open.take());
    if let Some(failed) = failed {
        if !is_released(&failed.tables) {
            if let Some(state) = &mut *shared.state() {
                state.open = Some(failed);
            }
            shared.set_health(Health::Failed);
            return Err(Error::Unavailable(
                "reads or compactions of the failed database have not finished".into(),
            ));
        }
        drop(failed);
    }
    rewrite_journals(&shared.folder).map_err(unwell)?;
    let (open, visible) = open_database(&shared.folder, &shared.keys)?;
    if let Some(state) = &mut *shared.state() {
        state.open = Some(open);
        state.visible = visible;
        state.clock.set_epoch(visible.epoch());
    }
    shared.set_health(Health::Well);
    // The database may contain a commit whose outcome was unknown.
    shared.published.send_replace(visible);
    Ok(())
}

/// Waits until nobody else uses `tables`; `false` if that takes longer than [`HELD_TIME_MAX`].
fn is_released(tables: &Arc<Tables>) -> bool {
    let since = Instant::now();
    while Arc::strong_count(tables) > 1 {
        if since.elapsed() >= HELD_TIME_MAX {
            return false;
        }
        // The writer may be waiting for a flush, with a commit that is already on disk.
        if let Err(error) = tables.finish_flushes() {
            tracing::warn!(%error, "data in memory cannot be written to disk yet");
        }
        sleep(Duration::from_millis(5));
    }
    true
}

/// Checks that a file can be written and synced.
fn write_probe(folder: &Path) -> io::Result<()> {
    let path = folder.join("probe");
    let file = File::create(&path)?;
    file.write_all_at(&[1; 4096], 0)?;
    file.sync_all()?;
    std::fs::remove_file(path)
}

fn rewrite_journals(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            rewrite(&file)?;
        }
    }
    Ok(())
}

/// Rewrites the content of `file` in place, so that a successful sync covers all of it. Holes remain holes.
fn rewrite(file: &File) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        let bytes = &buffer[..read];
        if bytes.is_empty() {
            return file.sync_all();
        }
        if bytes.iter().any(|&byte| byte != 0) {
            file.write_all_at(bytes, at)?;
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewriting_does_not_change_a_file() {
        let file = tempfile::tempfile().expect("a file");
        let content: Vec<u8> = (0..3 * COPY_BYTES + 17)
            .map(|at| {
                if at / COPY_BYTES == 1 {
                    0
                } else {
                    (at % 251) as u8
                }
            })
            .collect();
        file.write_all_at(&content, 0).expect("written");
        rewrite(&file).expect("rewritten");
        let mut read = vec![0; content.len()];
        file.read_exact_at(&mut read, 0).expect("read");
        assert!(read == content);
        assert_eq!(file.metadata().expect("there").len(), content.len() as u64);
    }
}
