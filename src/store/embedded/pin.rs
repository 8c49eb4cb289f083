//! A consistent copy of the store, made of the files of its tables.
//!
//! While no commit is written, everything in memory is flushed. From then on the files of the tables are the whole store, and
//! no journal is needed. They are opened at once: an open file can be read even if a compaction deletes it. Most of the data
//! is flushed before, so that commits wait only for what came meanwhile.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::PoisonError,
    thread::sleep,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    check::{
        entries,
        tree::{self, Listing},
    },
    removals,
    shared::{Health, Shared},
    tables::Tables,
};
use crate::store::{Error, Pinned, PinnedContent, PinnedFile, Result};

/// How long flushing may take while commits go on, and while they wait.
const FLUSH_MAX: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(1);
/// A compaction may delete a file between reading the list of files and opening it.
const LISTINGS_MAX: usize = 20;

const TABLES: &str = "keyspaces";

/// Blocks.
pub(super) fn pin(shared: &Shared) -> Result<Pinned> {
    let tables = shared.open_tables()?;
    flush(shared, &tables, FLUSH_MAX)?;
    let _writing = shared
        .writing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    flush(shared, &tables, PAUSE_MAX)?;
    let version = match &*shared.state() {
        Some(state) => state.visible,
        None => return Err(Error::Closed),
    };
    let mut files = vec![
        stored(shared, "version")?,
        // What the engine needs in a folder without journals to be replayed.
        whole("lock", Bytes::new()),
        whole("0.jnl", Bytes::new()),
    ];
    if let Some(removals) = shared.removals.stored() {
        files.push(whole(removals::FILE, removals.into()));
    }
    for (number, folder) in table_folders(&shared.folder)? {
        files.extend(files_of_table(number, &folder)?);
    }
    Ok(Pinned { version, files })
}

/// Writes what is in memory to files.
fn flush(shared: &Shared, tables: &Tables, time_max: Duration) -> Result<()> {
    let all = tables.all();
    for table in &all {
        let rotated = table.rotate_memtable();
        rotated.map_err(|error| Error::Unavailable(error.to_string()))?;
    }
    let since = Instant::now();
    while all.iter().any(|table| table.sealed_memtable_count() > 0) {
        if *shared.health.borrow() != Health::Well {
            return Err(Error::Unavailable("a write failed".into()));
        }
        if since.elapsed() >= time_max {
            return Err(Error::Unavailable(
                "the disk is too slow to flush now".into(),
            ));
        }
        sleep(POLL_EVERY);
    }
    Ok(())
}

fn whole(name: &str, bytes: Bytes) -> PinnedFile {
    PinnedFile {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        checksum: twox_hash::XxHash3_128::oneshot(&bytes),
        content: PinnedContent::Bytes(bytes),
    }
}

fn stored(shared: &Shared, name: &str) -> Result<PinnedFile> {
    let bytes = std::fs::read(shared.folder.join(name)).map_err(unread)?;
    Ok(whole(name, bytes.into()))
}

fn table_folders(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folders =
        entries(&folder.join(TABLES)).map_err(|damage| Error::Damaged(damage.to_string()))?;
    let number = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        Some((number, path))
    };
    let mut folders: Vec<_> = folders.into_iter().filter_map(number).collect();
    folders.sort();
    Ok(folders)
}

fn files_of_table(number: u64, folder: &Path) -> Result<Vec<PinnedFile>> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let opened = tree::listing(folder).map_err(|damage| Error::Damaged(damage.to_string()));
        match opened.and_then(|listing| open_all(number, folder, listing)) {
            Err(_) if attempt < LISTINGS_MAX => sleep(POLL_EVERY),
            opened => return opened,
        }
    }
}

fn open_all(number: u64, folder: &Path, listing: Listing) -> Result<Vec<PinnedFile>> {
    let prefix = format!("{TABLES}/{number}");
    let mut files = vec![
        whole(&format!("{prefix}/current"), listing.current.into()),
        whole(&format!("{prefix}/{}", listing.name), listing.list.into()),
    ];
    for (file, checksum) in listing.files {
        let opened = File::open(folder.join("tables").join(file.to_string())).map_err(unread)?;
        files.push(PinnedFile {
            name: table_file(number, file),
            bytes: opened.metadata().map_err(unread)?.len(),
            checksum,
            content: PinnedContent::File(opened),
        });
    }
    Ok(files)
}

fn table_file(table: u64, file: u64) -> String {
    format!("{TABLES}/{table}/tables/{file}")
}

fn unread(error: io::Error) -> Error {
    Error::Unavailable(error.to_string())
}

/// The files of all tables of the store in `folder`, by their paths in it, with the checksums that the store has of them.
pub fn table_files(folder: &Path) -> Result<Vec<(String, u128)>> {
    super::must_exist(folder)?;
    let mut files = Vec::new();
    for (number, folder) in table_folders(folder)? {
        let listing =
            tree::listing(&folder).map_err(|damage| Error::Damaged(damage.to_string()))?;
        let listed = listing.files.into_iter();
        files.extend(listed.map(|(file, checksum)| (table_file(number, file), checksum)));
    }
    Ok(files)
}
