//! `POST /v1/events?atomic=true`: all events or none.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::{
    store::{Batch, Error, Result, Snapshot},
    version::Version,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{column, items, message, visit, visits};
use crate::{
    auth::{Signer, Site, ask, bearer, claims},
    support::{
        bed::{Answer, Bed, JSON, NDJSON, Served, text},
        entries::{UNKNOWN, ahead},
        patience::{in_time, until},
        stores::{Trouble, troubled},
    },
};

crate::on_every_engine!(
    all_events_are_appended_with_consecutive_versions_or_none_is,
    a_condition_that_fails_names_its_event_or_its_place_in_the_list,
    conditions_are_about_the_moment_before_the_append,
    sent_again_all_events_are_duplicates_whatever_is_expected,
    an_id_with_other_content_fails_the_whole,
    random_atomic_appends_are_those_of_a_plain_model,
    clients_that_race_for_pairs_of_slots_book_both_or_none,
    of_two_appends_that_share_an_id_one_is_whole_and_nothing_of_the_other_is_there,
    appends_with_a_shared_id_and_the_same_content_are_twins_of_nothing,
    an_atomic_append_is_never_halved_and_an_unknown_outcome_is_found_out,
    an_atomic_append_that_waits_holds_up_no_other_event,
    bodies_that_are_no_atomic_append_are_refused,
);

const ATOMIC: &str = "/v1/events?atomic=true";

/// While the queue is delayed, nothing of a request is appended, and it is sent again.
async fn send_to(node: &Served, path: &str, body: &Value) -> Answer {
    until("an answer other than busy", async || {
        let answer = node
            .send_body("POST", path, &[JSON], body.to_string())
            .await;
        (answer.problem(503, "busy").is_err()).then_some(answer)
    })
    .await
}

async fn send(node: &Served, body: &Value) -> Answer {
    send_to(node, ATOMIC, body).await
}

