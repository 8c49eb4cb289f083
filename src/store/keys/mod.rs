//! The layout of all keys, in format 3. Keys are FoundationDB tuples behind a prefix. A versioned key ends with the 16
//! bytes of its version, not tuple-encoded, so that the store can stamp it at commit. [`super::values`] describes the
//! values.
//!
//! | code | key | value |
//! | --- | --- | --- |
//! | 1 | `meta` | format (4 bytes), number of partitions (2 bytes); in an unfinished copy, an [`Unfinished`](super::copy::Unfinished) |
//! | 2 | `epoch` | the current epoch (4 bytes) |
//! | 3 | `last` | the moment of the last commit; in the embedded engine only |
//! | 4 | `at` | the greatest `at` of any entry |
//! | 5 | `wake` | the versionstamp of the last commit that notified waiting nodes |
//! | 6 | `lineage / epoch` | where the epoch began, and where the one before it ended (16 bytes each) |
//! | 7 | `changed` | the version of the last change of an entry, or removal of old keys |
//! | 10 | `claim / id ‖ V` | content hash and feeds of the event; empty once the event has been erased |
//! | 11 | `feed / name ‖ V` | entry, as it is now |
//! | 11 | `feed / name ‖ V`, the first bit of V set | the same, of an entry that counts as unread and is not long |
//! | 12 | `notify / name ‖ V` | kind, actor and id of any other entry that counts as unread |
//! | 13 | `log / partition ‖ V` | the events of a batch in this partition |
//! | 14 | `transient / partition ‖ V` | a transient, or the news that a marker moved |
//! | 15 | `marker / name / reader / {read, seen}` | version |
//! | 15 | `marker / name / reader / archived` | two versions, see [`Archived`](super::values::Archived) |
//! | 16 | `trimmed / name` | everything at or below this version has been removed; an empty name: from the log, or is going to be |
//! | 16 | `trimmed` | nothing above this version has been removed, from any feed or from the log |
//! | 17 | `projection / name`, `projection / name / kind` | the checkpoint of a projection: a version |
//! | 18 | `index / 1 / kind ‖ V`, `index / 2 / actor ‖ V` | the feeds that show the event, in order |
//! | 18 | `index / 3 / feed / kind ‖ V` | empty |
//! | 19 | `time / n` | the version that was current at second 10·n since 1970 |
//! | 20 | `job ‖ V` | an erasure that is under way, or has ended |
//! | 21 | `sweep` | how far the sweep of retention has got |
//! | 22 | `change / name ‖ V` | the news that an entry of the feed was edited or erased |
//! | 23 | `state / name ‖ V ‖ reader` | the state that a reader gave the entry at V, and the version of the mark |
//! | 24 | `marked / name / reader ‖ V` | the same, at the version of the mark: which entry, its kind and its state |
//! | 25 | `removed / name` | the version of the last removal of notify keys of the feed |
//!
//! Codes above are kept for consumers and follows.
//!
//! News of changes stand beside the entries of a feed and not among them: reading the newest entries, or the version of the
//! latest one, costs the same however much was changed.
//!
//! An entry that counts as unread stands apart, so that counting what is unread reads nothing else. The first bit of a version
//! is that of its epoch, a number of seconds, and is never set otherwise. In format 2, all such entries stood among the others
//! and had notify keys; both are still read.
//!
//! Every value can grow at its end, and a decoder refuses what it does not know.

mod open;
mod readers;
mod versioned;

use std::time::Duration;

use bytes::Bytes;
use foundationdb_tuple::{Subspace, pack_into};

pub(super) use self::open::decode_meta;
pub use self::{
    open::{FORMAT, migrate},
    versioned::{
        RangeOf, UNREAD_BIT, after_until, corrupt, entries, entry_at, entry_keys, is_unread,
        next_key, of_transaction, only, range, unread_after_until, unread_versioned, version_of,
        versioned,
    },
};
use super::{Range, Result};
use crate::{
    types::{Actor, Delivery, EventId, FeedName, Kind},
    version::{BYTES_LEN, Version},
};

