//! The state of a feed: its latest entry, unread count and markers, all as of one moment.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::Feeds;
use crate::{
    dedup::{self, Commit, Window},
    error::Result,
    store::{self, Snapshot, keys, values},
    types::{FeedName, Marker},
    version::Version,
};

/// Unread entries are counted up to this many.
pub const UNREAD_MAX: usize = 10_000;

/// How many feeds' states are read concurrently, on one snapshot.
const STATES_AT_ONCE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedState {
    pub feed: FeedName,
    /// The moment (vN) of the state.
    pub version: Version,
    /// The version of the latest entry.
    pub latest: Option<Version>,
    pub unread: Unread,
    pub markers: Markers,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread {
    pub total: usize,
    pub kinds: BTreeMap<String, usize>,
    /// There are more: counting stopped at [`UNREAD_MAX`].
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

    /// The states of several feeds. They may be as of different moments.
    pub async fn states(&self, feeds: &[FeedName]) -> Result<Vec<FeedState>> {
        let read = async {
            let mut states = Vec::with_capacity(feeds.len());
            for feeds in feeds.chunks(STATES_AT_ONCE) {
                let snapshot = self.store.snapshot().await?;
                let read = feeds.iter().map(|feed| self.state_at(&*snapshot, feed));
                states.extend(try_join_all(read).await?);
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
        let (markers, latest, unread) = tokio::try_join!(
            self.markers_at(snapshot, feed),
            dedup::latest(snapshot, prefix.clone()),
            snapshot.ranges(vec![unread]),
        )?;
        let unread = unread.into_iter().next().unwrap_or_default();
        let (unread, hidden) = count(snapshot, prefix, markers.read, unread).await?;
        self.twins.unread.inc_by(hidden);
        Ok(FeedState {
            feed: feed.clone(),
            version: now,
            latest: latest.entry,
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

/// Counts the unread entries above the `read` marker; the second number is the number of twins left out.
///
/// The first commit of an id may lie at or below the marker, where its unread key has been cleared, while a twin of it
/// lies above. Below the marker, the window therefore consists of the feed's own entries.
async fn count(
    snapshot: &dyn Snapshot,
    feed_prefix: Vec<u8>,
    read: Option<Version>,
    keys: store::Slice,
) -> store::Result<(Unread, u64)> {
    let read = read.unwrap_or(Version::ZERO);
    let mut above = Vec::with_capacity(keys.items.len());
    for item in &keys.items {
        let unread = values::decode_unread(item)?;
        if unread.version > read {
            above.push(unread);
        }
    }
    let commits: Vec<Commit> = above.iter().map(Commit::from).collect();
    let mut window = Window::of_feed(feed_prefix, read);
    window.look_back(snapshot, &commits).await?;
    let mut hidden = 0;
    let mut unread = Unread {
        more: keys.more,
        ..Unread::default()
    };
    for (values::UnreadKey { kind, .. }, commit) in above.into_iter().zip(commits) {
        match window.is_twin(&commit) {
            true => hidden += 1,
            false if unread.total == UNREAD_MAX => {
                unread.more = true;
                break;
            }
            false => {
                unread.total += 1;
                *unread.kinds.entry(kind).or_default() += 1;
            }
        }
        window.push_newer(commit);
    }
    Ok((unread, hidden))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::dedup::testing::{Memory, any_history, feed, is_twin, keys as test_keys};

    proptest! {
        /// With the marker anywhere; the unread keys at or below it may have been cleared, or not.
        #[test]
        fn unread_counts_are_those_of_the_plain_rule(
            history in any_history(),
            (marker, before) in (0..26usize, any::<bool>()),
            cleared in any::<bool>(),
        ) {
            let feed = feed("a");
            let (memory, keys) = (Memory::of(&history), test_keys());
            let read = history.get(marker).map(|record| match before {
                true => record.entry.version.before(),
                false => record.entry.version,
            });
            let from = read.filter(|_| cleared);
            let unread = keys::range(&keys.unread(&feed), from, Version::MAX, false, 99, usize::MAX);
            let counted = count(&memory, keys.feed(&feed), read, memory.slice(unread)).now_or_never();
            let (unread, hidden) = counted.expect("ready").expect("read");

            let entries = history.iter().filter(|record| record.feeds.contains(&feed)).map(|record| &record.entry);
            let above = entries.filter(|entry| Some(entry.version) > read);
            let (twins, visible): (Vec<_>, Vec<_>) = above.partition(|entry| is_twin(&history, entry, &feed));
            prop_assert_eq!((unread.total, hidden), (visible.len(), twins.len() as u64));
        }
    }
}
