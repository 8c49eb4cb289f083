//! Opens a database whose folder may be damaged, and reports what is wrong with it.

use std::{
    fs::File,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use fjall::Database;

use super::{
    check::{Depth, Survey, is_absent, survey, survey_and_mend},
    settings,
    shared::{EngineKeys, Open},
    tables::{self, Tables},
};
use crate::{
    store::{Error, Result, keys::Keys, values::decode_version},
    version::Version,
};

/// Size of the block cache, in bytes.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;

/// The moment of a store in which nothing has been committed.
pub(super) const NOTHING: Version = Version::moment(0, 0);

/// Threads of the engine, which write data from memory to files. One more than threads that compact.
pub(super) fn worker_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.clamp(2, 4)
}

/// Opens or creates the database in `folder`. Also returns the moment of its last commit.
pub(super) fn open_database(folder: &Path, keys: &EngineKeys) -> Result<(Open, Version)> {
    refuse_if_damaged(folder)?;
    // Damaged files can make the engine panic.
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_> {
        apply_settings(folder);
        let db = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .worker_threads(worker_threads())
            .open()
            .map_err(|error| open_error(folder, error))?;
        let tables = Arc::new(Tables::open(db, Keys::before_opening(b""))?);
        let view = tables.db().snapshot();
        let last = tables.get(&view, &keys.last)?;
        Ok((Open { tables, view }, last))
    }));
    let opened = opened.unwrap_or_else(|_| Err(damaged(folder, "the engine panicked")));
    let (open, last) = opened.map_err(|error| match error {
        Error::Damaged(what) => match survey(folder, Depth::Full).damages.first() {
            Some(damage) => damaged(folder, format!("{damage} ({what})")),
            None => damaged(folder, what),
        },
        other => other,
    })?;
    let visible = match last {
        None => NOTHING,
        Some(last) => decode_version(&keys.last, &last)?,
    };
    open.tables.recent.begin(visible);
    Ok((open, visible))
}

/// Refuses to open a damaged folder, because opening could make the damage worse; see [`super::check`].
fn refuse_if_damaged(folder: &Path) -> Result<()> {
    // Another process has the store open; opening it will fail.
    let Ok(_lock) = lock(folder) else {
        return Ok(());
    };
    let found = survey_and_mend(folder)
        .map_err(|error| Error::Open(format!("cannot read {}: {error}", folder.display())))?;
    match found.damages.first() {
        Some(damage) => Err(damaged(folder, damage)),
        None => Ok(()),
    }
}

/// Gives the tables of an earlier release the settings of this one. If the disk cannot be written, they remain as they are.
fn apply_settings(folder: &Path) {
    let Ok(_lock) = lock(folder) else { return };
    match settings::apply(folder, &tables::TABLES) {
        Ok(0) => {}
        Ok(changed) => tracing::info!(
            changed,
            "the store has the settings of this release; `newsfeed admin compact` rewrites the files that were written with others"
        ),
        Err(error) => {
            tracing::warn!(%error, "the settings of the store's tables stay those of an earlier release")
        }
    }
}

/// Locks the store in `folder` until the file is dropped; `None` if the folder contains no store yet.
fn lock(folder: &Path) -> Result<Option<File>> {
    match File::open(folder.join("lock")) {
        Ok(file) if file.try_lock().is_ok() => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => Err(open_error(folder, fjall::Error::Locked)),
    }
}

/// Checks all files of the store in `folder`, which must not be open.
pub fn check_files(folder: &Path) -> Result<Survey> {
    must_exist(folder)?;
    let _lock = lock(folder)?;
    Ok(survey(folder, Depth::Full))
}

/// Fails if `folder` contains no store.
pub(super) fn must_exist(folder: &Path) -> Result<()> {
    match is_absent(folder) {
        true => Err(no_store(folder)),
        false => Ok(()),
    }
}

/// The error for a folder without a store.
pub fn no_store(folder: &Path) -> Error {
    Error::Open(format!(
        "there is no store in {}: specify the data folder of an existing store",
        folder.display()
    ))
}

fn damaged(folder: &Path, what: impl std::fmt::Display) -> Error {
    let folder = folder.display();
    Error::Open(format!(
        "the store in {folder} is damaged: {what}. Restore the folder from a backup (everything appended since the backup is \
         lost). `newsfeed admin check --data {folder}` lists all damaged files"
    ))
}

/// Explains an error of the engine, which does not name the damaged file.
fn open_error(folder: &Path, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Locked => Error::Open(format!(
            "the data folder {} is in use by another process: stop that process, or use another folder",
            folder.display()
        )),
        fjall::Error::InvalidVersion(Some(found)) => Error::Open(format!(
            "the data folder {} has another storage format ({found:?}): use the newsfeed version that wrote it",
            folder.display()
        )),
        other => match survey(folder, Depth::Full).damages.first() {
            Some(damage) => damaged(folder, format!("{damage} ({other})")),
            None => Error::Open(format!(
                "cannot open the data folder {}: {other}",
                folder.display()
            )),
        },
    }
}

/// An error while reading: of the disk, which may recover, or because of damaged files.
pub(super) fn read_error(error: fjall::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    match &error {
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io))
            if !matches!(
                io.kind(),
                InvalidData | InvalidInput | NotFound | UnexpectedEof
            ) =>
        {
            Error::Unavailable(error.to_string())
        }
        _ => Error::Damaged(error.to_string()),
    }
}
