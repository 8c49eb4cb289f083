//! Indexes, which nodes derive from the log: every reader sees what a plain filter of the model says, however far they are,
//! and whichever nodes work on them.

pub mod derived;
mod lags;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use newsfeed::{
    feed::Feeds,
    log::{self, LogEvent},
    projection::{Events, Limits, Projection, Settings, Step, Turn, Wanted, checkpoints},
    store::{Batch, Error, Range, Result, Snapshot, Store, keys::Keys, transact_until},
    types::{FeedName, Kind},
    version::Version,
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    on_every_engine,
    operate::scrape::Scrape,
    support::{
        background::{BackgroundAppends, append, event, first_of_each},
        bed::{Bed, Served, default_settings, text},
        entries::{path, shown_in, walk},
        gate::Gate,
        model::{Model, Shown, check_pages, feed_name, fresh_feeds},
        patience::{in_time, until},
        sse::{Event, Stream},
        stores::{Trouble, failed_attempts, troubled},
    },
};

on_every_engine!(
    readers_of_kinds_are_exact_at_every_lag_and_without_any_index,
    nodes_share_the_steps_of_a_new_index_over_an_old_store_and_each_is_taken_once,
    another_node_goes_on_when_one_stops_in_the_middle_of_a_step,
    the_lag_is_known_in_events,
    appends_do_not_conflict_with_steps,
    a_stream_of_kinds_has_only_these_and_misses_none,
);

fn kind(name: &str) -> Kind {
    name.parse().expect("a kind")
}

fn projections() -> Vec<Projection> {
    Projection::of(true, [kind("visit"), kind("message")])
}

fn limits(events: usize) -> Limits {
    Limits {
        events,
        ..Limits::default()
    }
}

async fn step(store: &dyn Store, keys: &Keys, turn: Turn, events: usize) -> bool {
    take_step(store, keys, &projections(), turn, events).await
}

/// A step of those that are furthest behind; whether all are complete now.
async fn step_of(store: &dyn Store, keys: &Keys, of: &[Projection], events: usize) -> bool {
    take_step(store, keys, of, Turn::Last, events).await
}

async fn take_step(
    store: &dyn Store,
    keys: &Keys,
    of: &[Projection],
    turn: Turn,
    events: usize,
) -> bool {
    let mut step = Step::new(keys, of, turn, limits(events));
    let progress = transact_until(store, &mut step, Instant::now()).await;
    progress.expect("nobody else takes steps").is_complete
}

/// Compares reading the log by kinds with the model.
async fn check_log(store: &dyn Store, keys: &Keys, model: &Model, kinds: &[&str]) {
    let snapshot = store.snapshot().await.expect("a snapshot");
    let wanted = Wanted {
        kinds: kinds.iter().map(|name| kind(name)).collect(),
        actors: Vec::new(),
    };
    let range = (Version::ZERO, snapshot.version());
    let limits = log::Limits {
        keys: 10_000,
        bytes: usize::MAX,
        events: 100,
    };
    let of = |event: LogEvent| (event.entry.version, event.entry.id.to_string(), event.feeds);
    let commits = model.0.iter().filter(|it| kinds.contains(&&*it.kind));
    let mut expected: Vec<_> = commits
        .map(|it| (it.version, it.id.clone(), it.feeds.clone()))
        .collect();
    for newest_first in [false, true] {
        let wanted = wanted.clone();
        let mut events = match newest_first {
            true => Events::newest_first(&*snapshot, keys, wanted, range, limits).await,
            false => Events::oldest_first(&*snapshot, keys, wanted, range, limits).await,
        }
        .expect("opened");
        let mut found = Vec::new();
        while let Some(event) = events.next(&*snapshot).await.expect("read") {
            found.push(of(event));
        }
        assert!(events.is_done());
        assert_eq!(found, expected, "{kinds:?}, newest first: {newest_first}");
        expected.reverse();
    }
}

