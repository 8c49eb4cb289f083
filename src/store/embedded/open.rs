//! Opening the database in a folder that may be damaged, and saying what is wrong.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use fjall::Database;

use super::{
    CACHE_BYTES, EngineKeys, Open,
    check::{Depth, Survey, survey, survey_and_mend},
    tables::Tables,
};
use crate::{
    store::{
        Error, Result,
        keys::{Keys, corrupt},
    },
    version::Version,
};

/// Opens or creates the database in `folder`; answers the last moment it holds, too.
pub(super) fn open_database(folder: &Path, keys: &EngineKeys) -> Result<(Open, Version)> {
    look_first(folder)?;
    // What the engine did not expect in a file may make it panic.
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_> {
        let db = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .open()
            .map_err(|error| open_error(folder, error))?;
        let tables = Arc::new(Tables::open(db, Keys::before_opening(b""))?);
        let view = tables.db().snapshot();
        let last = tables.get(&view, &keys.last)?;
        Ok((Open { tables, view }, last))
    }));
    let (open, last) = opened.unwrap_or_else(|_| Err(damaged(folder, "the engine panicked")))?;
    let visible = match last {
        None => Version::moment(0, 0),
        Some(last) => match <[u8; 16]>::try_from(&last[..]) {
            Ok(last) => Version::from_bytes(last),
            Err(_) => return Err(corrupt(&keys.last, "not a version")),
        },
    };
    open.tables.recent.begin(visible);
    Ok((open, visible))
}

/// Refuses a damaged folder before the engine sees it.
fn look_first(folder: &Path) -> Result<()> {
    // Whoever holds the lock is writing; the engine will say so.
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

/// Locks the store in `folder` for as long as the file is held; there may be none yet.
fn lock(folder: &Path) -> Result<Option<File>> {
    match File::open(folder.join("lock")) {
        Ok(file) if file.try_lock().is_ok() => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => Err(open_error(folder, fjall::Error::Locked)),
    }
}

/// All that is damaged in the files of the store in `folder`, which nobody may have open, and how many they are.
pub fn check(folder: &Path) -> Result<Survey> {
    let _lock = lock(folder)?;
    match folder.is_dir() {
        true => Ok(survey(folder, Depth::Full)),
        false => Err(Error::Open(format!(
            "there is no store in {}",
            folder.display()
        ))),
    }
}

fn damaged(folder: &Path, what: impl std::fmt::Display) -> Error {
    let folder = folder.display();
    Error::Open(format!(
        "the store in {folder} is damaged: {what}. Restore the folder from a backup (what was appended since is lost); \
         `newsfeed admin check --data {folder}` names everything that is damaged"
    ))
}

/// A damaged folder by the file that is; the engine names none.
fn open_error(folder: &Path, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Locked => Error::Open(format!(
            "the data folder {} is in use by another process: stop that one, or give this one another --data",
            folder.display()
        )),
        fjall::Error::InvalidVersion(Some(found)) => Error::Open(format!(
            "the data folder {} is of another storage format ({found:?}): use the newsfeed version that wrote it",
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

/// What went wrong reading: the disk, which may recover, or what is on it.
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
