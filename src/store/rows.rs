//! The values of work in the background, as FoundationDB tuples: of erasures, and of the sweep of retention. [`super::values`]
//! has all others.
//!
//! Sweep: `(rules, done, done_at, began, began_at, position)`, see [`Sweep`].
//!
//! Erasures:
//!
//! - `(state, erased, position, what, …)`: state 0 (under way) or 1 (ended); how many events it has erased so far; how far it
//!   has got: bytes whose meaning depends on `what`; and then what it erases, which is empty once it has ended:
//! - `0, ids`: the events with these ids. `1, feed, everywhere`: a feed, with the copies of its events elsewhere or without.
//!   `2, actor`: the events of an actor. `3, [(id, version, feeds)…]`: the places of erased entries, see
//!   [`Change::Erased`](crate::types::Change::Erased).

use std::borrow::Cow;

use bytes::Bytes;
use foundationdb_tuple::{Bytes as TupleBytes, PackResult, TupleDepth, TupleUnpack, pack, unpack};

use super::{KeyValue, Result, keys::corrupt};
use crate::{
    types::{Actor, EventId, FeedName, Invalid},
    version::{BYTES_LEN, Version},
};

/// An erasure that is under way or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub is_done: bool,
    /// Events that were erased so far.
    pub erased: u64,
    /// How far it has got.
    pub position: Bytes,
    pub what: What,
}

/// What a job erases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Events(Vec<EventId>),
    Feed {
        feed: FeedName,
        /// Also the copies of its events in other feeds.
        everywhere: bool,
    },
    Actor(Actor),
    /// Not content, but what erasures have left for a few seconds.
    Places(Vec<Place>),
    /// The job has ended: what it was about is erased, too.
    Nothing,
}

/// The place of an erased entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub id: EventId,
    pub version: Version,
    pub feeds: Vec<FeedName>,
}

const EVENTS: u16 = 0;
const FEED: u16 = 1;
const ACTOR: u16 = 2;
const PLACES: u16 = 3;
const NOTHING: u16 = 4;

impl Job {
    pub fn new(what: What) -> Self {
        Self {
            is_done: false,
            erased: 0,
            position: Bytes::new(),
            what,
        }
    }
}

type PlaceTuple<'a> = (Cow<'a, str>, TupleBytes<'a>, Vec<Cow<'a, str>>);

pub fn encode_job(job: &Job) -> Vec<u8> {
    let position = TupleBytes::from(&job.position[..]);
    let mut value = pack(&(job.is_done, job.erased, position));
    value.extend(match &job.what {
        What::Events(ids) => {
            let ids: Vec<&str> = ids.iter().map(EventId::as_str).collect();
            pack(&(EVENTS, ids))
        }
        What::Feed { feed, everywhere } => pack(&(FEED, feed.as_str(), *everywhere)),
        What::Actor(actor) => pack(&(ACTOR, actor.as_str())),
        What::Places(places) => {
            let place = |place: &Place| {
                let feeds = place.feeds.iter().map(|feed| feed.to_string().into());
                let version = TupleBytes::from(place.version.to_bytes().to_vec());
                (
                    place.id.as_str().to_owned().into(),
                    version,
                    feeds.collect(),
                )
            };
            let places: Vec<PlaceTuple<'_>> = places.iter().map(place).collect();
            pack(&(PLACES, places))
        }
        What::Nothing => pack(&(NOTHING,)),
    });
    value
}

enum WhatTuple<'a> {
    Events(Vec<Cow<'a, str>>),
    Feed(Cow<'a, str>, bool),
    Actor(Cow<'a, str>),
    Places(Vec<PlaceTuple<'a>>),
    Nothing,
    Unknown(u16),
}

impl<'de: 'a, 'a> TupleUnpack<'de> for WhatTuple<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        let (rest, tag) = u16::unpack(input, depth)?;
        Ok(match tag {
            EVENTS => {
                let (rest, ids) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Events(ids))
            }
            FEED => {
                let (rest, feed) = TupleUnpack::unpack(rest, depth)?;
                let (rest, everywhere) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Feed(feed, everywhere))
            }
            ACTOR => {
                let (rest, actor) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Actor(actor))
            }
            PLACES => {
                let (rest, places) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Places(places))
            }
            NOTHING => (rest, Self::Nothing),
            tag => (&[], Self::Unknown(tag)),
        })
    }
}

fn name<T>(
    text: Cow<'_, str>,
    stored: fn(Bytes) -> std::result::Result<T, Invalid>,
) -> std::result::Result<T, String> {
    stored(text.into_owned().into()).map_err(|error| error.to_string())
}

pub fn decode_job(item: &KeyValue) -> Result<Job> {
    let bad = |what: String| corrupt(&item.key, what);
    let (is_done, erased, position, what): (bool, u64, TupleBytes<'_>, WhatTuple<'_>) =
        unpack(&item.value).map_err(|error| bad(error.to_string()))?;
    Ok(Job {
        is_done,
        erased,
        position: Bytes::copy_from_slice(&position.0),
        what: what_from(what).map_err(bad)?,
    })
}

