//! The log, compared with the model and with the feeds.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use newsfeed::{
    auth::Patterns,
    feed::{Feeds, Order, PAGE_BYTES_MAX, PageQuery},
    log::{Filter, LogQuery, Shard},
    store::Result,
    types::FeedName,
    version::Version,
};

use serde_json::Value;
use tokio::sync::watch;

use crate::support::{
    bed::{Bed, Served},
    entries::{Place, assert_same, place},
    follower::{Live, check_recorder},
    model::{Commit, Model, Shown, check_log, feed_name, shown},
    patience::in_time,
    raw_commits::{Raw, uncommitted},
    sse::Stream,
    stores::{Trouble, troubled},
};

crate::on_every_engine!(
    every_event_is_there_once_with_its_feeds_from_every_cut_in_both_directions,
    filters_select_what_the_model_says_and_each_event_is_in_one_shard,
    the_log_filtered_to_a_feed_is_that_feed,
    a_feed_and_its_part_of_the_log_agree_in_every_form_and_from_every_cut,
    the_log_is_heard_in_the_same_round_as_a_feed,
);

const FEEDS: usize = 9;
const KINDS: [&str; 3] = ["message", "visit", "call"];

fn feeds() -> Vec<FeedName> {
    let name = |index| feed_name(&format!("{}:{index}", ["chat", "user"][index % 2]));
    (0..FEEDS).map(name).collect()
}

/// Commits batches of events with few ids, whose snapshots did not show the commits before, so that many are twins: in all
/// of their feeds, or in some.
async fn fill(bed: &Bed, batches: usize) -> (Raw, Model) {
    let raw = Raw::new(bed).await;
    let feeds = feeds();
    let mut model = Model::default();
    // Any numbers, the same in every run.
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    for batch in 0..batches {
        let mut commits: Vec<Commit> = Vec::new();
        for _ in 0..1 + random(4) {
            let mut named: Vec<FeedName> = Vec::new();
            for _ in 0..1 + random(3) {
                let feed = &feeds[random(FEEDS)];
                if !named.contains(feed) {
                    named.push(feed.clone());
                }
            }
            let id = match random(3) {
                0 => format!("twin {}", random(4)),
                _ => format!("event {batch} {}", commits.len()),
            };
            commits.push(uncommitted(&id, KINDS[random(3)], &named, 0));
        }
        let at = raw.now().await + 1;
        raw.commit(at, &mut commits).await;
        model.0.extend(commits);
    }
    let hidden = model.0.len() - model.log().len();
    assert!(hidden > 0, "no event is a twin");
    let partly = |shown: &Shown| {
        let commit = model
            .0
            .iter()
            .find(|commit| commit.version == shown.version);
        commit.is_some_and(|commit| commit.feeds.len() > shown.feeds.len())
    };
    assert!(
        model.log().iter().any(partly),
        "no event is a twin in a part of its feeds"
    );
    (raw, model)
}

async fn every_event_is_there_once_with_its_feeds_from_every_cut_in_both_directions(bed: &Bed) {
    let (raw, mut model) = fill(bed, 16).await;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    for limit in [3, 200] {
        check_log(&reader, &model, Version::ZERO, limit).await;
    }
    // Streams from many cuts, on two nodes; what is committed then, they hear live.
    let nodes = [(); 2].map(|()| Live::start(raw.store.clone(), raw.keys.clone()));
    let mut streams = Vec::new();
    for (index, cut) in model.cuts().into_iter().step_by(3).enumerate() {
        let stream = nodes[index % 2]
            .follow_log(&Arc::default(), Some(cut))
            .await;
        streams.push((stream, cut));
    }
    for round in 0..8 {
        let mut feeds = feeds();
        feeds.rotate_left(round);
        feeds.truncate(1 + round % 3);
        let at = raw.now().await + 1;
        let mut commits =
            ["twin 0", &format!("live {round}")].map(|id| uncommitted(id, "visit", &feeds, 0));
        raw.commit(at, &mut commits).await;
        model.0.extend(commits);
    }
    for (stream, cut) in &mut streams {
        stream
            .until(|stream| {
                stream
                    .entries
                    .last()
                    .is_some_and(|last| last.id == "live 7")
            })
            .await;
        check_recorder(stream, &model, *cut);
    }
}

