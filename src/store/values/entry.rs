//! Entries of feeds, and the news of their changes.

use std::io;

use bytes::Bytes;
use foundationdb_tuple::{
    Bytes as TupleBytes, PackResult, TupleDepth, TuplePack, TupleUnpack, VersionstampOffset, pack,
    pack_into, unpack,
};

use super::{
    EDIT, EDITED, ERASED, ERASURE, EVENT, shared,
    stamp::{STAMP, STAMP_BYTES, stamp},
    text::Text,
    unknown_tag,
    version::StoredVersion,
};
use crate::{
    store::{
        KeyValue, Result,
        keys::{corrupt, version_of},
    },
    types::{Actor, Change, Delivery, Entry, EventId, EventTime, Kind, NO_TWIN},
    version::Version,
};

/// `(read_at, delivery, id, kind, actor, at, data[, time])`.
pub(super) type EntryTuple<'a> = (
    u64,
    u16,
    Text<'a>,
    Text<'a>,
    Option<Text<'a>>,
    i64,
    TupleBytes<'a>,
    Time<'a>,
);

/// The last element of an entry. An entry without `time` ends before it.
#[derive(Debug)]
pub(super) struct Time<'a>(Option<Text<'a>>);

impl TuplePack for Time<'_> {
    fn pack<W: io::Write>(&self, out: &mut W, depth: TupleDepth) -> io::Result<VersionstampOffset> {
        match &self.0 {
            Some(time) => time.pack(out, depth),
            None => Ok(VersionstampOffset::None { size: 0 }),
        }
    }
}

impl<'de: 'a, 'a> TupleUnpack<'de> for Time<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        match input.first() {
            // The end of the value, or of the tuple.
            None | Some(0) => Ok((input, Self(None))),
            Some(_) => Text::unpack(input, depth).map(|(rest, time)| (rest, Self(Some(time)))),
        }
    }
}

pub(super) fn entry_tuple(entry: &Entry) -> EntryTuple<'_> {
    let delivery = match entry.delivery {
        Delivery::Entry => 0,
        Delivery::Notify => 1,
        Delivery::Transient => 2,
    };
    (
        entry.read_at,
        delivery,
        entry.id.as_str().into(),
        entry.kind.as_str().into(),
        entry.actor.as_ref().map(|actor| actor.as_str().into()),
        entry.at,
        TupleBytes::from(&entry.data[..]),
        Time(entry.time.as_ref().map(|time| time.as_str().into())),
    )
}

/// The entry in a tuple that was unpacked from `value`; it shares the memory of `value`.
pub(super) fn entry_from(
    version: Version,
    value: &Bytes,
    tuple: EntryTuple<'_>,
) -> std::result::Result<Entry, String> {
    let (read_at, delivery, id, kind, actor, at, data, Time(time)) = tuple;
    Ok(Entry {
        version,
        id: id.named(value, EventId::stored)?,
        kind: kind.named(value, Kind::stored)?,
        delivery: match delivery {
            0 => Delivery::Entry,
            1 => Delivery::Notify,
            2 => Delivery::Transient,
            other => return Err(format!("unknown delivery {other}")),
        },
        actor: actor
            .map(|actor| actor.named(value, Actor::stored))
            .transpose()?,
        at,
        time: time
            .map(|time| time.named(value, EventTime::try_from))
            .transpose()?,
        data: shared(value, data.0),
        read_at,
        change: None,
    })
}

/// What stands in a feed or in its changes: a tag, and then what the tag says.
enum Tagged<'a> {
    Entry(EntryTuple<'a>),
    Edited(EntryTuple<'a>),
    Edit(StoredVersion, EntryTuple<'a>),
    Erasure(StoredVersion, Text<'a>, Text<'a>),
    Erased(u64, Text<'a>),
    Unknown(u16),
}

impl<'de: 'a, 'a> TupleUnpack<'de> for Tagged<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        let (rest, tag) = u16::unpack(input, depth)?;
        Ok(match tag {
            EVENT => {
                let (rest, entry) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Entry(entry))
            }
            EDITED => {
                let (rest, entry) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Edited(entry))
            }
            EDIT => {
                let (rest, of) = TupleUnpack::unpack(rest, depth)?;
                let (rest, entry) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Edit(of, entry))
            }
            ERASURE => {
                let (rest, (of, id, kind)) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Erasure(of, id, kind))
            }
            ERASED => {
                let (rest, (read_at, id)) = TupleUnpack::unpack(rest, depth)?;
                (rest, Self::Erased(read_at, id))
            }
            tag => (&[], Self::Unknown(tag)),
        })
    }
}

