//! Which keys are stored in which table, and how they are read there.
//!
//! Kinds of keys with different access patterns are stored in tables (fjall keyspaces) of their own, so that each table
//! is small and compacted separately. The tables share one journal, which makes a batch atomic across them.
//!
//! The first claim of an id is stored under the id alone, as `prefix → version ‖ value`; only twins are stored under their
//! complete keys. So the question that every append asks, "is this id taken?", is a point read; for a new id, filters in
//! memory answer it. And no later claim can overwrite the first one. Readers see `prefix ‖ version → value`. In both
//! forms the first claim of an id comes before its twins, so the order of keys is the same.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch as WriteBatch, Readable};
use lsm_tree::compaction::CompactionStrategy;

use super::{open::read_error, recent::Recent, settings::Settings};
use crate::{
    store::{
        Error, Found, KeyValue, Range, Reads, Result, Slice, copy::Unfinished, keys, keys::Keys,
    },
    version::BYTES_LEN,
};

/// Names of the tables, and their settings. The number in a name is that of the layout.
const CLAIMS: (&str, Settings) = ("claims-2", Settings::POINTS);
const FEEDS: (&str, Settings) = ("feeds-2", Settings::RANGES);
const LOG: (&str, Settings) = ("log-2", Settings::RANGES);
const INDEX: (&str, Settings) = ("index-2", Settings::RANGES);
const REST: (&str, Settings) = ("rest-2", Settings::RANGES);

pub(super) const TABLES: [(&str, Settings); 5] = [CLAIMS, FEEDS, LOG, INDEX, REST];

/// The number of tables in a store of format 1, which had no indexes.
pub(super) const EARLIER_TABLES: usize = 4;

/// Items of a range that are read before asking whether the result is still wanted.
const PIECE_ITEMS: usize = 64;

/// A key and its value.
pub(super) struct Put {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// The key is known to be the first claim of its id.
    pub(super) is_first: bool,
}

impl From<(Vec<u8>, Vec<u8>)> for Put {
    fn from((key, value): (Vec<u8>, Vec<u8>)) -> Self {
        Self {
            key,
            value,
            is_first: false,
        }
    }
}

/// The tables of an open database, which is closed when the last reference is dropped.
pub(super) struct Tables {
    db: Database,
    keys: Keys,
    claims: Keyspace,
    /// The table of each segment of the key space, which reaches from its first key to that of the next segment.
    segments: Vec<(Vec<u8>, Keyspace)>,
    /// The segment of the claims.
    claims_at: usize,
    pub(super) recent: Recent,
}

impl Tables {
    pub(super) fn open(db: Database, keys: Keys) -> Result<Self> {
        let stored = db.list_keyspace_names();
        let is_known = |stored: &str| TABLES.iter().any(|(name, _)| *name == stored);
        if let Some(other) = stored.iter().find(|name| !is_known(name)) {
            return Err(Error::Open(format!(
                "the data folder has another layout (its table {other:?} is unknown): \
                 use the newsfeed version that wrote it, or another folder with --data"
            )));
        }
        let open = |(name, settings): (&str, Settings)| {
            let table = db.keyspace(name, || settings.options());
            table.map_err(read_error)
        };
        if stored.iter().any(|name| **name == *REST.0) {
            // In a store of another format, no table may be created.
            let (key, rest) = (keys.meta(), open(REST)?);
            if let Some(meta) = rest.get(&key).map_err(read_error)? {
                if !Unfinished::is_in(&meta) {
                    keys::decode_meta(&key, &meta)?;
                }
                if stored.len() < TABLES.len() {
                    let what = format!("contains {} of {} tables", stored.len(), TABLES.len());
                    return Err(Error::Damaged(what));
                }
            }
        }
        let (claims, feeds, log) = (open(CLAIMS)?, open(FEEDS)?, open(LOG)?);
        let (index, rest) = (open(INDEX)?, open(REST)?);
        let mut segments = vec![(Vec::new(), rest.clone())];
        let claims_at = segments.len();
        for ((begin, end), table) in [
            (keys.claims(), &claims),
            (keys.feeds(), &feeds),
            (keys.logs(), &log),
            (keys.indexes(), &index),
        ] {
            segments.push((begin, table.clone()));
            segments.push((end, rest.clone()));
        }
        Ok(Self {
            recent: Recent::new(&keys),
            db,
            keys,
            claims,
            segments,
            claims_at,
        })
    }