/// All events of the log that pass the filter, in pages of `limit`.
async fn all(reader: &Feeds, filter: Filter, limit: usize) -> Vec<Shown> {
    let filter = Arc::new(filter);
    let (mut after, mut found) = (Version::ZERO, Vec::new());
    loop {
        let query = LogQuery {
            filter: Arc::clone(&filter),
            order: Order::OldestFirst {
                after,
                until: None,
                kept: false,
            },
            limit,
            bytes: PAGE_BYTES_MAX,
        };
        let page = reader.log_page(&query).await.expect("a page");
        found.extend(page.events.into_iter().map(|it| shown(&it.entry, it.feeds)));
        match page.next {
            Some(next) => after = next,
            None => return found,
        }
    }
}

async fn filters_select_what_the_model_says_and_each_event_is_in_one_shard(bed: &Bed) {
    let (raw, model) = fill(bed, 40).await;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    let log = model.log();
    let patterns = |texts: &[&str]| Some(Patterns::parse(texts).expect("patterns"));
    let kinds = |names: &[&str]| {
        names
            .iter()
            .map(|name| name.parse().expect("a kind"))
            .collect()
    };
    let is_chat = |feed: &FeedName| feed.as_str().starts_with("chat:");

    let of_kinds = Filter {
        kinds: kinds(&["call", "visit"]),
        ..Filter::default()
    };
    let expected = log.iter().filter(|it| it.kind != "message").cloned();
    assert_eq!(
        all(&reader, of_kinds, 3).await,
        expected.collect::<Vec<_>>()
    );

    let nobody = Filter {
        actors: vec!["user:1".parse().expect("a name")],
        ..Filter::default()
    };
    assert_eq!(all(&reader, nobody, 3).await, []);

    // All feeds of an event are shown, not only those that were asked for.
    let of_chats = Filter {
        feeds: patterns(&["chat:*", "user:1"]),
        ..Filter::default()
    };
    let asked = |feed: &FeedName| is_chat(feed) || feed.as_str() == "user:1";
    let expected = log.iter().filter(|it| it.feeds.iter().any(asked)).cloned();
    assert_eq!(
        all(&reader, of_chats, 3).await,
        expected.collect::<Vec<_>>()
    );

    // Of what may not be read nothing is shown, and nothing is found by it.
    let restricted = Filter {
        readable: patterns(&["chat:*"]),
        feeds: patterns(&["*"]),
        ..Filter::default()
    };
    let mut expected = log.clone();
    for shown in &mut expected {
        shown.feeds.retain(is_chat);
    }
    expected.retain(|shown| !shown.feeds.is_empty());
    assert_eq!(all(&reader, restricted, 3).await, expected);
    let hidden = Filter {
        readable: patterns(&["chat:*"]),
        feeds: patterns(&["user:*"]),
        ..Filter::default()
    };
    assert_eq!(all(&reader, hidden, 3).await, []);

    for of in [1, 2, 5] {
        let (mut together, mut sizes) = (BTreeSet::new(), Vec::new());
        for index in 0..of {
            let shard = Filter {
                shard: Some(Shard { index, of }),
                ..Filter::default()
            };
            let part = all(&reader, shard, 7).await;
            sizes.push(part.len());
            assert!(part.is_sorted_by_key(|shown| shown.version));
            together.extend(part.into_iter().map(|shown| shown.version));
        }
        assert_eq!(sizes.iter().sum::<usize>(), log.len(), "{of}: {sizes:?}");
        assert_eq!(together.len(), log.len());
        let used = sizes.iter().filter(|&&size| size > 0).count() as u32;
        assert!(used > of / 2, "{sizes:?}");
    }
}

