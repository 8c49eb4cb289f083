//! Versioned keys: a prefix, and the version.

use foundationdb_tuple::Subspace;

use crate::{
    store::{Error, Range, Result},
    version::{BYTES_LEN, Version},
};

/// `prefix ‖ version`.
pub fn versioned(prefix: &[u8], version: Version) -> Vec<u8> {
    [prefix, &version.to_bytes()].concat()
}

/// Begin and end of the versioned keys under `prefix` in `(after, until]`.
pub fn after_until(prefix: &[u8], after: Option<Version>, until: Version) -> (Vec<u8>, Vec<u8>) {
    let begin = match after {
        Some(after) => next_key(versioned(prefix, after)),
        None => versioned(prefix, Version::ZERO),
    };
    (begin, next_key(versioned(prefix, until)))
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
        begin,
        end,
        reverse,
        limit,
        bytes_max,
    }
}

/// The version at the end of a versioned key.
pub fn version_of(key: &[u8]) -> Result<Version> {
    match key.last_chunk::<BYTES_LEN>() {
        Some(bytes) => Ok(Version::from_bytes(*bytes)),
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
    }
}
