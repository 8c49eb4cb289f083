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
//! - transient: `((0, index, false, feeds, entry), null)`, or `(null, (feed, reader))` if a marker moved. `(null, null,
//!   ([feed], (reader, entry, state)))` if a reader marked an entry; `(null, null, (feeds, null))` if notify keys were removed.
//! - state: `stamp (state)`, 0 unread, 1 read, 2 archived. Marked: `(entry, kind, state)`, the version of the entry in 16 bytes.
//! - lineage: two moments of 16 bytes, see [`Row`](super::epoch::Row). Marker, time: a version of 16 bytes; two, if it is
//!   the marker of what is archived. Checkpoint: the
//!   same, and perhaps a second one, see [`Checkpoint`].
//! - log by kind and by actor: `(feeds, hash[, true])`, the feeds that show the event, in order. The hash is null, or that of
//!   the event's first feed, if the event is a twin there. True, if it is the news of a change. Feed by kind: empty.
//! - trimmed, swept, changed, removed: a version of 16 bytes.
//!
//! A `stamp` is the byte 0xff, which begins no tuple, and the 16 bytes of the version of the commit that wrote the value.
//!
//! Tuples can get further elements at their end, and other tags. The decoders refuse those that they do not know.

mod claim;
mod entry;
mod index;
mod notify;
mod readers;
mod record;
mod stamp;
#[cfg(test)]
mod tests;
mod text;
mod transient;
mod version;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::{
    claim::{
        Claim, ClaimedEvent, EDITS_KEPT_MAX, Edit, decode_claim, encode_claim, encode_claim_of,
        encode_edited_claim,
    },
    entry::{decode_change, decode_entry, encode_change, encode_entry},
    index::{Indexed, decode_indexed, encode_indexed},
    notify::{NotifyKey, decode_notify, encode_notify},
    readers::{
        Archived, Mark, Marked, decode_archived, decode_mark, decode_marked, encode_archived,
        encode_mark, encode_marked,
    },
    record::{RECORD_BYTES_MAX, Record, RecordParts, Records, decode_records, encode_records},
    stamp::{STAMP_AT, THIS_COMMIT, is_to_be_stamped},
    transient::{
        TransientRecord, decode_transient, encode_marker_moved, encode_news_of_mark,
        encode_news_of_removal, encode_transient,
    },
    version::{
        Checkpoint, decode_checkpoint, decode_lineage, decode_time, decode_version,
        decode_version_or_zero, encode_checkpoint, encode_lineage, encode_time,
    },
};

// The tags of what stands in a feed, in its changes, and in the log; see `types::Change`.
const EVENT: u16 = 0;
const EDITED: u16 = 1;
const EDIT: u16 = 2;
const ERASURE: u16 = 3;
const ERASED: u16 = 4;

/// A part of an unpacked tuple, sharing the memory of `value`; a copy if it was escaped.
fn shared(value: &Bytes, part: Cow<'_, [u8]>) -> Bytes {
    match part {
        Cow::Borrowed(part) => value.slice_ref(part),
        Cow::Owned(part) => part.into(),
    }
}

fn unknown_tag(tag: u16) -> String {
    format!("unknown tag {tag}")
}
