//! Claims of ids.

use bytes::Bytes;
use foundationdb_tuple::{
    Bytes as TupleBytes, PackError, PackResult, TupleDepth, TupleUnpack, pack, pack_into, unpack,
};

use super::{
    stamp::{stamp, to_be_stamped},
    text::{Text, feeds_from, names},
    version::StoredVersion,
};
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, version_of},
    },
    types::FeedName,
    version::Version,
};

/// A claim, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub version: Version,
    /// `None` if the event was erased.
    pub event: Option<ClaimedEvent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedEvent {
    /// The hash of its content.
    pub digest: u128,
    /// All its feeds, in order.
    pub feeds: Vec<FeedName>,
    /// Its edits, newest first: at most [`EDITS_KEPT_MAX`].
    pub edits: Vec<Edit>,
}

/// An edit of an event, as its claim remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    pub version: Version,
    /// The hash of the id that the client gave the change.
    pub change_id: Option<u128>,
}

/// How many edits of an event are remembered, so that a repeated change is recognised.
pub const EDITS_KEPT_MAX: usize = 16;

pub fn encode_claim(digest: u128, feeds: &[FeedName]) -> Vec<u8> {
    let digest = digest.to_be_bytes();
    let names_bytes: usize = feeds.iter().map(|feed| feed.as_str().len() + 2).sum();
    // Each byte of the digest may need an escape.
    let mut value = Vec::with_capacity(2 * digest.len() + names_bytes + 4);
    pack_into(&(TupleBytes::from(&digest[..]), names(feeds)), &mut value);
    value
}

/// The claim of an event that is being edited: the edits of `event` are those before this one, newest first. The value has to
/// be stamped.
pub fn encode_edited_claim(event: &ClaimedEvent, change_id: Option<u128>) -> Vec<u8> {
    let edits = event.edits.iter().take(EDITS_KEPT_MAX - 1);
    let edits = edits.map(|edit| (Some(edit.version), edit.change_id));
    let edits = std::iter::once((None, change_id)).chain(edits);
    to_be_stamped(&claim_with_edits(event, edits))
}

/// The claim of an event as it is.
pub fn encode_claim_of(event: &ClaimedEvent) -> Vec<u8> {
    let edits = event.edits.iter();
    match event.edits.is_empty() {
        true => encode_claim(event.digest, &event.feeds),
        false => claim_with_edits(
            event,
            edits.map(|edit| (Some(edit.version), edit.change_id)),
        ),
    }
}

fn claim_with_edits(
    event: &ClaimedEvent,
    edits: impl Iterator<Item = (Option<Version>, Option<u128>)>,
) -> Vec<u8> {
    let hash = |id: u128| TupleBytes::from(id.to_be_bytes().to_vec());
    let edits = edits.map(|(version, id)| (version.map(StoredVersion), id.map(hash)));
    let edits: Vec<EditTuple<'_>> = edits.collect();
    pack(&(hash(event.digest), names(&event.feeds), edits))
}

/// `(version, hash of the change id)`.
type EditTuple<'a> = (Option<StoredVersion>, Option<TupleBytes<'a>>);

fn hash_from(bytes: &TupleBytes<'_>) -> std::result::Result<u128, String> {
    let bytes = (&bytes.0[..]).try_into();
    let bytes = bytes.map_err(|_| "not a hash of 16 bytes".to_owned());
    bytes.map(u128::from_be_bytes)
}

pub fn decode_claim(item: &KeyValue) -> Result<Claim> {
    let version = version_of(&item.key)?;
    if item.value.is_empty() {
        return Ok(Claim {
            version,
            event: None,
        });
    }
    let event = claimed_event(&item.value).map_err(|what| corrupt(&item.key, what))?;
    Ok(Claim {
        version,
        event: Some(event),
    })
}

fn claimed_event(value: &Bytes) -> std::result::Result<ClaimedEvent, String> {
    let failed = |error: PackError| error.to_string();
    let (stamp, value) = stamp(value);
    let (digest, feeds, Edits(edits)): (TupleBytes<'_>, Vec<Text<'_>>, Edits<'_>) =
        unpack(&value).map_err(failed)?;
    let edit = |(version, id): EditTuple<'_>| {
        let version = version.map(|StoredVersion(version)| version);
        Ok(Edit {
            version: version.or(stamp).ok_or("the edit has no version")?,
            change_id: id.as_ref().map(hash_from).transpose()?,
        })
    };
    let edits = edits.into_iter().map(edit);
    Ok(ClaimedEvent {
        digest: hash_from(&digest)?,
        feeds: feeds_from(&value, feeds)?,
        edits: edits.collect::<std::result::Result<_, String>>()?,
    })
}

/// The last element of a claim. Missing if the event was never edited.
struct Edits<'a>(Vec<EditTuple<'a>>);

impl<'de: 'a, 'a> TupleUnpack<'de> for Edits<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        match input.is_empty() {
            true => Ok((input, Self(Vec::new()))),
            false => TupleUnpack::unpack(input, depth).map(|(rest, edits)| (rest, Self(edits))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            stamp::{STAMP_AT, STAMP_BYTES, is_to_be_stamped},
            tests::item,
        },
        *,
    };

    proptest! {
        #[test]
        fn claims_of_edited_events_round_trip(
            digest in any::<u128>(),
            edits in proptest::collection::vec((any::<u64>(), proptest::option::of(any::<u128>())), 0..20),
            change_id in proptest::option::of(any::<u128>()),
        ) {
            let feeds: Vec<FeedName> = vec!["a".parse().expect("name")];
            let edit = |&(time, change_id): &(u64, Option<u128>)| Edit { version: Version::new(1, time, 0), change_id };
            let edits: Vec<Edit> = edits.iter().map(edit).take(EDITS_KEPT_MAX).collect();
            let version = Version::new(0, 1, 2);
            let event = ClaimedEvent { digest, feeds, edits };
            let as_it_is = decode_claim(&item(version, encode_claim_of(&event))).expect("decodes");
            prop_assert_eq!(as_it_is.event.as_ref(), Some(&event));
            let mut value = encode_edited_claim(&event, change_id);
            prop_assert!(is_to_be_stamped(&value));
            let stamp = Version::new(9, 0xff, 0);
            value[STAMP_AT..STAMP_BYTES].copy_from_slice(&stamp.to_bytes());
            let read = decode_claim(&item(version, value)).expect("decodes").event.expect("not erased");
            let newest = Edit { version: stamp, change_id };
            let expected: Vec<_> = std::iter::once(newest).chain(event.edits).take(EDITS_KEPT_MAX).collect();
            prop_assert_eq!(read.edits, expected);
        }

        #[test]
        fn claims_round_trip(digest in any::<u128>(), count in 0..9usize) {
            let feeds: Vec<FeedName> = (0..count).rev().map(|n| format!("user:{n}").parse().expect("name")).collect();
            let version = Version::new(0, 1, 2);
            let read = decode_claim(&item(version, encode_claim(digest, &feeds))).expect("decodes");
            prop_assert_eq!(read, Claim { version, event: Some(ClaimedEvent { digest, feeds, edits: Vec::new() }) });
        }
    }

    #[test]
    fn an_erased_claim_is_empty() {
        let version = Version::new(0, 1, 2);
        let read = decode_claim(&item(version, Vec::new())).expect("decodes");
        let erased = Claim {
            version,
            event: None,
        };
        assert_eq!(read, erased);
    }
}
