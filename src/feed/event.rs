//! One event, found by its id.

use super::Feeds;
use crate::{
    error::Result,
    store::{
        self, Snapshot, entries_at, keys,
        values::{Claim, decode_claim, decode_entry, decode_version_or_zero},
    },
    types::{Entry, EventId, FeedName},
    version::Version,
};

/// An event as it stands in its feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEvent {
    pub entry: Entry,
    /// Those of its feeds that the caller may read, in the order in which it was appended to them.
    pub feeds: Vec<FeedName>,
}

impl Feeds {
    /// The event with this id; `None` if there is none, if it was erased, if retention has removed it from all of
    /// them, or if the caller may read none of its feeds. Reads
    /// the same for all of these, so that the time it takes does not tell them apart.
    pub async fn event(
        &self,
        id: &EventId,
        may_read: impl Fn(&FeedName) -> bool,
    ) -> Result<Option<FoundEvent>> {
        let found = async { Ok(self.read_event(id, may_read).await?) };
        self.note(found.await)
    }

    async fn read_event(
        &self,
        id: &EventId,
        may_read: impl Fn(&FeedName) -> bool,
    ) -> store::Result<Option<FoundEvent>> {
        let snapshot = self.snapshot().await?;
        let Some(claim) = self.first_claim(&*snapshot, id).await? else {
            return Ok(None);
        };
        let all = claim.event.map_or_else(Vec::new, |event| event.feeds);
        let Some(key) = all.first().map(|feed| self.keys.feed(feed)) else {
            return Ok(None);
        };
        let feeds: Vec<FeedName> = all.into_iter().filter(may_read).collect();
        if feeds.is_empty() {
            return Ok(None);
        }
        let places = keys::entry_keys(&key, claim.version);
        let mut reads = places.to_vec();
        reads.push(self.keys.trimmed_anywhere());
        let mut values = snapshot.get(reads.clone()).await?;
        let trimmed = values.pop().flatten();
        let trimmed = decode_version_or_zero(&reads[2], trimmed.as_ref())?;
        if trimmed >= claim.version {
            return self.kept(snapshot, feeds, claim.version).await;
        }
        let item = keys::entry_at(&places, &values);
        let entry = item.as_ref().map(decode_entry).transpose()?;
        let entry = entry.filter(|entry| !entry.is_erased());
        Ok(entry.map(|entry| FoundEvent { entry, feeds }))
    }

    /// The event at `version`, in those of its `feeds` from which retention has not removed it.
    async fn kept(
        &self,
        snapshot: Box<dyn Snapshot>,
        feeds: Vec<FeedName>,
        version: Version,
    ) -> store::Result<Option<FoundEvent>> {
        let places = feeds.iter().map(|feed| (self.keys.feed(feed), version));
        let items = entries_at(&*snapshot, places).await?;
        let mut found: Option<FoundEvent> = None;
        for (feed, item) in feeds.into_iter().zip(items) {
            let Some(item) = item else {
                continue;
            };
            if let Some(found) = &mut found {
                found.feeds.push(feed);
                continue;
            }
            let entry = decode_entry(&item)?;
            found = Some(entry)
                .filter(|entry| !entry.is_erased())
                .map(|entry| FoundEvent {
                    entry,
                    feeds: vec![feed],
                });
        }
        Ok(found)
    }

    /// The first claim of an id: the one that counts.
    async fn first_claim(
        &self,
        snapshot: &dyn Snapshot,
        id: &EventId,
    ) -> store::Result<Option<Claim>> {
        let claims = snapshot.ranges(vec![self.keys.first_claim(id)]).await?;
        let first = claims.first().and_then(|claims| claims.items.first());
        first.map(decode_claim).transpose()
    }

    /// The feeds of the entry with this id and version, in the order in which it was appended to them; none if there is no
    /// such entry, or if it is a twin or was erased. Reads one key.
    pub async fn of_event(&self, id: &EventId, version: Version) -> Result<Vec<FeedName>> {
        let found = async { Ok(self.read_of_event(id, version).await?) };
        self.note(found.await)
    }

    async fn read_of_event(&self, id: &EventId, version: Version) -> store::Result<Vec<FeedName>> {
        let snapshot = self.snapshot().await?;
        let first = self.first_claim(&*snapshot, id).await?;
        let first = first.filter(|claim| claim.version == version);
        Ok(first
            .and_then(|claim| claim.event)
            .map_or_else(Vec::new, |event| event.feeds))
    }
}
