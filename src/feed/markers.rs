//! Moving a marker: only forward, and never above vN. It writes the marker and the news of it, however much was unread.

use async_trait::async_trait;

use super::Feeds;
use crate::{
    error::{Error, Result},
    store::{
        Batch, Found, Plan, Snapshot, Transaction, Versioned, keys::OWN_READER, transact, values,
    },
    types::{FeedName, Marker},
    version::{Cursor, Version},
};

impl Feeds {
    /// Moves the marker to `to`, unless it is already there or further.
    ///
    /// # Errors
    /// Those of [`Known::check`](crate::lineage::Known::check) for `to`, and those of the store.
    pub async fn move_marker(
        &self,
        feed: &FeedName,
        marker: Marker,
        to: impl Into<Cursor>,
    ) -> Result<()> {
        let mut move_marker = MoveMarker {
            feeds: self,
            feed,
            marker,
            to: to.into(),
        };
        transact(&*self.store, &mut move_marker).await
    }
}

struct MoveMarker<'a> {
    feeds: &'a Feeds,
    feed: &'a FeedName,
    marker: Marker,
    to: Cursor,
}

#[async_trait]
impl Transaction for MoveMarker<'_> {
    const NAME: &'static str = "marker";

    type Output = ();
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<()>> {
        // A marker above vN would mark entries as read that do not exist yet.
        let to = self.feeds.lineage.at(snapshot).await?.check(self.to)?;
        let feeds = std::slice::from_ref(self.feed);
        let markers = self.feeds.markers_at(snapshot, feeds).await?.remove(0);
        let current = match self.marker {
            Marker::Read => markers.read,
            Marker::Seen => markers.seen,
        };
        if current.unwrap_or(Version::ZERO) >= to {
            return Ok(Plan::Answer(()));
        }
        let keys = &self.feeds.keys;
        Ok(Plan::Commit(Batch {
            maxima: vec![(
                keys.marker(self.feed, OWN_READER, self.marker),
                to.to_bytes().to_vec(),
            )],
            versioned: vec![Versioned {
                prefix: keys.transient(keys.partition(self.feed)),
                index: 0,
                value: values::encode_marker_moved(self.feed, OWN_READER),
            }],
            notify: true,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) {}
}
