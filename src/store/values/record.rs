//! The log: values with the events of a batch.

use std::io;

use bytes::Bytes;
use foundationdb_tuple::{
    Bytes as TupleBytes, PackResult, TupleDepth, TuplePack, TupleUnpack, VersionstampOffset,
    pack_into, unpack,
};

use super::{
    EDIT, EDITED, ERASED, ERASURE, EVENT,
    entry::{EntryTuple, entry_from, entry_tuple},
    stamp::{THIS_COMMIT, is_to_be_stamped, stamp, to_be_stamped},
    text::{Text, feeds_from, names},
    unknown_tag,
    version::StoredVersion,
};
use crate::{
    store::{
        KeyValue, Result,
        keys::{Keys, corrupt, version_of},
    },
    types::{Change, Entry, FeedName, NO_TWIN},
    version::Version,
};

/// Maximum size of a value in the log, in bytes. FoundationDB refuses values over 100,000 bytes.
pub const RECORD_BYTES_MAX: usize = 96_000;

/// `(tag, index in the batch, exports, feeds, entry[, version])`.
pub(super) type RecordTuple<'a> = (u16, u16, bool, Vec<Text<'a>>, EntryTuple<'a>, LastVersion);

/// The last element of a log record: a version, if there is one.
#[derive(Debug)]
pub(super) struct LastVersion(pub(super) Option<Version>);

impl TuplePack for LastVersion {
    fn pack<W: io::Write>(&self, out: &mut W, depth: TupleDepth) -> io::Result<VersionstampOffset> {
        match self.0 {
            Some(version) => TupleBytes::from(&version.to_bytes()[..]).pack(out, depth),
            None => Ok(VersionstampOffset::None { size: 0 }),
        }
    }
}

impl<'de> TupleUnpack<'de> for LastVersion {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        match input.first() {
            // The end of the value, or of the tuple.
            None | Some(0) => Ok((input, Self(None))),
            Some(_) => {
                let (rest, StoredVersion(version)) = TupleUnpack::unpack(input, depth)?;
                Ok((rest, Self(Some(version))))
            }
        }
    }
}

/// An event in a partition of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub entry: Entry,
    /// All feeds of the event, in order, if the record `exports` it; else those that belong to the partition.
    pub feeds: Vec<FeedName>,
    /// This is the partition of the event's first feed: each event is exported by one record.
    pub exports: bool,
}

impl Record {
    /// Removes the feeds of other partitions than `partition`, from which the record was read.
    pub fn retain_partition(&mut self, keys: &Keys, partition: u16) {
        // A single feed is in the partition.
        if self.exports && self.feeds.len() > 1 {
            self.feeds.retain(|feed| keys.partition(feed) == partition);
        }
    }
}

/// The parts of a log record to encode.
#[derive(Debug)]
pub struct RecordParts<'a> {
    /// The entry's index in its batch.
    pub index: u16,
    /// See [`Record::feeds`].
    pub feeds: Vec<&'a FeedName>,
    pub exports: bool,
    pub entry: &'a Entry,
}

/// Packs the records of one partition into values of at most [`RECORD_BYTES_MAX`] bytes. Each value comes with the index
/// of its first entry. A value with an event that was edited by [`THIS_COMMIT`] has to be stamped.
pub fn encode_records(records: &[RecordParts<'_>]) -> Vec<(u16, Vec<u8>)> {
    let mut values: Vec<(u16, Vec<u8>)> = Vec::new();
    // Those of the values that have to be stamped.
    let mut stamped = Vec::new();
    for RecordParts {
        index,
        feeds,
        exports,
        entry,
    } in records
    {
        let feeds = names(feeds.iter().copied());
        let (tag, version) = match entry.change {
            None => (EVENT, None),
            Some(Change::EditedAt(version)) => {
                (EDITED, (version != THIS_COMMIT).then_some(version))
            }
            Some(Change::Edit(of)) => (EDIT, Some(of)),
            Some(Change::Erasure(of)) => (ERASURE, Some(of)),
            Some(Change::Erased) => (ERASED, None),
        };
        let last = LastVersion(version);
        let record: RecordTuple<'_> = (tag, *index, *exports, feeds, entry_tuple(entry), last);
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
            None => {
                let mut value = Vec::with_capacity(expected_bytes(records));
                pack_into(&(record,), &mut value);
                values.push((*index, value));
            }
        }
        if (tag, version) == (EDITED, None) {
            stamped.push(values.len() - 1);
        }
    }
    for index in stamped {
        let value = &mut values[index].1;
        if !is_to_be_stamped(value) {
            *value = to_be_stamped(value);
        }
    }
    values
}

