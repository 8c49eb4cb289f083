//! The state of a feed: its latest entry, unread count and markers, all as of one moment.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::Feeds;
use crate::{
    dedup::{self, Commit, Window},
    error::Result,
    fairness::WorkBudget,
    store::{
        self, Snapshot,
        keys::{self, Keys},
        values,
    },
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
        let (markers, latest) = tokio::try_join!(
            self.markers_at(snapshot, feed),
            dedup::latest(snapshot, prefix.clone()),
        )?;
        // Only above the marker: below, keys may be left that are still to be cleared, or their tombstones.
        let unread = keys::range(
            &self.keys.unread(feed),
            markers.read,
            now,
            false,
            UNREAD_MAX + 1,
            usize::MAX,
        );
        let unread = snapshot.ranges(vec![unread]).await?;
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
        let version = |index: usize| decode_marker(&names[index], values.get(index)?.as_ref());
        Ok(Markers {
            read: version(0).transpose()?,
            seen: version(1).transpose()?,
        })
    }
}

/// The read marker of `feed`.
pub(super) async fn read_marker(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    feed: &FeedName,
) -> store::Result<Option<Version>> {
    let key = keys.marker(feed, Marker::Read);
    let values = snapshot.get(vec![key.clone()]).await?;
    let value = values.first().and_then(Option::as_ref);
    decode_marker(&key, value).transpose()
}

fn decode_marker(key: &[u8], value: Option<&Bytes>) -> Option<store::Result<Version>> {
    Some(match <[u8; 16]>::try_from(&value?[..]) {
        Ok(bytes) => Ok(Version::from_bytes(bytes)),
        Err(_) => Err(keys::corrupt(key, "not a version")),
    })
}

/// Counts the unread entries whose keys, all above the `read` marker, are in `slice`; the second number is the number of
/// twins left out.
///
/// The first commit of an id may lie at or below the marker, where its unread key has been cleared, while a twin of it
/// lies above. Below the marker, the window therefore consists of the feed's own entries.
async fn count(
    snapshot: &dyn Snapshot,
    feed_prefix: Vec<u8>,
    read: Option<Version>,
    slice: store::Slice,
) -> store::Result<(Unread, u64)> {
    let mut budget = WorkBudget::default();
    let mut kinds = Vec::with_capacity(slice.items.len());
    let mut commits = Vec::with_capacity(slice.items.len());
    for item in &slice.items {
        let unread = values::decode_unread(item)?;
        commits.push(Commit::from(&unread));
        kinds.push(unread.kind);
        budget.spend(1).await;
    }
    let mut window = Window::of_feed(feed_prefix, read.unwrap_or(Version::ZERO));
    window.look_back(snapshot, &commits).await?;
    let mut hidden = 0;
    let mut unread = Unread {
        more: slice.more,
        ..Unread::default()
    };
    for (kind, commit) in kinds.into_iter().zip(commits) {
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
        budget.spend(1).await;
    }
    Ok((unread, hidden))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dedup::testing::{Memory, any_history, feed, is_twin, keys as test_keys, long_history},
        fairness::testing::turns,
    };

    proptest! {
        /// With the marker anywhere; any of the unread keys at or below it may have been cleared.
        #[test]
        fn unread_counts_are_those_of_the_plain_rule(
            history in any_history(),
            (marker, before) in (0..26usize, any::<bool>()),
            cleared in 0..26usize,
        ) {
            let feed = feed("a");
            let (mut memory, keys) = (Memory::of(&history), test_keys());
            let read = history.get(marker).map(|record| match before {
                true => record.entry.version.before(),
                false => record.entry.version,
            });
            if let Some(read) = read {
                memory.put(keys.marker(&feed, Marker::Read), read.to_bytes().to_vec());
                let cleared = history.get(cleared).map_or(read, |record| record.entry.version.min(read));
                memory.clear(keys::after_until(&keys.unread(&feed), None, cleared));
            }
            let feeds = Feeds::new(Arc::new(memory.clone()), keys);
            let state = feeds.state_at(&memory, &feed).now_or_never();
            let state = state.expect("ready").expect("read");

            let entries = history.iter().filter(|record| record.feeds.contains(&feed)).map(|record| &record.entry);
            let above = entries.filter(|entry| Some(entry.version) > read);
            let (twins, visible): (Vec<_>, Vec<_>) = above.partition(|entry| is_twin(&history, entry, &feed));
            prop_assert_eq!((state.unread.total, feeds.twins.unread.get()), (visible.len(), twins.len() as u64));
        }
    }

    #[tokio::test]
    async fn states_with_many_unread_let_other_tasks_run() {
        let names: Vec<FeedName> = (0..20).map(|index| feed(&format!("f{index}"))).collect();
        let memory = Memory::of(&long_history(1_000, &names));
        let feeds = Feeds::new(Arc::new(memory), test_keys());
        let (states, count) = turns(feeds.states(&names)).await;
        let states = states.expect("read");
        assert!(states.iter().all(|state| state.unread.total == 1_000));
        // Up to 16 feeds are counted side by side, and yield at the same time.
        assert!(count >= 2 * 2 * 1_000 / 500, "{count}");

        let memory = Memory::of(&long_history(UNREAD_MAX + 1, &names[..1]));
        let feeds = Feeds::new(Arc::new(memory), test_keys());
        let (state, count) = turns(feeds.state(&names[0])).await;
        let unread = state.expect("read").unread;
        assert_eq!((unread.total, unread.more), (UNREAD_MAX, true));
        assert!(count >= 2 * UNREAD_MAX / 500, "{count}");
    }
}