/// As [`append`], but each event on its own.
async fn append_each(node: &Served, body: &Value) -> Value {
    let answer = send_to(node, "/v1/events", body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

/// Appends; expects 200.
async fn append(node: &Served, body: &Value) -> Vec<Value> {
    let answer = send(node, body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.json());
    items(&answer.json()).clone()
}

fn expecting(mut event: Value, feed: &str, version: &Value) -> Value {
    event["expect"] = json!({ "feed": feed, "version": version });
    event
}

/// Checks that the events have consecutive versions.
fn assert_consecutive(versions: &[String]) {
    // 26 digits of 5 bits; the last 2 bits are padding.
    let count = |text: &String| {
        let (last, digits) = text.as_bytes().split_last().expect("26 characters");
        let value = |digit: &u8| char::from(*digit).to_digit(32).expect("a digit");
        let count = digits
            .iter()
            .fold(0, |count, digit| count << 5 | u128::from(value(digit)));
        count << 3 | u128::from(value(last) >> 2)
    };
    for pair in versions.windows(2) {
        assert_eq!(count(&pair[0]) + 1, count(&pair[1]), "{versions:?}");
    }
}

async fn all_events_are_appended_with_consecutive_versions_or_none_is(bed: &Bed) {
    let node = bed.node().await;
    let feeds: Vec<String> = (0..30).map(|n| format!("f{n}")).collect();
    let events: Vec<Value> = (0..100)
        .map(|n| {
            message(
                &format!("m{n}"),
                &[&feeds[n % 30], &feeds[(n + 7) % 30], "all"],
            )
        })
        .collect();
    // Others append all the time.
    let others = async {
        for n in 0.. {
            append_each(&node, &visits(&format!("o{n}-"), 5, &["all"])).await;
        }
    };
    let body = json!(events);
    let results = tokio::select! {
        () = others => Vec::new(),
        results = append(&node, &body) => results,
    };
    assert!(results.iter().all(|result| result["status"] == "appended"));
    assert_eq!(column(&results, "id"), column(&events, "id"));
    let versions = column(&results, "version");
    assert_consecutive(&versions);
    let all = node.all("all").await;
    let first = all
        .iter()
        .position(|entry| entry["id"] == "m0")
        .expect("an entry");
    assert_eq!(column(&all[first..first + 100], "version"), versions);
    for feed in &feeds {
        let expected = events
            .iter()
            .filter(|event| items(&event["feeds"]).contains(&json!(feed)));
        assert_eq!(column(&node.all(feed).await, "id"), column(expected, "id"));
    }

    let mut more: Vec<Value> = (0..100)
        .map(|n| visit(&format!("n{n}"), &["more"]))
        .collect();
    more[99]["feeds"] = json!([]);
    let problem = send(&node, &json!(more))
        .await
        .problem(400, "invalid_event");
    assert_eq!(problem.expect("a problem")["index"], 99);
    more[99] = expecting(visit("n99", &["more"]), "f0", &Value::Null);
    send(&node, &json!(more))
        .await
        .problem(409, "version_conflict")
        .expect("a problem");
    assert_eq!(node.all("more").await.len(), 0);
    for id in ["n0", "n99"] {
        let missing = node.send("GET", &format!("/v1/events/{id}"), &[]).await;
        assert_eq!(missing.status, 404);
    }
    // Its ids are free.
    more[99] = visit("n99", &["more"]);
    append(&node, &json!(more)).await;
    assert_eq!(node.all("more").await.len(), 100);
}

async fn a_condition_that_fails_names_its_event_or_its_place_in_the_list(bed: &Bed) {
    let node = bed.node().await;
    let taken = node.append(&visit("taken", &["slot:7"])).await["version"].clone();
    let now = node.version("slot:7").await;
    let pair = |version: &Value| {
        json!([
            expecting(visit("a", &["slot:6"]), "slot:6", &Value::Null),
            expecting(visit("b", &["slot:7"]), "slot:7", version),
        ])
    };
    let problem = send(&node, &pair(&Value::Null))
        .await
        .problem(409, "version_conflict");
    let problem = problem.expect("a problem");
    assert_eq!(
        (&problem["index"], &problem["id"]),
        (&json!(1), &json!("b"))
    );
    assert_eq!(
        (&problem["feed"], &problem["current"]),
        (&json!("slot:7"), &taken)
    );
    assert!(problem.get("expect_index").is_none());
    let detail = text(&problem["detail"]);
    assert!(
        detail.starts_with("nothing was appended, because of event 1 (feed slot:7): "),
        "{detail}"
    );

    // Conditions on feeds that no event names, and on some that they name.
    let body = |conditions: Value| json!({ "events": [visit("a", &["slot:6"]), visit("b", &["log"])], "expect": conditions });
    let free = json!({ "feed": "slot:6", "version": null });
    let other = json!({ "feed": "slot:8", "version": "0" });
    let bad = |feed: &str, version: &Value| json!({ "feed": feed, "version": version });
    for (version, status, code) in [
        (json!("0"), 409, "version_conflict"),
        (json!(ahead(&now)), 400, "version_ahead"),
        (json!(UNKNOWN), 410, "cursor_unknown"),
    ] {
        let conditions = json!([
            free,
            other,
            bad("slot:7", &version),
            bad("slot:7", &Value::Null)
        ]);
        let problem = send(&node, &body(conditions)).await.problem(status, code);
        let problem = problem.expect("a problem");
        assert_eq!(problem["expect_index"], 2);
        assert!(problem.get("index").is_none() && problem.get("id").is_none());
        if status == 409 {
            assert_eq!(
                (&problem["feed"], &problem["current"]),
                (&json!("slot:7"), &taken)
            );
        }
        let problem = send(&node, &pair(&version)).await.problem(status, code);
        assert_eq!(problem.expect("a problem")["index"], 1);
    }
    for feed in ["slot:6", "slot:8", "log"] {
        assert_eq!(node.all(feed).await.len(), 0);
    }
    let results = append(&node, &body(json!([free, other, bad("slot:7", &taken)]))).await;
    assert_eq!(column(&results, "status"), ["appended", "appended"]);
    assert_eq!(node.all("slot:6").await.len(), 1);
}

async fn conditions_are_about_the_moment_before_the_append(bed: &Bed) {
    let node = bed.node().await;
    // Each is violated by all others.
    let event = |n: usize| expecting(visit(&format!("e{n}"), &["slot"]), "slot", &Value::Null);
    let events: Vec<Value> = (0..5).map(event).collect();
    let body = json!({ "events": events, "expect": [{ "feed": "slot", "version": null }] });
    append(&node, &body).await;
    assert_eq!(node.all("slot").await.len(), 5);
    // In an array that is not atomic, each one counts for those after it.
    let event = |n: usize| expecting(visit(&format!("p{n}"), &["other"]), "other", &Value::Null);
    let answer = node.append(&(0..5).map(event).collect()).await;
    let status = column(items(&answer), "status");
    assert_eq!(
        status,
        ["appended", "rejected", "rejected", "rejected", "rejected"]
    );
}

async fn sent_again_all_events_are_duplicates_whatever_is_expected(bed: &Bed) {
    let node = bed.node().await;
    let body = json!({
        "events": [
            expecting(visit("a", &["slot:6"]), "slot:6", &Value::Null),
            visit("b", &["slot:7"]),
            visit("a", &["slot:6"]),
        ],
        "expect": [{ "feed": "slot:7", "version": null }],
    });
    let first = append(&node, &body).await;
    assert_eq!(
        column(&first, "status"),
        ["appended", "appended", "duplicate"]
    );
    assert_eq!(first[0]["version"], first[2]["version"]);
    node.append(&visit("later", &["slot:6", "slot:7"])).await;
    let again = append(&node, &body).await;
    assert_eq!(column(&again, "status"), ["duplicate"; 3]);
    assert_eq!(column(&again, "version"), column(&first, "version"));
    // With a new event, the conditions of the list count; those of duplicates do not.
    let mut more = body.clone();
    more["events"][2] = visit("c", &["slot:8"]);
    let problem = send(&node, &more).await.problem(409, "version_conflict");
    assert_eq!(problem.expect("a problem")["expect_index"], 0);
    more["expect"] = json!([{ "feed": "slot:8", "version": null }]);
    let mixed = append(&node, &more).await;
    assert_eq!(
        column(&mixed, "status"),
        ["duplicate", "duplicate", "appended"]
    );
    assert_eq!(mixed[0]["version"], first[0]["version"]);
    assert_eq!(node.all("slot:8").await.len(), 1);
}

async fn an_id_with_other_content_fails_the_whole(bed: &Bed) {
    let node = bed.node().await;
    let used = node.append(&visit("used", &["a"])).await["version"].clone();
    let problem = send(&node, &json!([visit("x", &["b"]), message("used", &["a"])])).await;
    let problem = problem.problem(409, "id_reused").expect("a problem");
    assert_eq!(
        (&problem["index"], &problem["id"]),
        (&json!(1), &json!("used"))
    );
    assert_eq!(problem["version"], used);
    // Within the append: nothing has the id, so there is no version.
    let problem = send(
        &node,
        &json!([visit("x", &["b"]), visit("y", &["b"]), visit("x", &["c"])]),
    )
    .await;
    let problem = problem.problem(409, "id_reused").expect("a problem");
    assert_eq!(
        (&problem["index"], &problem["id"]),
        (&json!(2), &json!("x"))
    );
    assert!(problem.get("version").is_none(), "{problem}");
    for feed in ["b", "c"] {
        assert_eq!(node.all(feed).await.len(), 0);
    }
}

/// What is stored, by the rules in their plainest form.
#[derive(Default)]
struct Plain {
    /// By id: the event without its condition, and its version.
    events: HashMap<String, (Value, String)>,
    feeds: BTreeMap<String, Vec<String>>,
}

impl Plain {
    fn holds(&self, expect: &Value) -> bool {
        let latest = self
            .feeds
            .get(&text(&expect["feed"]))
            .and_then(|all| all.last());
        let version = expect["version"].as_str();
        latest.is_none_or(|latest| version.is_some_and(|version| **latest <= *version))
    }

    /// The code and the index of the event or condition that fails, and whether it is an event.
    fn refusal(
        &self,
        events: &[Value],
        conditions: &[Value],
    ) -> Option<(&'static str, usize, bool)> {
        let mut new: HashMap<String, Value> = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            let (id, content) = (text(&event["id"]), content(event));
            let stored = self.events.get(&id).map(|(content, _)| content);
            match stored.or(new.get(&id)) {
                Some(stored) if *stored == content => {}
                Some(_) => return Some(("id_reused", index, true)),
                None if event
                    .get("expect")
                    .is_some_and(|expect| !self.holds(expect)) =>
                {
                    return Some(("version_conflict", index, true));
                }
                None => {
                    new.insert(id, content);
                }
            }
        }
        let failed = conditions.iter().position(|expect| !self.holds(expect));
        failed
            .filter(|_| !new.is_empty())
            .map(|index| ("version_conflict", index, false))
    }

    fn check(&mut self, events: &[Value], conditions: &[Value], answer: &Answer) {
        if let Some((code, index, is_event)) = self.refusal(events, conditions) {
            let problem = answer.problem(409, code).expect("a problem");
            let name = if is_event { "index" } else { "expect_index" };
            assert_eq!(problem[name], json!(index), "{problem}");
            return;
        }
        assert_eq!(answer.status, 200, "{}", answer.json());
        let mut new = Vec::new();
        for (event, result) in events.iter().zip(items(&answer.json())) {
            let (id, version) = (text(&event["id"]), text(&result["version"]));
            assert_eq!(result["id"], json!(id));
            match self.events.get(&id) {
                Some((_, stored)) => {
                    assert_eq!((&*text(&result["status"]), &version), ("duplicate", stored))
                }
                None => {
                    assert_eq!(result["status"], "appended");
                    for feed in items(&event["feeds"]) {
                        self.feeds
                            .entry(text(feed))
                            .or_default()
                            .push(version.clone());
                    }
                    self.events.insert(id, (content(event), version.clone()));
                    new.push(version);
                }
            }
        }
        assert_consecutive(&new);
    }
}

fn content(event: &Value) -> Value {
    let mut content = event.clone();
    content.as_object_mut().expect("an object").remove("expect");
    content
}

async fn random_atomic_appends_are_those_of_a_plain_model(bed: &Bed) {
    const FEEDS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let nodes = [bed.node().await, bed.node().await];
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Plain::default();
    let mut known = vec![json!(null), json!("0")];
    for round in 0..150 {
        let node = &nodes[round % 2];
        let condition = |rng: &mut StdRng, known: &[Value]| {
            let feed = FEEDS.choose(rng).expect("a feed");
            let version = match rng.random_ratio(1, 5) {
                true => known.choose(rng),
                false => known.last(),
            };
            json!({ "feed": feed, "version": version.expect("a version") })
        };
        let events: Vec<Value> = (0..rng.random_range(1..6))
            .map(|_| {
                let feeds: Vec<&str> = FEEDS
                    .into_iter()
                    .filter(|_| rng.random_ratio(1, 3))
                    .collect();
                let feeds = if feeds.is_empty() {
                    &FEEDS[..1]
                } else {
                    &feeds
                };
                // Ids of earlier rounds repeat, with the same content or other.
                let id = format!(
                    "{}",
                    (round * 3).saturating_sub(rng.random_range(0..9)) + rng.random_range(0..6)
                );
                let old = model.events.get(&id).filter(|_| rng.random_ratio(4, 5));
                let mut event = old.map_or_else(|| visit(&id, feeds), |(event, _)| event.clone());
                if rng.random_ratio(1, 3) {
                    event["expect"] = condition(&mut rng, &known);
                }
                event
            })
            .collect();
        let conditions: Vec<Value> = (0..rng.random_range(0..3))
            .map(|_| condition(&mut rng, &known))
            .collect();
        let answer = match conditions.is_empty() && rng.random() {
            true => send(node, &json!(events)).await,
            false => send(node, &json!({ "events": events, "expect": conditions })).await,
        };
        model.check(&events, &conditions, &answer);
        known.push(json!(nodes[(round + 1) % 2].version("a").await));
    }
    for feed in FEEDS {
        let expected = model.feeds.get(feed).cloned().unwrap_or_default();
        assert_eq!(
            column(&nodes[0].all(feed).await, "version"),
            expected,
            "{feed}"
        );
    }
}

async fn clients_that_race_for_pairs_of_slots_book_both_or_none(bed: &Bed) {
    const CLIENTS: usize = 200;
    const SLOTS: usize = 10;
    let nodes = [bed.node().await, bed.node().await];
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    // Each client tries pairs until one is its own, or none is left.
    let booking = |client: usize, mut rng: StdRng| {
        let node = &nodes[client % 2];
        async move {
            let mut tries: Vec<(usize, usize)> = (0..SLOTS)
                .flat_map(|a| (0..a).map(move |b| (a, b)))
                .collect();
            rand::seq::SliceRandom::shuffle(&mut tries[..], &mut rng);
            for (attempt, (a, b)) in tries.into_iter().enumerate() {
                let slots = [format!("slot:{a}"), format!("slot:{b}")];
                let book =
                    |slot: &String| visit(&format!("{client}-{attempt}-{slot}"), &[slot, "booked"]);
                let body = match attempt % 2 {
                    0 => json!(slots.each_ref().map(|slot| expecting(
                        book(slot),
                        slot,
                        &Value::Null
                    ))),
                    _ => json!({
                        "events": slots.each_ref().map(book),
                        "expect": slots.each_ref().map(|slot| json!({ "feed": slot, "version": null })),
                    }),
                };
                let answer = send(node, &body).await;
                if answer.status == 200 {
                    return Some([a, b]);
                }
                let problem = answer.problem(409, "version_conflict").expect("a conflict");
                assert!(slots.contains(&text(&problem["feed"])));
            }
            None
        }
    };
    let clients = (0..CLIENTS).map(|client| booking(client, StdRng::seed_from_u64(rng.random())));
    let booked = in_time(futures_util::future::join_all(clients)).await;
    let mut taken: Vec<usize> = booked.into_iter().flatten().flatten().collect();
    let pairs = taken.len() / 2;
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 2 * pairs, "a slot is booked twice");
    // Whoever got nothing had tried every pair.
    assert_eq!(taken.len(), SLOTS);
    for slot in 0..SLOTS {
        let entries = nodes[0].all(&format!("slot:{slot}")).await;
        assert_eq!(entries.len(), usize::from(taken.contains(&slot)));
    }
    assert_eq!(nodes[1].all("booked").await.len(), 2 * pairs);
}