    /// Each table once.
    pub(super) fn all(&self) -> Vec<Keyspace> {
        let is_named = |name: &str| {
            self.segments
                .iter()
                .find(|(_, table)| &**table.name() == name)
        };
        let named = TABLES.iter().filter_map(|(name, _)| is_named(name));
        named.map(|(_, table)| table.clone()).collect()
    }

    /// The table of all keys that have no table of their own.
    pub(super) fn rest(&self) -> &Keyspace {
        &self.segments[0].1
    }

    /// The table in which a put of `key` can replace something that a client wrote.
    pub(super) fn replaced_by(&self, key: &[u8]) -> Option<&Keyspace> {
        let table = self.table(key);
        let is_derived = [INDEX.0, REST.0].contains(&&**table.name());
        (!is_derived).then_some(table)
    }

    /// Values that were replaced before this are read by nobody.
    pub(super) fn oldest_snapshot(&self) -> u64 {
        let snapshots = &self.db.supervisor.snapshot_tracker;
        snapshots.get_seqno_safe_to_gc()
    }

    /// Does what `strategy` chooses in `table`, unless the same files are being compacted.
    pub(super) fn compact(
        &self,
        table: &Keyspace,
        strategy: impl CompactionStrategy + 'static,
    ) -> lsm_tree::Result<()> {
        let strategy = Arc::new(strategy);
        table.tree.compact(strategy, self.oldest_snapshot())
    }

    pub(super) fn db(&self) -> &Database {
        &self.db
    }

    /// Flushes the memtables that wait for the engine's own threads, which end after a failed write.
    pub(super) fn finish_flushes(&self) -> fjall::Result<()> {
        for (_, table) in &self.segments {
            if table.tree.sealed_memtable_count() > 0 {
                table.tree.flush(&table.tree.get_flush_lock(), 0)?;
            }
        }
        Ok(())
    }

    /// The segment that contains `key`.
    fn segment(&self, key: &[u8]) -> usize {
        let after = self
            .segments
            .partition_point(|(begin, _)| &begin[..] <= key);
        // The first segment begins with the empty key, so there is always one.
        after.max(1) - 1
    }

    fn is_in_segment(&self, segment: usize, key: &[u8]) -> bool {
        let next = self.segments.get(segment + 1);
        &self.segments[segment].0[..] <= key && next.is_none_or(|(begin, _)| key < &begin[..])
    }

    fn table(&self, key: &[u8]) -> &Keyspace {
        &self.segments[self.segment(key)].1
    }

