//! The same events appended through two nodes at the same time: every reader of either node sees each event once, in one
//! order.

use std::{collections::HashMap, sync::Arc};

use newsfeed::{
    clock::WallTime,
    store::{Store, keys},
    types::FeedName,
    version::Version,
};
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    background::{END, committed, event},
    bed::{Bed, Served, text},
    entries::{path, position_after, shown, shown_in, walk},
    gate::Gate,
    model::{Commit, Model, Shown, feed_name, fresh_feeds},
    patience::in_time,
    sse::Stream,
    stores::troubled,
    turnstile::Turnstile,
};

crate::on_every_engine!(
    events_raced_through_an_engine_that_checks_claims_have_no_twins,
    events_raced_through_two_nodes_show_once_in_one_order_to_every_reader,
    a_batch_committed_twice_shows_once_to_every_reader,
    of_an_id_reused_at_the_same_moment_the_first_commit_is_the_entry,
    an_id_reused_at_the_same_moment_in_other_feeds_stands_in_each,
);

async fn events_raced_through_two_nodes_show_once_in_one_order_to_every_reader(bed: &Bed) {
    // Behind the wrapper no engine checks claims itself.
    let store = troubled(bed.store(), Gate::open());
    let twins = race(bed, store).await;
    assert!(
        twins >= 30,
        "only {twins} twins: the rule was hardly tested"
    );
}

async fn events_raced_through_an_engine_that_checks_claims_have_no_twins(bed: &Bed) {
    let store = bed.store();
    let checks_claims = store.snapshot().await.expect("taken").checks_claims();
    let twins = race(bed, store).await;
    assert!(!checks_claims || twins == 0, "{twins} twins");
}

/// Appends the same events through two nodes on `store` at once; returns how many got twins. That depends on timing, so
/// there are many rounds.
async fn race(bed: &Bed, store: Arc<dyn Store>) -> usize {
    let nodes = Arc::new([bed.node_on(store.clone()).await, bed.node_on(store).await]);
    let feeds = fresh_feeds(&bed.keys().await, "race");
    let readers = Readers::start(&nodes, &feeds);
    let mut race = Race::default();
    for round in 0..30 {
        let events: Vec<Value> = (0..30).map(|n| event(round * 30 + n, &feeds)).collect();
        let barrier = tokio::sync::Barrier::new(4);
        let append = async |node: &Served, part: &[Value]| {
            let mut part = part.to_vec();
            part.shuffle(&mut rand::rng());
            barrier.wait().await;
            let answers = node.append(&json!(part)).await;
            (part, answers)
        };
        // Two requests to each node, divided differently.
        let (a, b, c, d) = tokio::join!(
            append(&nodes[0], &events[..10]),
            append(&nodes[0], &events[10..]),
            append(&nodes[1], &events[..20]),
            append(&nodes[1], &events[20..]),
        );
        for (part, answers) in [a, b, c, d] {
            race.note(&part, &answers);
        }
    }
    let twins = race.twins(bed).await;
    check_readers(readers, race, &nodes, &feeds).await;
    twins
}

async fn a_batch_committed_twice_shows_once_to_every_reader(bed: &Bed) {
    let turnstile = Turnstile::closed();
    let store = troubled(bed.store(), turnstile.clone());
    let nodes = Arc::new([bed.node_on(store.clone()).await, bed.node_on(store).await]);
    let feeds = fresh_feeds(&bed.keys().await, "gate");
    let readers = Readers::start(&nodes, &feeds);
    let mut race = Race::default();
    for round in 0..10 {
        let events: Vec<Value> = (0..20).map(|n| event(round * 20 + n, &feeds)).collect();
        let mut shuffled = events.clone();
        shuffled.shuffle(&mut rand::rng());
        let (to_append, to_append_too) = (json!(events), json!(shuffled));
        let both_have_read = async {
            turnstile.have_come(2).await;
            turnstile.let_pass(2);
        };
        let (answers, other_answers, ()) = tokio::join!(
            nodes[0].append(&to_append),
            nodes[1].append(&to_append_too),
            both_have_read
        );
        race.note(&events, &answers);
        race.note(&shuffled, &other_answers);
    }
    assert_eq!(race.twins(bed).await, 200, "every event has a twin");
    turnstile.let_pass(1);
    check_readers(readers, race, &nodes, &feeds).await;
}

/// All answers, by event id: the commit, and whether it was `appended`.
#[derive(Default)]
struct Race {
    answers: HashMap<String, Vec<(Commit, bool)>>,
}

impl Race {
    fn note(&mut self, events: &[Value], answers: &Value) {
        for (event, answer) in events.iter().zip(answers.as_array().expect("answers")) {
            let appended = answer["status"] == "appended";
            assert!(appended || answer["status"] == "duplicate", "{answer}");
            let answers = self.answers.entry(text(&event["id"])).or_default();
            answers.push((committed(event, answer), appended));
        }
    }

