//! The keys of readers: markers, and entries that were marked one by one.

use super::{Keys, MARKED, MARKER, REMOVED, STATE, corrupt, versioned};
use crate::{
    store::{Range, Result},
    types::{FeedName, Marker, ReaderName},
    version::{BYTES_LEN, Version},
};

/// Comes after every reader's name.
const BEHIND_NAMES: u8 = 0xff;

impl Keys {
    /// → version, 16 bytes; atomic maximum. Of [`Marker::Archived`], two versions, see
    /// [`Archived`](crate::store::values::Archived).
    pub fn marker(&self, feed: &FeedName, reader: &ReaderName, marker: Marker) -> Vec<u8> {
        let (feed, reader) = (feed.as_str(), reader.as_str());
        self.root.pack(&(MARKER, feed, reader, marker.name()))
    }

    /// The markers of all readers of the feed whose names come after `after`, in the order of their names.
    pub fn markers(&self, feed: &FeedName, after: &ReaderName) -> Range {
        let (_, begin) = self
            .root
            .subspace(&(MARKER, feed.as_str(), after.as_str()))
            .range();
        let (_, end) = self.root.subspace(&(MARKER, feed.as_str())).range();
        Range::all(begin, end)
    }

    /// Whose marker has a key of [`Self::markers`], and which one it is; `None` if only a later program knows.
    pub fn marker_of(&self, key: &[u8], feed: &FeedName) -> Result<(ReaderName, Option<Marker>)> {
        let markers = self.root.subspace(&(MARKER, feed.as_str()));
        let parts: (String, String) = markers.unpack(key).map_err(|error| corrupt(key, error))?;
        let reader = ReaderName::stored(parts.0.into());
        let reader = reader.map_err(|error| corrupt(key, error))?;
        Ok((reader, Marker::named(&parts.1)))
    }

    /// `‖ version ‖ reader` → the state that the reader gave the entry at the version, and when. With each mark of an entry.
    pub fn states(&self, feed: &FeedName) -> Vec<u8> {
        self.versioned_of(STATE, feed.as_str())
    }

    /// The key of [`Self::states`] for one entry and reader.
    pub fn state(&self, feed: &FeedName, entry: Version, reader: &ReaderName) -> Vec<u8> {
        let mut key = versioned(&self.states(feed), entry);
        key.extend_from_slice(reader.as_str().as_bytes());
        key
    }

    /// Begin and end of the states of the entries from `first` to `last`, of all readers.
    pub fn states_from(
        &self,
        feed: &FeedName,
        first: Version,
        last: Version,
    ) -> (Vec<u8>, Vec<u8>) {
        let states = self.states(feed);
        let mut end = versioned(&states, last);
        end.push(BEHIND_NAMES);
        (versioned(&states, first), end)
    }

    /// The entry and the reader of a key of [`Self::states`].
    pub fn state_of(&self, key: &[u8], feed: &FeedName) -> Result<(Version, ReaderName)> {
        let rest = key.get(self.states(feed).len()..).unwrap_or_default();
        let Some((version, reader)) = rest.split_first_chunk::<BYTES_LEN>() else {
            return Err(corrupt(key, "the key has no version"));
        };
        let reader = ReaderName::stored(reader.to_vec().into());
        let reader = reader.map_err(|error| corrupt(key, error))?;
        Ok((Version::from_bytes(*version), reader))
    }

    /// `‖ version` → which entry the reader marked at that version, its kind and its state. With each mark of an entry; a later
    /// mark of the same entry removes it.
    pub fn marked(&self, feed: &FeedName, reader: &ReaderName) -> Vec<u8> {
        let (feed, reader) = (feed.as_str(), reader.as_str());
        self.root.pack(&(MARKED, feed, reader))
    }

    /// → the version of the last removal of notify keys of the feed. With each. So what was counted before is known to hold.
    pub fn removed(&self, feed: &FeedName) -> Vec<u8> {
        self.root.pack(&(REMOVED, feed.as_str()))
    }

    /// Begin and end of the keys of marked entries, of all feeds: first by entry, then by the version of the mark.
    pub fn all_marks(&self) -> [(Vec<u8>, Vec<u8>); 2] {
        [STATE, MARKED].map(|code| self.root.subspace(&(code,)).range())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(name: &str) -> ReaderName {
        ReaderName::named(name.parse().expect("a name"))
    }

    #[test]
    fn the_states_of_some_entries_are_one_range() {
        let keys = Keys::with_partitions(1);
        let feed: FeedName = "a".parse().expect("a name");
        let version = |time| Version::new(1, time, 0);
        let (begin, end) = keys.states_from(&feed, version(3), version(5));
        for (time, inside) in [(2, false), (3, true), (4, true), (5, true), (6, false)] {
            for reader in [ReaderName::OWN, reader("user:1"), reader("\u{10ffff}")] {
                let key = keys.state(&feed, version(time), &reader);
                assert_eq!((&begin..&end).contains(&&key), inside, "{time} {reader:?}");
                let of = keys.state_of(&key, &feed).expect("a state");
                assert_eq!(of, (version(time), reader));
            }
        }
    }

    #[test]
    fn the_markers_of_all_readers_but_the_feeds_own_are_one_range() {
        let keys = Keys::with_partitions(1);
        let feed: FeedName = "a".parse().expect("a name");
        let range = keys.markers(&feed, &ReaderName::OWN);
        let inside = |key: &Vec<u8>| (&range.begin..&range.end).contains(&key);
        assert!(!inside(&keys.marker(&feed, &ReaderName::OWN, Marker::Seen)));
        for name in ["!", "user:1", "\u{10ffff}"] {
            let key = keys.marker(&feed, &reader(name), Marker::Read);
            assert!(inside(&key));
            let of = keys.marker_of(&key, &feed).expect("a marker");
            assert_eq!(of, (reader(name), Some(Marker::Read)));
            let after = keys.markers(&feed, &reader(name));
            assert!(after.begin > key);
        }
        let other: FeedName = "b".parse().expect("a name");
        assert!(!inside(&keys.marker(&other, &reader("!"), Marker::Read)));
    }
}
