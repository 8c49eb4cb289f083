//! The model: all commits, and what every reader must see of them by the promised rules. It is deliberately simple, and
//! shares no code with the service. Functions here compare readers with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use newsfeed::{
    feed::{Feeds, Order, PAGE_BYTES_MAX, PageEntry, PageQuery},
    log::{self, LogQuery},
    store::keys::Keys,
    types::{Delivery, Entry, FeedName, Kind, ReaderName},
    version::Version,
};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestRunner},
};

/// One commit of an event.
#[derive(Debug, Clone)]
pub struct Commit {
    pub version: Version,
    pub id: String,
    pub kind: String,
    pub feeds: Vec<FeedName>,
    pub data: String,
    /// Time of the snapshot that its transaction read, in ticks; 0 if unknown.
    pub read_at: u64,
}

/// An entry as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub version: Version,
    pub id: String,
    pub kind: String,
    pub data: String,
    /// The reader's feeds that hold it, in the reader's order.
    pub feeds: Vec<FeedName>,
}

/// All commits, in commit order.
#[derive(Debug, Default)]
pub struct Model(pub Vec<Commit>);

impl Model {
    /// Whether `commit` is a twin in `feed`, and so invisible: the feed has the same id at an earlier version of the same
    /// epoch, less than 5 s before it, that its snapshot did not show.
    pub fn is_twin(&self, commit: &Commit, feed: &FeedName) -> bool {
        let version = commit.version;
        self.0.iter().any(|first| {
            first.id == commit.id
                && first.feeds.contains(feed)
                && first.version < version
                && first.version.epoch() == version.epoch()
                && first.version.time() > commit.read_at
                && version.time() - first.version.time() < 5_000_000
        })
    }

    /// What a reader sees of `feeds`, merged, oldest first.
    pub fn merged(&self, feeds: &[FeedName]) -> Vec<Shown> {
        let shown = |commit: &Commit| Shown {
            version: commit.version,
            id: commit.id.clone(),
            kind: commit.kind.clone(),
            data: commit.data.clone(),
            feeds: feeds
                .iter()
                .filter(|feed| commit.feeds.contains(feed) && !self.is_twin(commit, feed))
                .cloned()
                .collect(),
        };
        self.0
            .iter()
            .map(shown)
            .filter(|shown| !shown.feeds.is_empty())
            .collect()
    }

    /// What a reader of the log sees, oldest first: each event with the feeds that show it, in the producer's order.
    pub fn log(&self) -> Vec<Shown> {
        let shown = |commit: &Commit| Shown {
            version: commit.version,
            id: commit.id.clone(),
            kind: commit.kind.clone(),
            data: commit.data.clone(),
            feeds: commit
                .feeds
                .iter()
                .filter(|feed| !self.is_twin(commit, feed))
                .cloned()
                .collect(),
        };
        let shown = self.0.iter().map(shown);
        shown.filter(|shown| !shown.feeds.is_empty()).collect()
    }

    /// All entries that match `query`, in its order, without its limit.
    fn selected(&self, query: &PageQuery) -> Vec<Shown> {
        let mut all = self.merged(&query.feeds);
        let kinds: Vec<&str> = query.kinds.iter().map(Kind::as_str).collect();
        all.retain(|shown| kinds.is_empty() || kinds.contains(&&*shown.kind));
        match query.order {
            Order::NewestFirst { until, before } => {
                all.retain(|shown| {
                    until.is_none_or(|until| shown.version <= until)
                        && before.is_none_or(|before| shown.version < before)
                });
                all.reverse();
            }
            Order::OldestFirst { after, until, .. } => all.retain(|shown| {
                shown.version > after && until.is_none_or(|until| shown.version <= until)
            }),
        }
        all
    }

