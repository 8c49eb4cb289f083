//! Most appended ids are new. An engine that checks claims at commit finds out by itself whether they are, so a batch of
//! unconditional events need not look for claims first. If an id turns out to be taken, the batch reads and plans again, and
//! the next batches read first: repeated appends come in crowds.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// Batches that read first after an assumption was wrong.
const DOUBT_BATCHES: usize = 16;

/// Whether a batch may assume that its ids are new.
#[derive(Debug)]
pub(super) struct Assumption {
    /// The greatest `at` that this node has read or written, which the next entries must not be below. Unknown until the
    /// first read, and on engines that do not check claims: there, other nodes write, too.
    greatest_at: AtomicI64,
    /// Batches that still read first.
    doubt: AtomicUsize,
}

const UNKNOWN: i64 = i64::MIN;

impl Default for Assumption {
    fn default() -> Self {
        Self {
            greatest_at: AtomicI64::new(UNKNOWN),
            doubt: AtomicUsize::new(0),
        }
    }
}

impl Assumption {
    /// The greatest `at` so far, if the next batch may assume that its ids are new.
    pub(super) fn holds(&self) -> Option<i64> {
        let one_less = |doubt: usize| doubt.checked_sub(1);
        let doubts = self
            .doubt
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        let at = self.greatest_at.load(Ordering::Relaxed);
        (doubts.is_err() && at != UNKNOWN).then_some(at)
    }

    /// Notes an `at` that was read, or committed, on an engine that checks claims.
    pub(super) fn note_at(&self, at: i64) {
        self.greatest_at.fetch_max(at, Ordering::Relaxed);
    }

    pub(super) fn was_wrong(&self) {
        self.doubt.store(DOUBT_BATCHES, Ordering::Relaxed);
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
