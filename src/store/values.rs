//! The encoding of all values, as FoundationDB tuples.
//!
//! - claim: `(digest, feeds)`, the content hash (16 bytes) and all feeds of the event, in order. Empty: the event was erased.
//!   Of an edited event: `stamp (digest, feeds, [(version, change id)…])`, the edits before the last one, newest first, with
//!   the hashes of their change ids (16 bytes, or null). The first one has a null version: it is the last edit itself.
//! - entry: `(0, read_at, delivery, id, kind, actor, at, data[, time])`. Of an edited entry: `stamp (1, the same…)`. Of an
//!   erased one, for a few seconds: `(4, read_at, id)`.
//! - change: `(2, version, read_at, … data[, time])`, the news of an edit, with the version of the entry and the entry as it
//!   is now; or `(3, version, id, kind)`, the news of an erasure.
//! - notify key: `(kind, actor, id, read_at)`. Of an erased entry, for a few seconds: the kind is empty, the actor null.
//! - log: one `(0, index, exports, feeds, entry)` for each event of the batch. In the partition of the event's first feed,
//!   `exports` is true and `feeds` are all its feeds, in order: this record is the one that a reader of the whole log takes.
//!   In other partitions, `feeds` are those of the partition. The entry is written as above, without its tag. An edited event
//!   has the tag 1, and after the entry the version of its last edit. If that is missing, it is the `stamp` before the first
//!   record. News of changes have the tags 2 and 3, and the version of the entry at the same place. An erased event has the
//!   tag 4.
//! - transient: `((0, index, false, feeds, entry), null)`, or `(null, (feed, reader))` if a marker moved.
//! - lineage: two moments of 16 bytes, see [`Row`]. Marker, time: a version of 16 bytes. Checkpoint: the same, and
//!   perhaps a second one, see [`Checkpoint`].
//! - log by kind and by actor: `(feeds, hash[, true])`, the feeds that show the event, in order. The hash is null, or that of
//!   the event's first feed, if the event is a twin there. True, if it is the news of a change. Feed by kind: empty.
//! - trimmed, swept, changed: a version of 16 bytes.
//!
//! A `stamp` is the byte 0xff, which begins no tuple, and the 16 bytes of the version of the commit that wrote the value.
//!
//! Tuples can get further elements at their end, and other tags. The decoders refuse those that they do not know.

use std::{borrow::Cow, io};

use bytes::Bytes;
use foundationdb_tuple::{
    Bytes as TupleBytes, PackError, PackResult, TupleDepth, TuplePack, TupleUnpack,
    VersionstampOffset, pack, pack_into, unpack,
};

use super::{
    KeyValue, Result,
    epoch::Row,
    keys::{Keys, corrupt, version_of},
};
use crate::{
    types::{Actor, Change, Delivery, Entry, EventId, EventTime, FeedName, Invalid, Kind, NO_TWIN},
    version::{BYTES_LEN, Version},
};

/// Maximum size of a value in the log, in bytes. FoundationDB refuses values over 100,000 bytes.
pub const RECORD_BYTES_MAX: usize = 96_000;

// The tags of what stands in a feed, in its changes, and in the log; see [`Change`].
const EVENT: u16 = 0;
const EDITED: u16 = 1;
const EDIT: u16 = 2;
const ERASURE: u16 = 3;
const ERASED: u16 = 4;

/// Begins a value that carries the version of its commit.
const STAMP: u8 = 0xff;
/// Where in such a value the version stands.
pub const STAMP_AT: usize = 1;
const STAMP_BYTES: usize = STAMP_AT + BYTES_LEN;

/// In a [`Change::EditedAt`] to encode: the version of the commit that writes the value, which has to be stamped.
pub const THIS_COMMIT: Version = Version::ZERO;

/// Adds an empty stamp before a value.
fn to_be_stamped(value: &[u8]) -> Vec<u8> {
    [&[STAMP], &[0; BYTES_LEN][..], value].concat()
}

/// Whether the value has to be stamped at [`STAMP_AT`].
pub fn is_to_be_stamped(value: &[u8]) -> bool {
    let empty = [&[STAMP][..], &[0; BYTES_LEN]].concat();
    value.starts_with(&empty)
}

