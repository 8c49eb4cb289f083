//! Knows, without a search in the tables, where nothing has changed:
//! - Which log ranges are empty. Live delivery reads every log partition every few milliseconds, and most of these ranges
//!   are.
//! - Since when feeds, the news of their changes, and their readers' marks have not changed, if somebody asks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    store::{Range, keys, keys::Keys},
    version::{BYTES_LEN, Version},
};

/// Prefixes that are kept track of. When there are more, all are forgotten, and those that are asked about begin anew.
const TRACKED_MAX: usize = 128 * 1024;

pub(super) struct Recent {
    /// Begin and end of the keys of logs.
    logs: [(Vec<u8>, Vec<u8>); 2],
    known: Mutex<Known>,
}

struct Known {
    /// No log contains anything above this, except the logs in `last`.
    floor: Version,
    /// By prefix of a log (there are two per partition): the log contains nothing above this.
    last: HashMap<Vec<u8>, Version>,
    /// No group has been noted above this.
    noted: Version,
    /// By hash of a prefix that somebody has asked about: no key under it has been written or removed above this. Of prefixes with
    /// the same hash, neither changes without the other.
    changed: HashMap<u64, Version>,
}

impl Known {
    /// Notes that keys under the prefix with this hash are written or removed by a group of `moment`.
    fn note_change(&mut self, prefix: u64, moment: Version) {
        if let Some(last) = self.changed.get_mut(&prefix) {
            *last = moment;
        }
    }
}