/// Through two nodes at the same moment, with another event of their own each: `a` of one with other content.
async fn of_two_appends_that_share_an_id_one_is_whole_and_nothing_of_the_other_is_there(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let race = |n: usize| {
        let nodes = &nodes;
        let (shared, feed) = (format!("shared {n}"), format!("f{n}"));
        let sides = [0, 1].map(|side| {
            let mut shared = visit(&shared, &[&feed]);
            shared["data"] = json!(side);
            let mut events = vec![shared, visit(&format!("own {n} {side}"), &[&feed])];
            // The shared one is the first of one side and the last of the other.
            events.rotate_left(side);
            json!(events)
        });
        async move {
            let [a, b] = sides.each_ref();
            let answers = tokio::join!(send(&nodes[0], a), send(&nodes[1], b));
            let stored = [answers.0, answers.1].map(|answer| match answer.status {
                200 => true,
                _ => {
                    answer.problem(409, "id_reused").expect("a problem");
                    false
                }
            });
            assert_ne!(stored[0], stored[1]);
            let side = usize::from(stored[1]);
            let shown = nodes[side].all(&feed).await;
            assert_eq!(column(&shown, "id"), column(items(&sides[side]), "id"));
            let of = shown
                .iter()
                .find(|entry| entry["id"] == json!(shared))
                .expect("an entry");
            assert_eq!(of["data"], json!(side));
        }
    };
    futures_util::future::join_all((0..100).map(race)).await;
}

