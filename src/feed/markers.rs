//! Moving a marker: only forward, and never above vN. It writes the marker and the news of it, however much was unread.

use async_trait::async_trait;

use super::{Feeds, Standing};
use crate::{
    error::{Error, Result},
    store::{
        self, Batch, Condition, Found, Plan, Reads, Snapshot, Transaction, Versioned,
        keys::Keys,
        transact,
        values::{self, Archived, encode_archived},
    },
    types::{FeedName, Marker, ReaderName},
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
        reader: &ReaderName,
        marker: Marker,
        to: impl Into<Cursor>,
    ) -> Result<()> {
        let mut move_marker = MoveMarker {
            feeds: self,
            feed,
            reader,
            marker,
            to: to.into(),
        };
        transact(&*self.store, &mut move_marker).await
    }
}

struct MoveMarker<'a> {
    feeds: &'a Feeds,
    feed: &'a FeedName,
    reader: &'a ReaderName,
    marker: Marker,
    to: Cursor,
}

#[async_trait]
impl Transaction for MoveMarker<'_> {
    const NAME: &'static str = "marker";

    type Output = ();
    type Error = Error;

    fn first_reads(&self) -> Reads {
        Reads {
            keys: Standing::reads(&self.feeds.keys, self.feed, self.reader).to_vec(),
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<()>> {
        // A marker above vN would mark entries as read that do not exist yet.
        let to = self.feeds.lineage.at(snapshot).await?.check(self.to)?;
        let keys = &self.feeds.keys;
        let reads = Standing::reads(keys, self.feed, self.reader);
        let standing = Standing::from(&reads, &first.values)?;
        let key = keys.marker(self.feed, self.reader, self.marker);
        let mut batch = Batch {
            versioned: vec![Versioned {
                prefix: keys.transient(keys.partition(self.feed)),
                index: 0,
                value: values::encode_marker_moved(self.feed, self.reader),
            }],
            notify: true,
            ..Batch::default()
        };
        let current = match self.marker {
            Marker::Read => standing.markers.read,
            Marker::Seen => standing.markers.seen,
            Marker::Archived => {
                let archived = Archived {
                    until: standing.archived.until.max(to),
                    read: standing.archived.read.max(to.min(standing.read())),
                };
                if archived == standing.archived {
                    return Ok(Plan::Answer(()));
                }
                batch.conditions = standing.unchanged(keys, self.feed, self.reader);
                batch.puts = vec![(key, encode_archived(archived))];
                return Ok(Plan::Commit(batch));
            }
        };
        if current.unwrap_or(Version::ZERO) >= to {
            return Ok(Plan::Answer(()));
        }
        batch.maxima = vec![(key, to.to_bytes().to_vec())];
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, _version: Version) {}
}

impl Standing {
    /// Conditions by which the read marker and what is archived have not changed.
    pub(super) fn unchanged(
        &self,
        keys: &Keys,
        feed: &FeedName,
        reader: &ReaderName,
    ) -> Vec<Condition> {
        let read = self.markers.read.map(|read| read.to_bytes().to_vec());
        let archived = self.markers.archived;
        let archived = archived.map(|_| encode_archived(self.archived));
        let equals = |marker, value| Condition::KeyEquals {
            key: keys.marker(feed, reader, marker),
            value,
        };
        vec![
            equals(Marker::Read, read),
            equals(Marker::Archived, archived),
        ]
    }
}

/// The markers of one reader among those of a feed that everybody who reads the feed may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderMarkers {
    pub reader: ReaderName,
    pub read: Option<Version>,
    pub seen: Option<Version>,
}

/// The readers of a feed, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readers {
    /// The moment of the markers.
    pub version: Version,
    pub readers: Vec<ReaderMarkers>,
    /// There are more after the last one.
    pub more: bool,
}

impl Feeds {
    /// Up to `limit` readers of the feed whose names come after `after`, without the feed's own one.
    pub async fn readers(
        &self,
        feed: &FeedName,
        after: &ReaderName,
        limit: usize,
    ) -> Result<Readers> {
        let read = async { Ok(self.read_readers(feed, after, limit).await?) };
        self.note(read.await)
    }

    async fn read_readers(
        &self,
        feed: &FeedName,
        after: &ReaderName,
        limit: usize,
    ) -> store::Result<Readers> {
        let snapshot = self.snapshot().await?;
        let mut range = self.keys.markers(feed, after);
        // Of one reader more, to know whether there is one.
        range.limit = Standing::READS * (limit + 1);
        let slices = snapshot.ranges(vec![range]).await?;
        let mut readers: Vec<ReaderMarkers> = Vec::new();
        for item in slices.iter().flat_map(|slice| &slice.items) {
            let (reader, marker) = self.keys.marker_of(&item.key, feed)?;
            if readers.last().is_none_or(|last| last.reader != reader) {
                readers.push(ReaderMarkers {
                    reader,
                    read: None,
                    seen: None,
                });
            }
            let Some(last) = readers.last_mut() else {
                continue;
            };
            let version = || values::decode_version(&item.key, &item.value).map(Some);
            match marker {
                Some(Marker::Read) => last.read = version()?,
                Some(Marker::Seen) => last.seen = version()?,
                Some(Marker::Archived) | None => {}
            }
        }
        let more = readers.len() > limit;
        readers.truncate(limit);
        Ok(Readers {
            version: snapshot.version(),
            readers,
            more,
        })
    }

    /// What others may see of the markers of some readers.
    pub(crate) async fn markers_of(
        &self,
        snapshot: &dyn Snapshot,
        of: &[(FeedName, ReaderName)],
    ) -> store::Result<Vec<ReaderMarkers>> {
        let keys = |(feed, reader): &(FeedName, ReaderName)| {
            [Marker::Read, Marker::Seen].map(|marker| self.keys.marker(feed, reader, marker))
        };
        let reads: Vec<_> = of.iter().flat_map(keys).collect();
        let values = snapshot.get(reads.clone()).await?;
        let version = |index: usize| {
            let value = values.get(index)?.as_ref()?;
            Some(values::decode_version(reads.get(index)?, value))
        };
        let markers = of.iter().enumerate().map(|(index, (_, reader))| {
            Ok(ReaderMarkers {
                reader: reader.clone(),
                read: version(2 * index).transpose()?,
                seen: version(2 * index + 1).transpose()?,
            })
        });
        markers.collect()
    }
}
