//! Conditional appends: `expect` for single events, in arrays and in NDJSON.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::store::{Batch, Error, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::{column, items, visit, visits};
use crate::support::{
    bed::{Bed, JSON, NDJSON, Served, text},
    entries::{UNKNOWN, ahead},
    stores::{Trouble, troubled},
};

crate::on_every_engine!(
    an_expected_version_that_has_not_been_reached_or_is_of_another_store_is_refused,
    conditional_arrays_have_the_outcomes_of_single_appends_in_order,
    conditional_events_of_an_array_share_a_commit,
    conditional_appends_of_many_clients_share_commits,
    conditions_that_keep_being_violated_do_not_hold_up_the_other_events,
);

fn expecting(id: &str, feeds: &[&str], feed: &str, version: &Value) -> Value {
    let mut event = visit(id, feeds);
    event["expect"] = json!({ "feed": feed, "version": version });
    event
}

async fn ndjson(node: &Served, events: &[Value]) -> Vec<Value> {
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    let answer = node.send_body("POST", "/v1/events", &[NDJSON], lines).await;
    assert_eq!(answer.status, 200);
    let body = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let results = body
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    results.collect()
}

async fn an_expected_version_that_has_not_been_reached_or_is_of_another_store_is_refused(
    bed: &Bed,
) {
    let node = bed.node().await;
    node.append(&visit("first", &["slot"])).await;
    let now = node.version("slot").await;
    // An hour above the current version, and of another store; for a feed with entries and for one without.
    let cases = [
        (ahead(&now), 400, "version_ahead"),
        (UNKNOWN.to_owned(), 410, "cursor_unknown"),
    ];
    for (index, (ahead, status, code)) in cases.iter().enumerate() {
        for feed in ["slot", "empty"] {
            let id = format!("ahead {index} {feed}");
            let event = expecting(&id, &["slot"], feed, &json!(ahead));
            let answer = node
                .send_body("POST", "/v1/events", &[JSON], event.to_string())
                .await;
            let problem = answer.problem(*status, code).expect("refused");
            assert!(text(&problem["version"]) >= now);

            let good = |n: usize| visit(&format!("good {index} {feed} {n}"), &["slot"]);
            let array = [good(0), event, good(1)];
            let in_array = node.append(&json!(array)).await;
            let mut array = array;
            (array[0], array[2]) = (good(2), good(3));
            for results in [items(&in_array).clone(), ndjson(&node, &array).await] {
                assert_eq!(
                    column(&results, "status"),
                    ["appended", "rejected", "appended"]
                );
                assert_eq!(results[1]["id"], id);
                let error = &results[1]["error"];
                assert_eq!(error["code"], json!(code));
                assert!(text(&error["version"]) >= now);
            }
        }
    }
    let shown = column(&node.all("slot").await, "id");
    assert!(shown.iter().all(|id| !id.starts_with("ahead")), "{shown:?}");
    // Exactly now holds.
    let now = json!(node.version("slot").await);
    let event = expecting("now", &["slot"], "slot", &now);
    assert_eq!(node.append(&event).await["status"], "appended");
    // An event that is stored already is a duplicate, whatever it expects.
    let again = expecting("now", &["slot"], "slot", &json!(UNKNOWN));
    assert_eq!(node.append(&again).await["status"], "duplicate");
}

/// What appending events one by one must answer.
#[derive(Default)]
struct Sequential {
    /// By id: the event without its condition, and its version.
    events: HashMap<String, (Value, String)>,
    /// Versions in the feeds.
    feeds: HashMap<String, Vec<String>>,
    last: String,
}

impl Sequential {
    /// Checks the result of the next event.
    fn check(&mut self, event: &Value, result: &Value) {
        let id = text(&event["id"]);
        let mut content = event.clone();
        let expect = content
            .as_object_mut()
            .and_then(|fields| fields.remove("expect"));
        assert_eq!(result["id"], json!(id));
        let (status, error) = (&result["status"], &result["error"]);
        if let Some((stored, version)) = self.events.get(&id) {
            if *stored == content {
                assert_eq!(
                    (status, &result["version"]),
                    (&json!("duplicate"), &json!(version))
                );
            } else {
                assert_eq!(
                    (status, &error["code"]),
                    (&json!("rejected"), &json!("id_reused"))
                );
                assert_eq!(error["version"], json!(version));
            }
            return;
        }
        if let Some(expect) = expect {
            let feed = text(&expect["feed"]);
            let latest = self.feeds.get(&feed).and_then(|versions| versions.last());
            let expected = expect["version"].as_str();
            if expected == Some(UNKNOWN) {
                assert_eq!(error["code"], "cursor_unknown", "{event}: {result}");
                return;
            }
            if latest.is_some_and(|latest| expected.is_none_or(|version| &**latest > version)) {
                assert_eq!(error["code"], "version_conflict", "{event}: {result}");
                assert_eq!(
                    (&error["feed"], &error["current"]),
                    (&json!(feed), &json!(latest))
                );
                return;
            }
        }
        assert_eq!(status, "appended", "{event}: {result}");
        let version = text(&result["version"]);
        assert!(
            version > self.last,
            "versions grow in the order of the request"
        );
        for feed in items(&content["feeds"]) {
            self.feeds
                .entry(text(feed))
                .or_default()
                .push(version.clone());
        }
        self.last.clone_from(&version);
        self.events.insert(id, (content, version));
    }
}

