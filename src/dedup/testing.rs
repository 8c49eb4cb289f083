//! Random histories, a snapshot of one in memory, and the rule for twins in its plainest form, for property tests.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use proptest::prelude::*;

use crate::{
    append::writes,
    log::LogEvent,
    store::{
        Batch, Condition, Error, Found, KeyValue, Range, Reads, Result, Slice, Snapshot, Store,
        StoreErrors,
        epoch::Row,
        keys::{Keys, unread_versioned, versioned},
        values::{self, Record, RecordParts},
    },
    types::{Delivery, Entry, FeedName, NO_TWIN},
    version::Version,
};

/// The maximum age of a snapshot, in ticks.
const BOUND: u64 = 5_000_000;

pub(crate) fn keys() -> Keys {
    Keys::before_opening(b"")
}

/// A history of one feed or of two, in version order.
pub(crate) fn any_history() -> impl Strategy<Value = Vec<Record>> {
    let when = prop_oneof![
        // In the same batch as the commit before.
        2 => Just(When::SameBatch),
        3 => (1..4u64).prop_map(When::After),
        2 => (1..3_000_000u64).prop_map(When::After),
        5 => (1..9usize, BOUND - 1..BOUND + 2).prop_map(|(back, ticks)| When::Since(back, ticks)),
        1 => Just(When::NextEpoch),
    ];
    let read_at = prop_oneof![
        2 => Just(None),
        1 => Just(Some((0, 0))),
        5 => (1..9usize, -1..2i64).prop_map(Some),
    ];
    let commit = (when, 0..3u8, read_at, 1..4u8);
    proptest::collection::vec(commit, 0..24).prop_map(|commits| {
        let mut history: Vec<Record> = Vec::new();
        for (when, id, read_at, feeds) in commits {
            let back = |back: usize| {
                let index = history.len().checked_sub(back);
                index.map_or(Version::ZERO, |index| history[index].entry.version)
            };
            let last = match history.last() {
                Some(last) => last.entry.version,
                None => Version::new(0, BOUND, 0),
            };
            let (epoch, time) = (last.epoch(), last.time());
            let version = match when {
                When::SameBatch => last.at_index(last.timestamp().count as u16 + 1),
                When::After(ticks) => Version::new(epoch, time + ticks, 0),
                When::Since(commits, ticks) => {
                    Version::new(epoch, (back(commits).time() + ticks).max(time + 1), 0)
                }
                When::NextEpoch => Version::new(epoch + 1, time.saturating_sub(3), 0),
            };
            let read_at = match read_at {
                None => 0,
                Some((0, _)) => NO_TWIN,
                Some((commits, offset)) => back(commits).time().saturating_add_signed(offset),
            };
            let names = ["a", "b"].iter().enumerate();
            let names = names.filter(|(index, _)| feeds & (1 << index) != 0);
            history.push(Record {
                entry: entry(version, id, read_at),
                feeds: names.map(|(_, name)| feed(name)).collect(),
                exports: true,
            });
        }
        history
    })
}

fn entry(version: Version, id: impl std::fmt::Display, read_at: u64) -> Entry {
    Entry {
        version,
        id: format!("id {id}").parse().expect("an id"),
        kind: "message".parse().expect("a name"),
        delivery: Delivery::Notify,
        actor: None,
        at: 0,
        time: None,
        data: bytes::Bytes::from_static(b"null"),
        read_at,
        change: None,
    }
}

/// Commits of different ids to all of `feeds`, as one bulk load would make them: each may be a twin of any before it.
pub(crate) fn long_history(commits: usize, feeds: &[FeedName]) -> Vec<Record> {
    let record = |index: usize| Record {
        entry: entry(Version::new(0, BOUND + index as u64, 0), index, 0),
        feeds: feeds.to_vec(),
        exports: true,
    };
    (0..commits).map(record).collect()
}

