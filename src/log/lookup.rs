//! One event of the log, found by its version.

use crate::{
    store::{
        KeyValue, Result, Snapshot,
        keys::{self, Keys, version_of},
        values::{Record, decode_records},
    },
    types::Entry,
    version::Version,
};

/// Where an event stands in a partition of the log.
#[derive(Debug, Clone)]
pub struct Place {
    pub item: KeyValue,
    /// Everything in this value.
    pub records: Vec<Record>,
    /// The event, as a place in `records`.
    pub index: usize,
}

/// Where the event at `version` stands in a partition; `None` if it is not there (any more).
pub async fn place_of(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    partition: u16,
    version: Version,
) -> Result<Option<Place>> {
    // A key has the version of its first event.
    let begin = version.at_index(0).before();
    let prefix = keys.log(partition);
    let range = keys::range(&prefix, Some(begin), version, true, 1, usize::MAX);
    let mut slices = snapshot.ranges(vec![range]).await?;
    let Some(item) = slices.pop().and_then(|mut slice| slice.items.pop()) else {
        return Ok(None);
    };
    debug_assert!(version_of(&item.key)? <= version);
    let records = decode_records(&item)?;
    let mut versions = records.iter().map(|record| record.entry.version);
    let index = versions.position(|other| other == version);
    Ok(index.map(|index| Place {
        item,
        records,
        index,
    }))
}

/// The event at `version` whose first feed has this hash.
pub async fn entry_at(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    first_feed_hash: u64,
    version: Version,
) -> Result<Option<Entry>> {
    let partition = keys.partition_of(first_feed_hash);
    let place = place_of(snapshot, keys, partition, version).await?;
    let record = place.map(|mut place| place.records.swap_remove(place.index));
    Ok(record.map(|record| record.entry))
}
