//! The state of a feed: its latest entry, unread count and markers, all as of one moment.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::{
    Feeds, Standing,
    unread::{Count, Start},
};
use crate::{
    dedup,
    error::{Error, Result},
    store::{self, Reads, Snapshot, values::decode_version_or_zero},
    types::{FeedName, ReaderName},
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedState {
    pub feed: FeedName,
    /// Whose unread count and markers these are.
    pub reader: ReaderName,
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
    pub archived: Option<Version>,
}

impl Feeds {
    pub async fn state(&self, feed: &FeedName, reader: &ReaderName) -> Result<FeedState> {
        let state = async {
            let snapshot = self.snapshot().await?;
            Ok(self.state_at(&*snapshot, feed, reader).await?)
        };
        self.note(state.await)
    }

    /// The states of several feeds. They may be as of different moments.
    pub async fn states(&self, feeds: &[FeedName], reader: &ReaderName) -> Result<Vec<FeedState>> {
        let read = async {
            let mut states = Vec::with_capacity(feeds.len());
            let mut together = STATES_TOGETHER;
            while let Some(rest) = feeds.get(states.len()..).filter(|rest| !rest.is_empty()) {
                let snapshot = self.snapshot().await?;
                let done = states.len();
                for feeds in rest.chunks(together) {
                    match self.states_at(&*snapshot, feeds, reader, UNREAD_MAX).await {
                        Ok((read, _)) => states.extend(read),
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
    pub async fn states_of_one_moment(
        &self,
        feeds: &[FeedName],
        reader: &ReaderName,
    ) -> Result<Vec<FeedState>> {
        let unread_max = (UNREAD_TOGETHER_MAX / feeds.len().max(1)).clamp(1, UNREAD_MAX);
        let read = async {
            for _ in 0..MOMENTS_MAX {
                let snapshot = self.snapshot().await?;
                let mut states = Vec::with_capacity(feeds.len());
                let read = async {
                    for feeds in feeds.chunks(STATES_TOGETHER) {
                        let read = self.states_at(&*snapshot, feeds, reader, unread_max);
                        states.extend(read.await?.0);
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
        reader: &ReaderName,
    ) -> store::Result<FeedState> {
        let states = self.states_at(snapshot, std::slice::from_ref(feed), reader, UNREAD_MAX);
        states.await.map(|(mut states, _)| states.remove(0))
    }

    /// The states of `feeds`, each with at most `unread_max` unread entries, or as many as are known already. A few round trips,
    /// unless much is unread that has not been counted. Also returns how many keys were read to count.
    pub(crate) async fn states_at(
        &self,
        snapshot: &dyn Snapshot,
        feeds: &[FeedName],
        reader: &ReaderName,
        unread_max: usize,
    ) -> store::Result<(Vec<FeedState>, usize)> {
        let version = snapshot.version();
        let prefixes: Vec<_> = feeds.iter().map(|feed| self.keys.feed(feed)).collect();
        let start = |feed| Start::of(&self.unread, feed, reader);
        let starts: Vec<Start> = feeds.iter().map(start).collect();
        let mut reads = Reads::default();
        for feed in feeds {
            reads.keys.extend(Standing::reads(&self.keys, feed, reader));
            reads.keys.push(self.keys.removed(feed));
        }
        let each = feeds.iter().zip(&starts);
        let ranges = each.map(|(feed, start)| start.ranges(&self.keys, feed, reader, version));
        let known: Vec<_> = ranges.collect();
        reads
            .ranges
            .extend(known.iter().flatten().flatten().cloned());
        let asked = reads.keys.clone();
        let (found, latest) = tokio::try_join!(
            snapshot.read(reads),
            dedup::latest_of(snapshot, prefixes.clone()),
        )?;

        let mut slices = found.slices.into_iter();
        let mut counts = Vec::with_capacity(feeds.len());
        let asked = asked.chunks_exact(Standing::READS + 1);
        let values = found.values.chunks_exact(Standing::READS + 1);
        for (((feed, start), known), (asked, values)) in
            feeds.iter().zip(&starts).zip(known).zip(asked.zip(values))
        {
            let standing = Standing::from(asked, values)?;
            let removed =
                decode_version_or_zero(&asked[Standing::READS], values[Standing::READS].as_ref())?;
            let of = (&self.keys, feed, reader);
            let at = (standing.read(), removed);
            let count = Count::new(of, start, version, at, unread_max);
            let first = known.map(|_| [(); 2].map(|()| slices.next().unwrap_or_default()));
            counts.push((standing, count, first));
        }
        // Of those of which nothing is known.
        let first = counts.iter().map(|(_, count, _)| count.first());
        let first: Vec<_> = first.collect();
        let ranges: Vec<_> = first.iter().flatten().flatten().cloned().collect();
        let slices = match ranges.is_empty() {
            true => Vec::new(),
            false => snapshot.ranges(ranges).await?,
        };
        let mut slices = slices.into_iter();
        let mut standings = Vec::with_capacity(feeds.len());
        let mut counting = Vec::with_capacity(feeds.len());
        for ((standing, count, known), first) in counts.into_iter().zip(first) {
            let first = first.map(|_| [(); 2].map(|()| slices.next().unwrap_or_default()));
            let first = first.or(known).unwrap_or_default();
            standings.push(standing);
            counting.push(count.finish(snapshot, first, &self.unread));
        }
        let unread = try_join_all(counting).await?;
        let each = feeds.iter().zip(standings).zip(latest).zip(unread);
        let mut keys_read = feeds.len();
        let states = each.map(|(((feed, standing), latest), (unread, counting))| {
            self.twins.unread.inc_by(counting.hidden);
            keys_read += counting.keys_read;
            FeedState {
                feed: feed.clone(),
                reader: reader.clone(),
                version,
                latest: latest.entry,
                unread,
                markers: standing.markers,
            }
        });
        let states = states.collect();
        Ok((states, keys_read))
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
        types::Marker,
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
                memory.put(keys.marker(&feed, &ReaderName::OWN, Marker::Read), read.to_bytes().to_vec());
            }
            let feeds = Feeds::new(Arc::new(memory.clone()), keys);
            let state = feeds.state_at(&memory, &feed, &ReaderName::OWN).now_or_never();
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
        let (states, count) = turns(feeds.states(&names, &ReaderName::OWN)).await;
        let states = states.expect("read");
        assert!(states.iter().all(|state| state.unread.total == 1_000));
        // The feeds are counted side by side, and yield at the same time.
        assert!(count >= 2 * 1_000 / 500, "{count}");

        let memory = Memory::of(&long_history(UNREAD_MAX + 1, &names[..1]));
        let feeds = Feeds::new(Arc::new(memory), test_keys());
        let (state, count) = turns(feeds.state(&names[0], &ReaderName::OWN)).await;
        let unread = state.expect("read").unread;
        assert_eq!((unread.total, unread.more), (UNREAD_MAX, true));
        assert!(count >= 2 * UNREAD_MAX / 500, "{count}");
    }
}