    /// The number of ids that were committed more than once. Checks that each commit was answered `appended`, and each
    /// `duplicate` has the version of the first commit.
    async fn twins(&self, bed: &Bed) -> usize {
        let mut twins = 0;
        for (id, answers) in &self.answers {
            let claims = claims(bed, id).await;
            let mut appended: Vec<Version> = Vec::new();
            for (commit, is_appended) in answers {
                match is_appended {
                    true => appended.push(commit.version),
                    false => assert_eq!(commit.version, claims[0], "{id}"),
                }
            }
            appended.sort();
            assert_eq!(appended, claims, "{id}");
            twins += usize::from(claims.len() > 1);
        }
        twins
    }

    /// The first commit of each id.
    fn model(self) -> Model {
        let mut firsts: Vec<Commit> = self
            .answers
            .into_values()
            .filter_map(|answers| answers.into_iter().min_by_key(|(commit, _)| commit.version))
            .map(|(commit, _)| commit)
            .collect();
        firsts.sort_by_key(|commit| commit.version);
        Model(firsts)
    }
}

/// The versions at which `id` was committed.
async fn claims(bed: &Bed, id: &str) -> Vec<Version> {
    let snapshot = bed.store().snapshot().await.expect("a snapshot");
    let prefix = bed.keys().await.claim(&id.parse().expect("an id"));
    let range = keys::range(&prefix, None, snapshot.version(), false, 100, usize::MAX);
    let claims = snapshot
        .ranges(vec![range])
        .await
        .expect("claims")
        .remove(0);
    let versions = claims.items.iter().map(|item| keys::version_of(&item.key));
    versions
        .map(|version| version.expect("a version"))
        .collect()
}

type Read = (Vec<FeedName>, Vec<Shown>);

/// Streams and long polls on each node, over one feed and over all, which read to [`END`].
struct Readers(JoinSet<Read>);

impl Readers {
    fn start(nodes: &Arc<[Served; 2]>, feeds: &[FeedName]) -> Self {
        let mut readers = JoinSet::new();
        for node in 0..nodes.len() {
            for feeds in [&feeds[..1], feeds] {
                readers.spawn(listen(Arc::clone(nodes), node, feeds.to_vec()));
                readers.spawn(poll(Arc::clone(nodes), node, feeds.to_vec()));
            }
        }
        Self(readers)
    }
}

async fn listen(nodes: Arc<[Served; 2]>, node: usize, feeds: Vec<FeedName>) -> Read {
    let node = &nodes[node];
    let url = node.url(&format!("{}after=0", path(&feeds, "live")));
    let mut stream = Stream::open(&node.http, &url, None).await;
    let mut entries: Vec<Shown> = Vec::new();
    while entries.last().is_none_or(|entry| entry.id != END) {
        let event = stream.next_of(&["entry", "notify"]).await;
        entries.extend(shown_in(&[event], &feeds));
    }
    (feeds, entries)
}

async fn poll(nodes: Arc<[Served; 2]>, node: usize, feeds: Vec<FeedName>) -> Read {
    let path = format!("{}limit=20&wait=30&after=", path(&feeds, "entries"));
    let mut entries: Vec<Shown> = Vec::new();
    let mut after = "0".to_owned();
    while entries.last().is_none_or(|entry| entry.id != END) {
        let page = nodes[node].get(&format!("{path}{after}")).await;
        let found = page["entries"].as_array().expect("entries");
        entries.extend(found.iter().map(|entry| shown(entry, &feeds)));
        after = position_after(&page);
    }
    (feeds, entries)
}

/// Appends the last event; compares what each reader got, and the pages of both nodes, with the first commits.
async fn check_readers(readers: Readers, mut race: Race, nodes: &[Served; 2], feeds: &[FeedName]) {
    let names: Vec<&str> = feeds.iter().map(FeedName::as_str).collect();
    let end = json!({ "id": END, "kind": "visit", "feeds": names, "data": null });
    let answer = nodes[0].append(&json!([end])).await;
    race.note(&[end], &answer);
    let model = race.model();
    let mut reads = in_time(readers.0.join_all()).await;
    for node in nodes {
        for feeds in [&feeds[..1], feeds] {
            let path = format!("{}limit=33&", path(feeds, "entries"));
            reads.push((feeds.to_vec(), walk(node, &path, "after=0", feeds).await));
            let mut newest_first = walk(node, &path, "", feeds).await;
            newest_first.reverse();
            reads.push((feeds.to_vec(), newest_first));
        }
    }
    for (feeds, entries) in reads {
        assert_eq!(entries, model.merged(&feeds), "{feeds:?}");
    }
    // Unread counts ignore twins too.
    for feed in feeds {
        let unread: usize = model.unread(feed, None).values().sum();
        let head = nodes[1].get(&format!("/v1/feeds/{feed}")).await;
        assert_eq!(head["unread"]["total"], json!(unread), "{head}");
    }
}

