//! Markers: they only move forward, `read` clears unread, and every client is told.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::future::join_all;
use newsfeed::{
    feed::Feeds,
    store::{Batch, Result, keys},
    types::{Marker, ReaderName},
    version::Version,
};
use serde_json::{Value, json};

use super::{column, items, message, visit, visits};
use crate::support::{
    bed::{Bed, Served, text},
    sse::Stream,
    stores::{Trouble, troubled},
};

crate::on_every_engine!(
    a_marker_only_moves_forward,
    read_clears_unread_up_to_it_and_seen_does_not,
    a_moved_marker_is_sent_with_its_count_to_every_client_of_every_node,
    markers_of_feeds_with_many_unread_are_all_sent,
    an_unread_count_kept_from_a_stream_stays_exact,
    marking_read_costs_the_same_however_much_was_unread,
);

/// Moves a marker; returns the state in the answer.
async fn mark(node: &Served, feed: &str, marker: &str, version: &str) -> Value {
    let headers = [("content-type", "application/json")];
    let path = format!("/v1/feeds/{feed}/markers/{marker}");
    let body = json!({ "version": version }).to_string();
    let answer = node.send_body("PUT", &path, &headers, body).await;
    assert_eq!(answer.status, 200);
    answer.json()
}

/// Appends three visits and three messages, alternating; returns their versions.
async fn six(node: &Served, feed: &str) -> Vec<String> {
    let event = |index: usize| match index % 2 {
        0 => visit(&format!("{feed}{index}"), &[feed]),
        _ => message(&format!("{feed}{index}"), &[feed]),
    };
    let events: Value = (0..6).map(event).collect();
    column(items(&node.append(&events).await), "version")
}

async fn a_marker_only_moves_forward(bed: &Bed) {
    let node = bed.node().await;
    let v = six(&node, "a").await;
    for (marker, other) in [("read", "seen"), ("seen", "read")] {
        let others = node.get("/v1/feeds/a").await["markers"][other].clone();
        let now = node.version("a").await;
        let mut highest: Option<&str> = None;
        for to in ["0", &v[2], &v[1], &v[2], "0", &v[4], &now, &v[5]] {
            let state = mark(&node, "a", marker, to).await;
            highest = highest.max((to != "0").then_some(to));
            assert_eq!(state["feed"], "a");
            assert_eq!(state["markers"][marker], json!(highest), "{marker} to {to}");
            assert_eq!(state["markers"][other], others);
            let head = node.get("/v1/feeds/a").await;
            assert_eq!(
                (&head["markers"], &head["unread"]),
                (&state["markers"], &state["unread"])
            );
            assert!(text(&state["version"]) >= now);
        }
    }
    assert_eq!(
        node.get("/v1/feeds/b").await["markers"],
        json!({ "read": null, "seen": null, "archived": null })
    );
}

async fn read_clears_unread_up_to_it_and_seen_does_not(bed: &Bed) {
    let node = bed.node().await;
    let v = six(&node, "a").await;
    six(&node, "b").await;
    let kinds = |count: usize| match count {
        0 => json!({}),
        _ => json!({ "message": count }),
    };
    let state = mark(&node, "a", "seen", &v[5]).await;
    assert_eq!(
        state["unread"],
        json!({ "total": 3, "kinds": kinds(3), "more": false })
    );
    // To entries that count as unread and others, backward, to the last entry, and to a moment.
    let now = node.version("a").await;
    for (to, left) in [
        ("0", 3),
        (&v[0], 3),
        (&v[1], 2),
        (&v[4], 1),
        (&v[2], 1),
        (&v[5], 0),
        (&now, 0),
    ] {
        let state = mark(&node, "a", "read", to).await;
        let expected = json!({ "total": left, "kinds": kinds(left), "more": false });
        assert_eq!(state["unread"], expected, "{to}");
    }
    node.append(&json!([message("new", &["a"]), visit("new-too", &["a"])]))
        .await;
    assert_eq!(node.get("/v1/feeds/a").await["unread"]["total"], 1);
    assert_eq!(node.get("/v1/feeds/b").await["unread"]["total"], 3);
}