#[derive(Debug, Clone)]
enum When {
    SameBatch,
    After(u64),
    /// This many ticks after the commit that is this many commits back.
    Since(usize, u64),
    /// In a new epoch, whose clock may be behind.
    NextEpoch,
}

pub(crate) fn feed(name: &str) -> FeedName {
    name.parse().expect("a name")
}

/// The rule: the same id, earlier in the same feed and epoch, above the snapshot and less than 5 s before.
pub(crate) fn is_twin(history: &[Record], entry: &Entry, feed: &FeedName) -> bool {
    history.iter().any(|other| {
        let first = &other.entry;
        first.id == entry.id
            && other.feeds.contains(feed)
            && first.version < entry.version
            && first.version.epoch() == entry.version.epoch()
            && first.version.time() > entry.read_at
            && entry.version.time() - first.version.time() < BOUND
    })
}

/// The keys of an entry that counts as unread, and their values: with one key or, of some messages, with two, as in format 2.
pub(crate) fn entry_puts(keys: &Keys, feed: &FeedName, entry: &Entry) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (prefix, version) = (keys.feed(feed), entry.version);
    let value = values::encode_entry(entry);
    let is_old = entry.kind.as_str() == "message" && !(version.time() / 7).is_multiple_of(2);
    match is_old {
        false => vec![(unread_versioned(&prefix, version), value)],
        true => vec![
            (versioned(&prefix, version), value),
            (
                versioned(&keys.notify(feed), version),
                values::encode_notify(entry),
            ),
        ],
    }
}

/// A snapshot that holds a history: the entries and notify keys of its feeds, and its log.
#[derive(Clone)]
pub(crate) struct Memory {
    values: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) version: Version,
    /// Like FoundationDB, say that there may be more whenever a limit was reached.
    pub(crate) guesses_more: bool,
    errors: Arc<StoreErrors>,
}

/// Nothing is ever committed, and every future is ready at once.
#[async_trait]
impl Store for Memory {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        let found = self.read(reads).await?;
        Ok((Box::new(self.clone()), found))
    }

    async fn wait_for_commit(&self, _seen: Version) -> Result<()> {
        std::future::pending().await
    }

    fn errors(&self) -> &StoreErrors {
        &self.errors
    }

    fn reads_at_once(&self) -> usize {
        1
    }

    async fn close(&self) {}
}

impl Memory {
    pub(crate) fn of(history: &[Record]) -> Self {
        Self::with_keys(&keys(), history)
    }

    /// The same, with the log partitions of `keys`.
    pub(crate) fn with_keys(keys: &Keys, history: &[Record]) -> Self {
        let mut values = BTreeMap::new();
        for Record { entry, feeds, .. } in history {
            for feed in feeds {
                values.extend(entry_puts(keys, feed, entry));
            }
        }
        let batch = |record: &Record| (record.entry.version.epoch(), record.entry.version.time());
        for records in history.chunk_by(|a, b| batch(a) == batch(b)) {
            let mut partitions: BTreeMap<u16, Vec<RecordParts<'_>>> = BTreeMap::new();
            for Record { entry, feeds, .. } in records {
                for (partition, feeds, exports) in writes::records(keys, feeds) {
                    partitions.entry(partition).or_default().push(RecordParts {
                        index: entry.version.timestamp().count as u16,
                        feeds,
                        exports,
                        entry,
                    });
                }
            }
            for (partition, parts) in partitions {
                for (index, value) in values::encode_records(&parts) {
                    let version = records[0].entry.version.at_index(index);
                    values.insert(versioned(&keys.log(partition), version), value);
                }
            }
        }
        let version = history.last().map(|last| last.entry.version);
        let newest = version.map_or(0, Version::epoch);
        for epoch in 0..=newest {
            let row = Row {
                epoch,
                began: Version::new(epoch, 0, 0),
                previous_end: Version::moment(epoch.saturating_sub(1), u64::MAX),
            };
            values.extend(row.puts(keys));
        }
        Self {
            values: Arc::new(values),
            version: version.unwrap_or(Version::ZERO),
            guesses_more: false,
            errors: Arc::default(),
        }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        Arc::make_mut(&mut self.values).insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        Arc::make_mut(&mut self.values).remove(key);
    }

