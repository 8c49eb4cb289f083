//! Free disk space, checked every second. Writes are refused while some space is left, which the engine needs for
//! flushes and compactions.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// After a write has failed for lack of space, this many bytes must be free before the next write.
const ROOM_BYTES_MIN: u64 = 8 * 1024 * 1024;

pub(super) struct Space {
    folder: PathBuf,
    reserve_bytes: u64,
    low: AtomicBool,
}

impl Space {
    pub(super) fn new(folder: &Path, reserve_bytes: u64) -> Self {
        let space = Self {
            folder: folder.to_owned(),
            reserve_bytes,
            low: AtomicBool::new(false),
        };
        space.check();
        space
    }

    /// Whether writes are to be refused.
    pub(super) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// A write failed for lack of space.
    pub(super) fn note_full(&self) {
        self.low.store(true, Ordering::Relaxed);
    }

    /// A write failed, perhaps in a thread of the engine, which does not report the cause.
    pub(super) fn note_failure(&self) {
        if self
            .free_bytes()
            .is_some_and(|free| free < self.enough_bytes())
        {
            self.note_full();
        }
    }

    /// Whether `bytes` more can be written without using the reserve.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let needed = self.enough_bytes().saturating_add(bytes);
        self.free_bytes().is_none_or(|free| free >= needed)
    }

    /// Checks the free disk space.
    pub(super) fn check(&self) {
        let Some(free_bytes) = self.free_bytes() else {
            return;
        };
        let low = match free_bytes {
            free if free < self.reserve_bytes => true,
            free if free >= self.enough_bytes() => false,
            _ => return,
        };
        if self.low.swap(low, Ordering::Relaxed) != low {
            let free_mib = free_bytes / (1024 * 1024);
            match low {
                true => tracing::error!(
                    free_mib,
                    "the disk is nearly full: appends are refused until there is enough free space; reads continue"
                ),
                false => tracing::warn!(
                    free_mib,
                    "the disk has enough free space again; appends are accepted"
                ),
            }
        }
    }

    /// The free space at which writes continue.
    fn enough_bytes(&self) -> u64 {
        self.reserve_bytes.max(ROOM_BYTES_MIN)
    }

    /// Free space for unprivileged processes, in bytes.
    fn free_bytes(&self) -> Option<u64> {
        match rustix::fs::statvfs(&self.folder) {
            Ok(disk) => Some(disk.f_bavail.saturating_mul(disk.f_frsize)),
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "cannot determine the free disk space");
                None
            }
        }
    }
}
/// Disk space that the files in `folder` take, in bytes.
pub fn disk_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += match found.is_dir() {
            true => disk_bytes(&entry.path())?,
            // Blocks of 512 bytes, whatever the file system has. Of a journal, most of its length takes none.
            false => found.blocks() * 512,
        };
    }
    Ok(bytes)
}