/// The same append through two nodes and, event by event, through plain arrays: everything shows once, and the answers of the
/// atomic appends name versions that can be read.
async fn appends_with_a_shared_id_and_the_same_content_are_twins_of_nothing(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let race = |n: usize| {
        let nodes = &nodes;
        let feed = format!("f{n}");
        let events = json!([
            visit(&format!("{n} a"), &[&feed]),
            message(&format!("{n} b"), &[&feed])
        ]);
        async move {
            let (first, second, _) = tokio::join!(
                append(&nodes[0], &events),
                append(&nodes[1], &events),
                append_each(&nodes[n % 2], &events),
            );
            let shown = nodes[0].all(&feed).await;
            assert_eq!(column(&shown, "id"), column(items(&events), "id"));
            for results in [first, second] {
                assert_eq!(column(&results, "version"), column(&shown, "version"));
            }
        }
    };
    futures_util::future::join_all((0..50).map(race)).await;
}

/// The first commits of atomic appends are aborted or lost; whether one was is not told of some that were not.
struct Stubborn {
    commits: AtomicUsize,
    sizes: std::sync::Mutex<Vec<usize>>,
}

#[async_trait]
impl Trouble for Stubborn {
    async fn commit(&self, snapshot: Box<dyn Snapshot>, batch: Batch) -> Result<Version> {
        if batch.conditions.is_empty() {
            return snapshot.commit(batch).await;
        }
        self.sizes
            .lock()
            .expect("no panic")
            .push(batch.conditions.len());
        match self.commits.fetch_add(1, Ordering::SeqCst) {
            0..5 => Err(Error::Conflict),
            5 => Err(Error::Unknown),
            6 => {
                snapshot.commit(batch).await?;
                Err(Error::Unknown)
            }
            _ => panic!("it was committed"),
        }
    }
}

