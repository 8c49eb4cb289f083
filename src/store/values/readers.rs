//! Entries that a reader has marked one by one, and the marker of what is archived.

use foundationdb_tuple::{pack, unpack};

use super::{
    stamp::{stamp, to_be_stamped},
    version::StoredVersion,
};
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, version_of},
    },
    types::ReadState,
    version::{BYTES_LEN, Version},
};

const UNREAD: u16 = 0;
const READ: u16 = 1;
const ARCHIVED: u16 = 2;

pub(super) fn code(state: ReadState) -> u16 {
    match state {
        ReadState::Unread => UNREAD,
        ReadState::Read => READ,
        ReadState::Archived => ARCHIVED,
    }
}

pub(super) fn state(code: u16) -> std::result::Result<ReadState, String> {
    match code {
        UNREAD => Ok(ReadState::Unread),
        READ => Ok(ReadState::Read),
        ARCHIVED => Ok(ReadState::Archived),
        other => Err(format!("unknown state {other}")),
    }
}

/// The state that a reader gave an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub state: ReadState,
    /// The version of the commit that gave it.
    pub marked: Version,
}

/// The value of a key of [`Keys::state`](crate::store::keys::Keys::state), to be stamped.
pub fn encode_mark(state: ReadState) -> Vec<u8> {
    to_be_stamped(&pack(&(code(state),)))
}

pub fn decode_mark(item: &KeyValue) -> Result<Mark> {
    let bad = |what: String| corrupt(&item.key, what);
    let (Some(marked), rest) = stamp(&item.value) else {
        return Err(bad("the mark has no version".to_owned()));
    };
    let (of,): (u16,) = unpack(&rest).map_err(|error| bad(error.to_string()))?;
    let state = state(of).map_err(bad)?;
    Ok(Mark { state, marked })
}

/// The news of a mark, at its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub entry: Version,
    pub kind: String,
    pub mark: Mark,
}

/// The value of a key of [`Keys::marked`](crate::store::keys::Keys::marked).
pub fn encode_marked(entry: Version, kind: &str, state: ReadState) -> Vec<u8> {
    pack(&(StoredVersion(entry), kind, code(state)))
}

pub fn decode_marked(item: &KeyValue) -> Result<Marked> {
    let (StoredVersion(entry), kind, of): (StoredVersion, String, u16) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    Ok(Marked {
        entry,
        kind,
        mark: Mark {
            state: state(of).map_err(|what| corrupt(&item.key, what))?,
            marked: version_of(&item.key)?,
        },
    })
}

/// What a reader has archived all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// What was marked read one by one up to here is archived.
    pub until: Version,
    /// The read marker when that happened, or `until` if that was less: what lies up to here is archived.
    pub read: Version,
}

impl Archived {
    pub const NOTHING: Self = Self {
        until: Version::ZERO,
        read: Version::ZERO,
    };
}

pub fn encode_archived(archived: Archived) -> Vec<u8> {
    [archived.until.to_bytes(), archived.read.to_bytes()].concat()
}

pub fn decode_archived(key: &[u8], value: &[u8]) -> Result<Archived> {
    let (versions, []) = value.as_chunks::<BYTES_LEN>() else {
        return Err(corrupt(key, "not two versions"));
    };
    let [until, read] = versions else {
        return Err(corrupt(key, "not two versions"));
    };
    Ok(Archived {
        until: Version::from_bytes(*until),
        read: Version::from_bytes(*read),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::item, *};
    use crate::store::values::STAMP_AT;

    #[test]
    fn marks_round_trip_and_unknown_states_are_refused() {
        let (entry, marked) = (Version::new(1, 2, 3), Version::new(1, 5, 0));
        for state in [ReadState::Unread, ReadState::Read, ReadState::Archived] {
            let mark = Mark { state, marked };
            let mut value = encode_mark(state);
            value[STAMP_AT..][..BYTES_LEN].copy_from_slice(&marked.to_bytes());
            assert_eq!(decode_mark(&item(entry, value)).expect("decodes"), mark);
            let news = item(marked, encode_marked(entry, "message", state));
            let expected = Marked {
                entry,
                kind: "message".to_owned(),
                mark,
            };
            assert_eq!(decode_marked(&news).expect("decodes"), expected);
        }
        let unknown = item(marked, pack(&(StoredVersion(entry), "message", 3)));
        assert!(decode_marked(&unknown).is_err());
        assert!(decode_mark(&item(entry, pack(&(READ,)))).is_err());
    }

    #[test]
    fn what_is_archived_round_trips() {
        let archived = Archived {
            until: Version::new(1, 5, 0),
            read: Version::new(1, 2, 3),
        };
        let value = encode_archived(archived);
        assert_eq!(decode_archived(b"", &value).expect("decodes"), archived);
        assert!(decode_archived(b"", &value[..BYTES_LEN]).is_err());
    }
}