/// About as many bytes as the first value needs.
fn expected_bytes(records: &[RecordParts<'_>]) -> usize {
    let each = records.iter().map(|record| {
        let names = record.feeds.iter().map(|feed| feed.as_str().len() + 2);
        record.entry.data.len() + record.entry.id.as_str().len() + names.sum::<usize>() + 80
    });
    each.sum::<usize>().min(RECORD_BYTES_MAX)
}

/// The events of a log record, in version order.
pub fn decode_records(item: &KeyValue) -> Result<Vec<Record>> {
    let mut records = Records::new(item.clone())?;
    let mut decoded = Vec::new();
    while let Some((_, record)) = records.next_if(|_, _| true)? {
        decoded.extend(record);
    }
    Ok(decoded)
}

/// The events of a log record, in version order, decoded one after the other: a reader of the log may need only some.
pub struct Records {
    item: KeyValue,
    /// The version of the batch.
    first: Version,
    /// Of the value, if it has one.
    stamp: Option<Version>,
    /// Bytes of the value that have been decoded.
    decoded: usize,
}

impl Records {
    pub fn new(item: KeyValue) -> Result<Self> {
        let (stamp, value) = stamp(&item.value);
        Ok(Self {
            first: version_of(&item.key)?,
            item: KeyValue { value, ..item },
            stamp,
            decoded: 0,
        })
    }

    /// The version of the next event; and the event, if it is `wanted`, which is told its version and [`Record::exports`].
    pub fn next_if(
        &mut self,
        wanted: impl Fn(Version, bool) -> bool,
    ) -> Result<Option<(Version, Option<Record>)>> {
        let value = &self.item.value;
        if self.decoded == value.len() {
            return Ok(None);
        }
        let bad = |what: String| corrupt(&self.item.key, what);
        let FirstRecord(record, rest_bytes) =
            unpack(&value[self.decoded..]).map_err(|error| bad(error.to_string()))?;
        self.decoded = value.len() - rest_bytes;
        let (tag, index, exports, ..) = record;
        if tag > ERASED {
            return Err(bad(unknown_tag(tag)));
        }
        let version = self.first.at_index(index);
        let of = (self.first, self.stamp);
        let record = wanted(version, exports).then(|| record_from(of, value, record));
        Ok(Some((version, record.transpose().map_err(bad)?)))
    }
}

/// The first of several records, and the length of what follows it.
struct FirstRecord<'a>(RecordTuple<'a>, usize);

impl<'de: 'a, 'a> TupleUnpack<'de> for FirstRecord<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        let (rest, record) = TupleUnpack::unpack(input, depth.increment())?;
        Ok((&[], Self(record, rest.len())))
    }
}

/// A record of the batch `first`, from a value with this `stamp`.
pub(super) fn record_from(
    (first, stamp): (Version, Option<Version>),
    value: &Bytes,
    (tag, index, exports, feeds, entry, LastVersion(last)): RecordTuple<'_>,
) -> std::result::Result<Record, String> {
    let change = match (tag, last) {
        (EVENT, None) => None,
        (EDITED, last) => {
            let at = last.or(stamp).ok_or("the edit has no version")?;
            Some(Change::EditedAt(at))
        }
        (EDIT, Some(of)) => Some(Change::Edit(of)),
        (ERASURE, Some(of)) => Some(Change::Erasure(of)),
        (ERASED, None) => Some(Change::Erased),
        (EVENT | EDIT | ERASURE | ERASED, _) => return Err("the change is incomplete".into()),
        (tag, _) => return Err(unknown_tag(tag)),
    };
    let mut entry = entry_from(first.at_index(index), value, entry)?;
    entry.change = change;
    if entry.changed().is_some() {
        entry.read_at = NO_TWIN;
    }
    Ok(Record {
        feeds: feeds_from(value, feeds)?,
        exports,
        entry,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::tests::{any_entry, item},
        *,
    };

    proptest! {
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
            let records: Vec<_> = entries.iter().map(|entry| RecordParts { index: index(entry), feeds: vec![&feed], exports: true, entry }).collect();
            let mut read = Vec::new();
            for (index, value) in encode_records(&records) {
                prop_assert!(value.len() <= RECORD_BYTES_MAX);
                read.extend(decode_records(&item(entries[0].version.at_index(index), value)).expect("decodes"));
            }
            prop_assert_eq!(read.into_iter().map(|record| record.entry).collect::<Vec<_>>(), entries);
        }
    }
}