// Codes of the subspaces. Codes below 256 are packed into two bytes.
const META: u16 = 1;
const EPOCH: u16 = 2;
const LAST: u16 = 3;
const AT: u16 = 4;
const WAKE: u16 = 5;
const LINEAGE: u16 = 6;
const CHANGED: u16 = 7;
const CLAIM: u16 = 10;
const FEED: u16 = 11;
const NOTIFY: u16 = 12;
const LOG: u16 = 13;
const TRANSIENT: u16 = 14;
const MARKER: u16 = 15;
const TRIMMED: u16 = 16;
const PROJECTION: u16 = 17;
const INDEX: u16 = 18;
const TIME: u16 = 19;
const JOB: u16 = 20;
const SWEEP: u16 = 21;
const CHANGE: u16 = 22;
const STATE: u16 = 23;
const MARKED: u16 = 24;
const REMOVED: u16 = 25;

// Codes of the indexes.
const LOG_BY_KIND: u16 = 1;
const LOG_BY_ACTOR: u16 = 2;
const FEED_BY_KIND: u16 = 3;

/// From one row of [`Keys::time`] to the next.
pub const TIME_STEP: Duration = Duration::from_secs(10);

/// The first format in which entries that count as unread need no notify key.
const UNREAD_ENTRIES_FORMAT: u32 = 3;
/// Longer entries have a notify key: counting reads everything that counts as unread.
pub(crate) const UNREAD_ENTRY_BYTES_MAX: usize = 1024;

/// An id has as many claims as nodes appended it at the same moment.
const CLAIMS_MAX: usize = 1_000;

/// The key space of one service: its prefix and its number of log partitions.
#[derive(Debug, Clone)]
pub struct Keys {
    root: Subspace,
    format: u32,
    partitions: u16,
}

impl Keys {
    /// For engines, which only use keys that do not depend on the number of partitions.
    pub(crate) fn before_opening(prefix: &[u8]) -> Self {
        Self::new(prefix, 1)
    }

    #[cfg(test)]
    pub(crate) fn with_partitions(partitions: u16) -> Self {
        Self::new(b"", partitions)
    }

    fn new(prefix: &[u8], partitions: u16) -> Self {
        Self {
            root: Subspace::from_bytes(prefix),
            format: FORMAT,
            partitions,
        }
    }

    /// The format of the store, which decides what is written. What is read may be of any format up to [`FORMAT`].
    pub fn format(&self) -> u32 {
        self.format
    }

    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The hash of a feed's name, by which feeds are spread over partitions and events over shards. It never changes.
    pub fn hash(feed: &FeedName) -> u64 {
        twox_hash::XxHash3_64::oneshot(feed.as_str().as_bytes())
    }

    /// The log partition of `feed`.
    pub fn partition(&self, feed: &FeedName) -> u16 {
        self.partition_of(Self::hash(feed))
    }

    /// The log partition of a feed whose name has this hash.
    pub fn partition_of(&self, hash: u64) -> u16 {
        (hash % u64::from(self.partitions)) as u16
    }

    /// → format (4 bytes) and number of partitions (2 bytes). Written when the key space is created.
    pub(super) fn meta(&self) -> Vec<u8> {
        self.root.pack(&(META,))
    }

    /// → the current epoch, 4 bytes big-endian. Written when the key space is created, and by [`super::epoch::raise`].
    pub fn epoch(&self) -> Vec<u8> {
        self.root.pack(&(EPOCH,))
    }

    /// → the moment of the last commit, 16 bytes. Written with each commit, by the embedded engine only.
    pub fn last(&self) -> Vec<u8> {
        self.root.pack(&(LAST,))
    }

    /// → the greatest `at` of any entry, 8 bytes big-endian µs. Atomic maximum, with each append.
    pub fn at(&self) -> Vec<u8> {
        self.root.pack(&(AT,))
    }

