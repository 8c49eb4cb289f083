//! Writers in a new key space, and what readers see there.

use std::{sync::Arc, time::Duration};

use newsfeed::{
    append::{Appender, Outcome},
    clock::{AtClock, WallTime},
    feed::{Feeds, Order, PAGE_BYTES_MAX, PageQuery},
    store::{Store, keys::Keys},
    types::{Data, Delivery, Draft, Event, Expect},
    version::{Cursor, Version},
};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::scripted::{Held, Script, Step};
use crate::{
    fdb::cluster::{self, Cluster, fresh_prefix},
    support::{patience::PATIENCE, stores::troubled},
};

/// A key space: writers with scripted attempts, an undisturbed rival, and readers.
pub struct KeySpace {
    pub store: Arc<dyn Store>,
    pub keys: Keys,
    feeds: Feeds,
    pub rival: Writer,
}

#[derive(Clone)]
pub struct Writer {
    appender: Appender,
}

impl Writer {
    fn on(store: Arc<dyn Store>, keys: Keys) -> Self {
        let clock = AtClock::new(WallTime::system(0)).expect("the clock runs");
        let (appender, _batcher) = Appender::start(
            store,
            keys,
            Arc::new(clock),
            crate::support::bed::default_settings().appends,
            TaskTracker::new(),
            Arc::default(),
        );
        Self { appender }
    }

    pub async fn append(&self, events: Vec<Event>) -> Vec<Outcome> {
        let permit = self.appender.try_reserve(events).expect("room");
        let outcomes = permit.append().await;
        let outcomes = outcomes.expect("answers").into_iter();
        outcomes.map(|(_, outcome)| outcome).collect()
    }

    pub async fn append_one(&self, event: Event) -> Outcome {
        self.append(vec![event]).await.remove(0)
    }
}

impl KeySpace {
    /// Without a client-side time limit, so that the database refuses what is too late.
    pub async fn new() -> Self {
        Self::on(&cluster::shared(), PATIENCE).await
    }

    /// With this time limit for transactions.
    pub async fn on(cluster: &Cluster, limit: Duration) -> Self {
        let prefix = fresh_prefix();
        let store = || cluster.store_with(&prefix, limit);
        let rival = store();
        let store = store();
        let keys = Keys::open(&*store, prefix.as_bytes(), 16, &WallTime::system(0)).await;
        let keys = keys.expect("the key space opens");
        Self {
            feeds: Feeds::new(Arc::clone(&store), keys.clone()),
            rival: Writer::on(rival, keys.clone()),
            store,
            keys,
        }
    }

    /// A writer whose first attempts go by `steps`.
    pub fn writer(&self, steps: impl IntoIterator<Item = Step>) -> (Writer, Arc<Script>) {
        let script = Arc::new(Script::new(steps));
        let store = troubled(Arc::clone(&self.store), Arc::clone(&script));
        (Writer::on(store, self.keys.clone()), script)
    }

    /// Appends `event`, and holds its commit.
    pub async fn hold(&self, event: Event) -> (Held, tokio::task::JoinHandle<Outcome>) {
        let (sender, held) = oneshot::channel();
        let (writer, _) = self.writer([Step::Hold(sender)]);
        let outcome = tokio::spawn(async move { writer.append_one(event).await });
        (held.await.expect("it comes to its commit"), outcome)
    }

    /// Versions and ids of a feed's entries; both directions must agree.
    pub async fn entries(&self, feed: &str) -> Vec<(Version, String)> {
        let forwards = Order::OldestFirst {
            after: Version::ZERO,
            until: None,
            kept: false,
        };
        let backwards = Order::NewestFirst {
            until: None,
            before: None,
        };
        let entries = self.page(feed, forwards).await;
        let mut same = self.page(feed, backwards).await;
        same.reverse();
        assert_eq!(entries, same, "forwards and backwards");
        entries
    }

    async fn page(&self, feed: &str, order: Order) -> Vec<(Version, String)> {
        let query = PageQuery {
            feeds: vec![feed.parse().expect("a name")],
            order,
            limit: 200,
            bytes: PAGE_BYTES_MAX,
            kinds: Vec::new(),
            states: None,
        };
        let page = self.feeds.page(&query).await.expect("a page");
        assert_eq!(page.next, None);
        let entries = page.entries.into_iter().map(|found| found.entry);
        entries
            .map(|entry| (entry.version, entry.id.to_string()))
            .collect()
    }
}

pub fn event(id: &str, feed: &str) -> Event {
    event_with(id, feed, "null")
}

pub fn event_with(id: &str, feed: &str, data: &str) -> Event {
    draft(id, feed, data, None)
}

/// An event that expects `feed` to have no entry after `version`.
pub fn event_expecting(id: &str, feed: &str, version: Option<Version>) -> Event {
    let expect = Expect {
        feed: feed.parse().expect("a name"),
        version: version.map(Cursor::from),
    };
    draft(id, feed, "null", Some(expect))
}

fn draft(id: &str, feed: &str, data: &str, expect: Option<Expect>) -> Event {
    let raw = RawValue::from_string(data.to_owned()).expect("JSON");
    let draft = Draft {
        id: id.parse().expect("an id"),
        kind: "message".parse().expect("a name"),
        delivery: Delivery::Notify,
        feeds: vec![feed.parse().expect("a name")],
        actor: None,
        time: None,
        data: Data::from_raw(&raw).expect("small"),
        expect,
    };
    draft.check().expect("a good event")
}

pub fn appended(outcome: &Outcome) -> Version {
    match outcome {
        Outcome::Appended(version) => *version,
        other => panic!("not appended: {other:?}"),
    }
}

pub fn duplicate(outcome: &Outcome) -> Version {
    match outcome {
        Outcome::Duplicate(version) => *version,
        other => panic!("not a duplicate: {other:?}"),
    }
}
