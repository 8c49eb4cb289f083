//! The feeds of one event, found by its id and version.

use super::Feeds;
use crate::{
    error::Result,
    store::{self, values::decode_claim},
    types::{EventId, FeedName},
    version::Version,
};

impl Feeds {
    /// The feeds of the entry with this id and version, in the order in which it was appended to them; none if there is no
    /// such entry, or if it is a twin or was erased. Reads one key.
    pub async fn of_event(&self, id: &EventId, version: Version) -> Result<Vec<FeedName>> {
        let found = async { Ok(self.read_of_event(id, version).await?) };
        self.note(found.await)
    }

    async fn read_of_event(&self, id: &EventId, version: Version) -> store::Result<Vec<FeedName>> {
        let snapshot = self.snapshot().await?;
        let claims = snapshot.ranges(vec![self.keys.first_claim(id)]).await?;
        let first = claims.first().and_then(|claims| claims.items.first());
        let first = first.map(decode_claim).transpose()?;
        let first = first.filter(|claim| claim.version == version);
        Ok(first
            .and_then(|claim| claim.event)
            .map_or_else(Vec::new, |event| event.feeds))
    }
}