async fn conditional_arrays_have_the_outcomes_of_single_appends_in_order(bed: &Bed) {
    const FEEDS: [&str; 4] = ["a", "b", "c", "d"];
    let node = bed.node().await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Sequential::default();
    let mut known = vec![json!("0")];
    for round in 0..60 {
        known.push(json!(node.version("a").await));
        let mut events = Vec::new();
        for _ in 0..rng.random_range(1..40) {
            // Ids of this round and of the one before repeat, sometimes with other feeds.
            let id = format!(
                "{}-{}",
                round - rng.random_range(0..2),
                rng.random_range(0..25)
            );
            let feeds: Vec<&str> = FEEDS
                .into_iter()
                .filter(|_| rng.random_ratio(1, 3))
                .collect();
            let feeds = match feeds.is_empty() {
                true => &FEEDS[..1],
                false => &feeds,
            };
            let mut event = visit(&id, feeds);
            if rng.random_ratio(2, 3) {
                // Some feeds stay empty for a while.
                let feed = match rng.random_ratio(1, 4) {
                    true => format!("e{}", rng.random_range(0..80)),
                    false => FEEDS.choose(&mut rng).expect("a feed").to_string(),
                };
                let version = match rng.random_range(0..10) {
                    0 | 1 => Value::Null,
                    2 => json!(UNKNOWN),
                    3 | 4 => known.choose(&mut rng).expect("a version").clone(),
                    _ => known[known.len() - 1].clone(),
                };
                event["expect"] = json!({ "feed": feed, "version": version });
                if rng.random_ratio(1, 4) {
                    event["feeds"] = json!([feed]);
                }
            }
            events.push(event);
        }
        let results = match rng.random_ratio(1, 3) {
            true => ndjson(&node, &events).await,
            false => items(&node.append(&json!(events)).await).clone(),
        };
        assert_eq!(results.len(), events.len());
        for (event, result) in events.iter().zip(&results) {
            model.check(event, result);
        }
        known.extend(
            model
                .feeds
                .values()
                .filter_map(|all| all.last())
                .map(|last| json!(last)),
        );
    }
    for (feed, versions) in &model.feeds {
        assert_eq!(
            column(&node.all(feed).await, "version"),
            *versions,
            "{feed}"
        );
    }
}

/// Counts commits. Those with more than `conditions_max` conditions are aborted, as if somebody had always just added to
/// one of the feeds.
struct Commits {
    count: AtomicUsize,
    conditions_max: usize,
}

impl Commits {
    fn counted(conditions_max: usize) -> Arc<Self> {
        let count = AtomicUsize::new(0);
        Arc::new(Self {
            count,
            conditions_max,
        })
    }
}

#[async_trait]
impl Trouble for Commits {
    async fn before_commit(&self, batch: &Batch) -> Result<()> {
        self.count.fetch_add(1, Ordering::SeqCst);
        match batch.conditions.len() > self.conditions_max {
            true => Err(Error::Conflict),
            false => Ok(()),
        }
    }
}

/// A node whose commits are counted from now on; those with more than `conditions_max` conditions are aborted.
async fn counted(bed: &Bed, conditions_max: usize) -> (Served, Arc<Commits>) {
    let commits = Commits::counted(conditions_max);
    let node = bed
        .node_on(troubled(bed.store(), Arc::clone(&commits)))
        .await;
    commits.count.store(0, Ordering::SeqCst);
    (node, commits)
}

/// Events in feed `all`. Those that are `conditional` each expect a feed of their own to be empty.
fn booking_slots(count: usize, conditional: impl Fn(usize) -> bool) -> Value {
    let mut events = visits("e", count, &["all"]);
    let each = events.as_array_mut().expect("an array").iter_mut();
    for (index, event) in each.enumerate().filter(|(index, _)| conditional(*index)) {
        event["expect"] = json!({ "feed": format!("slot:{index}"), "version": null });
    }
    events
}

async fn conditional_events_of_an_array_share_a_commit(bed: &Bed) {
    let (node, commits) = counted(bed, usize::MAX).await;
    let events = booking_slots(1000, |index| index % 10 > 0);
    let answer = node.append(&events).await;
    assert!(
        items(&answer)
            .iter()
            .all(|result| result["status"] == "appended")
    );
    assert_eq!(commits.count.load(Ordering::SeqCst), 1);
    let versions = column(&node.all("all").await, "version");
    assert_eq!(versions, column(items(&answer), "version"));
}

async fn conditional_appends_of_many_clients_share_commits(bed: &Bed) {
    let (node, commits) = counted(bed, usize::MAX).await;
    // The clients wait for each other, because only that makes them concurrent: their lines arrive in one piece.
    let lines = |client: usize| {
        let line = |n: usize| {
            let feed = format!("slot:{client}:{n}");
            expecting(&format!("{client} {n}"), &[&feed], &feed, &json!(null))
        };
        (0..50).map(line).collect::<Vec<_>>()
    };
    let appends = (0..20).map(|client| {
        let (node, lines) = (&node, lines(client));
        async move { ndjson(node, &lines).await }
    });
    for results in futures_util::future::join_all(appends).await {
        assert_eq!(results.len(), 50);
        assert!(results.iter().all(|result| result["status"] == "appended"));
    }
    let count = commits.count.load(Ordering::SeqCst);
    assert!(count <= 100, "{count} commits of 1,000 conditional events");
}

async fn conditions_that_keep_being_violated_do_not_hold_up_the_other_events(bed: &Bed) {
    // Every commit with more than one event is aborted. Each has two conditions: the entries of a feed are two ranges.
    let (node, commits) = counted(bed, 2).await;
    let events = booking_slots(100, |_| true);
    let answer = node.append(&events).await;
    assert!(
        items(&answer)
            .iter()
            .all(|result| result["status"] == "appended")
    );
    let versions = column(items(&answer), "version");
    assert!(versions.is_sorted_by(|a, b| a < b));
    // Each event, and at most one attempt with two of them before.
    let count = commits.count.load(Ordering::SeqCst);
    assert!(count <= 220, "{count} commits");
}
