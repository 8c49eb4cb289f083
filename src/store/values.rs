//! The encoding of all values, as FoundationDB tuples.

use std::borrow::Cow;

use bytes::Bytes;
use foundationdb_tuple::{Bytes as TupleBytes, pack, pack_into, unpack};

use super::{
    KeyValue, Result,
    keys::{corrupt, version_of},
};
use crate::{
    types::{Actor, Delivery, Entry, EventId, FeedName, Invalid, Kind},
    version::Version,
};

/// Maximum size of a value in the log, in bytes. FoundationDB refuses values over 100,000 bytes.
pub const RECORD_BYTES_MAX: usize = 96_000;

/// `(read_at, delivery, id, kind, actor, at, data)`.
type EntryTuple<'a> = (
    u64,
    u16,
    Cow<'a, str>,
    Cow<'a, str>,
    Option<Cow<'a, str>>,
    i64,
    TupleBytes<'a>,
);

/// `(index in the batch, feeds in the partition, entry)`.
type RecordTuple<'a> = (u16, Vec<Cow<'a, str>>, EntryTuple<'a>);

/// An entry, and those of its feeds that belong to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub entry: Entry,
    pub feeds: Vec<FeedName>,
}

/// A record of the transient log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransientRecord {
    Event(Record),
    MarkerMoved { feed: FeedName, version: Version },
}

/// The value of an unread key, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadKey {
    pub version: Version,
    pub kind: String,
    pub id: EventId,
    pub read_at: u64,
}

fn entry_tuple(entry: &Entry) -> EntryTuple<'_> {
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
    )
}

/// A part of an unpacked tuple, sharing the memory of `value`; a copy if it was escaped.
fn shared(value: &Bytes, part: Cow<'_, [u8]>) -> Bytes {
    match part {
        Cow::Borrowed(part) => value.slice_ref(part),
        Cow::Owned(part) => part.into(),
    }
}

fn text<T>(
    value: &Bytes,
    part: Cow<'_, str>,
    stored: fn(Bytes) -> std::result::Result<T, Invalid>,
) -> std::result::Result<T, String> {
    let part = match part {
        Cow::Borrowed(part) => Cow::Borrowed(part.as_bytes()),
        Cow::Owned(part) => Cow::Owned(part.into_bytes()),
    };
    stored(shared(value, part)).map_err(|error| error.to_string())
}

/// The entry in a tuple that was unpacked from `value`; it shares the memory of `value`.
fn entry_from(
    version: Version,
    value: &Bytes,
    tuple: EntryTuple<'_>,
) -> std::result::Result<Entry, String> {
    let (read_at, delivery, id, kind, actor, at, data) = tuple;
    Ok(Entry {
        version,
        id: text(value, id, EventId::stored)?,
        kind: text(value, kind, Kind::stored)?,
        delivery: match delivery {
            0 => Delivery::Entry,
            1 => Delivery::Notify,
            2 => Delivery::Transient,
            other => return Err(format!("unknown delivery {other}")),
        },
        actor: actor
            .map(|actor| text(value, actor, Actor::stored))
            .transpose()?,
        at,
        data: shared(value, data.0),
        read_at,
    })
}

pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    // 32 bytes for the numbers and the terminators of the texts.
    let actor = entry.actor.as_ref().map_or("", Actor::as_str).len();
    let texts = entry.id.as_str().len() + entry.kind.as_str().len() + actor;
    let mut value = Vec::with_capacity(texts + entry.data.len() + 32);
    pack_into(&entry_tuple(entry), &mut value);
    value
}

pub fn decode_entry(item: &KeyValue) -> Result<Entry> {
    let tuple = unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    entry_from(version_of(&item.key)?, &item.value, tuple).map_err(|what| corrupt(&item.key, what))
}

pub fn encode_unread(entry: &Entry) -> Vec<u8> {
    pack(&(entry.kind.as_str(), entry.id.as_str(), entry.read_at))
}

pub fn decode_unread(item: &KeyValue) -> Result<UnreadKey> {
    let (kind, id, read_at): (String, Cow<'_, str>, u64) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    let id = text(&item.value, id, EventId::stored).map_err(|what| corrupt(&item.key, what))?;
    Ok(UnreadKey {
        version: version_of(&item.key)?,
        kind,
        id,
        read_at,
    })
}

/// The parts of a log record to encode.
#[derive(Debug)]
pub struct RecordParts<'a> {
    /// The entry's index in its batch.
    pub index: u16,
    pub feeds: Vec<&'a FeedName>,
    pub entry: &'a Entry,
}