async fn a_moved_marker_is_sent_with_its_count_to_every_client_of_every_node(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let v = six(&nodes[0], "a").await;
    let mut streams = Vec::new();
    for path in [
        "/v1/feeds/a/live",
        "/v1/live?feed=b&feed=a",
        "/v1/feeds/a/live?after=0",
    ] {
        for node in &nodes {
            let mut stream = Stream::open(&node.http, &node.url(path), None).await;
            stream.caught_up().await;
            streams.push(stream);
        }
    }
    let url = nodes[0].url("/v1/feeds/other/live");
    let mut bystander = Stream::open(&nodes[0].http, &url, None).await;
    bystander.caught_up().await;
    for (index, (marker, to)) in [
        ("read", &v[1]),
        ("seen", &v[5]),
        ("read", &v[3]),
        ("read", &v[5]),
    ]
    .into_iter()
    .enumerate()
    {
        let state = mark(&nodes[index % 2], "a", marker, to).await;
        for stream in &mut streams {
            let event = stream.next_of(&["marker"]).await;
            assert_eq!((event.id, &event.data["feed"]), (None, &json!("a")));
            assert_eq!(event.data["markers"], state["markers"]);
            assert_eq!(event.data["unread"], state["unread"]);
        }
    }
    // A stream of another feed gets nothing of it.
    nodes[0].append(&visit("x", &["other"])).await;
    assert_eq!(bystander.next_of(&["marker", "entry"]).await.name, "entry");
}

async fn markers_of_feeds_with_many_unread_are_all_sent(bed: &Bed) {
    const UNREAD: usize = 1_000;
    let node = bed.node().await;
    let feeds: Vec<String> = (0..12).map(|index| format!("f{index}")).collect();
    let names: Vec<&str> = feeds.iter().map(String::as_str).collect();
    let events = (0..UNREAD).map(|index| message(&format!("m{index}"), &names));
    let appended = node.append(&events.collect()).await;
    let last = column(items(&appended), "version").pop().expect("many");
    let query = feeds.iter().map(|feed| format!("feed={feed}&"));
    let url = node.url(&format!("/v1/live?{}", query.collect::<String>()));
    let mut stream = Stream::open(&node.http, &url, None).await;
    stream.caught_up().await;
    // A round of live delivery counts no more than a few of them.
    for marker in ["seen", "read"] {
        join_all(feeds.iter().map(|feed| mark(&node, feed, marker, &last))).await;
        let mut left: BTreeSet<&str> = names.iter().copied().collect();
        while !left.is_empty() {
            let event = stream.next_of(&["marker"]).await;
            let unread = if marker == "seen" { UNREAD } else { 0 };
            if event.data["markers"][marker] == last {
                assert_eq!(event.data["unread"]["total"], unread, "{}", event.data);
                left.remove(event.data["feed"].as_str().expect("a name"));
            }
        }
    }
}

/// The unread count as a client computes it: the last `marker` event, plus the `notify` events above it.
#[derive(Default)]
struct Badge {
    marked: Value,
    above: Vec<String>,
}

impl Badge {
    /// Reads until entry `last` and a `read` marker at `read` have arrived.
    async fn follow(&mut self, stream: &mut Stream, last: &str, read: &str) {
        let mut seen_last = false;
        while !seen_last || self.marked["markers"]["read"] != read {
            let event = stream.next_of(&["marker", "notify"]).await;
            if event.name == "marker" {
                self.marked = event.data;
            } else {
                seen_last |= event.data["id"] == last;
                self.above.push(event.id.expect("an entry's version"));
            }
        }
    }

    fn shown(&self) -> usize {
        let marked = text(&self.marked["version"]);
        let above = self
            .above
            .iter()
            .filter(|&version| *version > marked)
            .count();
        self.marked["unread"]["total"].as_u64().expect("a count") as usize + above
    }
}

