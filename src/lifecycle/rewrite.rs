//! The keys of the log that a change rewrites. Each holds the events of a batch, so that several changes of one transaction
//! may concern the same key.

use std::collections::BTreeMap;

use crate::{
    append::writes,
    log::{Place, place_of},
    store::{
        Batch, Condition, KeyValue, Result, Snapshot, Stamped,
        keys::{Keys, only, version_of, versioned},
        values::{self, Record, RecordParts, STAMP_AT},
    },
    types::{Entry, FeedName},
    version::{BYTES_LEN, Version},
};

/// Reads keys of the log, lets their records be changed, and writes them back on condition that nobody else has.
pub(super) struct Rewrite<'a> {
    keys: &'a Keys,
    snapshot: &'a dyn Snapshot,
    /// By partition and version.
    loaded: BTreeMap<(u16, Version), Loaded>,
}

struct Loaded {
    item: KeyValue,
    records: Vec<Record>,
    /// It is going to be written.
    is_changed: bool,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(keys: &'a Keys, snapshot: &'a dyn Snapshot) -> Self {
        Self {
            keys,
            snapshot,
            loaded: BTreeMap::new(),
        }
    }

    /// Changes the records of the value in which the event at `version` stands in `partition`; `change` is also told where the
    /// event stands. Nothing happens if it is not there (any more).
    pub(super) async fn change(
        &mut self,
        partition: u16,
        version: Version,
        change: impl FnOnce(&mut Vec<Record>, usize),
    ) -> Result<()> {
        if let Some((_, loaded, index)) = self.load(partition, version).await? {
            change(&mut loaded.records, index);
            loaded.is_changed = true;
        }
        Ok(())
    }

    /// The record of the event at `version` in `partition`, as it is so far, and the version of the key that holds it; `None`
    /// if it is not there (any more).
    pub(super) async fn record(
        &mut self,
        partition: u16,
        version: Version,
    ) -> Result<Option<(Version, &Record)>> {
        let place = self.load(partition, version).await?;
        Ok(place.map(|(key, loaded, index)| (key, &loaded.records[index])))
    }

    /// The value in which the event at `version` stands in `partition`, the version of its key, and where the event stands.
    async fn load(
        &mut self,
        partition: u16,
        version: Version,
    ) -> Result<Option<(Version, &mut Loaded, usize)>> {
        let below = self.loaded.range(..=(partition, version)).next_back();
        let known = below.and_then(|(&(of, first), loaded)| {
            let mut versions = loaded.records.iter().map(|record| record.entry.version);
            let index = versions.position(|other| other == version);
            (of == partition).then_some((first, index?))
        });
        let (first, index) = match known {
            Some(known) => known,
            None => {
                let place = place_of(self.snapshot, self.keys, partition, version).await?;
                let Some(Place {
                    item,
                    records,
                    index,
                }) = place
                else {
                    return Ok(None);
                };
                let first = version_of(&item.key)?;
                // Loaded already, and the event has been removed from it.
                if self.loaded.contains_key(&(partition, first)) {
                    return Ok(None);
                }
                let is_changed = false;
                let loaded = Loaded {
                    item,
                    records,
                    is_changed,
                };
                self.loaded.insert((partition, first), loaded);
                (first, index)
            }
        };
        let loaded = self.loaded.get_mut(&(partition, first));
        Ok(loaded.map(|loaded| (first, loaded, index)))
    }

    /// Bytes of the values that are going to be written.
    pub(super) fn bytes(&self) -> usize {
        let changed = self.loaded.values().filter(|loaded| loaded.is_changed);
        changed.map(|loaded| loaded.item.value.len()).sum()
    }

    /// Adds the writes and conditions to `batch`.
    pub(super) fn finish(self, batch: &mut Batch) {
        let changed = self.loaded.into_iter().filter(|(_, it)| it.is_changed);
        for ((partition, first), Loaded { item, records, .. }) in changed {
            batch.conditions.push(Condition::KeyEquals {
                key: item.key.to_vec(),
                value: Some(item.value.to_vec()),
            });
            let parts: Vec<_> = records.iter().map(parts).collect();
            let values = values::encode_records(&parts).into_iter();
            let place = |index| versioned(&self.keys.log(partition), first.at_index(index));
            let values: Vec<_> = values.map(|(index, value)| (place(index), value)).collect();
            // A key has the version of its first event.
            if values.iter().all(|(key, _)| *key != item.key) {
                batch.clears.push(only(item.key.to_vec()));
            }
            for (key, value) in values {
                put(batch, key, value);
            }
        }
    }
}

/// The feeds that are left of an event, as the log holds them: by partition, and whether the record there exports the event.
pub(super) struct FeedsLeft<'a>(Vec<(u16, Vec<&'a FeedName>, bool)>);

impl<'a> FeedsLeft<'a> {
    pub(super) fn of(keys: &Keys, left: &'a [FeedName]) -> Self {
        Self(writes::records(keys, left))
    }

    /// Lets the record of the event in `partition` name these feeds. `false` if none of them belongs there.
    pub(super) fn rename(&self, partition: u16, record: &mut Record) -> bool {
        let here = self.0.iter().find(|(other, ..)| *other == partition);
        if let Some((_, feeds, exports)) = here {
            record.feeds = feeds.iter().copied().cloned().collect();
            record.exports = *exports;
        }
        here.is_some()
    }

    /// The same; removes the record if none of the feeds belongs there.
    pub(super) fn rename_or_remove(&self, partition: u16, records: &mut Vec<Record>, index: usize) {
        if !self.rename(partition, &mut records[index]) {
            records.remove(index);
        }
    }
}

/// What the log by kind and the log by actor have of an event is under these prefixes.
pub(super) fn index_prefixes(keys: &Keys, entry: &Entry) -> impl Iterator<Item = Vec<u8>> {
    let actor = entry.actor.as_ref();
    std::iter::once(keys.log_by_kind(&entry.kind)).chain(actor.map(|it| keys.log_by_actor(it)))
}

/// The keys of an event in the log by kind and the log by actor, as far as they have got.
pub(super) async fn indexed(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    entry: &Entry,
) -> Result<Vec<KeyValue>> {
    let key = |prefix: Vec<u8>| versioned(&prefix, entry.version);
    let places: Vec<_> = index_prefixes(keys, entry).map(key).collect();
    let stored = snapshot.get(places.clone()).await?;
    let found = places.into_iter().zip(stored).filter_map(|(key, value)| {
        let key = key.into();
        value.map(|value| KeyValue { key, value })
    });
    Ok(found.collect())
}

/// Puts a value, which may have to be stamped.
pub(super) fn put(batch: &mut Batch, key: Vec<u8>, value: Vec<u8>) {
    match values::is_to_be_stamped(&value) {
        false => batch.puts.push((key, value)),
        true => batch.stamped.push(Stamped {
            key,
            index: 0,
            value,
            at: STAMP_AT,
        }),
    }
}

/// The record as it is written back.
fn parts(record: &Record) -> RecordParts<'_> {
    let bytes = record.entry.version.to_bytes();
    RecordParts {
        index: u16::from_be_bytes([bytes[BYTES_LEN - 2], bytes[BYTES_LEN - 1]]),
        feeds: record.feeds.iter().collect(),
        exports: record.exports,
        entry: &record.entry,
    }
}