    /// Reads until `is_wanted` returns `false`; what is found is incomplete then.
    pub(super) fn read(
        &self,
        view: &fjall::Snapshot,
        reads: &Reads,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Found> {
        let keys = reads.keys.iter().take_while(|_| is_wanted());
        let values = keys.map(|key| self.get(view, key));
        let values = values.collect::<Result<_>>()?;
        let ranges = reads.ranges.iter().take_while(|_| is_wanted());
        let slices = ranges.map(|range| self.range_while(view, range, is_wanted));
        let slices = slices.collect::<Result<_>>()?;
        Ok(Found { values, slices })
    }

    pub(super) fn get(&self, view: &fjall::Snapshot, key: &[u8]) -> Result<Option<Bytes>> {
        let table = self.table(key);
        if *table == self.claims
            && let Some(prefix) = self.keys.claim_prefix(key)
            && let Some(first) = view.get(table, prefix).map_err(read_error)?
        {
            let first = self.logical(prefix.to_vec().into(), first.into())?;
            if first.key == key {
                return Ok(Some(first.value));
            }
        }
        let value = view.get(table, key).map_err(read_error)?;
        Ok(value.map(Bytes::from))
    }

    pub(super) fn range(&self, view: &fjall::Snapshot, range: &Range) -> Result<Slice> {
        self.range_while(view, range, &|| true)
    }

    fn range_while(
        &self,
        view: &fjall::Snapshot,
        range: &Range,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Slice> {
        let first = self.one_range_while(view, range, is_wanted)?;
        match range.second() {
            None => Ok(first),
            Some(second) => {
                let second = self.one_range_while(view, &second, is_wanted)?;
                Slice::merged(range, first, second)
            }
        }
    }

    fn one_range_while(
        &self,
        view: &fjall::Snapshot,
        range: &Range,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Slice> {
        let mut slice = Slice::default();
        if self.recent.is_empty(range) {
            return Ok(slice);
        }
        let mut bytes = 0;
        self.visit(view, range, |_, _, item| {
            let count = slice.items.len();
            let is_piece = count > 0 && count.is_multiple_of(PIECE_ITEMS);
            if count >= range.limit || bytes >= range.bytes_max || (is_piece && !is_wanted()) {
                slice.more = true;
                return false;
            }
            bytes += item.key.len() + item.value.len();
            slice.items.push(item);
            true
        })?;
        Ok(slice)
    }

    /// Calls `take` with each item in `range`, its table and its stored key, until `take` returns `false`.
    fn visit(
        &self,
        view: &fjall::Snapshot,
        range: &Range,
        mut take: impl FnMut(&Keyspace, &Bytes, KeyValue) -> bool,
    ) -> Result<()> {
        if range.begin >= range.end {
            return Ok(());
        }
        let first = self.segment(&range.begin);
        let end = self
            .segments
            .partition_point(|(begin, _)| *begin < range.end);
        let count = end - first;
        for step in 0..count {
            let index = if range.reverse {
                end - 1 - step
            } else {
                first + step
            };
            let (segment, table) = &self.segments[index];
            let is_claims = *table == self.claims;
            let mut begin = &range.begin[..];
            if begin < &segment[..] {
                begin = segment;
            }
            let mut stop = &range.end[..];
            if let Some((next, _)) = self.segments.get(index + 1)
                && stop > &next[..]
            {
                stop = next;
            }
            if is_claims && let Some(prefix) = self.keys.claim_prefix(begin) {
                begin = prefix;
                // The range is within one id: without a first claim there is nothing.
                if self.keys.claim_prefix(stop) == Some(prefix)
                    && !view.contains_key(table, prefix).map_err(read_error)?
                {
                    continue;
                }
            }
            let mut items = view.range(table, begin..stop);
            while let Some(guard) = match range.reverse {
                true => items.next_back(),
                false => items.next(),
            } {
                let (key, value) = guard.into_inner().map_err(read_error)?;
                let key = Bytes::from(key);
                let item = match is_claims {
                    true => self.logical(key.clone(), value.into())?,
                    false => KeyValue {
                        key: key.clone(),
                        value: value.into(),
                    },
                };
                if is_claims && !(range.begin <= item.key && item.key < range.end) {
                    continue;
                }
                if !take(table, &key, item) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The item as readers see it, from a stored item of the table of claims.
    fn logical(&self, key: Bytes, value: Bytes) -> Result<KeyValue> {
        if self.keys.claim_prefix(&key) != Some(&key) {
            return Ok(KeyValue { key, value });
        }
        if value.len() < BYTES_LEN {
            return Err(keys::corrupt(&key, "the claim has no version"));
        }
        Ok(KeyValue {
            key: [&key[..], &value[..BYTES_LEN]].concat().into(),
            value: value.slice(BYTES_LEN..),
        })
    }

    /// The stored keys of the items in `range`, in order to remove them. The range must contain all claims of an id or none.
    pub(super) fn places(
        &self,
        view: &fjall::Snapshot,
        range: &Range,
    ) -> Result<Vec<(Keyspace, Bytes)>> {
        let mut places = Vec::new();
        self.visit(view, range, |table, key, _| {
            places.push((table.clone(), key.clone()));
            true
        })?;
        Ok(places)
    }

    /// The prefix of the claim, if `key` is one.
    pub(super) fn claim<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        match self.is_in_segment(self.claims_at, key) {
            true => self.keys.claim_prefix(key),
            false => None,
        }
    }

    pub(super) fn is_claimed(&self, view: &fjall::Snapshot, claim: &[u8]) -> Result<bool> {
        view.contains_key(&self.claims, claim).map_err(read_error)
    }

    /// Whether a put of this claim, `prefix ‖ version`, is the first one of its id, or replaces it.
    fn comes_first(
        &self,
        view: &fjall::Snapshot,
        (prefix, version): (&[u8], &[u8]),
    ) -> Result<bool> {
        let first = view.get(&self.claims, prefix).map_err(read_error)?;
        Ok(first.is_none_or(|first| first.starts_with(version)))
    }

    /// Inserts `items`, which must be in key order: each insert then finds in the processor's caches what the one before it
    /// has touched, and the first claim of an id precedes its twins. `view` must show everything written before.
    pub(super) fn insert(
        &self,
        view: &fjall::Snapshot,
        items: impl Iterator<Item = Put>,
        batch: &mut WriteBatch,
    ) -> Result<()> {
        let mut claimed = Vec::new();
        let mut segment = 0;
        for item in items {
            let Put {
                mut key,
                value,
                is_first,
            } = item;
            if !self.is_in_segment(segment, &key) {
                segment = self.segment(&key);
            }
            let table = &self.segments[segment].1;
            let claim = match segment == self.claims_at {
                true => self.keys.claim_prefix(&key),
                false => None,
            };
            match claim.map(<[u8]>::len) {
                Some(len)
                    if claimed != key[..len]
                        && (is_first || self.comes_first(view, key.split_at(len))?) =>
                {
                    let first = [&key[len..], &value[..]].concat();
                    key.truncate(len);
                    claimed.clone_from(&key);
                    batch.insert(table, key, first);
                }
                _ => batch.insert(table, key, value),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{store::keys::versioned, version::Version};

    /// A prefix of some kind. There are few, so that ids repeat.
    fn prefix(keys: &Keys, number: u8) -> Vec<u8> {
        let name = ["a", "b", "bb"][usize::from(number) % 3];
        let kind = || name.parse().expect("a kind");
        match number / 3 {
            0 => keys.claim(&name.parse().expect("id")),
            1 => keys.feed(&name.parse().expect("name")),
            2 => keys.notify(&name.parse().expect("name")),
            3 => keys.log(number.into()),
            4 => keys.log_by_kind(&kind()),
            _ => keys.transient(number.into()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Readers see complete keys in order, independent of how the tables store them.
        #[test]
        fn tables_read_like_one_map(
            groups in proptest::collection::vec((proptest::collection::vec((0..18u8, 0..3u64), 1..6), any::<bool>()), 1..6),
            reads in proptest::collection::vec(((0..18u8, 0..9u64), (0..18u8, 0..9u64), any::<bool>(), 1..9usize), 1..20),
        ) {
            let folder = tempfile::tempdir().expect("folder");
            let keys = Keys::before_opening(b"");
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut db = Database::builder(folder.path()).open().expect("opens");
            let mut tables = Tables::open(db.clone(), keys.clone()).expect("opens");
            for (group, (puts, replaces)) in groups.into_iter().enumerate() {
                if group == 2 {
                    drop((tables, db));
                    db = Database::builder(folder.path()).open().expect("opens again");
                    tables = Tables::open(db.clone(), keys.clone()).expect("opens again");
                }
                let mut items: Vec<_> = puts.iter().map(|&(number, index)| {
                    let version = Version::new(0, group as u64, index as u32);
                    (versioned(&prefix(&keys, number), version), format!("{number} {version}").into_bytes())
                }).collect();
                if replaces && let Some(key) = model.keys().nth(group % model.len().max(1)) {
                    items.push((key.clone(), b"replaced".to_vec()));
                }
                items.sort();
                items.dedup();
                model.extend(items.iter().cloned());
                let mut batch = db.batch();
                tables.insert(&db.snapshot(), items.into_iter().map(Put::from), &mut batch).expect("inserted");
                batch.commit().expect("committed");
            }
            let view = db.snapshot();
            for ((number, time), (last, until), reverse, limit) in reads {
                let bound = |number, time| versioned(&prefix(&keys, number), Version::new(0, time, 1));
                let range = Range { reverse, limit, ..Range::all(bound(number, time), bound(last, until)) };
                let mut expected: Vec<_> = match range.begin < range.end {
                    true => model.range(range.begin.clone()..range.end.clone()).collect(),
                    false => Vec::new(),
                };
                if reverse {
                    expected.reverse();
                }
                let found = tables.range(&view, &range).expect("read");
                prop_assert_eq!(found.more, expected.len() > limit);
                expected.truncate(limit);
                let found: Vec<_> = found.items.iter().map(|item| (item.key.to_vec(), item.value.to_vec())).collect();
                let expected: Vec<_> = expected.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                prop_assert_eq!(found, expected);
                let value = tables.get(&view, &range.begin).expect("read");
                prop_assert_eq!(value.as_deref(), model.get(&range.begin).map(|value| &value[..]));
            }
            let everything = Range::all(vec![0], vec![0xff]);
            prop_assert_eq!(tables.range(&view, &everything).expect("read").items.len(), model.len());
            for (_, key) in tables.places(&view, &everything).expect("read") {
                prop_assert!(tables.table(&key).contains_key(&key).expect("read"));
            }
        }
    }
}
