//! Versioned keys: a prefix, and the version.

use bytes::Bytes;
use foundationdb_tuple::Subspace;

use crate::{
    store::{Error, KeyValue, Range, Result},
    version::{BYTES_LEN, Version},
};

/// `prefix ‖ version`.
pub fn versioned(prefix: &[u8], version: Version) -> Vec<u8> {
    [prefix, &version.to_bytes()].concat()
}

/// Begin and end of the versioned keys under `prefix` in `(after, until]`.
pub fn after_until(prefix: &[u8], after: Option<Version>, until: Version) -> (Vec<u8>, Vec<u8>) {
    let begin = match after {
        Some(after) => next_key(bound(prefix, after)),
        None => bound(prefix, Version::ZERO),
    };
    (begin, next_key(bound(prefix, until)))
}

/// `prefix ‖ version`, without [`UNREAD_BIT`], which [`Version::MAX`] has.
fn bound(prefix: &[u8], version: Version) -> Vec<u8> {
    let mut key = versioned(prefix, version);
    key[prefix.len()] &= !UNREAD_BIT;
    key
}

/// Begin and end of the keys under `prefix` that were written by the transaction which wrote `version`.
pub fn of_transaction(prefix: &[u8], version: Version) -> (Vec<u8>, Vec<u8>) {
    let before = version.at_index(0).before();
    after_until(prefix, Some(before), version.at_index(u16::MAX))
}

/// The key that follows `key` immediately.
pub fn next_key(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Begin and end of the range that holds only this key.
pub fn only(key: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let end = next_key(key.clone());
    (key, end)
}

/// This bit of the first byte of a version is 0 in every version: it would be the first bit of an epoch. In the keys of a
/// feed, it is 1 in those of entries that count as unread and have no notify key.
pub const UNREAD_BIT: u8 = 0x80;

/// Begin and end, or key, with [`UNREAD_BIT`]. `prefix` is that of a feed.
fn unread(prefix: &[u8], mut key: Vec<u8>) -> Vec<u8> {
    key[prefix.len()] |= UNREAD_BIT;
    key
}

/// `prefix ‖ version` of an entry that counts as unread and has no notify key. `prefix` is that of the feed.
pub fn unread_versioned(prefix: &[u8], version: Version) -> Vec<u8> {
    unread(prefix, versioned(prefix, version))
}

/// Begin and end of the entries in `(after, until]` that count as unread and have no notify key. `prefix` is that of the feed.
pub fn unread_after_until(
    prefix: &[u8],
    after: Option<Version>,
    until: Version,
) -> (Vec<u8>, Vec<u8>) {
    let (begin, end) = after_until(prefix, after, until);
    (unread(prefix, begin), unread(prefix, end))
}

/// Whether the key of an entry says that it counts as unread and has no notify key.
pub fn is_unread(key: &[u8]) -> bool {
    let version = key.last_chunk::<BYTES_LEN>();
    version.is_some_and(|version| version[0] & UNREAD_BIT != 0)
}

/// The keys that the entry at `version` may have. `prefix` is that of its feed.
pub fn entry_keys(prefix: &[u8], version: Version) -> [Vec<u8>; 2] {
    [
        versioned(prefix, version),
        unread_versioned(prefix, version),
    ]
}

/// The entry with one of these [`entry_keys`], if there is one.
pub fn entry_at(keys: &[Vec<u8>], values: &[Option<Bytes>]) -> Option<KeyValue> {
    let mut found = keys.iter().zip(values);
    found.find_map(|(key, value)| {
        Some(KeyValue {
            key: key.clone().into(),
            value: value.clone()?,
        })
    })
}

/// [`range`] or, of the entries of a feed, [`entries`].
pub type RangeOf = fn(&[u8], Option<Version>, Version, bool, usize, usize) -> Range;

/// A range over all entries of a feed in `(after, until]`. `prefix` is that of the feed.
pub fn entries(
    prefix: &[u8],
    after: Option<Version>,
    until: Version,
    reverse: bool,
    limit: usize,
    bytes_max: usize,
) -> Range {
    Range {
        beside: Some(unread_after_until(prefix, after, until)),
        ..range(prefix, after, until, reverse, limit, bytes_max)
    }
}

/// A range over the versioned keys under `prefix` in `(after, until]`.
pub fn range(
    prefix: &[u8],
    after: Option<Version>,
    until: Version,
    reverse: bool,
    limit: usize,
    bytes_max: usize,
) -> Range {
    let (begin, end) = after_until(prefix, after, until);
    Range {
        reverse,
        limit,
        bytes_max,
        ..Range::all(begin, end)
    }
}

/// The version at the end of a versioned key.
pub fn version_of(key: &[u8]) -> Result<Version> {
    match key.last_chunk::<BYTES_LEN>() {
        Some(bytes) => {
            let mut bytes = *bytes;
            bytes[0] &= !UNREAD_BIT;
            Ok(Version::from_bytes(bytes))
        }
        None => Err(corrupt(key, "the key has no version")),
    }
}

/// The error for an invalid key or value.
pub fn corrupt(key: &[u8], what: impl ToString) -> Error {
    Error::Corrupt {
        key: Subspace::from_bytes(key).to_string(),
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Keys, *};

    proptest! {
        #[test]
        fn a_range_holds_the_versions_in_its_bounds(
            v in 0..5u64, after in proptest::option::of(0..5u64), until in 0..5u64,
        ) {
            let prefix = Keys::new(b"p", 16).log(3);
            let version = |t| Version::new(0, t, 7);
            let (begin, end) = after_until(&prefix, after.map(version), version(until));
            let inside = after.is_none_or(|after| v > after) && v <= until;
            prop_assert_eq!((begin..end).contains(&versioned(&prefix, version(v))), inside);
        }

        /// Up to the greatest version, too.
        #[test]
        fn entries_that_count_as_unread_stand_apart_in_the_order_of_versions(
            (v, w) in (0..5u64, 0..5u64), after in proptest::option::of(0..5u64), until in 0..6u64,
        ) {
            let prefix = b"p";
            let version = |t| Version::new(3, t, 7);
            let until = if until == 5 { Version::MAX } else { version(until) };
            let [plain, unread] = entry_keys(prefix, version(v));
            prop_assert_eq!(version_of(&plain).ok(), Some(version(v)));
            prop_assert_eq!(version_of(&unread).ok(), Some(version(v)));
            prop_assert!(!is_unread(&plain) && is_unread(&unread));
            prop_assert_eq!(unread.cmp(&unread_versioned(prefix, version(w))), v.cmp(&w));
            let inside = after.is_none_or(|after| v > after) && version(v) <= until;
            let (begin, end) = after_until(prefix, after.map(version), until);
            prop_assert_eq!((begin..end).contains(&plain), inside);
            let (begin, end) = after_until(prefix, after.map(version), until);
            prop_assert!(!(begin..end).contains(&unread));
            let (begin, end) = unread_after_until(prefix, after.map(version), until);
            prop_assert_eq!((begin..end).contains(&unread), inside);
            let (begin, end) = unread_after_until(prefix, after.map(version), until);
            prop_assert!(!(begin..end).contains(&plain));
        }
    }
}
