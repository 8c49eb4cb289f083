//! The state of a feed: its latest entry, unread count and markers, all as of one moment.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::Feeds;
use crate::{
    dedup::{self, Commit, Window},
    error::{Error, Result},
    fairness::WorkBudget,
    store::{
        self, Snapshot,
        keys::{self, OWN_READER},
        values,
    },
    types::{FeedName, Marker},
    version::Version,
};

/// Unread entries are counted up to this many.
pub const UNREAD_MAX: usize = 10_000;

/// Unread entries of all feeds together that are counted for the states of one moment, unless one feed has more. The count of
/// each stops at its equal share, so that any number of feeds is read before the snapshot expires.
pub const UNREAD_TOGETHER_MAX: usize = 100_000;
/// How often the states of one moment are begun on a fresh snapshot, because other readers had so many turns that the one
/// before expired.
const MOMENTS_MAX: usize = 3;
/// How many feeds' states are read together, with as few reads of the engine as possible.
const STATES_TOGETHER: usize = 64;
/// Notify keys that are read at a time, so that other readers have their turns in between.
const PIECE_KEYS: usize = 500;

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
    /// There are more: counting stopped at [`UNREAD_MAX`], or at a share of [`UNREAD_TOGETHER_MAX`].
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
            let snapshot = self.snapshot().await?;
            Ok(self.state_at(&*snapshot, feed).await?)
        };
        self.note(state.await)
    }

    /// The states of several feeds. They may be as of different moments.
    pub async fn states(&self, feeds: &[FeedName]) -> Result<Vec<FeedState>> {
        let read = async {
            let mut states = Vec::with_capacity(feeds.len());
            let mut together = STATES_TOGETHER;
            while let Some(rest) = feeds.get(states.len()..).filter(|rest| !rest.is_empty()) {
                let snapshot = self.snapshot().await?;
                let done = states.len();
                for feeds in rest.chunks(together) {
                    match self.states_at(&*snapshot, feeds, UNREAD_MAX).await {
                        Ok(read) => states.extend(read),
                        // There is much to count, or other readers had many turns: the rest on the next snapshot, and fewer
                        // together.
                        Err(store::Error::TooOld) if together > 1 || states.len() > done => {
                            together = (together / 4).max(1);
                            break;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Ok(states)
        };
        self.note(read.await)
    }

    /// The states of several feeds, all as of the same moment.
    ///
    /// # Errors
    /// [`Error::ReadsBusy`] if other readers had too many turns to read them all on one snapshot.
    pub async fn states_of_one_moment(&self, feeds: &[FeedName]) -> Result<Vec<FeedState>> {
        let unread_max = (UNREAD_TOGETHER_MAX / feeds.len().max(1)).clamp(1, UNREAD_MAX);
        let read = async {
            for _ in 0..MOMENTS_MAX {
                let snapshot = self.snapshot().await?;
                let mut states = Vec::with_capacity(feeds.len());
                let read = async {
                    for feeds in feeds.chunks(STATES_TOGETHER) {
                        states.extend(self.states_at(&*snapshot, feeds, unread_max).await?);
                    }
                    Ok(states)
                };
                match read.await {
                    Err(store::Error::TooOld) => {}
                    read => return Ok(read?),
                }
            }
            Err(Error::ReadsBusy)
        };
        self.note(read.await)
    }

    pub(crate) async fn state_at(
        &self,
        snapshot: &dyn Snapshot,
        feed: &FeedName,
    ) -> store::Result<FeedState> {
        let states = self.states_at(snapshot, std::slice::from_ref(feed), UNREAD_MAX);
        states.await.map(|mut states| states.remove(0))
    }

    /// The states of `feeds`, each with at most `unread_max` unread entries. A few round trips, unless much is unread.
    async fn states_at(
        &self,
        snapshot: &dyn Snapshot,
        feeds: &[FeedName],
        unread_max: usize,
    ) -> store::Result<Vec<FeedState>> {
        let version = snapshot.version();
        let prefixes: Vec<_> = feeds.iter().map(|feed| self.keys.feed(feed)).collect();
        let (markers, latest) = tokio::try_join!(
            self.markers_at(snapshot, feeds),
            dedup::latest_of(snapshot, prefixes.clone()),
        )?;
        let first = (unread_max + 1).min(PIECE_KEYS / feeds.len().max(1)).max(1);
        let ranges = feeds.iter().zip(&markers).map(|(feed, markers)| {
            let notify = self.keys.notify(feed);
            keys::range(&notify, markers.read, version, false, first, usize::MAX)
        });
        let slices = snapshot.ranges(ranges.collect()).await?;
        let counts = prefixes.into_iter().zip(&markers);
        let counts = counts.map(|(prefix, markers)| Count::new(prefix, markers.read, unread_max));
        let each = feeds.iter().zip(counts).zip(slices);
        let unread = each.map(|((feed, count), slice)| self.count(snapshot, feed, count, slice));
        let unread = try_join_all(unread).await?;
        let each = feeds.iter().zip(markers).zip(latest).zip(unread);
        let states = each.map(|(((feed, markers), latest), unread)| FeedState {
            feed: feed.clone(),
            version,
            latest: latest.entry,
            unread,
            markers,
        });
        Ok(states.collect())
    }

    /// Counts the notify keys of `feed`, of which `slice` are the first.
    async fn count(
        &self,
        snapshot: &dyn Snapshot,
        feed: &FeedName,
        mut count: Count,
        mut slice: store::Slice,
    ) -> store::Result<Unread> {
        let notify = self.keys.notify(feed);
        let mut left = count.max + 1;
        loop {
            count.add(snapshot, &slice).await?;
            left = left.saturating_sub(slice.items.len());
            let after = match slice.items.last() {
                Some(last) if slice.more && left > 0 => keys::version_of(&last.key)?,
                _ => break,
            };
            let limit = left.min(PIECE_KEYS);
            let now = snapshot.version();
            let range = keys::range(&notify, Some(after), now, false, limit, usize::MAX);
            let slices = snapshot.ranges(vec![range]).await?;
            slice = slices.into_iter().next().unwrap_or_default();
        }
        count.unread.more |= slice.more;
        self.twins.unread.inc_by(count.hidden);
        Ok(count.unread)
    }

    /// The markers of each of `feeds`.
    pub(super) async fn markers_at(
        &self,
        snapshot: &dyn Snapshot,
        feeds: &[FeedName],
    ) -> store::Result<Vec<Markers>> {
        let names: Vec<_> = feeds
            .iter()
            .flat_map(|feed| {
                [Marker::Read, Marker::Seen]
                    .map(|marker| self.keys.marker(feed, OWN_READER, marker))
            })
            .collect();
        let stored = snapshot.get(names.clone()).await?;
        let version = |index: usize| {
            let value = stored.get(index)?.as_ref()?;
            Some(values::decode_version(names.get(index)?, value))
        };
        let markers = (0..feeds.len()).map(|feed| {
            Ok(Markers {
                read: version(2 * feed).transpose()?,
                seen: version(2 * feed + 1).transpose()?,
            })
        });
        markers.collect()
    }
}

/// Counts unread entries, whose notify keys are above the read marker.
///
/// The first commit of an id may lie at or below the marker, and may have no notify key (with another delivery), while a twin
/// of it lies above. Below the marker, the window therefore consists of the feed's own entries.
struct Count {
    window: Window,
    unread: Unread,
    /// Where counting stops.
    max: usize,
    /// The number of twins left out.
    hidden: u64,
    budget: WorkBudget,
}

impl Count {
    fn new(feed_prefix: Vec<u8>, read: Option<Version>, max: usize) -> Self {
        Self {
            window: Window::of_feed(feed_prefix, read.unwrap_or(Version::ZERO)),
            unread: Unread::default(),
            max,
            hidden: 0,
            budget: WorkBudget::default(),
        }
    }

    /// Counts the next notify keys.
    async fn add(&mut self, snapshot: &dyn Snapshot, slice: &store::Slice) -> store::Result<()> {
        let mut kinds = Vec::with_capacity(slice.items.len());
        let mut commits = Vec::with_capacity(slice.items.len());
        for item in &slice.items {
            let notify = values::decode_notify(item)?;
            commits.push(Commit::from(&notify));
            kinds.push(notify.kind);
            self.budget.spend(1).await;
        }
        self.window.look_back(snapshot, &commits).await?;
        for (kind, commit) in kinds.into_iter().zip(commits) {
            match self.window.is_twin(&commit) {
                // The place of an erased entry.
                _ if kind.is_empty() => {}
                true => self.hidden += 1,
                false if self.unread.total == self.max => self.unread.more = true,
                false => {
                    self.unread.total += 1;
                    *self.unread.kinds.entry(kind).or_default() += 1;
                }
            }
            self.window.push_newer(commit);
            self.budget.spend(1).await;
        }
        Ok(())
    }
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
        /// With the marker anywhere.
        #[test]
        fn unread_counts_are_those_of_the_plain_rule(
            history in any_history(),
            (marker, before) in (0..26usize, any::<bool>()),
        ) {
            let feed = feed("a");
            let (mut memory, keys) = (Memory::of(&history), test_keys());
            let read = history.get(marker).map(|record| match before {
                true => record.entry.version.before(),
                false => record.entry.version,
            });
            if let Some(read) = read {
                memory.put(keys.marker(&feed, OWN_READER, Marker::Read), read.to_bytes().to_vec());
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
        // The feeds are counted side by side, and yield at the same time.
        assert!(count >= 2 * 1_000 / 500, "{count}");

        let memory = Memory::of(&long_history(UNREAD_MAX + 1, &names[..1]));
        let feeds = Feeds::new(Arc::new(memory), test_keys());
        let (state, count) = turns(feeds.state(&names[0])).await;
        let unread = state.expect("read").unread;
        assert_eq!((unread.total, unread.more), (UNREAD_MAX, true));
        assert!(count >= 2 * UNREAD_MAX / 500, "{count}");
    }
}
