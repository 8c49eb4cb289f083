//! What readers have said of entries goes with the notify keys of the entries.
//!
//! A mark has the notify key of its entry as a condition, so nothing is marked that is gone. Whoever marks an entry at the very
//! moment at which it goes may leave a key behind that tells of the mark; readers see nothing of it.

use std::collections::BTreeSet;

use crate::{
    store::{
        Batch, KeyValue, Range, Result, Stamped,
        keys::{Keys, only, versioned},
        values::decode_mark,
    },
    types::FeedName,
    version::{BYTES_LEN, Version},
};

/// Most marks that are read for the entries that go together. What tells of others is left behind.
pub(super) const MARKS_AT_ONCE_MAX: usize = 10_000;

/// Feeds from which a transaction removes notify keys.
#[derive(Debug, Default)]
pub(super) struct Unmark {
    feeds: BTreeSet<FeedName>,
}

/// The marks of the entries of `feed` from `first` to `last`.
pub(super) fn marks(keys: &Keys, feed: &FeedName, first: Version, last: Version) -> Range {
    let (begin, end) = keys.states_from(feed, first, last);
    Range {
        limit: MARKS_AT_ONCE_MAX,
        ..Range::all(begin, end)
    }
}

impl Unmark {
    /// Removes the marks of the entries of `feed` from `first` to `last`, whose notify keys go. `found` is what reading
    /// [`marks`] of these entries, and perhaps of others, has found.
    pub(super) fn add(
        &mut self,
        keys: &Keys,
        batch: &mut Batch,
        (feed, first, last): (&FeedName, Version, Version),
        found: &[KeyValue],
    ) -> Result<()> {
        self.feeds.insert(feed.clone());
        let mut has_marks = false;
        for item in found {
            let (entry, reader) = keys.state_of(&item.key, feed)?;
            if (first..=last).contains(&entry) {
                let marked = versioned(&keys.marked(feed, &reader), decode_mark(item)?.marked);
                batch.clears.push(only(marked));
                has_marks = true;
            }
        }
        if has_marks {
            batch.clears.push(keys.states_from(feed, first, last));
        }
        Ok(())
    }

    /// Notes, for whoever remembers a count, that notify keys of these feeds have gone.
    pub(super) fn finish(self, keys: &Keys, batch: &mut Batch) -> BTreeSet<FeedName> {
        let stamped = self.feeds.iter().map(|feed| Stamped {
            key: keys.removed(feed),
            // Not below any other version of the commit.
            index: u16::MAX,
            value: vec![0; BYTES_LEN],
            at: 0,
        });
        batch.stamped.extend(stamped);
        self.feeds
    }
}