async fn an_atomic_append_is_never_halved_and_an_unknown_outcome_is_found_out(bed: &Bed) {
    let stubborn = Arc::new(Stubborn {
        commits: AtomicUsize::new(0),
        sizes: Default::default(),
    });
    let node = bed
        .node_on(troubled(bed.store(), Arc::clone(&stubborn)))
        .await;
    stubborn.commits.store(0, Ordering::SeqCst);
    stubborn.sizes.lock().expect("no panic").clear();
    let event = |n: usize| {
        let slot = format!("slot:{n}");
        expecting(
            visit(&format!("e{n}"), &[&slot, "all"]),
            &slot,
            &Value::Null,
        )
    };
    let events: Vec<Value> = (0..100).map(event).collect();
    let results = append(&node, &json!(events)).await;
    assert!(results.iter().all(|result| result["status"] == "appended"));
    let all = node.all("all").await;
    assert_eq!(column(&all, "version"), column(&results, "version"));
    assert_consecutive(&column(&results, "version"));
    let sizes = stubborn.sizes.lock().expect("no panic").clone();
    assert_eq!(sizes.len(), 7);
    assert!(
        sizes.iter().all(|size| *size == sizes[0] && *size >= 100),
        "{sizes:?}"
    );
}

/// Commits with conditions on more than one feed wait. Each feed has two: its entries are two ranges.
struct Held(Semaphore);