impl Recent {
    /// No range is known to be empty until [`Self::begin`].
    pub(super) fn new(keys: &Keys) -> Self {
        Self {
            logs: [keys.logs(), keys.transients()],
            known: Mutex::new(Known {
                floor: Version::MAX,
                last: HashMap::new(),
                noted: Version::MAX,
                changed: HashMap::new(),
            }),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_log(&self, key: &[u8]) -> bool {
        let mut logs = self.logs.iter();
        logs.any(|(begin, end)| &begin[..] <= key && key < &end[..])
    }

    /// Begins to keep track. The store contains nothing above `moment`.
    pub(super) fn begin(&self, moment: Version) {
        let mut known = self.known();
        (known.floor, known.noted) = (moment, moment);
        known.changed.clear();
    }

    /// Notes a group, before it becomes visible: stamped keys with these prefixes, whose [`hash`]es are `hashes` (those of
    /// claims may be left out), puts of these keys, and removals of these. None has a version above `moment`.
    pub(super) fn note<'a>(
        &self,
        (prefixes, hashes): (impl Iterator<Item = &'a [u8]>, impl Iterator<Item = u64>),
        puts: impl Iterator<Item = &'a [u8]> + Clone,
        removed: impl Iterator<Item = &'a [u8]>,
        moment: Version,
    ) {
        let mut known = self.known();
        known.noted = moment;
        for prefix in prefixes.filter(|prefix| self.is_log(prefix)) {
            match known.last.get_mut(prefix) {
                Some(last) => *last = moment,
                None => {
                    known.last.insert(prefix.to_vec(), moment);
                }
            }
        }
        for _ in puts.clone().filter(|key| self.is_log(key)) {
            known.floor = moment;
        }
        let of_key = |key: &[u8]| Some(hash(&key[..key.len().checked_sub(BYTES_LEN)?]));
        let hashes = hashes.chain(puts.chain(removed).filter_map(of_key));
        hashes.for_each(|prefix| known.note_change(prefix, moment));
    }

    /// Whether it is known that no key `prefix ‖ version` has been written or removed above `since`. Begins to keep track of
    /// them.
    pub(super) fn is_unchanged(&self, prefix: &[u8], since: Version) -> bool {
        let mut known = self.known();
        let (prefix, noted) = (hash(prefix), known.noted);
        if known.changed.len() >= TRACKED_MAX && !known.changed.contains_key(&prefix) {
            known.changed.clear();
        }
        *known.changed.entry(prefix).or_insert(noted) <= since
    }

    /// Whether `range` is known to be empty: it is a range of one log, above everything in that log.
    pub(super) fn is_empty(&self, range: &Range) -> bool {
        // Both ends are as `keys::range` makes them: prefix ‖ version ‖ 0.
        let Some(length) = range.begin.len().checked_sub(BYTES_LEN + 1) else {
            return false;
        };
        let (prefix, after) = range.begin.split_at(length);
        if range.end.len() != range.begin.len()
            || !range.end.starts_with(prefix)
            || after.last() != Some(&0)
            || !self.is_log(prefix)
        {
            return false;
        }
        let Ok(after) = keys::version_of(&range.begin[..range.begin.len() - 1]) else {
            return false;
        };
        let known = self.known();
        let last = known.last.get(prefix).copied();
        after >= last.unwrap_or(Version::ZERO).max(known.floor)
    }
}

pub(super) fn hash(prefix: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(prefix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_range_is_known_to_be_empty_before_it_begins() {
        let keys = Keys::before_opening(b"");
        let recent = Recent::new(&keys);
        let later = |time| Version::moment(0, time);
        let range = |after| keys::range(&keys.log(0), Some(after), later(99), false, 9, 9);
        assert!(!recent.is_empty(&range(later(50))));
        recent.begin(later(50));
        assert!(recent.is_empty(&range(later(50))));
        assert!(!recent.is_empty(&range(later(49))));
    }

    proptest! {
        /// Against a plain list of what was written and removed: a feed counts as unchanged only if it is, and if it is not
        /// asked about for the first time, always then.
        #[test]
        fn only_unchanged_feeds_count_as_unchanged(
            groups in proptest::collection::vec((0..5usize, 0..4usize, any::<bool>()), 0..20),
            asks in proptest::collection::vec((0..4usize, 0..20u64), 20),
        ) {
            let keys = Keys::before_opening(b"p");
            let prefix = |feed: usize| keys.feed(&format!("f{feed}").parse().expect("a name"));
            let recent = Recent::new(&keys);
            prop_assert!(!recent.is_unchanged(&prefix(0), Version::moment(0, 99)), "not begun");
            recent.begin(Version::moment(0, 0));
            let mut changed = [0; 4];
            // When each feed was first asked about.
            let mut known = [None; 4];
            for (time, &(how, feed, is_unread)) in (1..).zip(&groups) {
                let (prefix_of, version) = (prefix(feed), Version::new(0, time, 7));
                let key = match is_unread {
                    true => keys::unread_versioned(&prefix_of, version),
                    false => keys::versioned(&prefix_of, version),
                };
                let other = keys::versioned(&keys.change(&"f0".parse().expect("a name")), version);
                let written = |nth: usize| [&key[..]].into_iter().filter(move |_| how == nth);
                let others = [&other[..]].into_iter().filter(|_| how > 2);
                let stamped = [&prefix_of[..]].into_iter().filter(|_| how == 0);
                let stamped = (stamped.clone(), stamped.map(hash));
                recent.note(stamped, written(1).chain(others), written(2), Version::moment(0, time));
                if how <= 2 {
                    changed[feed] = time;
                }
                let (asked, since) = asks[time as usize % asks.len()];
                let unchanged = recent.is_unchanged(&prefix(asked), Version::moment(0, since));
                let first = *known[asked].get_or_insert(time);
                prop_assert!(!unchanged || changed[asked] <= since);
                if since >= first {
                    prop_assert_eq!(unchanged, changed[asked] <= since);
                }
            }
        }

        /// Against a plain list of what was written: only empty ranges count as empty, and those above the last group of
        /// their log do.
        #[test]
        fn only_empty_ranges_count_as_empty(
            groups in proptest::collection::vec((proptest::collection::vec(0..6usize, 0..4), proptest::option::of(0..6usize)), 0..12),
            after in 0..14u64,
            asked in 0..6usize,
        ) {
            let keys = Keys::before_opening(b"p");
            let feed = "a".parse().expect("a name");
            let prefixes = [keys.log(0), keys.log(300), keys.transient(0), keys.transient(300), keys.feed(&feed), keys.notify(&feed)];
            let recent = Recent::new(&keys);
            recent.begin(Version::moment(0, 0));
            let mut written: Vec<(usize, u64)> = Vec::new();
            for (time, (stamped, put)) in (1..).zip(&groups) {
                let put_key = put.map(|log| keys::versioned(&prefixes[log], Version::new(0, time, 7)));
                let stamped_prefixes = stamped.iter().map(|&log| &prefixes[log][..]);
                recent.note(
                    (stamped_prefixes.clone(), stamped_prefixes.map(hash)),
                    put_key.iter().map(|key| &key[..]),
                    std::iter::empty(),
                    Version::moment(0, time),
                );
                written.extend(stamped.iter().chain(put).map(|&log| (log, time)));
            }
            let range = keys::range(&prefixes[asked], Some(Version::moment(0, after)), Version::moment(0, 99), false, 9, 9);
            let news = written.iter().any(|&(log, time)| log == asked && time > after);
            let empty = recent.is_empty(&range);
            prop_assert!(!(empty && news));
            let puts = groups.iter().filter(|(_, put)| put.is_some_and(|log| log < 4)).count();
            if asked < 4 && puts == 0 {
                prop_assert_eq!(empty, !news);
            }
            if asked >= 4 {
                prop_assert!(!empty, "only logs are tracked");
            }
        }
    }
}