    /// → the versionstamp of the last commit that notified waiting nodes. Its only purpose is to be watched.
    pub fn wake(&self) -> Vec<u8> {
        self.root.pack(&(WAKE,))
    }

    /// → where the epoch began and where the one before it ended: two moments of 16 bytes. Written with the epoch.
    pub fn lineage(&self, epoch: u32) -> Vec<u8> {
        self.root.pack(&(LINEAGE, epoch))
    }

    /// Begin and end of the lineage above the epoch `newest`.
    pub(super) fn lineages(&self, newest: Option<u32>) -> (Vec<u8>, Vec<u8>) {
        let (begin, end) = self.root.subspace(&(LINEAGE,)).range();
        (
            newest.map_or(begin, |newest| next_key(self.lineage(newest))),
            end,
        )
    }

    /// `‖ version` → hash of the event's content, and its feeds. With each event.
    pub fn claim(&self, id: &EventId) -> Vec<u8> {
        self.versioned_of(CLAIM, id.as_str())
    }

    /// The range of an id's first claim: the one that counts.
    pub fn first_claim(&self, id: &EventId) -> Range {
        range(&self.claim(id), None, Version::MAX, false, 1, usize::MAX)
    }

    /// The range of all claims of an id: of the event and of its twins.
    pub fn all_claims(&self, id: &EventId) -> Range {
        let prefix = self.claim(id);
        range(&prefix, None, Version::MAX, false, CLAIMS_MAX, usize::MAX)
    }

    /// The packed `(code, name)`, with capacity for a version.
    fn versioned_of(&self, code: u16, name: &str) -> Vec<u8> {
        let root = self.root.bytes();
        // Code (2 bytes), type of the text and its terminator.
        let mut key = Vec::with_capacity(root.len() + 4 + name.len() + BYTES_LEN);
        key.extend_from_slice(root);
        pack_into(&(code, name), &mut key);
        key
    }

    /// `‖ version` → entry. With each event, per feed.
    pub fn feed(&self, feed: &FeedName) -> Vec<u8> {
        self.versioned_of(FEED, feed.as_str())
    }

    /// `‖ version` → the news of a change of an entry. With each change, per feed. At most one for each entry: a later change
    /// removes the news of the one before.
    pub fn change(&self, feed: &FeedName) -> Vec<u8> {
        self.versioned_of(CHANGE, feed.as_str())
    }

    /// → the version of the last change of an entry, or removal of old keys. Stamped with each. So a reader knows that there
    /// is no news above it, and a projection that nothing has been removed meanwhile.
    pub fn changed(&self) -> Vec<u8> {
        self.root.pack(&(CHANGED,))
    }

    /// → everything in the feed at or below this version has been removed. Atomic maximum, by the sweep. Retention may have
    /// removed more, of some kinds, from between what stays.
    pub fn trimmed(&self, feed: &FeedName) -> Vec<u8> {
        self.root.pack(&(TRIMMED, feed.as_str()))
    }

    /// → everything in the log at or below this version may have been removed. Atomic maximum, by the sweep.
    pub fn trimmed_log(&self) -> Vec<u8> {
        self.root.pack(&(TRIMMED, ""))
    }

    /// → nothing above this version has been removed from any feed or from the log. Atomic maximum, by the sweep.
    pub fn trimmed_anywhere(&self) -> Vec<u8> {
        self.root.pack(&(TRIMMED,))
    }

    /// `‖ version` → an erasure that is under way, or has ended. The version is its id.
    pub fn job(&self) -> Vec<u8> {
        self.root.pack(&(JOB,))
    }

    /// → how far the sweep of retention has got. Written with each of its steps.
    pub fn sweep(&self) -> Vec<u8> {
        self.root.pack(&(SWEEP,))
    }

    /// Whether the entry of an event with this delivery, and a value of this length, needs no notify key, because its own key
    /// says that it counts as unread; see [`unread_versioned`].
    pub fn is_unread_entry(&self, delivery: Delivery, value_len: usize) -> bool {
        self.format >= UNREAD_ENTRIES_FORMAT
            && delivery == Delivery::Notify
            && value_len <= UNREAD_ENTRY_BYTES_MAX
    }

