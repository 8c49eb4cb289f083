//! Moving a marker: only forward, and never above vN.

use async_trait::async_trait;

use super::{Feeds, sweep::Piece};
use crate::{
    error::{Error, Result},
    store::{Batch, Found, Plan, Snapshot, Transaction, Versioned, keys, transact, values},
    types::{FeedName, Marker},
    version::Version,
};

impl Feeds {
    /// Moves the marker to `to`, unless it is already there or further.
    pub async fn move_marker(&self, feed: &FeedName, marker: Marker, to: Version) -> Result<()> {
        let mut move_marker = MoveMarker {
            feeds: self,
            feed,
            marker,
            to,
            left: false,
        };
        transact(&*self.store, &mut move_marker).await?;
        if move_marker.left {
            self.sweeps.begin(&self.store, &self.keys, feed);
        }
        Ok(())
    }
}

struct MoveMarker<'a> {
    feeds: &'a Feeds,
    feed: &'a FeedName,
    marker: Marker,
    to: Version,
    /// Unread keys are left at or below the marker.
    left: bool,
}

impl MoveMarker<'_> {
    /// The unread keys that the move clears. They do not count from then on, whether cleared or not.
    async fn clears(&mut self, snapshot: &dyn Snapshot) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let keys = &self.feeds.keys;
        if !snapshot.clears_key_by_key() {
            let unread = keys.unread(self.feed);
            return Ok(vec![keys::after_until(&unread, None, self.to)]);
        }
        let piece = Piece::read(snapshot, keys, self.feed, None, self.to).await?;
        self.left = piece.as_ref().is_some_and(|piece| piece.more);
        Ok(piece.into_iter().map(|piece| piece.range).collect())
    }
}

#[async_trait]
impl Transaction for MoveMarker<'_> {
    type Output = ();
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<()>> {
        let now = snapshot.version();
        // A marker above vN would mark entries as read that do not exist yet.
        if self.to > now {
            return Err(Error::VersionAhead {
                asked: self.to,
                current: now,
            });
        }
        let markers = self.feeds.markers_at(snapshot, self.feed).await?;
        let current = match self.marker {
            Marker::Read => markers.read,
            Marker::Seen => markers.seen,
        };
        if current.unwrap_or(Version::ZERO) >= self.to {
            return Ok(Plan::Answer(()));
        }
        let clears = match self.marker {
            Marker::Read => self.clears(snapshot).await?,
            Marker::Seen => Vec::new(),
        };
        let keys = &self.feeds.keys;
        Ok(Plan::Commit(Batch {
            clears,
            maxima: vec![(
                keys.marker(self.feed, self.marker),
                self.to.to_bytes().to_vec(),
            )],
            versioned: vec![Versioned {
                prefix: keys.transient(keys.partition(self.feed)),
                index: 0,
                value: values::encode_marker_moved(self.feed),
            }],
            notify: true,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) {}
}