#[async_trait]
impl Trouble for Held {
    async fn before_commit(&self, batch: &Batch) -> Result<()> {
        if batch.conditions.len() > 2 {
            // Until it is closed.
            let _ = self.0.acquire().await;
        }
        Ok(())
    }
}

async fn an_atomic_append_that_waits_holds_up_no_other_event(bed: &Bed) {
    // More than there can be in flight.
    const ATOMIC_APPENDS: usize = 40;
    let held = Arc::new(Held(Semaphore::new(0)));
    let node = bed.node_on(troubled(bed.store(), Arc::clone(&held))).await;
    let pair = |n: usize| {
        let event = |side: usize| {
            let slot = format!("slot:{n}:{side}");
            expecting(visit(&format!("{n} {side}"), &[&slot]), &slot, &Value::Null)
        };
        json!([event(0), event(1)])
    };
    let waiting = futures_util::future::join_all((0..ATOMIC_APPENDS).map(|n| {
        let (node, pair) = (&node, pair(n));
        async move { append(node, &pair).await }
    }));
    let others = async {
        for n in 0..10 {
            node.append(&visits(&format!("p{n}-"), 10, &["plain"]))
                .await;
            let event = visit(&format!("c{n}"), &[&format!("own:{n}")]);
            node.append(&expecting(event, &format!("own:{n}"), &Value::Null))
                .await;
        }
        held.0.close();
    };
    let (booked, ()) = in_time(async { tokio::join!(waiting, others) }).await;
    assert_eq!(booked.len(), ATOMIC_APPENDS);
}