    /// `‖ version` → kind, actor and id. With each other event that counts as unread, per feed. Marking read does not clear
    /// it: only keys above the marker count.
    pub fn notify(&self, feed: &FeedName) -> Vec<u8> {
        self.versioned_of(NOTIFY, feed.as_str())
    }

    /// `‖ version` → the events of a batch that have a feed in this partition. In the partition of its first feed, an event
    /// comes with all its feeds, in others with those of the partition. Per batch.
    pub fn log(&self, partition: u16) -> Vec<u8> {
        self.root.pack(&(LOG, partition))
    }

    /// `‖ version` → a transient, or the news that a marker moved. Removed after a few seconds.
    pub fn transient(&self, partition: u16) -> Vec<u8> {
        self.root.pack(&(TRANSIENT, partition))
    }

    /// Begin and end of all keys, of this format and of later ones: their codes are packed into two bytes, the first of which
    /// is the same. Other services may have longer prefixes that begin with this one.
    pub(super) fn everything(&self) -> (Vec<u8>, Vec<u8>) {
        (self.meta(), self.root.pack(&(1u16 << 8,)))
    }

    /// The keys of which nearly every commit changes one, and the last time.
    pub(super) fn heads(&self) -> Vec<Range> {
        let (before, after) = self.root.subspace(&(LINEAGE,)).range();
        vec![
            Range::all(self.meta(), before),
            Range::all(after, self.root.pack(&(CLAIM,))),
            self.last_time(),
        ]
    }

