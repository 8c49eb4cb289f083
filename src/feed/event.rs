//! The feeds of one event, found by its id and version.

use super::Feeds;
use crate::{
    error::Result,
    store::{
        self, Snapshot,
        keys::{self, version_of},
        values::decode_records,
    },
    types::{EventId, FeedName},
    version::Version,
};

impl Feeds {
    /// The feeds of the entry with this id and version; none if there is no such entry, or if it is a twin. Reads one log
    /// record per partition.
    pub async fn of_event(&self, id: &EventId, version: Version) -> Result<Vec<FeedName>> {
        let found = async {
            let snapshot = self.snapshot().await?;
            Ok(self.of_event_at(&*snapshot, id, version).await?)
        };
        self.note(found.await)
    }

    async fn of_event_at(
        &self,
        snapshot: &dyn Snapshot,
        id: &EventId,
        version: Version,
    ) -> store::Result<Vec<FeedName>> {
        // An entry is in the last record at or below its version, because a record has the version of its first entry.
        let record = |partition| {
            keys::range(
                &self.keys.log(partition),
                None,
                version,
                true,
                1,
                usize::MAX,
            )
        };
        let records = (0..self.keys.partitions()).map(record);
        let ranges = std::iter::once(self.keys.first_claim(id))
            .chain(records)
            .collect();
        let mut found = snapshot.ranges(ranges).await?.into_iter();
        let first = found
            .next()
            .and_then(|claims| claims.items.into_iter().next());
        let first = first.map(|claim| version_of(&claim.key)).transpose()?;
        if first != Some(version) {
            return Ok(Vec::new());
        }
        let mut feeds = Vec::new();
        for item in found.flat_map(|records| records.items) {
            // Most records are of other batches. Searching for the id is much cheaper than decoding them.
            if memchr::memmem::find(&item.value, id.as_str().as_bytes()).is_none() {
                continue;
            }
            let records = decode_records(&item)?;
            let of_event = |record: &store::values::Record| {
                record.entry.version == version && record.entry.id == *id
            };
            let records = records.into_iter().filter(of_event);
            feeds.extend(records.flat_map(|record| record.feeds));
        }
        Ok(feeds)
    }
}