    /// The number of unread entries of each kind in `feed`, above the `read` marker.
    pub fn unread(&self, feed: &FeedName, read: Option<Version>) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for shown in self.merged(std::slice::from_ref(feed)) {
            if delivery(&shown.kind) == Delivery::Notify && Some(shown.version) > read {
                *kinds.entry(shown.kind).or_default() += 1;
            }
        }
        kinds
    }

    /// Every position at which a page or stream can begin or end: each commit, and right before it.
    pub fn cuts(&self) -> BTreeSet<Version> {
        let around = |commit: &Commit| [commit.version.before(), commit.version];
        self.0.iter().flat_map(around).collect()
    }
}

/// The delivery of a kind by default; `call` is an additional kind with `notify`.
pub fn delivery(kind: &str) -> Delivery {
    match kind {
        "message" | "call" => Delivery::Notify,
        _ => Delivery::Entry,
    }
}

pub fn feed_name(name: &str) -> FeedName {
    name.parse().expect("a feed name")
}

/// Three new feeds: the first two are in one partition of the log, the third is in another.
pub fn fresh_feeds(keys: &Keys, name: &str) -> [FeedName; 3] {
    let mut names = (0..).map(|number| feed_name(&format!("{name}.{number}")));
    let first = names.next().expect("endless");
    let mut find = |same: bool| {
        names
            .find(|other| (keys.partition(other) == keys.partition(&first)) == same)
            .expect("endless")
    };
    [first.clone(), find(true), find(false)]
}

