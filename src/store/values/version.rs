//! Versions: as elements of tuples, and as whole values.

use std::io;

use bytes::Bytes;
use foundationdb_tuple::{
    Bytes as TupleBytes, PackError, PackResult, TupleDepth, TuplePack, TupleUnpack,
    VersionstampOffset,
};

use crate::{
    store::{KeyValue, Result, epoch::Row, keys::corrupt},
    version::{BYTES_LEN, Version},
};

/// A version as an element of a tuple.
#[derive(Debug)]
pub(super) struct StoredVersion(pub(super) Version);

impl TuplePack for StoredVersion {
    fn pack<W: io::Write>(&self, out: &mut W, depth: TupleDepth) -> io::Result<VersionstampOffset> {
        TupleBytes::from(&self.0.to_bytes()[..]).pack(out, depth)
    }
}

impl<'de> TupleUnpack<'de> for StoredVersion {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        let (rest, bytes) = TupleBytes::unpack(input, depth)?;
        let bytes = <[u8; BYTES_LEN]>::try_from(&bytes.0[..]);
        let bytes = bytes.map_err(|_| PackError::Message("not a version".into()))?;
        Ok((rest, Self(Version::from_bytes(bytes))))
    }
}

/// The value at `key`, if it is a version and nothing else.
pub fn decode_version(key: &[u8], value: &[u8]) -> Result<Version> {
    match <[u8; BYTES_LEN]>::try_from(value) {
        Ok(bytes) => Ok(Version::from_bytes(bytes)),
        Err(_) => Err(corrupt(key, "not a version")),
    }
}

/// The version that is stored at `key`; zero if there is none.
pub fn decode_version_or_zero(key: &[u8], value: Option<&Bytes>) -> Result<Version> {
    value.map_or(Ok(Version::ZERO), |value| decode_version(key, value))
}

pub fn encode_lineage(row: &Row) -> Vec<u8> {
    [row.began.to_bytes(), row.previous_end.to_bytes()].concat()
}

pub fn decode_lineage(item: &KeyValue) -> Result<Row> {
    let (moments, []) = item.value.as_chunks::<BYTES_LEN>() else {
        return Err(corrupt(&item.key, "not two moments"));
    };
    let [began, previous_end] = moments else {
        return Err(corrupt(&item.key, "not two moments"));
    };
    let began = Version::from_bytes(*began);
    Ok(Row {
        epoch: began.epoch(),
        began,
        previous_end: Version::from_bytes(*previous_end),
    })
}

pub fn encode_time(version: Version) -> Vec<u8> {
    version.to_bytes().to_vec()
}

pub fn decode_time(item: &KeyValue) -> Result<Version> {
    decode_version(&item.key, &item.value)
}

/// How far a projection has got: what lies in `(from, until]` is projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Zero, or everything at or below may be missing, because the log had been trimmed before it was projected.
    pub from: Version,
    /// The checkpoint; zero if the projection has not begun.
    pub until: Version,
}

pub fn encode_checkpoint(checkpoint: Checkpoint) -> Vec<u8> {
    let Checkpoint { from, until } = checkpoint;
    match from == Version::ZERO {
        true => until.to_bytes().to_vec(),
        false => [until.to_bytes(), from.to_bytes()].concat(),
    }
}

/// The checkpoint that is stored at `key`.
pub fn decode_checkpoint(key: &[u8], value: Option<&Bytes>) -> Result<Checkpoint> {
    let (until, from) = match value {
        Some(value) if value.len() == 2 * BYTES_LEN => value.split_at(BYTES_LEN),
        Some(value) => (&value[..], &[0; BYTES_LEN][..]),
        None => (&[0; BYTES_LEN][..], &[0; BYTES_LEN][..]),
    };
    Ok(Checkpoint {
        from: decode_version(key, from)?,
        until: decode_version(key, until)?,
    })
}