fn what_from(what: WhatTuple<'_>) -> std::result::Result<What, String> {
    Ok(match what {
        WhatTuple::Events(ids) => {
            let ids = ids.into_iter().map(|id| name(id, EventId::stored));
            What::Events(ids.collect::<std::result::Result<_, String>>()?)
        }
        WhatTuple::Feed(feed, everywhere) => What::Feed {
            feed: name(feed, FeedName::stored)?,
            everywhere,
        },
        WhatTuple::Actor(actor) => What::Actor(name(actor, Actor::stored)?),
        WhatTuple::Places(places) => {
            let place = |(id, version, feeds): PlaceTuple<'_>| {
                let bytes = <[u8; BYTES_LEN]>::try_from(&version.0[..]);
                let feeds = feeds.into_iter().map(|feed| name(feed, FeedName::stored));
                Ok(Place {
                    id: name(id, EventId::stored)?,
                    version: Version::from_bytes(bytes.map_err(|_| "not a version".to_owned())?),
                    feeds: feeds.collect::<std::result::Result<_, String>>()?,
                })
            };
            let places = places.into_iter().map(place);
            What::Places(places.collect::<std::result::Result<_, String>>()?)
        }
        WhatTuple::Nothing => What::Nothing,
        WhatTuple::Unknown(tag) => return Err(format!("unknown tag {tag}")),
    })
}

/// How far the sweep of retention has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The hash of the rules.
    pub rules: u128,
    /// When the last complete pass by these rules began, in µs since 1970, and at which moment; 0 if there was none.
    pub done: u64,
    pub done_at: Version,
    /// The same, of the present pass.
    pub began: u64,
    pub began_at: Version,
    /// How far the present pass has got. Empty: it is complete.
    pub position: Bytes,
}

pub fn encode_sweep(sweep: &Sweep) -> Vec<u8> {
    let (rules, done_at, began_at) = (
        sweep.rules.to_be_bytes(),
        sweep.done_at.to_bytes(),
        sweep.began_at.to_bytes(),
    );
    pack(&(
        TupleBytes::from(&rules[..]),
        sweep.done,
        TupleBytes::from(&done_at[..]),
        sweep.began,
        TupleBytes::from(&began_at[..]),
        TupleBytes::from(&sweep.position[..]),
    ))
}

type SweepTuple<'a> = (
    TupleBytes<'a>,
    u64,
    TupleBytes<'a>,
    u64,
    TupleBytes<'a>,
    TupleBytes<'a>,
);

pub fn decode_sweep(key: &[u8], value: &[u8]) -> Result<Sweep> {
    let (rules, done, done_at, began, began_at, position): SweepTuple<'_> =
        unpack(value).map_err(|error| corrupt(key, error))?;
    let bad = |_| corrupt(key, "not 16 bytes");
    let sixteen = |bytes: &TupleBytes<'_>| <[u8; BYTES_LEN]>::try_from(&bytes.0[..]).map_err(bad);
    Ok(Sweep {
        rules: u128::from_be_bytes(sixteen(&rules)?),
        done,
        done_at: Version::from_bytes(sixteen(&done_at)?),
        began,
        began_at: Version::from_bytes(sixteen(&began_at)?),
        position: Bytes::copy_from_slice(&position.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::versioned;

    #[test]
    fn jobs_round_trip_and_what_a_later_program_writes_is_refused() {
        let feed = |name: &str| -> FeedName { name.parse().expect("a name") };
        let id = |id: &str| -> EventId { id.parse().expect("an id") };
        let place = Place {
            id: id("a/1"),
            version: Version::new(1, 2, 3),
            feeds: vec![feed("x"), feed("y")],
        };
        for what in [
            What::Events(vec![id("1"), id("2")]),
            What::Feed {
                feed: feed("x"),
                everywhere: true,
            },
            What::Actor("user:1".parse().expect("an actor")),
            What::Places(vec![place]),
            What::Nothing,
        ] {
            let job = Job {
                is_done: what == What::Nothing,
                erased: 7,
                position: Bytes::from_static(&[0, 1, 255]),
                what,
            };
            let item = |value: Vec<u8>| KeyValue {
                key: versioned(b"job", Version::MAX).into(),
                value: value.into(),
            };
            let value = encode_job(&job);
            assert_eq!(decode_job(&item(value.clone())).expect("decodes"), job);
            let more = [value, pack(&7)].concat();
            assert!(decode_job(&item(more)).is_err());
        }
    }

    #[test]
    fn sweeps_round_trip() {
        let sweep = Sweep {
            rules: u128::MAX - 7,
            done: 1,
            done_at: Version::new(1, 2, 3),
            began: 1 << 60,
            began_at: Version::MAX,
            position: Bytes::from_static(&[0, 255, 0]),
        };
        let value = encode_sweep(&sweep);
        assert_eq!(decode_sweep(b"", &value).expect("decodes"), sweep);
        assert!(decode_sweep(b"", &[value, pack(&7)].concat()).is_err());
    }
}
