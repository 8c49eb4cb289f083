//! What stands in the place of a store's format while the store is an unfinished copy.

use foundationdb_tuple::{Bytes as TupleBytes, pack, unpack};

use super::pages::{Page, size};
use crate::store::{
    Error, Result,
    keys::{FORMAT, corrupt},
};

/// In the place of a format's number: programs that do not know of copies refuse it as a format they do not know.
const FORMAT_OF_COPIES: [u8; 4] = [0; 4];

/// `(name, state, epoch, keys, bytes, position, is_complete)`, after the format of the store (4 bytes).
type UnfinishedTuple<'a> = (String, TupleBytes<'a>, u32, u64, u64, TupleBytes<'a>, bool);

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// What the user calls the source.
    pub name: String,
    /// Tells whether a store is the source, and still as it was when the copy began.
    pub state: u128,
    /// The epoch of the target.
    pub epoch: u32,
    /// Keys that are copied, and the bytes of keys and values.
    pub keys: u64,
    pub bytes: u64,
    /// All keys up to this one are copied. Without the prefix; empty at the beginning.
    pub position: Vec<u8>,
    /// Everything is copied, and has to be verified.
    pub is_complete: bool,
}

impl Unfinished {
    pub fn encode(&self) -> Vec<u8> {
        let state = self.state.to_be_bytes();
        let unfinished: UnfinishedTuple<'_> = (
            self.name.clone(),
            TupleBytes::from(&state[..]),
            self.epoch,
            self.keys,
            self.bytes,
            TupleBytes::from(&self.position[..]),
            self.is_complete,
        );
        let format = FORMAT.to_be_bytes();
        [&FORMAT_OF_COPIES[..], &format, &pack(&unfinished)].concat()
    }

    /// Whether `meta`, the value in the place of a store's format, says that the store is an unfinished copy.
    pub fn is_in(meta: &[u8]) -> bool {
        meta.starts_with(&FORMAT_OF_COPIES)
    }

    /// How far the unfinished copy is that [`Self::is_in`] `meta`. Fails if a program with another format began it.
    pub fn decode(key: &[u8], meta: &[u8]) -> Result<Self> {
        let rest: &[u8] = meta.get(FORMAT_OF_COPIES.len()..).unwrap_or_default();
        let Some((format, tuple)) = rest.split_first_chunk() else {
            return Err(corrupt(key, "the format number of the copy is missing"));
        };
        let format = u32::from_be_bytes(*format);
        if format != FORMAT {
            return Err(Error::Open(format!(
                "the store is an unfinished copy in format {format}, but this program supports format {FORMAT} only: \
                 continue it with the newsfeed version that began it"
            )));
        }
        let unfinished = unpack(tuple).map_err(|error| corrupt(key, error))?;
        let (name, state, epoch, keys, bytes, position, is_complete): UnfinishedTuple<'_> =
            unfinished;
        let state: [u8; 16] = (&state.0[..])
            .try_into()
            .map_err(|_| corrupt(key, "not the state of a source"))?;
        Ok(Self {
            name,
            state: u128::from_be_bytes(state),
            epoch,
            keys,
            bytes,
            position: position.0.into_owned(),
            is_complete,
        })
    }

    /// Why the store with the value `meta` cannot be opened.
    pub fn refusal(key: &[u8], meta: &[u8]) -> Error {
        match Self::decode(key, meta) {
            Ok(unfinished) => Error::Open(format!(
                "the store is an unfinished copy of {}, with {} keys so far: run the same `newsfeed admin copy` again, \
                 which continues it",
                unfinished.name, unfinished.keys
            )),
            Err(error) => error,
        }
    }

    /// The same once `page` is copied.
    pub(super) fn after(&self, page: &Page) -> Self {
        Self {
            keys: self.keys + page.items.len() as u64,
            bytes: self.bytes + page.items.iter().map(size).sum::<u64>(),
            position: page.end.clone(),
            is_complete: page.is_last,
            ..self.clone()
        }
    }

    /// The source is not as it was when the copy began.
    pub(super) fn changed(&self) -> Error {
        Error::Open(format!(
            "the source is not as it was when the copy began (then called {}): stop every node that serves it. {}",
            self.name,
            self.remedy()
        ))
    }

    pub(super) fn remedy(&self) -> &'static str {
        "Then empty the target (remove its folder, or clear the keys with its prefix) and copy again"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn markers_round_trip(
            name in ".{0,20}", state in any::<u128>(), epoch in any::<u32>(), keys in any::<u64>(), bytes in any::<u64>(),
            position in proptest::collection::vec(any::<u8>(), 0..40), is_complete in any::<bool>(),
        ) {
            let unfinished = Unfinished { name, state, epoch, keys, bytes, position, is_complete };
            let meta = unfinished.encode();
            prop_assert!(Unfinished::is_in(&meta));
            prop_assert_eq!(Unfinished::decode(b"", &meta).expect("decodes"), unfinished);
        }

        #[test]
        fn invalid_bytes_are_an_error_not_a_panic(rest in proptest::collection::vec(any::<u8>(), 0..60)) {
            let meta = [&FORMAT_OF_COPIES[..], &rest].concat();
            let _ = (Unfinished::decode(b"", &meta), Unfinished::refusal(b"", &meta));
        }
    }
}
