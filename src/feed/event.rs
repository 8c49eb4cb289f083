//! One event, found by its id.

use super::Feeds;
use crate::{
    error::Result,
    store::{
        self, KeyValue, Snapshot,
        keys::versioned,
        values::{Claim, decode_claim, decode_entry},
    },
    types::{Change, Entry, EventId, FeedName},
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
    /// The event with this id; `None` if there is none, if it was erased, or if the caller may read none of its feeds. Reads
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
        let key = versioned(&key, claim.version);
        let value = snapshot.get(vec![key.clone()]).await?.into_iter().next();
        let item = value.flatten().map(|value| KeyValue {
            key: key.into(),
            value,
        });
        let entry = item.as_ref().map(decode_entry).transpose()?;
        let entry = entry.filter(|entry| entry.change != Some(Change::Erased));
        Ok(entry.map(|entry| FoundEvent { entry, feeds }))
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
