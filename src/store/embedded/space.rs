//! Room on the disk: looked at every second, so that writes are refused while there is still some left to put in order
//! what is stored.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// After a write failed for want of room, so many bytes must be free before the next.
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
        space.look();
        space
    }

    /// Whether writes are to be refused.
    pub(super) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// A write found no room.
    pub(super) fn note_full(&self) {
        self.low.store(true, Ordering::Relaxed);
    }

    /// A write failed, maybe in one of the engine's own threads, which do not say why.
    pub(super) fn note_failure(&self) {
        if self
            .free_bytes()
            .is_some_and(|free| free < self.enough_bytes())
        {
            self.note_full();
        }
    }

    /// Looks at the disk.
    pub(super) fn look(&self) {
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
                    "the disk is nearly full: nothing is stored until there is room again; reads go on"
                ),
                false => tracing::warn!(free_mib, "there is room on the disk again"),
            }
        }
    }

    /// So much must be free for writes to go on.
    fn enough_bytes(&self) -> u64 {
        self.reserve_bytes.max(ROOM_BYTES_MIN)
    }

    /// What is free for those who are not root.
    fn free_bytes(&self) -> Option<u64> {
        match rustix::fs::statvfs(&self.folder) {
            Ok(disk) => Some(disk.f_bavail.saturating_mul(disk.f_frsize)),
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "cannot see how much of the disk is free");
                None
            }
        }
    }
}