async fn bodies_that_are_no_atomic_append_are_refused(bed: &Bed) {
    let node = bed.node().await;
    let event = visit("a", &["a"]);
    let many = |count: usize| {
        (0..count)
            .map(|n| visit(&format!("m{n}"), &["a"]))
            .collect::<Value>()
    };
    let conditions = |count: usize| vec![json!({ "feed": "a", "version": null }); count];
    let heavy: Value = (0..100)
        .map(|n| {
            let feeds: Vec<String> = (0..100).map(|n| format!("{n:0255}")).collect();
            json!({ "id": format!("h{n}"), "kind": "message", "feeds": feeds })
        })
        .collect();
    for (body, status, code) in [
        (many(101), 413, "too_many_events"),
        (json!({ "events": many(101) }), 413, "too_many_events"),
        (heavy, 413, "body_too_large"),
        (json!([]), 400, "invalid_body"),
        (json!({ "events": [] }), 400, "invalid_body"),
        (json!({ "events": { "0": event } }), 400, "invalid_body"),
        (json!({ "expect": [] }), 400, "invalid_body"),
        (event.clone(), 400, "invalid_body"),
        (
            json!({ "events": [event], "atomic": true }),
            400,
            "invalid_body",
        ),
        (
            json!({ "events": [event], "expect": conditions(101) }),
            400,
            "invalid_body",
        ),
        (
            json!({ "events": [event], "expect": [{ "feed": "a" }] }),
            400,
            "invalid_body",
        ),
        (
            json!({ "events": [event], "expect": [{ "feed": "a ", "version": null }] }),
            400,
            "invalid_body",
        ),
        (
            json!({ "events": [event], "expect": [{ "feed": "a", "version": "1" }] }),
            400,
            "invalid_body",
        ),
        (json!([message("a", &[])]), 400, "invalid_event"),
        (
            json!([{ "kind": "typing", "feeds": ["a"] }]),
            400,
            "kind_transient",
        ),
    ] {
        let answer = send(&node, &body).await;
        let problem = answer
            .problem(status, code)
            .unwrap_or_else(|error| panic!("{error}"));
        if code == "invalid_body" && body["expect"][0]["feed"] == "a " {
            assert_eq!(problem["field"], "expect[0].feed");
        }
    }
    // Without `atomic=true`, what is missing is told.
    let (status, answer) = node.post("/v1/events", &json!({ "events": [event] })).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_body")));
    assert!(
        text(&answer["detail"]).contains("needs atomic=true"),
        "{answer}"
    );
    let lines = node
        .send_body("POST", ATOMIC, &[NDJSON], format!("{event}\n"))
        .await;
    lines
        .problem(415, "unsupported_media_type")
        .expect("a problem");
    let path = "/v1/events?atomic=yes";
    let answer = node
        .send_body("POST", path, &[JSON], json!([event]).to_string())
        .await;
    answer.problem(400, "invalid_query").expect("a problem");
    assert_eq!(node.all("a").await.len(), 0);
    // At the limits.
    let body = json!({ "events": many(100), "expect": conditions(100) });
    append(&node, &body).await;
    let path = "/v1/events?atomic=false";
    let answer = node
        .send_body("POST", path, &[JSON], json!([event]).to_string())
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_token_needs_the_rights_for_every_event_and_every_expected_feed() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let mut claims = claims("read append", &[]);
    claims["feeds"] = json!({ "read": ["r", "both:*"], "append": ["w", "both:*"] });
    let (name, token) = bearer(&Signer::hs256().sign(&claims));
    let headers = [(name, token.as_str())];
    let condition = |feed: &str| json!({ "feed": feed, "version": null });
    for (feeds, conditions, refused) in [
        (&["w", "both:1"][..], &["both:1", "both:2"][..], None),
        (&["w", "r"], &[], Some(("index", 1, "r"))),
        (&["w"], &["both:3", "w"], Some(("expect_index", 1, "w"))),
        (&["w"], &["r"], Some(("expect_index", 0, "r"))),
        (&["w"], &["x"], Some(("expect_index", 0, "x"))),
    ] {
        let events = feeds
            .iter()
            .map(|feed| json!({ "kind": "visit", "feeds": [feed] }));
        let body = json!({
            "events": events.collect::<Vec<_>>(),
            "expect": conditions.iter().map(|feed| condition(feed)).collect::<Vec<_>>(),
        });
        let answer = ask(&node, "POST", ATOMIC, &headers, Some(&body)).await;
        match refused {
            None => assert_eq!(answer.status, 200),
            Some((member, index, feed)) => {
                let problem = answer.problem(403, "feed_forbidden").expect("a problem");
                assert_eq!(
                    (&problem[member], &problem["feed"]),
                    (&json!(index), &json!(feed))
                );
            }
        }
    }
    // The version of an event that may not be read is not told.
    let (_, writer) = bearer(&Signer::hs256().sign(&crate::auth::claims("append", &["*"])));
    let writing = [(name, writer.as_str())];
    let event = json!({ "id": "secret", "kind": "visit", "feeds": ["hidden"] });
    ask(&node, "POST", "/v1/events", &writing, Some(&event)).await;
    let reused = json!([{ "id": "secret", "kind": "visit", "feeds": ["w"] }]);
    let answer = ask(&node, "POST", ATOMIC, &headers, Some(&reused)).await;
    let problem = answer.problem(409, "id_reused").expect("a problem");
    assert!(problem.get("version").is_none(), "{problem}");
}