async fn readers_of_kinds_are_exact_at_every_lag_and_without_any_index(bed: &Bed) {
    let node = bed.node().await;
    let (store, keys) = (bed.store(), bed.keys().await);
    let reader = Feeds::new(Arc::clone(&store), keys.clone());
    let feeds = fresh_feeds(&keys, "lag");
    let mut model = Model::default();
    for round in 0..10 {
        let next = model.0.len();
        let events = (next..next + 1 + round % 5).map(|number| event(number, &feeds));
        append(&node, &mut model, events.collect()).await;
        // From nothing at all to some events behind, or none.
        if round > 1 {
            let turn = [Turn::First, Turn::Last][round % 2];
            step(&*store, &keys, turn, [1, 3, 4][round % 3]).await;
        }
        for kinds in [&["visit"][..], &["message", "visit"], &["other", "visit"]] {
            check_log(&*store, &keys, &model, kinds).await;
            let query: String = kinds.iter().map(|kind| format!("kind={kind}&")).collect();
            for feeds in [&feeds[..1], &feeds[..]] {
                let mut expected = model.merged(feeds);
                expected.retain(|shown| kinds.contains(&&*shown.kind));
                let path = format!("{}{query}limit=2&", path(feeds, "entries"));
                assert_eq!(walk(&node, &path, "after=0", feeds).await, expected);
                expected.reverse();
                assert_eq!(walk(&node, &path, "", feeds).await, expected);
            }
        }
    }
    let kinds = ["visit", "message"];
    check_pages(&reader, &model, &feeds, &[1, 5], &kinds).await;
    while !step(&*store, &keys, Turn::Last, 100).await {}
    check_pages(&reader, &model, &feeds, &[1, 5], &kinds).await;
    check_log(&*store, &keys, &model, &kinds).await;
    node.stop().await;
}

/// A node that works on [`projections`], in small steps.
async fn working_node(bed: &Bed, store: Arc<dyn Store>) -> Served {
    let mut settings = default_settings();
    settings.wall = bed.wall.clone();
    settings.projections = Settings {
        projections: projections(),
        limits: limits(20),
    };
    bed.node_as(store, settings).await
}

/// Waits until all projections have reached `version`.
async fn reached(store: &dyn Store, keys: &Keys, version: Version) {
    until("the projections", async || {
        let snapshot = store.snapshot().await.expect("a snapshot");
        let read = checkpoints(&*snapshot, keys, &projections()).await;
        let all = read.expect("read");
        all.iter().all(|it| *it >= version).then_some(())
    })
    .await;
}

/// The number of keys under a prefix.
async fn count(store: &dyn Store, prefix: Vec<u8>) -> usize {
    let end = [&prefix[..], &[0xff; 17]].concat();
    let snapshot = store.snapshot().await.expect("a snapshot");
    let found = snapshot.ranges(vec![Range::all(prefix, end)]).await;
    found.expect("read")[0].items.len()
}

/// What all nodes together have counted.
async fn total(nodes: &[Served], series: &str) -> usize {
    let mut sum = 0.0;
    for node in nodes {
        sum += Scrape::of(node).await.get(series);
    }
    sum as usize
}

async fn nodes_share_the_steps_of_a_new_index_over_an_old_store_and_each_is_taken_once(bed: &Bed) {
    const EVENTS: usize = 600;
    let (store, keys) = (bed.store(), bed.keys().await);
    let old = bed.node().await;
    let feeds = [feed_name("share.0"), feed_name("share.1")];
    let mut model = Model::default();
    for first in (0..EVENTS).step_by(100) {
        let events = (first..first + 100).map(|number| event(number, &feeds));
        append(&old, &mut model, events.collect()).await;
    }
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(working_node(bed, bed.store()).await);
    }
    let more = (EVENTS..EVENTS + 100).map(|number| event(number, &feeds));
    append(&nodes[1], &mut model, more.collect()).await;
    reached(&*store, &keys, model.0.last().expect("events").version).await;

    let mut indexed = 0;
    for kind in ["message", "visit", "other"].map(kind) {
        indexed += count(&*store, keys.log_by_kind(&kind)).await;
    }
    assert_eq!(indexed, EVENTS + 100);
    for feed in &feeds {
        let visits = model.merged(std::slice::from_ref(feed));
        let visits = visits.iter().filter(|shown| shown.kind == "visit");
        let derived = count(&*store, keys.feed_by_kind(feed, &kind("visit"))).await;
        assert_eq!(derived, visits.count());
    }
    // A node counts a step after its commit.
    let series = |name: &str| format!(r#"newsfeed_projection_events_total{{projection="{name}"}}"#);
    for name in ["log_by_kind", "log_by_actor"] {
        until("all nodes have counted", async || {
            let counted = total(&nodes, &series(name)).await;
            assert!(counted <= EVENTS + 100, "{name}: a step counts twice");
            (counted == EVENTS + 100).then_some(())
        })
        .await;
    }
    // Every node knows when there is nothing left to do.
    for node in &nodes {
        until("no lag", async || {
            let scrape = Scrape::of(node).await;
            let lag = |name: &str| {
                scrape.get(&format!(
                    r#"newsfeed_projection_lag_{name}{{projection="feed_by_kind"}}"#
                ))
            };
            let lags = ["ticks", "events", "seconds"].map(lag);
            (lags == [0.0; 3]).then_some(())
        })
        .await;
        let health = node.get("/healthz").await;
        assert_eq!(health["checks"]["projections"], "ok");
    }
    check_log(&*store, &keys, &model, &["visit"]).await;
    old.leave();
}

