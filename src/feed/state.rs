//! The state of a feed: its latest entry, unread count and markers, all as of one moment.

use std::collections::BTreeMap;

use super::Feeds;
use crate::{
    dedup,
    error::Result,
    store::{self, Snapshot, keys, values},
    types::{EventId, FeedName, Marker},
    version::Version,
};

/// Unread entries are counted up to so many.
pub const UNREAD_MAX: usize = 10_000;

/// How many feeds' states are read side by side.
const STATES_AT_ONCE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedState {
    pub feed: FeedName,
    pub version: Version,
    pub latest: Option<Version>,
    pub unread: Unread,
    pub markers: Markers,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread {
    pub total: usize,
    pub kinds: BTreeMap<String, usize>,
    /// Counting stopped at [`UNREAD_MAX`].
    pub more: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Markers {
    pub read: Option<Version>,
    pub seen: Option<Version>,
}

impl Feeds {
    pub async fn state(&self, feed: &FeedName) -> Result<FeedState> {
        let state = async {
            let snapshot = self.store.snapshot().await?;
            Ok(self.state_at(&*snapshot, feed).await?)
        };
        self.note(state.await)
    }

    /// The states of several feeds, each as of a moment of its own.
    pub async fn states(&self, feeds: &[FeedName]) -> Result<Vec<FeedState>> {
        let read = async {
            let mut states = Vec::with_capacity(feeds.len());
            for feeds in feeds.chunks(STATES_AT_ONCE) {
                let snapshot = self.store.snapshot().await?;
                let read = feeds.iter().map(|feed| self.state_at(&*snapshot, feed));
                states.extend(futures_util::future::try_join_all(read).await?);
            }
            Ok(states)
        };
        self.note(read.await)
    }

    pub(crate) async fn state_at(
        &self,
        snapshot: &dyn Snapshot,
        feed: &FeedName,
    ) -> store::Result<FeedState> {
        let now = snapshot.version();
        let prefix = self.keys.feed(feed);
        let unread = keys::range(
            &self.keys.unread(feed),
            None,
            now,
            false,
            UNREAD_MAX + 1,
            usize::MAX,
        );
        let (markers, (latest, _), unread) = tokio::try_join!(
            self.markers_at(snapshot, feed),
            dedup::latest(snapshot, &prefix),
            snapshot.ranges(vec![unread]),
        )?;
        let slice = unread.into_iter().next().unwrap_or_default();
        let (unread, hidden) = count(snapshot, &prefix, markers.read, slice).await?;
        self.twins.unread.inc_by(hidden);
        Ok(FeedState {
            feed: feed.clone(),
            version: now,
            latest,
            unread,
            markers,
        })
    }

    pub(super) async fn markers_at(
        &self,
        snapshot: &dyn Snapshot,
        feed: &FeedName,
    ) -> store::Result<Markers> {
        let names = [Marker::Read, Marker::Seen].map(|marker| self.keys.marker(feed, marker));
        let values = snapshot.get(names.to_vec()).await?;
        let version = |index: usize| {
            let value = values.get(index).and_then(Option::as_ref);
            value.map(|value| match <[u8; 16]>::try_from(&value[..]) {
                Ok(bytes) => Ok(Version::from_bytes(bytes)),
                Err(_) => Err(keys::corrupt(&names[index], "not a version")),
            })
        };
        Ok(Markers {
            read: version(0).transpose()?,
            seen: version(1).transpose()?,
        })
    }
}

/// Counts unread entries, and twins left out, above the `read` marker. An entry's first may have been read (and its
/// unread key be gone) while its twin lies above the marker: for those the feed itself is asked.
async fn count(
    snapshot: &dyn Snapshot,
    feed_prefix: &[u8],
    read: Option<Version>,
    slice: store::Slice,
) -> store::Result<(Unread, u64)> {
    let mut hidden = 0;
    let read = read.unwrap_or(Version::ZERO);
    let mut keys_above: Vec<values::Unread> = Vec::with_capacity(slice.items.len());
    for item in &slice.items {
        let unread = values::decode_unread(item)?;
        if unread.version > read {
            keys_above.push(unread);
        }
    }
    let mut sequence: Vec<(Version, EventId)> = Vec::new();
    let oldest = keys_above
        .iter()
        .map(|unread| dedup::window(unread.version, unread.read_at))
        .min();
    if let Some(oldest) = oldest.filter(|&oldest| oldest < read) {
        let range = keys::range(
            feed_prefix,
            Some(oldest),
            read,
            false,
            usize::MAX,
            usize::MAX,
        );
        for item in snapshot
            .ranges(vec![range])
            .await?
            .iter()
            .flat_map(|slice| &slice.items)
        {
            let entry = values::decode_entry(item)?;
            sequence.push((entry.version, entry.id));
        }
    }
    let mut unread = Unread {
        more: slice.more,
        ..Unread::default()
    };
    for key in keys_above {
        let window = dedup::window(key.version, key.read_at);
        let near = sequence
            .iter()
            .rev()
            .map(|(version, id)| (*version, id))
            .take_while(|(version, _)| *version > window);
        if !dedup::is_twin(&key.id, key.version, key.read_at, near) {
            if unread.total == UNREAD_MAX {
                unread.more = true;
                break;
            }
            unread.total += 1;
            *unread.kinds.entry(key.kind).or_default() += 1;
        } else {
            hidden += 1;
        }
        sequence.push((key.version, key.id));
    }
    Ok((unread, hidden))
}