async fn the_log_filtered_to_a_feed_is_that_feed(bed: &Bed) {
    let (raw, model) = fill(bed, 30).await;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    let live = Live::start(raw.store.clone(), raw.keys.clone());
    for feed in feeds() {
        let only = Filter {
            feeds: Some(Patterns::exactly(std::slice::from_ref(&feed))),
            ..Filter::default()
        };
        let places = |shown: &[Shown]| -> Vec<_> {
            shown
                .iter()
                .map(|it| (it.version, it.id.clone(), it.data.clone()))
                .collect()
        };
        let log = places(&all(&reader, only.clone(), 5).await);
        let query = PageQuery {
            feeds: vec![feed.clone()],
            order: Order::OldestFirst {
                after: Version::ZERO,
                until: None,
                kept: false,
            },
            limit: 200,
            bytes: PAGE_BYTES_MAX,
            kinds: Vec::new(),
            states: None,
        };
        let page = reader.page(&query).await.expect("a page");
        let entries: Vec<Shown> = page
            .entries
            .iter()
            .map(|found| shown(&found.entry, vec![feed.clone()]))
            .collect();
        assert_eq!(log, places(&entries), "{feed}");
        assert_eq!(log, places(&model.merged(std::slice::from_ref(&feed))));
        let followed = live
            .follow(std::slice::from_ref(&feed), Some(Version::ZERO))
            .await;
        assert_eq!(log, places(&followed.entries));
        let followed = live.follow_log(&Arc::new(only), Some(Version::ZERO)).await;
        assert_eq!(log, places(&followed.entries));
    }
}

/// An entry or event without its feeds.
fn bare(mut item: Value) -> Value {
    let members = item.as_object_mut().expect("an object");
    members.remove("feed");
    members.remove("feeds");
    item
}

/// Oldest first, from page to page.
async fn paged(node: &Served, path: &str, member: &str, cut: &str) -> Vec<Value> {
    let (mut after, mut found) = (cut.to_owned(), Vec::new());
    loop {
        let page = node.get(&format!("{path}limit=3&after={after}")).await;
        let items = page[member].as_array().expect("an array");
        found.extend(items.iter().cloned().map(bare));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return found,
        }
    }
}

/// The events among the lines of an answer.
async fn lines(node: &Served, path: &str, cut: &str) -> Vec<Value> {
    let lines = node.lines(&format!("{path}after={cut}")).await;
    lines.into_iter().map(bare).collect()
}

/// A stream that begins at a cut, and what it has sent so far.
struct Resumed(Stream, Vec<Value>);

impl Resumed {
    async fn at(node: &Served, path: &str, cut: &str) -> Self {
        let url = node.url(path);
        let stream = Stream::open(&node.http, &url, Some(cut)).await;
        let mut resumed = Self(stream, Vec::new());
        while !resumed.next_is("version").await {}
        resumed
    }

    /// Takes what comes next; whether that is `name`, or has it as its id.
    async fn next_is(&mut self, name: &str) -> bool {
        let names = ["entry", "notify", "event", "version"];
        let event = in_time(self.0.next_of(&names)).await;
        let is_it = event.name == name || event.data["id"] == name;
        if event.name != "version" {
            self.1.push(bare(event.data));
        }
        is_it
    }
}