    /// Begin and end of all claims. For engines that store the kinds of keys separately.
    pub(super) fn claims(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(CLAIM,)).range()
    }

    /// Begin and end of the entries of all feeds.
    pub fn feeds(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(FEED,)).range()
    }

    /// Begin and end of the notify keys of all feeds.
    pub(super) fn notifies(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(NOTIFY,)).range()
    }

    /// Begin and end of the changes of all feeds.
    pub fn changes(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(CHANGE,)).range()
    }

    /// The feed in a key under [`Self::feed`] or [`Self::change`].
    pub fn feed_of(&self, key: &[u8]) -> Result<FeedName> {
        // After the code (2 bytes) and the type of a text. Names do not contain the zero byte that terminates the text.
        let begin = self.root.bytes().len() + 3;
        let name = key.get(begin..).unwrap_or_default();
        let Some(len) = memchr::memchr(0, name) else {
            return Err(corrupt(key, "the key names no feed"));
        };
        let name = Bytes::copy_from_slice(&name[..len]);
        FeedName::stored(name).map_err(|error| corrupt(key, error))
    }

    /// Begin and end of all log partitions.
    pub(super) fn logs(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(LOG,)).range()
    }

    /// Begin and end of all transient partitions.
    pub(super) fn transients(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(TRANSIENT,)).range()
    }

    /// The prefix of a key or bound among the claims that [`Keys::claim`] returns for its id; `None` if the id is cut off.
    pub(super) fn claim_prefix<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        // After the code (2 bytes) and the type of a text. Ids do not contain the zero byte that terminates the text.
        let id = self.root.bytes().len() + 3;
        let len = memchr::memchr(0, key.get(id..)?)?;
        key.get(..=id + len)
    }

    /// → the version that was current `number` · 10 s after 1970, 16 bytes. Written by the first node that comes to it.
    pub fn time(&self, number: u64) -> Vec<u8> {
        self.root.pack(&(TIME, number))
    }

    /// The last row of [`Self::time`] up to `number`, and the first one after it.
    pub fn times_around(&self, number: u64) -> [Range; 2] {
        let (begin, end) = self.root.subspace(&(TIME,)).range();
        let middle = next_key(self.time(number));
        let one = |begin, end, reverse| Range {
            reverse,
            limit: 1,
            ..Range::all(begin, end)
        };
        [one(begin, middle.clone(), true), one(middle, end, false)]
    }

    /// The number in a key of [`Self::time`].
    pub fn time_of(&self, key: &[u8]) -> Result<u64> {
        let times = self.root.subspace(&(TIME,));
        let number = times.unpack(key).map(|(number,)| number);
        number.map_err(|error| corrupt(key, error))
    }

    /// The last row of [`Self::time`].
    pub(super) fn last_time(&self) -> Range {
        let [last, _] = self.times_around(u64::MAX);
        last
    }

    /// → the checkpoint of the projection `name`, of `kind` if there is one for each kind: a version, 16 bytes. Written with
    /// the keys that the projection derives.
    pub fn projection(&self, name: &str, kind: Option<&Kind>) -> Vec<u8> {
        match kind {
            Some(kind) => self.root.pack(&(PROJECTION, name, kind.as_str())),
            None => self.root.pack(&(PROJECTION, name)),
        }
    }

    /// `‖ version` → the feeds that show the event. Per event, by a projection.
    pub fn log_by_kind(&self, kind: &Kind) -> Vec<u8> {
        self.root.pack(&(INDEX, LOG_BY_KIND, kind.as_str()))
    }

    /// `‖ version` → the feeds that show the event. Per event with an actor, by a projection.
    pub fn log_by_actor(&self, actor: &Actor) -> Vec<u8> {
        self.root.pack(&(INDEX, LOG_BY_ACTOR, actor.as_str()))
    }

    /// `‖ version` → the feeds that are told of an erasure. In the log by actor: whose event it was is not known any more.
    pub fn log_of_erasures(&self) -> Vec<u8> {
        self.root.pack(&(INDEX, LOG_BY_ACTOR, ""))
    }

    /// `‖ version` → empty. Per feed that shows an event of the kind, by a projection.
    pub fn feed_by_kind(&self, feed: &FeedName, kind: &Kind) -> Vec<u8> {
        let (feed, kind) = (feed.as_str(), kind.as_str());
        self.root.pack(&(INDEX, FEED_BY_KIND, feed, kind))
    }

    /// Begin and end of all indexes.
    pub(super) fn indexes(&self) -> (Vec<u8>, Vec<u8>) {
        self.root.subspace(&(INDEX,)).range()
    }

    /// Begin and end of what the log by kind and the log by actor consist of.
    pub(super) fn log_indexes(&self) -> (Vec<u8>, Vec<u8>) {
        let index = |code: u16| self.root.subspace(&(INDEX, code)).range();
        (index(LOG_BY_KIND).0, index(LOG_BY_ACTOR).1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Marker, ReaderName};

    fn feed(name: &str) -> FeedName {
        name.parse().expect("test name")
    }

    proptest! {
        #[test]
        fn keys_of_one_feed_are_in_version_order_and_apart_from_others(
            names in proptest::collection::vec("[A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]{0,5}", 2),
            times in proptest::collection::vec((0..3u32, any::<u64>(), any::<u32>()), 2),
            prefix in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            let keys = Keys::new(&prefix, 16);
            let versions: Vec<_> = times.iter().map(|&(e, t, c)| Version::new(e, t, c)).collect();
            let (a, b) = (keys.feed(&feed(&names[0])), keys.feed(&feed(&names[1])));
            let (x, y) = (versioned(&a, versions[0]), versioned(&a, versions[1]));
            prop_assert_eq!(x.cmp(&y), versions[0].cmp(&versions[1]));
            prop_assert_eq!(version_of(&x).ok(), Some(versions[0]));
            prop_assert_eq!(keys.feed_of(&x).ok(), Some(feed(&names[0])));
            let news = versioned(&keys.change(&feed(&names[1])), versions[1]);
            prop_assert_eq!(keys.feed_of(&news).ok(), Some(feed(&names[1])));
            if names[0] != names[1] {
                // The key ranges of two feeds do not overlap.
                let other = versioned(&b, versions[1]);
                let (begin, end) = after_until(&a, None, Version::MAX);
                prop_assert!(other < begin || other >= end);
                prop_assert!((begin..end).contains(&x));
            }
        }
    }

    #[test]
    fn the_prefix_of_a_claim_is_found_in_its_keys_and_bounds() {
        let keys = Keys::new(b"", 16);
        for id in ["a", " ~", &"x".repeat(128)] {
            let claim = keys.claim(&id.parse().expect("id"));
            let (begin, end) = after_until(&claim, None, Version::new(0, 5, 6));
            for key in [&claim, &begin, &end] {
                assert_eq!(keys.claim_prefix(key), Some(&claim[..]));
            }
            assert_eq!(keys.claim_prefix(&claim[..claim.len() - 1]), None);
            let (first, last) = keys.claims();
            assert!(first <= claim && end < last);
        }
        let (begin, end) = keys.claims();
        assert!(keys.claim_prefix(&begin).is_none() && keys.claim_prefix(&end).is_none());
    }

    #[test]
    fn kinds_of_keys_do_not_collide() {
        let kind = |name: &str| -> Kind { name.parse().expect("a kind") };
        let keys = Keys::new(b"", 16);
        let name = feed("a");
        let reader = ReaderName::named("user:1".parse().expect("a name"));
        let id: EventId = "a".parse().expect("id");
        let all = [
            keys.meta(),
            keys.epoch(),
            keys.last(),
            keys.at(),
            keys.wake(),
            keys.lineage(0),
            keys.lineage(1),
            keys.time(0),
            keys.time(1),
            keys.claim(&id),
            keys.feed(&name),
            keys.notify(&name),
            keys.log(0),
            keys.log(1),
            keys.transient(0),
            keys.transient(1),
            keys.marker(&name, &ReaderName::OWN, Marker::Read),
            keys.marker(&name, &ReaderName::OWN, Marker::Seen),
            keys.marker(&name, &reader, Marker::Read),
            keys.marker(&name, &reader, Marker::Archived),
            keys.states(&name),
            keys.marked(&name, &ReaderName::OWN),
            keys.marked(&name, &reader),
            keys.removed(&name),
            keys.projection("a", None),
            keys.projection("a", Some(&kind("a"))),
            keys.log_by_kind(&kind("a")),
            keys.log_by_actor(&"a".parse().expect("an actor")),
            keys.log_of_erasures(),
            keys.feed_by_kind(&name, &kind("a")),
            keys.feed_by_kind(&name, &kind("b")),
            keys.change(&name),
            keys.changed(),
            keys.trimmed(&name),
            keys.trimmed_log(),
            keys.trimmed_anywhere(),
            keys.job(),
            keys.sweep(),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        // Partition numbers are packed to different lengths: none may be a prefix of another.
        let logs: Vec<_> = (0..1000).map(|p| keys.log(p)).collect();
        assert!(
            logs.windows(2)
                .all(|w| w[0] < w[1] && !w[1].starts_with(&w[0]))
        );
    }

    #[test]
    fn the_number_of_a_time_is_found_in_its_key() {
        for prefix in [&b""[..], b"newsfeed/", &[21, 19, 0]] {
            let keys = Keys::new(prefix, 1);
            let mut last = Vec::new();
            for number in [0, 1, 19, 255, 256, 179_594_959, u64::MAX] {
                let key = keys.time(number);
                assert_eq!(keys.time_of(&key).expect("a number"), number);
                assert!(key > last);
                last = key;
            }
        }
        assert!(Keys::new(b"", 1).time_of(b"").is_err());
    }

    #[test]
    fn feeds_spread_over_the_partitions_and_stay_there() {
        let keys = Keys::new(b"", 16);
        let used: std::collections::HashSet<_> = (0..200)
            .map(|i| keys.partition(&feed(&format!("user:{i}"))))
            .collect();
        assert_eq!(used.len(), 16);
        // Fixed: with another hash, existing log entries would not be found.
        assert_eq!(keys.partition(&feed("user:42")), 10);
    }
}
