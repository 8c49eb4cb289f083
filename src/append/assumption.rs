//! Most appended ids are new. An engine that checks claims at commit finds out by itself whether they are, so a batch of
//! unconditional events need not look for claims first. If an id turns out to be taken, the batch reads and plans again, and
//! the next batches read first: repeated appends come in crowds.

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

/// Batches that read first after an assumption was wrong.
const DOUBT_BATCHES: u8 = 16;

/// How many batches still do without an assumption that was wrong.
#[derive(Debug, Default)]
pub(super) struct Doubt(AtomicU8);

impl Doubt {
    /// Whether this batch is one of them. Each one is counted.
    pub(super) fn holds(&self) -> bool {
        let one_less = |batches: u8| batches.checked_sub(1);
        let left = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        left.is_ok()
    }

    pub(super) fn begin(&self, batches: u8) {
        self.0.store(batches, Ordering::Relaxed);
    }
}

/// Whether a batch may assume that its ids are new.
#[derive(Debug)]
pub(super) struct Assumption {
    /// The greatest `at` that this node has read or written, which the next entries must not be below. Unknown until the
    /// first read, and on engines that do not check claims: there, other nodes write, too.
    greatest_at: AtomicI64,
    /// Batches that still read first.
    doubt: Doubt,
}

const UNKNOWN: i64 = i64::MIN;

impl Default for Assumption {
    fn default() -> Self {
        Self {
            greatest_at: AtomicI64::new(UNKNOWN),
            doubt: Doubt::default(),
        }
    }
}

impl Assumption {
    /// The greatest `at` so far, if the next batch may assume that its ids are new.
    pub(super) fn holds(&self) -> Option<i64> {
        let is_doubted = self.doubt.holds();
        let at = self.greatest_at.load(Ordering::Relaxed);
        (!is_doubted && at != UNKNOWN).then_some(at)
    }

    /// Notes an `at` that was read, or committed, on an engine that checks claims.
    pub(super) fn note_at(&self, at: i64) {
        self.greatest_at.fetch_max(at, Ordering::Relaxed);
    }

    pub(super) fn was_wrong(&self) {
        self.doubt.begin(DOUBT_BATCHES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_assumed_new_once_the_store_was_read_and_not_after_they_were_not() {
        let ids = Assumption::default();
        assert_eq!(ids.holds(), None);
        ids.note_at(7);
        ids.note_at(5);
        assert_eq!(ids.holds(), Some(7));
        ids.was_wrong();
        for _ in 0..DOUBT_BATCHES {
            assert_eq!(ids.holds(), None);
        }
        assert_eq!(ids.holds(), Some(7));
    }
}