async fn a_feed_and_its_part_of_the_log_agree_in_every_form_and_from_every_cut(bed: &Bed) {
    let (raw, mut model) = fill(bed, 24).await;
    let nodes = [bed.node().await, bed.node().await];
    let feeds = &feeds()[..2];
    let of = |model: &Model, feed: &FeedName| model.merged(std::slice::from_ref(feed));
    let mut streams = Vec::new();
    for feed in feeds {
        let entries = format!("/v1/feeds/{feed}/entries?");
        let log = format!("/v1/log?feed={feed}&");
        let live = [
            format!("/v1/feeds/{feed}/live"),
            format!("/v1/log/live?feed={feed}"),
        ];
        let shown = of(&model, feed);
        let hidden = model.0.iter().filter(|it| it.feeds.contains(feed)).count() - shown.len();
        assert!(hidden > 0, "no twins in {feed}");
        let is_near = |cut: &Version| {
            let mut commits = model.0.iter().filter(|it| it.feeds.contains(feed));
            commits.any(|it| [it.version, it.version.before()].contains(cut))
        };
        let cuts = model.cuts().into_iter().filter(is_near);
        for (number, cut) in std::iter::once(Version::ZERO).chain(cuts).enumerate() {
            let (node, other) = (&nodes[number % 2], &nodes[(number + 1) % 2]);
            let text = match cut {
                Version::ZERO => "0".to_owned(),
                cut => cut.to_string(),
            };
            let page = paged(node, &entries, "entries", &text).await;
            let above = shown.iter().filter(|it| it.version > cut);
            let above = above.map(|it| (it.version.to_string(), it.id.clone()));
            let places: Vec<Place> = page.iter().map(place).collect();
            assert_same(&places, &above.collect::<Vec<_>>(), &entries);
            assert_same(&paged(other, &log, "events", &text).await, &page, &log);
            assert_same(&lines(other, &log, &text).await, &page, "lines");
            let places = [(node, &live[0]), (other, &live[1])];
            for (node, path) in places {
                let resumed = Resumed::at(node, path, &text).await;
                assert_same(&resumed.1, &page, path);
                streams.push((resumed, feed, cut));
            }
        }
    }
    // What is committed now is heard live.
    for round in 0..6 {
        let named = &feeds[round % 2..];
        let live = format!("live {}", round / 2);
        let ids = ["twin 0", &live, &format!("new {round}")];
        let mut commits = ids.map(|id| uncommitted(id, "visit", named, 0));
        raw.commit(raw.now().await + 1, &mut commits).await;
        model.0.extend(commits);
    }
    let mut end = [uncommitted("the end", "visit", feeds, 0)];
    raw.commit(raw.now().await + 1, &mut end).await;
    model.0.extend(end);
    for (resumed, feed, cut) in &mut streams {
        while !resumed.next_is("the end").await {}
        let shown = of(&model, feed);
        let above = shown.iter().filter(|it| it.version > *cut);
        let above = above.map(|it| (it.version.to_string(), it.id.clone()));
        let places: Vec<Place> = resumed.1.iter().map(place).collect();
        assert_same(&places, &above.collect::<Vec<_>>(), "live");
    }
}

/// The store of a tailer, which reads in as many rounds as it may. A round is a snapshot.
struct Rounds {
    begun: watch::Sender<usize>,
    allowed: watch::Sender<usize>,
}

#[async_trait]
impl Trouble for Rounds {
    fn before_begin(&self) {
        self.begun.send_modify(|begun| *begun += 1);
    }

    async fn before_read(&self) -> Result<()> {
        let round = *self.begun.borrow();
        let mut allowed = self.allowed.subscribe();
        let may = allowed.wait_for(|&allowed| allowed >= round).await;
        drop(may.expect("the test owns the sender"));
        Ok(())
    }
}

async fn the_log_is_heard_in_the_same_round_as_a_feed(bed: &Bed) {
    let raw = Raw::new(bed).await;
    let rounds = Arc::new(Rounds {
        begun: watch::Sender::new(0),
        allowed: watch::Sender::new(usize::MAX),
    });
    let store = troubled(raw.store.clone(), Arc::clone(&rounds));
    // Followers read pages from the store itself.
    let live = Live::start_on(raw.store.clone(), store, raw.keys.clone());
    let feeds = [feed_name("heard")];
    let mut of_feed = live.follow(&feeds, None).await;
    let mut of_log = live.follow_log(&Arc::default(), None).await;
    for number in 0..5 {
        let id = format!("event {number}");
        let has = |heard: &[Shown]| heard.iter().any(|it| it.id == id);
        // What has begun may go on, nothing more.
        let mut allowed = *rounds.begun.borrow();
        rounds.allowed.send_replace(allowed);
        let mut commits = [uncommitted(&id, "visit", &feeds, 0)];
        raw.commit(raw.now().await + 1, &mut commits).await;
        // Round by round, until one of the two hears it.
        loop {
            allowed += 1;
            rounds.allowed.send_replace(allowed);
            let next_round = async {
                let mut begun = rounds.begun.subscribe();
                let next = begun.wait_for(|&begun| begun > allowed).await;
                drop(next.expect("the test owns the sender"));
            };
            tokio::select! {
                biased;
                () = of_feed.until(|it| has(&it.entries)) => break,
                () = of_log.until(|it| has(&it.entries)) => break,
                () = in_time(next_round) => {}
            }
        }
        // Then the other one has been given it, too.
        of_feed.until(|it| has(&it.entries)).await;
        of_log.until(|it| has(&it.entries)).await;
    }
}
