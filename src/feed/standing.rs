//! Where a reader stands in a feed, and what that says of an entry's state.

use bytes::Bytes;

use super::Markers;
use crate::{
    store::{
        self,
        keys::Keys,
        values::{Archived, Mark, decode_archived, decode_version},
    },
    types::{FeedName, Marker, ReadState, ReaderName},
    version::Version,
};

/// The markers of a reader in a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub markers: Markers,
    pub(super) archived: Archived,
}

impl Standing {
    /// The number of keys that it is read from.
    pub(super) const READS: usize = 3;

    pub(super) fn reads(
        keys: &Keys,
        feed: &FeedName,
        reader: &ReaderName,
    ) -> [Vec<u8>; Self::READS] {
        let markers = [Marker::Read, Marker::Seen, Marker::Archived];
        markers.map(|marker| keys.marker(feed, reader, marker))
    }

    /// `keys` and `values` begin with what [`Self::reads`] asked for.
    pub(super) fn from(keys: &[Vec<u8>], values: &[Option<Bytes>]) -> store::Result<Self> {
        let version = |index: usize| match (&keys[index], &values[index]) {
            (key, Some(value)) => decode_version(key, value).map(Some),
            (_, None) => Ok(None),
        };
        let archived = match &values[2] {
            Some(value) => Some(decode_archived(&keys[2], value)?),
            None => None,
        };
        Ok(Self {
            markers: Markers {
                read: version(0)?,
                seen: version(1)?,
                archived: archived.map(|archived| archived.until),
            },
            archived: archived.unwrap_or(Archived::NOTHING),
        })
    }

    #[cfg(test)]
    pub(super) fn of(read: Version, archived: Archived) -> Self {
        Self {
            markers: Markers {
                read: Some(read),
                ..Markers::default()
            },
            archived,
        }
    }

    /// The read marker.
    pub(super) fn read(&self) -> Version {
        self.markers.read.unwrap_or(Version::ZERO)
    }

    /// The state of the entry at `entry`, which the reader wrote if `is_own`, and may have marked. An entry that was marked
    /// unread stands, from then on, where it was marked: markers that were behind that do not reach it.
    pub fn state(&self, entry: Version, is_own: bool, mark: Option<Mark>) -> ReadState {
        let read_at = match mark {
            Some(Mark {
                state: ReadState::Archived,
                ..
            }) => return ReadState::Archived,
            Some(Mark {
                state: ReadState::Read,
                marked,
            }) => marked,
            None if is_own => entry,
            Some(Mark {
                state: ReadState::Unread,
                marked,
            }) => return self.state_at(marked),
            None => return self.state_at(entry),
        };
        // It was read there, whatever the markers say.
        match read_at <= self.archived.until {
            true => ReadState::Archived,
            false => ReadState::Read,
        }
    }

    fn state_at(&self, version: Version) -> ReadState {
        if version <= self.archived.read {
            ReadState::Archived
        } else if version <= self.read() {
            ReadState::Read
        } else {
            ReadState::Unread
        }
    }
}
