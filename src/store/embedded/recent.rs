//! Knows which log ranges are empty. Live delivery reads every log partition every few milliseconds, and most of these
//! ranges are empty; finding that out in the tables would cost a search in each of their parts.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    store::{Range, keys, keys::Keys},
    version::{BYTES_LEN, Version},
};

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
}

impl Recent {
    /// No range is known to be empty until [`Self::begin`].
    pub(super) fn new(keys: &Keys) -> Self {
        Self {
            logs: [keys.logs(), keys.transients()],
            known: Mutex::new(Known {
                floor: Version::MAX,
                last: HashMap::new(),
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
        self.known().floor = moment;
    }

    /// Notes a group, before it becomes visible: stamped keys with these prefixes, and puts of these keys, none above
    /// `moment`.
    pub(super) fn note<'a>(
        &self,
        prefixes: impl Iterator<Item = &'a [u8]>,
        puts: impl Iterator<Item = &'a [u8]>,
        moment: Version,
    ) {
        let mut known = self.known();
        for prefix in prefixes.filter(|prefix| self.is_log(prefix)) {
            match known.last.get_mut(prefix) {
                Some(last) => *last = moment,
                None => {
                    known.last.insert(prefix.to_vec(), moment);
                }
            }
        }
        for _ in puts.filter(|key| self.is_log(key)) {
            known.floor = moment;
        }
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
                recent.note(
                    stamped.iter().map(|&log| &prefixes[log][..]),
                    put_key.iter().map(|key| &key[..]),
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
