//! Live delivery without HTTP: followers in this process.

use std::{collections::BTreeMap, sync::Arc};

use newsfeed::{
    feed::{Feeds, Unread},
    live::{Follower, Hub, Item, Located, News, Update, run_tailer},
    log::Filter,
    store::{Store, keys::Keys, values::Mark},
    types::{Entry, FeedName, ReaderName},
    version::{Cursor, Version},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    model::{Model, Shown, shown},
    patience::PATIENCE,
};

/// A hub and its tailer. The tailer ends when this is dropped.
pub struct Live {
    pub feeds: Feeds,
    hub: Arc<Hub>,
    stop: CancellationToken,
    tailer: Option<JoinHandle<()>>,
}

impl Live {
    pub fn start(store: Arc<dyn Store>, keys: Keys) -> Self {
        Self::start_on(Arc::clone(&store), store, keys)
    }

    /// The tailer reads from `tailed`, which is the same store as `store`.
    pub fn start_on(store: Arc<dyn Store>, tailed: Arc<dyn Store>, keys: Keys) -> Self {
        let feeds = Feeds::new(store, keys.clone());
        let hub = Hub::new(keys.clone(), Arc::default());
        let stop = CancellationToken::new();
        let tailer = tokio::spawn(run_tailer(
            tailed,
            keys,
            feeds.clone(),
            Arc::clone(&hub),
            std::time::Duration::ZERO,
            stop.clone(),
        ));
        Self {
            feeds,
            hub,
            stop,
            tailer: Some(tailer),
        }
    }

    /// Ends the tailer, which takes snapshots until then: each is a tick of the store.
    pub async fn end(mut self) {
        self.stop.cancel();
        if let Some(tailer) = self.tailer.take() {
            tailer.await.expect("the tailer ends");
        }
    }

    /// Follows `feeds` after the position `after`, or from now; returns when the follower has caught up.
    pub async fn follow(&self, feeds: &[FeedName], after: Option<Version>) -> Recorder {
        self.follow_as(feeds, &ReaderName::OWN, after).await
    }

    /// As [`Live::follow`], with the states of `reader`.
    pub async fn follow_as(
        &self,
        feeds: &[FeedName],
        reader: &ReaderName,
        after: Option<Version>,
    ) -> Recorder {
        let subscription = self
            .hub
            .subscribe_to(feeds.to_vec(), reader.clone(), Vec::new())
            .expect("room for a stream");
        let mut recorder = Recorder {
            follower: Follower::new(self.feeds.clone(), subscription, after.map(Cursor::from)),
            feeds: feeds.to_vec(),
            entries: Vec::new(),
            received: Vec::new(),
            moments: 0,
            states: 0,
            told: Told::default(),
        };
        recorder.until(|recorder| recorder.moments > 0).await;
        recorder
    }

    /// As [`Live::follow`], what passes `filter` in the log.
    pub async fn follow_log(&self, filter: &Arc<Filter>, after: Option<Version>) -> Recorder {
        let subscription = self.hub.subscribe_to_log(Arc::clone(filter));
        let subscription = subscription.expect("room for a stream");
        let (filter, after) = (Arc::clone(filter), after.map(Cursor::from));
        let mut recorder = Recorder {
            follower: Follower::of_log(self.feeds.clone(), subscription, filter, after),
            feeds: Vec::new(),
            entries: Vec::new(),
            received: Vec::new(),
            moments: 0,
            states: 0,
            told: Told::default(),
        };
        recorder.until(|recorder| recorder.moments > 0).await;
        recorder
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A follower and what it has received.
pub struct Recorder {
    follower: Follower,
    pub feeds: Vec<FeedName>,
    pub entries: Vec<Shown>,
    /// The same as it was received, with the feeds.
    pub received: Vec<(Entry, Vec<FeedName>)>,
    pub moments: usize,
    /// Number of feed states received. A follower receives all of them each time it has caught up from pages.
    pub states: usize,
    pub told: Told,
}

/// What a follower was told of readers.
#[derive(Debug, Default)]
pub struct Told {
    /// The last unread count of each feed, and the version as of which it is.
    pub unread: BTreeMap<FeedName, (Version, Unread)>,
    /// By entry: the last mark.
    pub marks: BTreeMap<Version, Mark>,
    /// The last read marker of each other reader.
    pub others: BTreeMap<ReaderName, Option<Version>>,
}

impl Recorder {
    /// Reads until `enough` returns true.
    pub async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !enough(self) {
            match tokio::time::timeout_at(deadline, self.follower.next()).await {
                Ok(Some(Update::Items(items))) => items.iter().for_each(|item| self.record(item)),
                other => panic!("{other:?} after {:#?}", self.entries),
            }
        }
    }

    fn record(&mut self, item: &Item) {
        match &item.news {
            News::Entry(Located { entry, feed, feeds }) => {
                let feeds = match &feeds[..] {
                    [] => vec![feed.clone()],
                    several => several.to_vec(),
                };
                assert_eq!(feeds.first(), Some(feed));
                self.received.push((entry.clone(), feeds.clone()));
                self.entries.push(shown(entry, feeds));
            }
            News::Moment(_) => self.moments += 1,
            News::State(state) => {
                self.states += 1;
                let told = (state.version, state.unread.clone());
                self.told.unread.insert(state.feed.clone(), told);
            }
            News::Event(event) => {
                let feeds = event.feeds.clone();
                self.received.push((event.entry.clone(), feeds.clone()));
                self.entries.push(shown(&event.entry, feeds));
            }
            News::Notify(located, unread) => {
                let feeds = match &located.feeds[..] {
                    [] => vec![located.feed.clone()],
                    several => several.to_vec(),
                };
                assert_eq!(unread.len(), feeds.len());
                for (feed, unread) in feeds.into_iter().zip(unread) {
                    let told = self.told.unread.get_mut(&feed).expect("states come first");
                    *told = (told.0.max(located.entry.version), unread.clone());
                }
                self.record(&Item::new(News::Entry(located.clone())));
            }
            News::Marked {
                mark: Some((entry, mark)),
                ..
            } => {
                self.told.marks.insert(*entry, *mark);
            }
            News::Moved { markers, .. } => {
                self.told
                    .others
                    .insert(markers.reader.clone(), markers.read);
            }
            News::Transient(_) | News::Marked { .. } | News::Whole(_) => {}
        }
    }
}

/// Checks that the follower received exactly what the model has after `after`.
pub fn check_recorder(recorder: &Recorder, model: &Model, after: Version) {
    let mut expected = match &recorder.feeds[..] {
        [] => model.log(),
        feeds => model.merged(feeds),
    };
    expected.retain(|shown| shown.version > after);
    assert_eq!(
        recorder.entries, expected,
        "{:?} after {after:?} of {model:#?}",
        recorder.feeds
    );
}
