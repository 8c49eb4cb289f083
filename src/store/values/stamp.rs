//! Values that carry the version of the commit that wrote them.

use bytes::Bytes;

use crate::version::{BYTES_LEN, Version};

/// Begins a value that carries the version of its commit.
pub(super) const STAMP: u8 = 0xff;
/// Where in such a value the version stands.
pub const STAMP_AT: usize = 1;
pub(super) const STAMP_BYTES: usize = STAMP_AT + BYTES_LEN;

/// In a [`Change::EditedAt`](crate::types::Change::EditedAt) to encode: the version of the commit that writes the value, which
/// has to be stamped.
pub const THIS_COMMIT: Version = Version::ZERO;

/// Adds an empty stamp before a value.
pub(super) fn to_be_stamped(value: &[u8]) -> Vec<u8> {
    [&[STAMP], &[0; BYTES_LEN][..], value].concat()
}

/// Whether the value has to be stamped at [`STAMP_AT`].
pub fn is_to_be_stamped(value: &[u8]) -> bool {
    let empty = [&[STAMP][..], &[0; BYTES_LEN]].concat();
    value.starts_with(&empty)
}

/// The stamp of a value, if it has one, and the rest.
pub(super) fn stamp(value: &Bytes) -> (Option<Version>, Bytes) {
    match value.get(..STAMP_BYTES).and_then(<[u8]>::split_first) {
        Some((&STAMP, stamp)) => {
            let version = <[u8; BYTES_LEN]>::try_from(stamp).map(Version::from_bytes);
            (version.ok(), value.slice(STAMP_BYTES..))
        }
        _ => (None, value.clone()),
    }
}