/// Packs the records of one partition into values of at most [`RECORD_BYTES_MAX`] bytes. Each value comes with the index
/// of its first entry.
pub fn encode_records(records: &[RecordParts<'_>]) -> Vec<(u16, Vec<u8>)> {
    let mut values: Vec<(u16, Vec<u8>)> = Vec::new();
    for RecordParts {
        index,
        feeds,
        entry,
    } in records
    {
        let feeds: Vec<Cow<'_, str>> = feeds.iter().map(|feed| feed.as_str().into()).collect();
        let record: RecordTuple<'_> = (*index, feeds, entry_tuple(entry));
        // The concatenation of packed tuples is a packed tuple.
        match values.last_mut() {
            Some((_, value)) => {
                let before = value.len();
                pack_into(&(record,), value);
                if value.len() > RECORD_BYTES_MAX {
                    let bytes = value.split_off(before);
                    values.push((*index, bytes));
                }
            }
            None => values.push((*index, pack(&(record,)))),
        }
    }
    values
}

/// The entries of a log record, in version order.
pub fn decode_records(item: &KeyValue) -> Result<Vec<Record>> {
    let first = version_of(&item.key)?;
    let tuples: Vec<RecordTuple<'_>> =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    tuples
        .into_iter()
        .map(|tuple| {
            record_from(first, &item.value, tuple).map_err(|what| corrupt(&item.key, what))
        })
        .collect()
}

fn record_from(
    first: Version,
    value: &Bytes,
    (index, feeds, entry): RecordTuple<'_>,
) -> std::result::Result<Record, String> {
    let feeds = feeds
        .into_iter()
        .map(|feed| text(value, feed, FeedName::stored));
    Ok(Record {
        feeds: feeds.collect::<std::result::Result<_, _>>()?,
        entry: entry_from(first.at_index(index), value, entry)?,
    })
}

pub fn encode_transient(index: u16, feeds: &[&FeedName], entry: &Entry) -> Vec<u8> {
    let feeds: Vec<Cow<'_, str>> = feeds.iter().map(|feed| feed.as_str().into()).collect();
    let record: RecordTuple<'_> = (index, feeds, entry_tuple(entry));
    pack(&(Some(record), Option::<&str>::None))
}

pub fn encode_marker_moved(feed: &FeedName) -> Vec<u8> {
    pack(&(Option::<()>::None, Some(feed.as_str())))
}

pub fn decode_transient(item: &KeyValue) -> Result<TransientRecord> {
    let bad = |what: String| corrupt(&item.key, what);
    let version = version_of(&item.key)?;
    let tuple: (Option<RecordTuple<'_>>, Option<Cow<'_, str>>) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    match tuple {
        (Some(record), None) => record_from(version, &item.value, record)
            .map(TransientRecord::Event)
            .map_err(bad),
        (None, Some(feed)) => {
            let feed = text(&item.value, feed, FeedName::stored).map_err(bad)?;
            Ok(TransientRecord::MarkerMoved { feed, version })
        }
        _ => Err(bad(
            "the record is neither a transient nor a moved marker".into()
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_entry() -> impl Strategy<Value = Entry> {
        let name = "[A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]{0,11}";
        let delivery = prop_oneof![
            Just(Delivery::Entry),
            Just(Delivery::Notify),
            Just(Delivery::Transient)
        ];
        let text = ("[ -~]{1,20}", name, proptest::option::of(name), ".{0,40}");
        (text, delivery, any::<u64>(), any::<i64>(), any::<u16>()).prop_map(
            |((id, kind, actor, data), delivery, read_at, at, index)| Entry {
                version: Version::new(3, 9, 5 << 16).at_index(index),
                id: id.parse().expect("id"),
                kind: kind.parse().expect("kind"),
                delivery,
                actor: actor.map(|actor| actor.parse().expect("actor")),
                at,
                data: serde_json::to_vec(&data).expect("string").into(),
                read_at,
            },
        )
    }

    fn item(version: Version, value: Vec<u8>) -> KeyValue {
        KeyValue {
            key: super::super::keys::versioned(b"any", version).into(),
            value: value.into(),
        }
    }

    proptest! {
        #[test]
        fn entries_round_trip(entry in any_entry()) {
            prop_assert_eq!(decode_entry(&item(entry.version, encode_entry(&entry))).expect("decodes"), entry.clone());
            let unread = decode_unread(&item(entry.version, encode_unread(&entry))).expect("decodes");
            prop_assert_eq!((unread.version, &unread.id), (entry.version, &entry.id));
            let feed: FeedName = "user:1".parse().expect("name");
            let index = entry.version.to_bytes()[14..].try_into().map(u16::from_be_bytes).expect("two bytes");
            let transient = decode_transient(&item(entry.version, encode_transient(index, &[&feed], &entry))).expect("decodes");
            prop_assert_eq!(transient, TransientRecord::Event(Record { entry, feeds: vec![feed] }));
        }

        #[test]
        fn records_round_trip_in_chunks(mut entries in proptest::collection::vec(any_entry(), 1..20), big in any::<bool>()) {
            entries.sort_by_key(|entry| entry.version);
            entries.dedup_by_key(|entry| entry.version);
            if big {
                for entry in &mut entries {
                    entry.data = vec![b'1'; 40_000].into();
                }
            }
            let feed: FeedName = "user:1".parse().expect("name");
            let index = |entry: &Entry| entry.version.to_bytes()[14..].try_into().map(u16::from_be_bytes).expect("two bytes");
            let records: Vec<_> = entries.iter().map(|entry| RecordParts { index: index(entry), feeds: vec![&feed], entry }).collect();
            let mut read = Vec::new();
            for (index, value) in encode_records(&records) {
                prop_assert!(value.len() <= RECORD_BYTES_MAX);
                read.extend(decode_records(&item(entries[0].version.at_index(index), value)).expect("decodes"));
            }
            prop_assert_eq!(read.into_iter().map(|record| record.entry).collect::<Vec<_>>(), entries);
        }

        #[test]
        fn invalid_bytes_are_an_error_not_a_panic(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let item = item(Version::ZERO, value);
            let _ = (decode_entry(&item), decode_unread(&item), decode_records(&item), decode_transient(&item));
        }
    }

    #[test]
    fn marker_news_round_trips() {
        let feed: FeedName = "user:1".parse().expect("name");
        let version = Version::new(0, 1, 2);
        let read = decode_transient(&item(version, encode_marker_moved(&feed))).expect("decodes");
        assert_eq!(read, TransientRecord::MarkerMoved { feed, version });
    }
}