/// Lets as many commits through as there are permits.
struct Permitted(Semaphore);

#[async_trait]
impl Trouble for Permitted {
    async fn before_commit(&self, _batch: &Batch) -> Result<()> {
        let permit = self.0.acquire().await;
        permit.expect("never closed").forget();
        Ok(())
    }
}

/// A node that is behind says by how many events.
async fn the_lag_is_known_in_events(bed: &Bed) {
    let old = bed.node().await;
    let feeds = [feed_name("behind")];
    let mut model = Model::default();
    let events = (0..100).map(|number| event(number, &feeds));
    append(&old, &mut model, events.collect()).await;
    let permits = Arc::new(Permitted(Semaphore::new(1)));
    let node = working_node(bed, troubled(bed.store(), Arc::clone(&permits))).await;
    let lag = async |of: &str| {
        let series = format!(r#"newsfeed_projection_lag_events{{projection="{of}"}}"#);
        Scrape::of(&node).await.get(&series)
    };
    // Steps of 20 events.
    for of in ["log_by_kind", "log_by_actor", "feed_by_kind"] {
        until("the count after the first step", async || {
            (lag(of).await == 80.0).then_some(())
        })
        .await;
    }
    permits.0.add_permits(1_000);
    until("no lag", async || {
        (lag("log_by_kind").await == 0.0).then_some(())
    })
    .await;
}

async fn another_node_goes_on_when_one_stops_in_the_middle_of_a_step(bed: &Bed) {
    let (store, keys) = (bed.store(), bed.keys().await);
    let old = bed.node().await;
    let feeds = [feed_name("killed")];
    let mut model = Model::default();
    append(
        &old,
        &mut model,
        (0..100).map(|number| event(number, &feeds)).collect(),
    )
    .await;
    let gate = Gate::open();
    gate.hold(true);
    let its_store = bed.store();
    let stuck = working_node(bed, troubled(Arc::clone(&its_store), gate.clone())).await;
    in_time(gate.something_is_held()).await;
    let began = Instant::now();
    let other = working_node(bed, bed.store()).await;
    reached(&*store, &keys, model.0.last().expect("events").version).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    // What the first node wanted to commit is refused now, if it comes after all.
    gate.hold(false);
    until("a lost step", async || {
        let failed = failed_attempts(&*its_store, "projection");
        // On FoundationDB the transaction may have become too old before.
        let codes = ["conflict", "condition_failed", "too_old"];
        let is_refused = codes.iter().any(|code| failed.contains_key(code));
        is_refused.then_some(())
    })
    .await;
    let series = r#"newsfeed_projection_events_total{projection="log_by_kind"}"#;
    until("the other node has counted", async || {
        let counted = total(std::slice::from_ref(&other), series).await;
        (counted == 100).then_some(())
    })
    .await;
    assert_eq!(total(&[stuck], series).await, 0);
    check_log(&*store, &keys, &model, &["message", "other"]).await;
}

/// Counts the commits of appends, and those that were refused. Steps write no versioned keys.
#[derive(Default)]
struct Appends {
    attempts: AtomicUsize,
    refused: AtomicUsize,
}

#[async_trait]
impl Trouble for Appends {
    async fn commit(&self, snapshot: Box<dyn Snapshot>, batch: Batch) -> Result<Version> {
        let appends = !batch.versioned.is_empty();
        // On the embedded engine, such a commit is refused if another one has taken an id meanwhile.
        let may_conflict = batch.unclaimed;
        let committed = snapshot.commit(batch).await;
        if appends {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let is_refused = match committed {
                Err(Error::ConditionFailed(_)) => true,
                Err(Error::Conflict) => !may_conflict,
                _ => false,
            };
            self.refused
                .fetch_add(usize::from(is_refused), Ordering::Relaxed);
        }
        committed
    }
}

async fn appends_do_not_conflict_with_steps(bed: &Bed) {
    let appends = Arc::new(Appends::default());
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let store = troubled(bed.store(), Arc::clone(&appends));
        nodes.push(working_node(bed, store).await);
    }
    let feeds = [feed_name("busy.0"), feed_name("busy.1")];
    // The same events, so that the appends of one are duplicates of another's, or twins.
    let loads: Vec<_> = nodes
        .iter()
        .map(|node| BackgroundAppends::start(node, &feeds, 400))
        .collect();
    let model = first_of_each(loads).await;
    let last = model.0.last().expect("events").version;
    reached(&*bed.store(), &bed.keys().await, last).await;
    let series = r#"newsfeed_projection_steps_total{projection="log_by_kind",outcome="won"}"#;
    let steps = total(&nodes, series).await;
    assert!(steps > 1, "no steps meanwhile");
    let attempts = appends.attempts.load(Ordering::Relaxed);
    assert!(attempts > 100, "{attempts} commits");
    assert_eq!(appends.refused.load(Ordering::Relaxed), 0);
    for node in nodes {
        node.leave();
    }
}