/// Runs `check` on `cases` random values; shrinks a value on which it fails.
pub fn for_random<S: Strategy>(cases: u32, values: S, check: impl AsyncFn(S::Value)) {
    let config = Config {
        cases,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let run = TestRunner::new(config).run(&values, |value| {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(check(value)));
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

/// What a reader sees of `entry`, which `feeds` hold.
pub fn shown(entry: &Entry, feeds: Vec<FeedName>) -> Shown {
    Shown {
        version: entry.version,
        id: entry.id.to_string(),
        kind: entry.kind.to_string(),
        data: String::from_utf8(entry.data.to_vec()).expect("JSON"),
        feeds,
    }
}

/// Reads the log from every cut, in both directions and pages of `limit` events, and compares it with the model, whose first
/// commit lies above `start`.
pub async fn check_log(reader: &Feeds, model: &Model, start: Version, limit: usize) {
    let all = model.log();
    let filter = Arc::new(log::Filter::default());
    let query = |order| LogQuery {
        filter: Arc::clone(&filter),
        order,
        limit,
        bytes: PAGE_BYTES_MAX,
    };
    for cut in model.cuts().into_iter().chain([start]) {
        let (mut after, mut found) = (cut, Vec::new());
        loop {
            let order = Order::OldestFirst {
                after,
                until: None,
                kept: false,
            };
            let page = reader.log_page(&query(order)).await.expect("a page");
            assert!(page.events.len() <= limit);
            found.extend(page.events);
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        let found: Vec<Shown> = found
            .into_iter()
            .map(|it| shown(&it.entry, it.feeds))
            .collect();
        let above = all.iter().filter(|shown| shown.version > cut);
        assert_eq!(
            found,
            above.cloned().collect::<Vec<_>>(),
            "above {cut:?} of {model:#?}"
        );

        let (mut until, mut before, mut found) = (Some(cut), None, Vec::new());
        loop {
            let order = Order::NewestFirst { until, before };
            let page = reader.log_page(&query(order)).await.expect("a page");
            let rest = page.events.iter().position(|it| it.entry.version <= start);
            found.extend(page.events);
            (until, before) = (None, page.next);
            if rest.is_some() || before.is_none() {
                break;
            }
        }
        found.retain(|it| it.entry.version > start);
        let found: Vec<Shown> = found
            .into_iter()
            .map(|it| shown(&it.entry, it.feeds))
            .collect();
        let below = all.iter().filter(|shown| shown.version <= cut).rev();
        assert_eq!(
            found,
            below.cloned().collect::<Vec<_>>(),
            "until {cut:?} of {model:#?}"
        );
    }
}

/// Reads one page and compares it with the model.
pub async fn check_page(feeds: &Feeds, model: &Model, query: &PageQuery) {
    let page = feeds.page(query).await.expect("a page");
    let held_by = |found: &PageEntry| {
        let feeds = found.feeds.iter().map(|&index| query.feeds[index].clone());
        feeds.collect()
    };
    let entries: Vec<Shown> = page
        .entries
        .iter()
        .map(|found| shown(&found.entry, held_by(found)))
        .collect();
    let mut expected = model.selected(query);
    let rest = expected.split_off(query.limit.min(expected.len()));
    assert_eq!(entries, expected, "{query:?} of {model:#?}");

    let bound = match query.order {
        Order::NewestFirst { until, before } => until.or(before.map(Version::before)),
        Order::OldestFirst { until, .. } => until,
    };
    match bound {
        Some(bound) => assert_eq!(page.version, bound, "{query:?}"),
        None => assert!(model.0.iter().all(|commit| commit.version <= page.version)),
    }
    match (page.next, &query.kinds[..]) {
        (None, _) => assert_eq!(rest, [], "{query:?} stopped early: {model:#?}"),
        (Some(next), []) => {
            assert_eq!(Some(next), expected.last().map(|shown| shown.version));
            assert!(
                !rest.is_empty(),
                "{query:?} has `next` {next}, but there are no more entries"
            );
        }
        // A page of some kinds may end at any position between its last entry and the next of these kinds.
        (Some(next), _) => {
            let order = match query.order {
                Order::NewestFirst { until, .. } => Order::NewestFirst {
                    until,
                    before: Some(next),
                },
                Order::OldestFirst { until, kept, .. } => Order::OldestFirst {
                    after: next,
                    until,
                    kept,
                },
            };
            let continued = PageQuery {
                order,
                ..query.clone()
            };
            assert_eq!(model.selected(&continued), rest, "{query:?}, then {next}");
            assert_ne!(order, query.order, "{query:?} does not advance");
        }
    }
}

/// Compares the pages of `feeds` with the model: at every cut, in both orders, with each limit.
pub async fn check_pages(
    reader: &Feeds,
    model: &Model,
    feeds: &[FeedName],
    limits: &[usize],
    kinds: &[&str],
) {
    let mut orders = vec![Order::NewestFirst {
        until: None,
        before: None,
    }];
    let cuts: Vec<Version> = model.cuts().into_iter().collect();
    for (index, &cut) in cuts.iter().enumerate() {
        // Some other cut, the same in every run.
        let other = Some(cuts[(index * 7 + 3) % cuts.len()]);
        for (until, before) in [(Some(cut), None), (None, Some(cut)), (Some(cut), other)] {
            orders.push(Order::NewestFirst { until, before });
        }
        for until in [None, other] {
            orders.push(Order::OldestFirst {
                after: cut,
                until,
                kept: false,
            });
        }
    }
    for order in orders {
        for &limit in limits {
            let query = PageQuery {
                feeds: feeds.to_vec(),
                order,
                limit,
                bytes: PAGE_BYTES_MAX,
                kinds: kinds
                    .iter()
                    .map(|kind| kind.parse().expect("a kind"))
                    .collect(),
                states: None,
            };
            check_page(reader, model, &query).await;
        }
    }
}

/// Compares a feed's latest entry and unread count with the model.
pub async fn check_state(feeds: &Feeds, model: &Model, feed: &FeedName) {
    let state = feeds.state(feed, &ReaderName::OWN).await.expect("a state");
    let visible = model.merged(std::slice::from_ref(feed));
    assert_eq!(
        state.latest,
        visible.last().map(|shown| shown.version),
        "latest of {feed}: {model:#?}"
    );
    let unread = model.unread(feed, state.markers.read);
    assert_eq!(
        (state.unread.total, &state.unread.kinds),
        (unread.values().sum(), &unread),
        "unread of {feed} above {:?}: {model:#?}",
        state.markers.read
    );
    assert!(!state.unread.more);
}
