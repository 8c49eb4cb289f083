//! What indexes hold, compared with the log.

use std::{collections::BTreeMap, sync::Arc};

use newsfeed::{
    feed::{Feeds, Order, PAGE_BYTES_MAX},
    log::{Filter, LogEvent, LogQuery},
    store::{
        Store,
        keys::{self, Keys, version_of},
    },
    types::{FeedName, Kind},
    version::Version,
};
use serde_json::{Value, json};

use crate::{
    operate::scrape::Scrape,
    support::{background::event, bed::Api},
};

/// Flags of a node that has all indexes, those of feeds for the kind `visit`.
pub const ALL: [&str; 5] = [
    "--index-actors",
    "--kind",
    "visit=entry+indexed",
    "--projections",
    "on",
];
pub const NAMES: [&str; 3] = ["log_by_kind", "log_by_actor", "feed_by_kind"];

/// Event `number`, of one of three actors.
pub fn with_actor(number: usize, feeds: &[FeedName]) -> Value {
    let mut event = event(number, feeds);
    event["actor"] = json!(format!("user:{}", number % 3));
    event
}

/// Whether the indexes of a node are complete, and have been since its last look.
pub async fn are_complete(api: &Api) -> bool {
    let scrape = Scrape::of(api).await;
    NAMES.iter().all(|name| {
        let lag = |of: &str| format!(r#"newsfeed_projection_lag_{of}{{projection="{name}"}}"#);
        scrape.get(&lag("ticks")) == 0.0 && scrape.get(&lag("seconds")) == 0.0
    })
}

/// The number of steps that a node has taken of the log by kind, and of the events in them.
pub async fn steps(api: &Api) -> (usize, usize) {
    let scrape = Scrape::of(api).await;
    let steps = r#"newsfeed_projection_steps_total{projection="log_by_kind",outcome="won"}"#;
    let events = r#"newsfeed_projection_events_total{projection="log_by_kind"}"#;
    (scrape.get(steps) as usize, scrape.get(events) as usize)
}

async fn whole_log(store: &Arc<dyn Store>, keys: &Keys) -> Vec<LogEvent> {
    let reader = Feeds::new(Arc::clone(store), keys.clone());
    let (mut after, mut found) = (Version::ZERO, Vec::new());
    loop {
        let query = LogQuery {
            filter: Arc::<Filter>::default(),
            order: Order::OldestFirst {
                after,
                until: None,
                kept: false,
            },
            limit: 1_000,
            bytes: PAGE_BYTES_MAX,
        };
        let page = reader.log_page(&query).await.expect("a page");
        found.extend(page.events);
        match page.next {
            Some(next) => after = next,
            None => return found,
        }
    }
}

/// The versions of the keys under a prefix.
async fn versions(store: &dyn Store, prefix: &[u8]) -> Vec<Version> {
    let snapshot = store.snapshot().await.expect("a snapshot");
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let now = snapshot.version();
        let range = keys::range(prefix, after, now, false, 1_000, usize::MAX);
        let slice = snapshot.ranges(vec![range]).await.expect("read").remove(0);
        let versions = slice.items.iter().map(|item| version_of(&item.key));
        found.extend(versions.map(|version| version.expect("a version")));
        if !slice.more {
            return found;
        }
        after = found.last().copied();
    }
}

/// Every index has exactly what it derives from the events of the log, which are `events`.
pub async fn check(store: &Arc<dyn Store>, keys: &Keys, events: usize) {
    let log = whole_log(store, keys).await;
    assert_eq!(log.len(), events);
    let visit: Kind = "visit".parse().expect("a kind");
    let mut expected: BTreeMap<Vec<u8>, Vec<Version>> = BTreeMap::new();
    for LogEvent { entry, feeds, .. } in &log {
        let mut derives = |prefix| expected.entry(prefix).or_default().push(entry.version);
        derives(keys.log_by_kind(&entry.kind));
        derives(keys.log_by_actor(entry.actor.as_ref().expect("an actor")));
        for feed in feeds.iter().filter(|_| entry.kind == visit) {
            derives(keys.feed_by_kind(feed, &visit));
        }
    }
    for (prefix, expected) in expected {
        let found = versions(&**store, &prefix).await;
        assert!(
            found == expected,
            "{}: {} keys, expected {}",
            prefix.escape_ascii(),
            found.len(),
            expected.len()
        );
    }
}