/// The value of an entry. If it was edited by [`THIS_COMMIT`](super::THIS_COMMIT), the value has to be stamped.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    if entry.is_erased() {
        return pack(&(ERASED, entry.read_at, entry.id.as_str()));
    }
    // 33 bytes for the numbers and the terminators of the texts.
    let actor = entry.actor.as_ref().map_or("", Actor::as_str).len();
    let time = entry.time.as_ref().map_or("", EventTime::as_str).len();
    let texts = entry.id.as_str().len() + entry.kind.as_str().len() + actor + time;
    let mut value = Vec::with_capacity(texts + entry.data.len() + 33 + STAMP_BYTES);
    let tag = match entry.change {
        Some(Change::EditedAt(version)) => {
            value.push(STAMP);
            value.extend_from_slice(&version.to_bytes());
            EDITED
        }
        _ => EVENT,
    };
    // The concatenation of packed tuples is a packed tuple.
    pack_into(&(tag,), &mut value);
    pack_into(&entry_tuple(entry), &mut value);
    value
}

/// The value of a change: the news of an edit or of an erasure.
pub fn encode_change(entry: &Entry) -> Vec<u8> {
    match entry.change {
        Some(Change::Erasure(of)) => pack(&(
            ERASURE,
            StoredVersion(of),
            entry.id.as_str(),
            entry.kind.as_str(),
        )),
        change => {
            let of = match change {
                Some(Change::Edit(of)) => of,
                _ => entry.version,
            };
            let mut value = pack(&(EDIT, StoredVersion(of)));
            pack_into(&entry_tuple(entry), &mut value);
            value
        }
    }
}

/// An entry. It may be one that was erased: [`Change::Erased`].
pub fn decode_entry(item: &KeyValue) -> Result<Entry> {
    let bad = |what: String| corrupt(&item.key, what);
    let version = version_of(&item.key)?;
    let (stamp, value) = stamp(&item.value);
    let tagged = unpack(&value).map_err(|error| bad(error.to_string()))?;
    let mut entry = match (tagged, stamp) {
        (Tagged::Entry(tuple), None) => entry_from(version, &value, tuple).map_err(bad)?,
        (Tagged::Edited(tuple), Some(at)) => Entry {
            change: Some(Change::EditedAt(at)),
            ..entry_from(version, &value, tuple).map_err(bad)?
        },
        (Tagged::Erased(read_at, id), None) => {
            let id = id.named(&value, EventId::stored).map_err(bad)?;
            Entry {
                change: Some(Change::Erased),
                ..Entry::without_content(id, unknown_kind(), read_at)
            }
        }
        (Tagged::Unknown(tag), _) => return Err(bad(unknown_tag(tag))),
        _ => return Err(bad("not an entry".into())),
    };
    entry.version = version;
    Ok(entry)
}

/// The news of a change.
pub fn decode_change(item: &KeyValue) -> Result<Entry> {
    let bad = |what: String| corrupt(&item.key, what);
    let version = version_of(&item.key)?;
    let value = &item.value;
    match unpack(value).map_err(|error| bad(error.to_string()))? {
        Tagged::Edit(StoredVersion(of), tuple) => Ok(Entry {
            change: Some(Change::Edit(of)),
            read_at: NO_TWIN,
            ..entry_from(version, value, tuple).map_err(bad)?
        }),
        Tagged::Erasure(StoredVersion(of), id, kind) => {
            let id = id.named(value, EventId::stored).map_err(bad)?;
            let kind = kind.named(value, Kind::stored).map_err(bad)?;
            Ok(Entry {
                version,
                change: Some(Change::Erasure(of)),
                ..Entry::without_content(id, kind, NO_TWIN)
            })
        }
        Tagged::Unknown(tag) => Err(bad(unknown_tag(tag))),
        _ => Err(bad("not a change".into())),
    }
}

/// Instead of a kind that is not known any more.
fn unknown_kind() -> Kind {
    "erased".parse().expect("a valid kind")
}
