//! The keys of the log that a change rewrites. Each holds the events of a batch, so that several changes of one transaction
//! may concern the same key.

use std::collections::BTreeMap;

use crate::{
    log::{Place, place_of},
    store::{
        Batch, Condition, KeyValue, Result, Snapshot, Stamped,
        keys::{Keys, next_key, version_of, versioned},
        values::{self, Record, RecordParts, STAMP_AT},
    },
    version::{BYTES_LEN, Version},
};

/// Reads keys of the log, lets their records be changed, and writes them back on condition that nobody else has.
pub(super) struct Rewrite<'a> {
    keys: &'a Keys,
    snapshot: &'a dyn Snapshot,
    /// By partition and version.
    loaded: BTreeMap<(u16, Version), (KeyValue, Vec<Record>)>,
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
        let index = |records: &[Record]| {
            let mut versions = records.iter().map(|record| record.entry.version);
            versions.position(|other| other == version)
        };
        let below = self.loaded.range_mut(..=(partition, version)).next_back();
        if let Some(((of, _), (_, records))) = below
            && *of == partition
            && let Some(index) = index(records)
        {
            change(records, index);
            return Ok(());
        }
        let place = place_of(self.snapshot, self.keys, partition, version).await?;
        let Some(Place {
            item,
            mut records,
            index,
        }) = place
        else {
            return Ok(());
        };
        let first = version_of(&item.key)?;
        // Loaded already, and the event has been removed from it.
        if self.loaded.contains_key(&(partition, first)) {
            return Ok(());
        }
        change(&mut records, index);
        self.loaded.insert((partition, first), (item, records));
        Ok(())
    }

    /// Bytes of the values that are going to be written.
    pub(super) fn bytes(&self) -> usize {
        self.loaded.values().map(|(item, _)| item.value.len()).sum()
    }

    /// Adds the writes and conditions to `batch`.
    pub(super) fn finish(self, batch: &mut Batch) {
        for ((partition, first), (item, records)) in self.loaded {
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

/// The range that holds only this key.
pub(super) fn only(key: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let end = next_key(key.clone());
    (key, end)
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