    /// Does what a batch says, as a commit at the version of the last entry: its own versions must not matter.
    pub(crate) fn apply(&mut self, batch: Batch) -> Result<()> {
        let at = self.version;
        for (index, condition) in batch.conditions.iter().enumerate() {
            let holds = match condition {
                Condition::KeyEquals { key, value } => self.values.get(key) == value.as_ref(),
                Condition::RangeEmpty { begin, end } => self
                    .slice(Range::all(begin.clone(), end.clone()))
                    .items
                    .is_empty(),
            };
            if !holds {
                return Err(Error::ConditionFailed(index));
            }
        }
        let values = Arc::make_mut(&mut self.values);
        for (begin, end) in batch.clears.iter().filter(|(begin, end)| begin < end) {
            values.retain(|key, _| !(begin <= key && key < end));
        }
        values.extend(batch.puts);
        for put in batch.versioned {
            values.insert(versioned(&put.prefix, at.at_index(put.index)), put.value);
        }
        for put in batch.unread {
            let key = unread_versioned(&put.prefix, at.at_index(put.index));
            values.insert(key, put.value);
        }
        for mut put in batch.stamped {
            let stamp = at.at_index(put.index).to_bytes();
            put.value[put.at..][..stamp.len()].copy_from_slice(&stamp);
            values.insert(put.key, put.value);
        }
        for (key, value) in batch.maxima {
            let stored = values.entry(key).or_default();
            *stored = value.max(std::mem::take(stored));
        }
        Ok(())
    }

    /// All values, by key.
    pub(crate) fn values(&self) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.values
    }

    pub(crate) fn slice(&self, range: Range) -> Slice {
        match range.second() {
            None => self.one_slice(range),
            Some(second) => {
                let found = (self.one_slice(range.clone()), self.one_slice(second));
                Slice::merged(&range, found.0, found.1).expect("versioned keys")
            }
        }
    }

    fn one_slice(&self, range: Range) -> Slice {
        let mut found: Vec<_> = match range.begin < range.end {
            true => self.values.range(range.begin..range.end).collect(),
            false => Vec::new(),
        };
        if range.reverse {
            found.reverse();
        }
        let (mut items, mut bytes) = (Vec::new(), 0);
        for (key, value) in &found {
            if items.len() >= range.limit || bytes >= range.bytes_max {
                break;
            }
            bytes += key.len() + value.len();
            items.push(KeyValue {
                key: key.to_vec().into(),
                value: value.to_vec().into(),
            });
        }
        let stopped = items.len() >= range.limit || bytes >= range.bytes_max;
        Slice {
            more: items.len() < found.len() || (self.guesses_more && stopped),
            items,
        }
    }
}

#[async_trait]
impl Snapshot for Memory {
    fn version(&self) -> Version {
        self.version
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        let value = |key: &Vec<u8>| self.values.get(key).map(|value| value.clone().into());
        Ok(Found {
            values: reads.keys.iter().map(value).collect(),
            slices: reads
                .ranges
                .into_iter()
                .map(|range| self.slice(range))
                .collect(),
        })
    }

    async fn commit(self: Box<Self>, _batch: Batch) -> Result<Version> {
        Err(Error::Closed)
    }
}

/// What the plain rule says of the log.
pub(crate) fn plain_log(history: &[Record]) -> Vec<LogEvent> {
    let event = |record: &Record| {
        let shown = |feed: &&FeedName| !is_twin(history, &record.entry, feed);
        let feeds: Vec<FeedName> = record.feeds.iter().filter(shown).cloned().collect();
        (!feeds.is_empty()).then(|| LogEvent {
            entry: record.entry.clone(),
            feeds,
            first_feed_hash: Keys::hash(&record.feeds[0]),
        })
    };
    history.iter().filter_map(event).collect()
}