/// The stamp of a value, if it has one, and the rest.
fn stamp(value: &Bytes) -> (Option<Version>, Bytes) {
    match value.get(..STAMP_BYTES).and_then(<[u8]>::split_first) {
        Some((&STAMP, stamp)) => {
            let version = <[u8; BYTES_LEN]>::try_from(stamp).map(Version::from_bytes);
            (version.ok(), value.slice(STAMP_BYTES..))
        }
        _ => (None, value.clone()),
    }
}

/// `(read_at, delivery, id, kind, actor, at, data[, time])`.
type EntryTuple<'a> = (
    u64,
    u16,
    Cow<'a, str>,
    Cow<'a, str>,
    Option<Cow<'a, str>>,
    i64,
    TupleBytes<'a>,
    Time<'a>,
);

/// The last element of an entry. An entry without `time` ends before it.
#[derive(Debug)]
struct Time<'a>(Option<Cow<'a, str>>);

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
            Some(_) => Cow::unpack(input, depth).map(|(rest, time)| (rest, Self(Some(time)))),
        }
    }
}

/// The last element of a log record: a version, if there is one.
#[derive(Debug)]
struct LastVersion(Option<Version>);

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

/// A version as an element of a tuple.
#[derive(Debug)]
struct StoredVersion(Version);

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

/// What stands in a feed or in its changes: a tag, and then what the tag says.
enum Tagged<'a> {
    Entry(EntryTuple<'a>),
    Edited(EntryTuple<'a>),
    Edit(StoredVersion, EntryTuple<'a>),
    Erasure(StoredVersion, Cow<'a, str>, Cow<'a, str>),
    Erased(u64, Cow<'a, str>),
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

/// `(tag, index in the batch, exports, feeds, entry[, version])`.
type RecordTuple<'a> = (
    u16,
    u16,
    bool,
    Vec<Cow<'a, str>>,
    EntryTuple<'a>,
    LastVersion,
);

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

/// A record of the transient log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransientRecord {
    Event(Record),
    MarkerMoved {
        feed: FeedName,
        /// Whose marker; see [`Keys::marker`].
        reader: String,
        version: Version,
    },
}

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

/// The value of a notify key, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyKey {
    pub version: Version,
    pub kind: String,
    pub actor: Option<String>,
    pub id: EventId,
    pub read_at: u64,
}

impl NotifyKey {
    /// It is only the place of an erased entry, see [`Change::Erased`].
    pub fn is_erased(&self) -> bool {
        self.kind.is_empty()
    }
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
        Time(entry.time.as_ref().map(|time| time.as_str().into())),
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
    let (read_at, delivery, id, kind, actor, at, data, Time(time)) = tuple;
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
        time: time
            .map(|time| text(value, time, EventTime::try_from))
            .transpose()?,
        data: shared(value, data.0),
        read_at,
        change: None,
    })
}

fn names<'a>(feeds: impl IntoIterator<Item = &'a FeedName>) -> Vec<Cow<'a, str>> {
    feeds.into_iter().map(|feed| feed.as_str().into()).collect()
}

fn feeds_from(
    value: &Bytes,
    feeds: Vec<Cow<'_, str>>,
) -> std::result::Result<Vec<FeedName>, String> {
    let feeds = feeds.into_iter();
    feeds
        .map(|feed| text(value, feed, FeedName::stored))
        .collect()
}

fn unknown_tag(tag: u16) -> String {
    format!("unknown tag {tag}")
}