/// The next event. A stream ends when the store does not answer, as on a busy machine, and is resumed then.
async fn next_or_resumed(node: &Served, url: &str, stream: &mut Stream) -> Event {
    loop {
        match in_time(stream.next()).await {
            Some(event) if event.name != "bye" => return event,
            _ => {
                let last = stream.last_id.clone();
                *stream = Stream::open(&node.http, url, last.as_deref()).await;
            }
        }
    }
}

async fn a_stream_of_kinds_has_only_these_and_misses_none(bed: &Bed) {
    let node = bed.node().await;
    let feeds = [feed_name("stream.0"), feed_name("stream.1")];
    let mut model = Model::default();
    let events = |range: std::ops::Range<usize>| -> Vec<Value> {
        range.map(|number| event(number, &feeds)).collect()
    };
    // More than a page of catching up.
    append(&node, &mut model, events(0..700)).await;
    let url = node.url(&format!(
        "{}after=0&kind=visit&kind=message&kind=visit",
        path(&feeds, "live")
    ));
    let mut stream = Stream::open(&node.http, &url, None).await;
    let mut seen = Vec::new();
    loop {
        let event = next_or_resumed(&node, &url, &mut stream).await;
        match &*event.name {
            "version" => break,
            "entry" | "notify" => seen.push(event),
            _ => {}
        }
    }
    append(&node, &mut model, events(700..760)).await;
    let typing = |feed: &FeedName, kind: &str| json!({ "kind": kind, "feeds": [feed.as_str()] });
    let sent = node
        .post("/v1/transient", &typing(&feeds[0], "typing"))
        .await;
    assert_eq!(sent.0, 202);
    append(
        &node,
        &mut model,
        vec![json!({ "id": "end", "kind": "visit", "feeds": ["stream.1"] })],
    )
    .await;
    loop {
        let event = next_or_resumed(&node, &url, &mut stream).await;
        assert_ne!(event.name, "transient");
        let is_end = event.data["id"] == "end";
        seen.push(event);
        if is_end {
            break;
        }
    }
    let mut expected: Vec<Shown> = model.merged(&feeds);
    expected.retain(|shown| shown.kind != "other");
    let mut got = shown_in(&seen, &feeds);
    for shown in got.iter_mut().chain(&mut expected) {
        if shown.id == "end" {
            shown.data = String::new();
        }
    }
    assert_eq!(got, expected);

    let too_many: String = (0..21).map(|number| format!("kind=k{number}&")).collect();
    for path in ["/v1/feeds/a/entries?", "/v1/feeds/a/live?"] {
        let answer = node.send("GET", &format!("{path}{too_many}"), &[]).await;
        answer.problem(400, "invalid_query").expect("a problem");
    }
    let page = node
        .get("/v1/feeds/stream.1/entries?kind=other&kind=other&limit=1")
        .await;
    assert_eq!(text(&page["entries"][0]["kind"]), "other");
}
