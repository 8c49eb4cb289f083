//! Followers in process: live delivery without HTTP.

use std::sync::Arc;

use newsfeed::{
    feed::Feeds,
    live::{Follower, Hub, Item, Located, News, Update, run_tailer},
    store::{Store, keys::Keys},
    types::FeedName,
    version::Version,
};
use tokio_util::sync::CancellationToken;

use super::{
    model::{Model, Shown, shown},
    patience::PATIENCE,
};

/// The reading half of a node, in process: a hub and its tailer. Ends when dropped.
pub struct Live {
    pub feeds: Feeds,
    hub: Arc<Hub>,
    stop: CancellationToken,
}

impl Live {
    pub fn start(store: Arc<dyn Store>, keys: Keys) -> Self {
        let feeds = Feeds::new(Arc::clone(&store), keys.clone());
        let hub = Hub::new(keys.clone(), Arc::default());
        let stop = CancellationToken::new();
        tokio::spawn(run_tailer(
            store,
            keys,
            feeds.clone(),
            Arc::clone(&hub),
            std::time::Duration::ZERO,
            stop.clone(),
        ));
        Self { feeds, hub, stop }
    }

    /// Follows `feeds` after `after` or from now, and has caught up when it returns.
    pub async fn follow(&self, feeds: &[FeedName], after: Option<Version>) -> Heard {
        let subscription = self.hub.subscribe(feeds.to_vec()).expect("a place");
        let mut heard = Heard {
            follower: Follower::new(self.feeds.clone(), subscription, after),
            feeds: feeds.to_vec(),
            entries: Vec::new(),
            moments: 0,
            states: 0,
        };
        heard.until(|heard| heard.moments > 0).await;
        heard
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A follower and what it has heard.
pub struct Heard {
    follower: Follower,
    pub feeds: Vec<FeedName>,
    pub entries: Vec<Shown>,
    pub moments: usize,
    /// States of feeds: each arrival at the end of the pages tells all of them.
    pub states: usize,
}

impl Heard {
    /// Reads on until `enough`.
    pub async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !enough(self) {
            match tokio::time::timeout_at(deadline, self.follower.next()).await {
                Ok(Some(Update::Items(items))) => items.iter().for_each(|item| self.hear(item)),
                other => panic!("{other:?} after {:#?}", self.entries),
            }
        }
    }

    fn hear(&mut self, item: &Item) {
        match &item.news {
            News::Entry(Located { entry, feed, feeds }) => {
                let feeds = match &feeds[..] {
                    [] => vec![feed.clone()],
                    several => several.to_vec(),
                };
                assert_eq!(feeds.first(), Some(feed));
                self.entries.push(shown(entry, feeds));
            }
            News::Moment(_) => self.moments += 1,
            News::State(_) => self.states += 1,
            News::Transient(_) => {}
        }
    }
}

/// Holds all that was heard after `after` against the model.
pub fn check_heard(heard: &Heard, model: &Model, after: Version) {
    let mut expected = model.merged(&heard.feeds);
    expected.retain(|shown| shown.version > after);
    assert_eq!(
        heard.entries, expected,
        "{:?} after {after:?} of {model:#?}",
        heard.feeds
    );
}