async fn an_unread_count_kept_from_a_stream_stays_exact(bed: &Bed) {
    let nodes = [Arc::new(bed.node().await), Arc::new(bed.node().await)];
    nodes[0].append(&visits("old", 3, &["a"])).await;
    let mut clients = Vec::new();
    for node in &nodes {
        let url = node.url("/v1/feeds/a/live?after=0");
        clients.push((Badge::default(), Stream::open(&node.http, &url, None).await));
    }
    for round in 0..10 {
        // Messages are appended through one node while they are marked as read through the other.
        let writer = tokio::spawn({
            let node = Arc::clone(&nodes[round % 2]);
            async move {
                for index in 0..10 {
                    node.append(&message(&format!("m{round}-{index}"), &["a"]))
                        .await;
                }
            }
        });
        let reader = &nodes[(round + 1) % 2];
        let mut read = text(&reader.get("/v1/feeds/a").await["latest"]);
        for _ in 0..5 {
            mark(reader, "a", "read", &read).await;
            read = text(&reader.get("/v1/feeds/a").await["latest"]);
        }
        mark(reader, "a", "read", &read).await;
        writer.await.expect("no panic");
        let unread = reader.get("/v1/feeds/a").await["unread"]["total"].clone();
        for (badge, stream) in &mut clients {
            badge.follow(stream, &format!("m{round}-9"), &read).await;
            assert_eq!(json!(badge.shown()), unread, "round {round}");
        }
    }
}

/// What a move of a marker costs the store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Cost {
    reads: usize,
    writes: usize,
    clears: usize,
}

/// Adds up what commits cost.
#[derive(Default)]
struct Costs {
    reads: AtomicUsize,
    writes: AtomicUsize,
    clears: AtomicUsize,
}

impl Costs {
    fn take(&self) -> Cost {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::SeqCst);
        Cost {
            reads: take(&self.reads),
            writes: take(&self.writes),
            clears: take(&self.clears),
        }
    }
}

#[async_trait]
impl Trouble for Costs {
    async fn before_read(&self) -> Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn before_commit(&self, batch: &Batch) -> Result<()> {
        let writes = batch.puts.len() + batch.maxima.len() + batch.versioned.len();
        self.writes.fetch_add(writes, Ordering::SeqCst);
        self.clears.fetch_add(batch.clears.len(), Ordering::SeqCst);
        Ok(())
    }
}

async fn marking_read_costs_the_same_however_much_was_unread(bed: &Bed) {
    let node = bed.node().await;
    let fill = async |feed: &str, count: usize| {
        let mut versions = Vec::new();
        for begin in (0..count).step_by(1_000) {
            let event = |index: usize| message(&format!("{feed} {index}"), &[feed]);
            let events = (begin..count.min(begin + 1_000)).map(event).collect();
            versions.extend(column(items(&node.append(&events).await), "version"));
        }
        versions
    };
    let (few, many) = (fill("few", 2).await, fill("many", 5_000).await);

    let costs = Arc::new(Costs::default());
    let (store, keys) = (troubled(bed.store(), Arc::clone(&costs)), bed.keys().await);
    let feeds = Feeds::new(store, keys.clone());
    let mark = async |feed: &str, version: &str| {
        let feed = feed.parse().expect("a name");
        let version: Version = version.parse().expect("a version");
        let moved = feeds
            .move_marker(&feed, &ReaderName::OWN, Marker::Read, version)
            .await;
        moved.expect("the marker moves");
        costs.take()
    };
    // The first move also reads the lineage of the store.
    mark("few", &few[0]).await;
    let cheap = mark("few", &few[1]).await;
    assert_eq!((cheap.writes, cheap.clears), (2, 0));
    assert_eq!(mark("many", &many[4_499]).await, cheap);
    assert_eq!(node.get("/v1/feeds/few").await["unread"]["total"], 0);
    assert_eq!(node.get("/v1/feeds/many").await["unread"]["total"], 500);
    let again = node.append(&message("more", &["many"])).await;
    assert_eq!(node.get("/v1/feeds/many").await["unread"]["total"], 501);
    assert_eq!(mark("many", &text(&again["version"])).await, cheap);
    let unread = &node.get("/v1/feeds/many").await["unread"];
    assert_eq!(
        (&unread["total"], &unread["more"]),
        (&json!(0), &json!(false))
    );

    // Nothing was cleared.
    let feed = keys.feed(&"many".parse().expect("a name"));
    let all = keys::entries(&feed, None, Version::MAX, false, usize::MAX, usize::MAX);
    let snapshot = bed.store().snapshot().await.expect("a snapshot");
    let slices = snapshot.ranges(vec![all]).await.expect("read");
    assert_eq!(slices[0].items.len(), 5_001);
}