pub fn encode_claim(digest: u128, feeds: &[FeedName]) -> Vec<u8> {
    let digest = digest.to_be_bytes();
    pack(&(TupleBytes::from(&digest[..]), names(feeds)))
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
    let (digest, feeds, Edits(edits)): (TupleBytes<'_>, Vec<Cow<'_, str>>, Edits<'_>) =
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
    let (feeds, hash, IsChange(is_change)): (Vec<Cow<'_, str>>, Option<u64>, IsChange) =
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

/// The value of an entry. If it was edited by [`THIS_COMMIT`], the value has to be stamped.
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
            let id = text(&value, id, EventId::stored).map_err(bad)?;
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
            let id = text(value, id, EventId::stored).map_err(bad)?;
            let kind = text(value, kind, Kind::stored).map_err(bad)?;
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

pub fn encode_notify(entry: &Entry) -> Vec<u8> {
    let (kind, actor) = match entry.change {
        Some(Change::Erased) => ("", None),
        _ => (entry.kind.as_str(), entry.actor.as_ref().map(Actor::as_str)),
    };
    pack(&(kind, actor, entry.id.as_str(), entry.read_at))
}

pub fn decode_notify(item: &KeyValue) -> Result<NotifyKey> {
    let (kind, actor, id, read_at): (String, Option<String>, Cow<'_, str>, u64) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    let id = text(&item.value, id, EventId::stored).map_err(|what| corrupt(&item.key, what))?;
    Ok(NotifyKey {
        version: version_of(&item.key)?,
        kind,
        actor,
        id,
        read_at,
    })
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
            None => values.push((*index, pack(&(record,)))),
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
fn record_from(
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

pub fn encode_transient(index: u16, feeds: &[&FeedName], entry: &Entry) -> Vec<u8> {
    let feeds = names(feeds.iter().copied());
    let (entry, none) = (entry_tuple(entry), LastVersion(None));
    let record: RecordTuple<'_> = (EVENT, index, false, feeds, entry, none);
    pack(&(Some(record), Option::<()>::None))
}

pub fn encode_marker_moved(feed: &FeedName, reader: &str) -> Vec<u8> {
    pack(&(Option::<()>::None, Some((feed.as_str(), reader))))
}

pub fn decode_transient(item: &KeyValue) -> Result<TransientRecord> {
    let bad = |what: String| corrupt(&item.key, what);
    let version = version_of(&item.key)?;
    let tuple: (Option<RecordTuple<'_>>, Option<(Cow<'_, str>, String)>) =
        unpack(&item.value).map_err(|error| corrupt(&item.key, error))?;
    match tuple {
        (Some(record), None) => record_from((version, None), &item.value, record)
            .map(TransientRecord::Event)
            .map_err(bad),
        (None, Some((feed, reader))) => {
            let feed = text(&item.value, feed, FeedName::stored).map_err(bad)?;
            Ok(TransientRecord::MarkerMoved {
                feed,
                reader,
                version,
            })
        }
        _ => Err(bad(
            "the record is neither a transient nor a moved marker".into()
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::keys::OWN_READER, *};

    fn any_entry() -> impl Strategy<Value = Entry> {
        let name = "[A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]{0,11}";
        let delivery = prop_oneof![
            Just(Delivery::Entry),
            Just(Delivery::Notify),
            Just(Delivery::Transient)
        ];
        let time = prop_oneof![
            Just(None),
            "20[0-9]{2}-[01]1-[012]1T[01][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]0[0-9]:30)"
                .prop_filter("no such month", |text| !text.contains("-00-") && !text.contains("-01T"))
                .prop_map(|text| text.parse().ok()),
        ];
        let text = (
            "[ -~]{1,20}",
            name,
            proptest::option::of(name),
            ".{0,40}",
            time,
        );
        (text, delivery, any::<u64>(), any::<i64>(), any::<u16>()).prop_map(
            |((id, kind, actor, data, time), delivery, read_at, at, index)| Entry {
                version: Version::new(3, 9, 5 << 16).at_index(index),
                id: id.parse().expect("id"),
                kind: kind.parse().expect("kind"),
                delivery,
                actor: actor.map(|actor| actor.parse().expect("actor")),
                at,
                time,
                data: serde_json::to_vec(&data).expect("string").into(),
                read_at,
                change: None,
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
            let notify = decode_notify(&item(entry.version, encode_notify(&entry))).expect("decodes");
            let actor = entry.actor.as_ref().map(Actor::as_str);
            prop_assert_eq!((notify.version, &notify.id, notify.actor.as_deref()), (entry.version, &entry.id, actor));
            let feed: FeedName = "user:1".parse().expect("name");
            let index = entry.version.to_bytes()[14..].try_into().map(u16::from_be_bytes).expect("two bytes");
            let transient = decode_transient(&item(entry.version, encode_transient(index, &[&feed], &entry))).expect("decodes");
            prop_assert_eq!(transient, TransientRecord::Event(Record { entry, feeds: vec![feed], exports: false }));
        }

        /// Also several changed events of one value, of which one is edited by the commit that writes it.
        #[test]
        fn changes_round_trip(
            mut entries in proptest::collection::vec((any_entry(), 0..6u8), 1..9),
            now in 0..9usize,
        ) {
            entries.sort_by_key(|(entry, _)| entry.version);
            entries.dedup_by_key(|(entry, _)| entry.version);
            let (of, stamp) = (Version::new(3, 0, 0xff00), Version::new(4, 0xff00, 0xff));
            let stamped = |mut value: Vec<u8>| {
                if is_to_be_stamped(&value) {
                    value[STAMP_AT..STAMP_BYTES].copy_from_slice(&stamp.to_bytes());
                }
                value
            };
            let mut expected = Vec::new();
            for (index, (entry, role)) in entries.iter_mut().enumerate() {
                entry.change = match role {
                    0 => None,
                    1 if index == now => Some(Change::EditedAt(THIS_COMMIT)),
                    1 => Some(Change::EditedAt(of)),
                    2 => Some(Change::Edit(of)),
                    3 => Some(Change::Erasure(of)),
                    _ => Some(Change::Erased),
                };
                if entry.changed().is_some() {
                    entry.read_at = NO_TWIN;
                }
                let mut read = entry.clone();
                if read.change == Some(Change::EditedAt(THIS_COMMIT)) {
                    read.change = Some(Change::EditedAt(stamp));
                }
                let alone = match entry.changed() {
                    Some(_) => decode_change(&item(entry.version, encode_change(entry))),
                    None => decode_entry(&item(entry.version, stamped(encode_entry(entry)))),
                };
                let alone = alone.expect("decodes");
                match read.change {
                    Some(Change::Erasure(_)) => {
                        prop_assert_eq!((&alone.id, &alone.kind, alone.change), (&read.id, &read.kind, read.change));
                        prop_assert_eq!((alone.actor, alone.data.len()), (None, 0));
                    }
                    Some(Change::Erased) => {
                        prop_assert_eq!((&alone.id, alone.read_at, alone.change), (&read.id, read.read_at, read.change));
                        prop_assert_eq!((alone.actor, alone.data.len()), (None, 0));
                    }
                    _ => prop_assert_eq!(&alone, &read),
                }
                expected.push(read);
            }
            let feed: FeedName = "user:1".parse().expect("name");
            let index = |entry: &Entry| entry.version.to_bytes()[14..].try_into().map(u16::from_be_bytes).expect("two bytes");
            let records: Vec<_> = entries.iter().map(|(entry, _)| RecordParts { index: index(entry), feeds: vec![&feed], exports: true, entry }).collect();
            let mut read = Vec::new();
            for (index, value) in encode_records(&records) {
                read.extend(decode_records(&item(expected[0].version.at_index(index), stamped(value))).expect("decodes"));
            }
            prop_assert_eq!(read.into_iter().map(|record| record.entry).collect::<Vec<_>>(), expected);
        }

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

        #[test]
        fn invalid_bytes_are_an_error_not_a_panic(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let item = item(Version::ZERO, value);
            let _ = (decode_entry(&item), decode_notify(&item), decode_records(&item), decode_transient(&item), decode_claim(&item), decode_lineage(&item), decode_change(&item));
        }
    }

    #[test]
    fn marker_news_round_trips() {
        let feed: FeedName = "user:1".parse().expect("name");
        let version = Version::new(0, 1, 2);
        for reader in [OWN_READER, "user:7"] {
            let item = item(version, encode_marker_moved(&feed, reader));
            let read = decode_transient(&item).expect("decodes");
            let expected = TransientRecord::MarkerMoved {
                feed: feed.clone(),
                reader: reader.into(),
                version,
            };
            assert_eq!(read, expected);
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

    /// The bytes of format 2. A change of these is a new format.
    #[test]
    fn values_are_written_as_format_2_says() {
        let entry = Entry {
            version: Version::new(1, 2, 3),
            id: "m-1".parse().expect("id"),
            kind: "message".parse().expect("kind"),
            delivery: Delivery::Notify,
            actor: Some("user:7".parse().expect("actor")),
            at: 1_000,
            time: None,
            data: Bytes::from_static(b"null"),
            read_at: 42,
            change: None,
        };
        let data = || TupleBytes::from(&b"null"[..]);
        let fields = (
            42u64,
            1u16,
            "m-1",
            "message",
            Some("user:7"),
            1_000i64,
            data(),
        );
        let tagged = (
            0u16,
            42u64,
            1u16,
            "m-1",
            "message",
            Some("user:7"),
            1_000i64,
            data(),
        );
        assert_eq!(encode_entry(&entry), pack(&tagged));
        let later = Entry {
            time: "2025-11-21T22:08:10Z".parse().ok(),
            ..entry.clone()
        };
        let with_time = [encode_entry(&entry), pack(&"2025-11-21T22:08:10Z")].concat();
        assert_eq!(encode_entry(&later), with_time);
        let notify = ("message", Some("user:7"), "m-1", 42u64);
        assert_eq!(encode_notify(&entry), pack(&notify));
        let feeds: Vec<FeedName> = ["b", "a"].map(|name| name.parse().expect("name")).into();
        let parts = RecordParts {
            index: 3,
            feeds: feeds.iter().collect(),
            exports: true,
            entry: &entry,
        };
        let record = (0u16, 3u16, true, vec!["b", "a"], fields.clone());
        assert_eq!(encode_records(&[parts]), [(3, pack(&(record,)))]);
        let transient = (0u16, 0u16, false, vec!["b", "a"], fields);
        assert_eq!(
            encode_transient(0, &feeds.iter().collect::<Vec<_>>(), &entry),
            pack(&(Some(transient), Option::<()>::None))
        );
        let digest = 7u128.to_be_bytes();
        let claim = (TupleBytes::from(&digest[..]), vec!["b", "a"]);
        assert_eq!(encode_claim(7, &feeds), pack(&claim));
    }

    /// The bytes of changes, which format 2 has since edits and erasures exist.
    #[test]
    fn changes_are_written_as_format_2_says() {
        let (at, of) = (Version::new(1, 2, 3), Version::new(4, 5, 6));
        let entry = |change| Entry {
            version: at,
            id: "m-1".parse().expect("id"),
            kind: "message".parse().expect("kind"),
            delivery: Delivery::Notify,
            actor: None,
            at: 1_000,
            time: None,
            data: Bytes::from_static(b"null"),
            read_at: 42,
            change,
        };
        let fields = || {
            let data = TupleBytes::from(&b"null"[..]);
            (
                42u64,
                1u16,
                "m-1",
                "message",
                Option::<&str>::None,
                1_000i64,
                data,
            )
        };
        let flat = |head: Vec<u8>| {
            let (read_at, delivery, id, kind, actor, at, data) = fields();
            [head, pack(&(read_at, delivery, id, kind, actor, at, data))].concat()
        };
        let version = |version: Version| TupleBytes::from(version.to_bytes().to_vec());
        let stamp = |version: Version| [&[0xff][..], &version.to_bytes()].concat();
        let edited = entry(Some(Change::EditedAt(of)));
        assert_eq!(
            encode_entry(&edited),
            [stamp(of), flat(pack(&(1u16,)))].concat()
        );
        let edit = entry(Some(Change::Edit(of)));
        assert_eq!(encode_change(&edit), flat(pack(&(2u16, version(of)))));
        let erasure = entry(Some(Change::Erasure(of)));
        assert_eq!(
            encode_change(&erasure),
            pack(&(3u16, version(of), "m-1", "message"))
        );
        let erased = entry(Some(Change::Erased));
        assert_eq!(encode_entry(&erased), pack(&(4u16, 42u64, "m-1")));
        assert_eq!(
            encode_notify(&erased),
            pack(&("", Option::<&str>::None, "m-1", 42u64))
        );

        let feeds: Vec<FeedName> = vec!["a".parse().expect("name")];
        let this_commit = entry(Some(Change::EditedAt(THIS_COMMIT)));
        let records = [&edited, &edit, &this_commit].map(|entry| RecordParts {
            index: 3,
            feeds: feeds.iter().collect(),
            exports: true,
            entry,
        });
        let with_version = |tag: u16| (tag, 3u16, true, vec!["a"], fields(), version(of));
        let stamped = (1u16, 3u16, true, vec!["a"], fields());
        let value = pack(&(with_version(1), with_version(2), stamped));
        assert_eq!(
            encode_records(&records),
            [(3, [stamp(Version::ZERO), value].concat())]
        );

        let edits = vec![Edit {
            version: of,
            change_id: Some(9),
        }];
        let event = ClaimedEvent {
            digest: 7,
            feeds: feeds.clone(),
            edits,
        };
        let hash = |hash: u128| TupleBytes::from(hash.to_be_bytes().to_vec());
        let kept = (version(of), hash(9));
        let claim = (hash(7), vec!["a"], vec![kept.clone()]);
        assert_eq!(encode_claim_of(&event), pack(&claim));
        let edits: Vec<(Option<TupleBytes<'_>>, _)> =
            vec![(None, hash(8)), (Some(version(of)), hash(9))];
        let claim = pack(&(hash(7), vec!["a"], edits));
        let value = encode_edited_claim(&event, Some(8));
        assert_eq!(value, [stamp(Version::ZERO), claim].concat());
        assert_eq!(
            encode_indexed(&feeds, Keys::hash(&feeds[0]), true),
            pack(&(vec!["a"], Option::<u64>::None, true))
        );
    }

    #[test]
    fn what_a_later_program_writes_is_refused() {
        let at = Version::new(1, 2, 3);
        let more = |mut value: Vec<u8>| {
            value.extend(pack(&7));
            item(at, value)
        };
        let entry = (5u16, 42u64, 1u16, "m-1", "message", 0i64);
        for decode in [decode_entry, decode_change] {
            let refused = decode(&item(at, pack(&entry))).map(drop);
            let message = refused.expect_err("an unknown tag").to_string();
            assert!(message.contains("unknown tag 5"), "{message}");
        }
        let data = TupleBytes::from(&b"null"[..]);
        let fields = (42u64, 1u16, "m-1", "k", Option::<&str>::None, 0i64, data);
        let record = (5u16, 0u16, true, vec!["a"], fields);
        assert!(decode_records(&item(at, pack(&(record,)))).is_err());
        let feed: FeedName = "a".parse().expect("name");
        let entry = Entry {
            version: at,
            id: "m-1".parse().expect("id"),
            kind: "message".parse().expect("kind"),
            delivery: Delivery::Notify,
            actor: None,
            at: 1_000,
            time: None,
            data: Bytes::from_static(b"null"),
            read_at: 42,
            change: None,
        };
        let with_time = Entry {
            time: "2025-11-21T22:08:10Z".parse().ok(),
            ..entry.clone()
        };
        for entry in [&entry, &with_time] {
            assert!(decode_entry(&more(encode_entry(entry))).is_err());
            assert!(decode_notify(&more(encode_notify(entry))).is_err());
            let transient = encode_transient(0, &[&feed], entry);
            assert!(decode_transient(&more(transient)).is_err());
        }
        let feeds = std::slice::from_ref(&feed);
        assert!(decode_claim(&more(encode_claim(7, feeds))).is_err());
        assert!(decode_indexed(&more(encode_indexed(feeds, 7, false))).is_err());
        assert!(decode_transient(&more(encode_marker_moved(&feed, ""))).is_err());
        let row = Row {
            epoch: 1,
            began: at,
            previous_end: Version::ZERO,
        };
        let moments = [encode_lineage(&row), at.to_bytes().to_vec()].concat();
        assert!(decode_lineage(&item(at, moments)).is_err());
        assert!(decode_time(&more(encode_time(at))).is_err());
        for from in [Version::ZERO, at.before()] {
            let checkpoint = Checkpoint { from, until: at };
            let value = Bytes::from(encode_checkpoint(checkpoint));
            let read = decode_checkpoint(b"", Some(&value));
            assert_eq!(read.expect("decodes"), checkpoint);
            let value = more(value.to_vec()).value;
            assert!(decode_checkpoint(b"", Some(&value)).is_err());
        }
    }
}
