//! The watch: looks at the disk, and opens the database again after a failed write.
//!
//! After a failed write or fsync the engine refuses all writes, rightly: the file system may have dropped what it could
//! not write, and still show it. So what the journals show is written and synced anew before it is believed.

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

use super::{Health, Shared, open::open_database, tables::Tables};
use crate::store::{Error, Result};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts to open the database again; doubled at each, until it has been well for as long as the last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long reads and commits under way may hold the failed database.
const HELD_TIME_MAX: Duration = Duration::from_secs(30);
const COPY_BYTES: usize = 256 * 1024;

/// Runs until `ended` is.
pub(super) fn run(shared: &Shared, ended: &Receiver<()>) {
    let mut pause = PAUSE_MIN;
    let mut last_attempt = None::<Instant>;
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let was_low = shared.space.is_low();
        shared.space.look();
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
            Ok(()) => tracing::warn!("the store writes again"),
            Err(error) => tracing::error!(%error, "the database cannot be opened again yet"),
        }
        last_attempt = Some(Instant::now());
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A flush or compaction may fail while nobody appends.
fn notice_failure(shared: &Shared) {
    if *shared.health.borrow() != Health::Well {
        return;
    }
    let tables = match &*shared.state() {
        Some(state) => state.open.as_ref().map(|open| Arc::clone(&open.tables)),
        None => None,
    };
    if let Some(tables) = tables
        && let Err(error) = tables.db().persist(PersistMode::Buffer)
    {
        shared.note_failed_write(&error);
    }
}

/// Closes the failed database, if that is still open, and opens it again from what is on the disk.
fn reopen(shared: &Shared) -> Result<()> {
    let unwell = |error: io::Error| Error::Unavailable(error.to_string());
    // A disk that cannot be written serves reads best as it is.
    write_probe(&shared.folder).map_err(unwell)?;
    shared.set_health(Health::Away);
    let failed = shared.state().as_mut().and_then(|state| state.open.take());
    if let Some(failed) = failed {
        if !is_let_go(&failed.tables) {
            if let Some(state) = &mut *shared.state() {
                state.open = Some(failed);
            }
            shared.set_health(Health::Failed);
            return Err(Error::Unavailable("a read goes on".into()));
        }
        drop(failed);
    }
    write_journals_anew(&shared.folder).map_err(unwell)?;
    let (open, visible) = open_database(&shared.folder, &shared.keys)?;
    if let Some(state) = &mut *shared.state() {
        state.open = Some(open);
        state.visible = visible;
        state.clock.set_epoch(visible.epoch());
    }
    shared.set_health(Health::Well);
    // A commit whose outcome was unknown may be among what was found.
    shared.published.send_replace(visible);
    Ok(())
}

/// Whether nobody else uses `tables` any more, having waited for it.
fn is_let_go(tables: &Arc<Tables>) -> bool {
    let since = Instant::now();
    while Arc::strong_count(tables) > 1 {
        if since.elapsed() >= HELD_TIME_MAX {
            return false;
        }
        // Where the writer may be waiting, in a commit that is on disk already.
        if let Err(error) = tables.finish_flushes() {
            tracing::warn!(%error, "what is in memory cannot be written yet");
        }
        sleep(Duration::from_millis(5));
    }
    true
}

/// Whether a file can be written and synced.
fn write_probe(folder: &Path) -> io::Result<()> {
    let path = folder.join("probe");
    let file = File::create(&path)?;
    file.write_all_at(&[1; 4096], 0)?;
    file.sync_all()?;
    std::fs::remove_file(path)
}

fn write_journals_anew(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            write_anew(&file)?;
        }
    }
    Ok(())
}

/// Writes what `file` shows where it is, so that the sync answers for all of it; its holes stay holes.
fn write_anew(file: &File) -> io::Result<()> {
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
    fn what_is_written_anew_is_the_same() {
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
        write_anew(&file).expect("written anew");
        let mut read = vec![0; content.len()];
        file.read_exact_at(&mut read, 0).expect("read");
        assert!(read == content);
        assert_eq!(file.metadata().expect("there").len(), content.len() as u64);
    }
}
