//! The log by kind and the log by actor.

use foundationdb_tuple::{PackResult, TupleDepth, TupleUnpack, pack, unpack};

use super::text::{Text, feeds_from, names};
use crate::{
    store::{
        KeyValue, Result,
        keys::{Keys, corrupt, version_of},
    },
    types::FeedName,
    version::Version,
};

/// An event in the log by kind or by actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    pub version: Version,
    /// The feeds that show the event, in order. Not empty.
    pub feeds: Vec<FeedName>,
    /// The hash of the first feed that the producer named, see [`Keys::hash`].
    pub first_feed_hash: u64,
    /// It is the news of a change.
    pub is_change: bool,
}

pub fn encode_indexed(feeds: &[FeedName], first_feed_hash: u64, is_change: bool) -> Vec<u8> {
    let shown = feeds.first().map(Keys::hash);
    let hash = (shown != Some(first_feed_hash)).then_some(first_feed_hash);
    match is_change {
        true => pack(&(names(feeds), hash, true)),
        false => pack(&(names(feeds), hash)),
    }
}

/// The last element of an index key's value: whether it is the news of a change. Missing if not.
struct IsChange(bool);

impl<'de> TupleUnpack<'de> for IsChange {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        match input.is_empty() {
            true => Ok((input, Self(false))),
            false => bool::unpack(input, depth).map(|(rest, is)| (rest, Self(is))),
        }
    }
}

pub fn decode_indexed(item: &KeyValue) -> Result<Indexed> {
    let bad = |what: String| corrupt(&item.key, what);
    let (feeds, hash, IsChange(is_change)): (Vec<Text<'_>>, Option<u64>, IsChange) =
        unpack(&item.value).map_err(|error| bad(error.to_string()))?;
    let feeds = feeds_from(&item.value, feeds).map_err(bad)?;
    let first = feeds.first().map(Keys::hash);
    let first = first.ok_or_else(|| bad("no feed".into()))?;
    Ok(Indexed {
        version: version_of(&item.key)?,
        feeds,
        first_feed_hash: hash.unwrap_or(first),
        is_change,
    })
}