/// Appends two events, each through its own node. Both transactions read before either commits; then the first commits,
/// `meanwhile` is called, and the second commits.
async fn collide(
    bed: &Bed,
    events: [&Value; 2],
    meanwhile: impl FnOnce(),
) -> (Arc<[Served; 2]>, [Value; 2]) {
    let turnstile = Turnstile::closed();
    let store = troubled(bed.store(), turnstile.clone());
    let nodes = Arc::new([bed.node_on(store.clone()).await, bed.node_on(store).await]);
    let append = |node: usize| {
        let (nodes, event) = (Arc::clone(&nodes), events[node].clone());
        tokio::spawn(async move { nodes[node].append(&event).await })
    };
    let first = append(0);
    in_time(turnstile.have_come(1)).await;
    let second = append(1);
    in_time(turnstile.have_come(1)).await;
    turnstile.let_pass(1);
    let first = in_time(first).await.expect("no panic");
    meanwhile();
    turnstile.let_pass(1);
    let second = in_time(second).await.expect("no panic");
    (nodes, [first, second])
}

/// The loser is answered `appended`, because its node had not seen the winner. Later appends are answered correctly.
async fn of_an_id_reused_at_the_same_moment_the_first_commit_is_the_entry(bed: &Bed) {
    let event =
        |text: &str| json!({ "id": "x", "kind": "message", "feeds": ["reused"], "data": text });
    let (won, lost) = (event("of one node"), event("of the other"));
    let (nodes, [first, second]) = collide(bed, [&won, &lost], || ()).await;
    assert_eq!([&first["status"], &second["status"]], ["appended"; 2]);
    for node in nodes.iter() {
        let entries = node.all("reused").await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0]["data"], won["data"]);
        assert_eq!(entries[0]["version"], first["version"]);
        let head = node.get("/v1/feeds/reused").await;
        assert_eq!(head["unread"]["total"], 1, "{head}");
        assert_eq!(head["latest"], first["version"]);

        let again = node.append(&won).await;
        assert_eq!(again["status"], "duplicate");
        assert_eq!(again["version"], first["version"]);
        let (status, problem) = node.post("/v1/events", &lost).await;
        assert_eq!((status, &problem["code"]), (409, &json!("id_reused")));
        assert_eq!(problem["version"], first["version"]);
    }
}

/// The rule applies to each feed separately: an event hides one with the same id only in feeds that both name.
async fn an_id_reused_at_the_same_moment_in_other_feeds_stands_in_each(bed: &Bed) {
    let event = |feeds: [&str; 2]| json!({ "id": "x", "kind": "visit", "feeds": feeds });
    let (left, right) = (event(["left", "both"]), event(["right", "both"]));
    let (nodes, [first, second]) = collide(bed, [&left, &right], || ()).await;
    let all = ["left", "right", "both"].map(feed_name);
    for node in nodes.iter() {
        for (feed, answer) in [("left", &first), ("right", &second), ("both", &first)] {
            let entries = node.all(feed).await;
            assert_eq!(entries.len(), 1, "{feed}: {entries:?}");
            assert_eq!(entries[0]["version"], answer["version"], "{feed}");
        }
        let merged = walk(node, &path(&all, "entries"), "after=0", &all).await;
        let held_by: Vec<&[FeedName]> = merged.iter().map(|shown| &shown.feeds[..]).collect();
        let [left, right, both] = all.clone();
        assert_eq!(held_by, [&[left, both][..], &[right]]);
        let url = node.url(&format!("{}after=0", path(&all, "live")));
        let mut live = Stream::open(&node.http, &url, None).await;
        assert_eq!(shown_in(&live.caught_up().await, &all), merged);
    }
}

/// With the appender: the snapshot's age limit bounds how late a commit can come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_read_before_the_first_commit_is_a_twin_if_it_commits_within_five_seconds() {
    let wall = WallTime::manual(1_000_000_000);
    let bed = Bed::embedded_at(wall.clone());
    for (late_micros, commits) in [(10, 2), (4_999_000, 2), (5_001_000, 1), (60_000_000, 1)] {
        let (id, feed) = (format!("x {late_micros}"), format!("late.{late_micros}"));
        let event = json!({ "id": id, "kind": "message", "feeds": [feed] });
        let late = || wall.set(wall.micros() + late_micros);
        let (nodes, [first, second]) = collide(&bed, [&event, &event], late).await;
        assert_eq!(claims(&bed, &id).await.len(), commits, "{late_micros}");
        let told = if commits == 2 {
            "appended"
        } else {
            "duplicate"
        };
        assert_eq!([&first["status"], &second["status"]], ["appended", told]);
        for node in nodes.iter() {
            let entries = node.all(&feed).await;
            assert_eq!(entries.len(), 1, "{entries:?}");
            assert_eq!(entries[0]["version"], first["version"]);
            let head = node.get(&format!("/v1/feeds/{feed}")).await;
            assert_eq!(head["unread"]["total"], 1, "{head}");
        }
    }
}
