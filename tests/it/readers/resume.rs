//! No gap and no overlap: streams resumed at every position, history joined with live at any moment, slow readers.

use std::sync::Arc;

use futures_util::stream;
use newsfeed::{live::QUEUE_ITEMS_MAX, types::FeedName};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::JoinSet,
};

use crate::support::{
    background::{BackgroundAppends, END, append, event, first_of_each},
    bed::{Bed, Served},
    entries::{path, shown_in, walk},
    follower::{Live, Recorder, check_recorder},
    model::{Commit, Model, Shown, fresh_feeds},
    patience::in_time,
    raw_commits::{Raw, uncommitted},
    sse::{Event, Stream},
};

crate::on_every_engine!(
    resuming_at_every_event_continues_right_after_it,
    a_client_that_reconnects_all_the_time_under_load_has_exactly_the_feed,
    history_up_to_vn_and_live_after_it_are_the_feed_whenever_and_wherever_one_joins,
    a_subscriber_whose_queue_overflows_still_gets_everything,
    a_client_that_stops_reading_its_socket_still_gets_everything,
);

async fn resuming_at_every_event_continues_right_after_it(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let feeds = fresh_feeds(&bed.keys().await, "resume");
    let mut model = Model::default();
    append(
        &nodes[0],
        &mut model,
        (0..25).map(|n| event(n, &feeds)).collect(),
    )
    .await;
    for feeds in [&feeds[..1], &feeds[1..], &feeds[..]] {
        let url = format!("{}after=0", path(feeds, "live"));
        let events = in_time(record(&nodes, &mut model, &url, feeds)).await;
        let all = shown_in(&events, feeds);
        assert_eq!(all, model.merged(feeds));
        assert!(events.iter().any(|event| event.name == "version"));
        assert!(events.iter().any(|event| event.name == "transient"));

        let mut last_id = None;
        for (index, event) in events.iter().enumerate() {
            last_id = event.id.as_deref().or(last_id);
            let Some(last_id) = last_id else { continue };
            // `Last-Event-ID` takes precedence over `after`, which a browser repeats when it reconnects.
            let url = nodes[index % 2].url(&url);
            let mut stream = Stream::open(&nodes[0].http, &url, Some(last_id)).await;
            let rest = in_time(stream.caught_up()).await;
            let before = shown_in(&events[..=index], feeds).len();
            assert_eq!(shown_in(&rest, feeds), all[before..], "after {event:?}");
        }
    }
}

/// The events of a stream: those it catches up with, then live ones, among them transients and moved markers, to the
/// last event.
async fn record(
    nodes: &[Served; 2],
    model: &mut Model,
    url: &str,
    feeds: &[FeedName],
) -> Vec<Event> {
    let mut stream = Stream::open(&nodes[0].http, &nodes[0].url(url), None).await;
    let mut events = Vec::new();
    while events
        .last()
        .is_none_or(|event: &Event| event.name != "version")
    {
        events.push(stream.next().await.expect("the stream goes on"));
    }
    for _ in 0..6 {
        let number = model.0.len();
        append(&nodes[number % 2], model, vec![event(number, feeds)]).await;
        let name = feeds[0].as_str();
        let typing = json!({ "kind": "typing", "feeds": [name] });
        assert_eq!(nodes[1].post("/v1/transient", &typing).await.0, 202);
        let put = nodes[0]
            .http
            .put(nodes[0].url(&format!("/v1/feeds/{name}/markers/read")));
        let version = nodes[0].version(name).await;
        let moved = put.json(&json!({ "version": version })).send().await;
        assert_eq!(moved.expect("an answer").status(), 200);
    }
    let end = json!({ "id": url, "kind": "visit", "feeds": feeds.iter().map(FeedName::as_str).collect::<Vec<_>>() });
    append(&nodes[1], model, vec![end]).await;
    while events.last().is_none_or(|event| event.data["id"] != url) {
        events.push(stream.next().await.expect("the stream goes on"));
    }
    events
}

async fn a_client_that_reconnects_all_the_time_under_load_has_exactly_the_feed(bed: &Bed) {
    let nodes = Arc::new([bed.node().await, bed.node().await]);
    let feeds = fresh_feeds(&bed.keys().await, "reconnect");
    let loads = nodes
        .each_ref()
        .map(|node| BackgroundAppends::start(node, &feeds, 500));
    let mut clients = JoinSet::new();
    for feeds in [&feeds[..1], &feeds[1..], &feeds[..]] {
        clients.spawn(reconnect_to_the_end(Arc::clone(&nodes), feeds.to_vec()));
    }
    let model = first_of_each(loads).await;
    for (feeds, entries) in in_time(clients.join_all()).await {
        assert_eq!(entries, model.merged(&feeds));
    }
}

/// Reads a few events per connection, from either node, until the last event.
async fn reconnect_to_the_end(
    nodes: Arc<[Served; 2]>,
    feeds: Vec<FeedName>,
) -> (Vec<FeedName>, Vec<Shown>) {
    let mut events: Vec<Event> = Vec::new();
    let mut last_id = None;
    while events.last().is_none_or(|event| event.data["id"] != END) {
        let node = &nodes[rand::random_range(0..2)];
        let url = node.url(&format!("{}after=0", path(&feeds, "live")));
        let mut stream = Stream::open(&node.http, &url, last_id.as_deref()).await;
        for _ in 0..rand::random_range(1..10) {
            events.push(stream.next().await.expect("the stream goes on"));
            if events.last().is_some_and(|event| event.data["id"] == END) {
                break;
            }
        }
        last_id = stream.last_id.or(last_id);
    }
    let entries = shown_in(&events, &feeds);
    (feeds, entries)
}

async fn history_up_to_vn_and_live_after_it_are_the_feed_whenever_and_wherever_one_joins(
    bed: &Bed,
) {
    let nodes = Arc::new([bed.node().await, bed.node().await]);
    let feeds = fresh_feeds(&bed.keys().await, "join");
    let mut loads = nodes
        .each_ref()
        .map(|node| BackgroundAppends::start(node, &feeds, 480));
    let mut clients = JoinSet::new();
    for number in 0..24 {
        loads[0].reaches(20 * number).await;
        let feeds = if number % 3 == 0 {
            &feeds[..1]
        } else {
            &feeds[..]
        };
        clients.spawn(join(Arc::clone(&nodes), feeds.to_vec(), number));
    }
    let model = first_of_each(loads).await;
    for (feeds, entries) in in_time(clients.join_all()).await {
        assert_eq!(entries, model.merged(&feeds));
    }
}

/// The feed's version, history and live stream, each from either node.
async fn join(
    nodes: Arc<[Served; 2]>,
    feeds: Vec<FeedName>,
    number: usize,
) -> (Vec<FeedName>, Vec<Shown>) {
    let node = |bit: usize| &nodes[number >> bit & 1];
    let now = node(0).version(feeds[0].as_str()).await;
    let pages = format!("{}limit=50&until={now}&", path(&feeds, "entries"));
    let mut entries = walk(node(1), &pages, "", &feeds).await;
    entries.reverse();
    let live = node(2).url(&format!("{}after={now}", path(&feeds, "live")));
    let mut live = Stream::open(&node(2).http, &live, None).await;
    while entries.last().is_none_or(|entry| entry.id != END) {
        let event = live.next_of(&["entry", "notify"]).await;
        entries.extend(shown_in(&[event], &feeds));
    }
    (feeds, entries)
}

async fn a_subscriber_whose_queue_overflows_still_gets_everything(bed: &Bed) {
    let raw = Raw::new(bed).await;
    let live = Live::start(raw.store.clone(), raw.keys.clone());
    let feeds = fresh_feeds(&raw.keys, "slow");
    let mut slow = live.follow(&feeds, None).await;
    let mut quick = live.follow(&feeds, None).await;
    let mut model = Model::default();
    for times in 1..=3 {
        for _ in 0..QUEUE_ITEMS_MAX / 10 + 10 {
            let id = |index| format!("{} {index}", model.0.len());
            let mut commits: Vec<Commit> = (0..10)
                .map(|index| uncommitted(&id(index), "visit", &feeds, 0))
                .collect();
            raw.commit(1, &mut commits).await;
            model.0.extend(commits);
            let all = model.0.len();
            quick.until(|quick| quick.entries.len() == all).await;
        }
        // Reads little, so that the next round finds it reading pages.
        let before = slow.entries.len();
        slow.until(|slow| slow.entries.len() > before).await;
        assert!(
            slow.entries.len() < model.0.len(),
            "it read everything in round {times}"
        );
    }
    let all = |recorder: &Recorder| recorder.entries.len() >= model.0.len();
    slow.until(all).await;
    for recorder in [&slow, &quick] {
        check_recorder(recorder, &model, newsfeed::version::Version::ZERO);
    }
    assert_eq!(quick.states, feeds.len(), "it never fell back to pages");
    slow.until(|slow| slow.states > feeds.len()).await;
}

async fn a_client_that_stops_reading_its_socket_still_gets_everything(bed: &Bed) {
    let node = bed.node().await;
    let feeds = fresh_feeds(&bed.keys().await, "socket");
    let url = format!("{}after=0", path(&feeds, "live"));
    let mut stopped = small_socket(&node, &url).await;
    let mut quick = Stream::open(&node.http, &node.url(&url), None).await;
    assert!(stopped.caught_up().await.is_empty());

    let mut model = Model::default();
    let data = "x".repeat(20_000);
    // More than the sockets' buffers and a full queue can hold.
    for _ in 0..12 {
        let mut events: Vec<_> = (0..50).map(|n| event(model.0.len() + n, &feeds)).collect();
        for event in &mut events {
            event["data"] = json!(data);
        }
        append(&node, &mut model, events).await;
        for _ in 0..50 {
            quick.next_of(&["entry", "notify"]).await;
        }
    }
    let mut entries = Vec::new();
    let mut markers = 0;
    while entries.len() < model.0.len() {
        let Some(event) = stopped.next().await else {
            // The appends took so long that the service has cut the connection.
            let after = stopped.last_id.take().expect("a position");
            let url = format!("{}after={after}", path(&feeds, "live"));
            stopped = small_socket(&node, &url).await;
            continue;
        };
        markers += usize::from(event.name == "marker");
        entries.extend(shown_in(&[event], &feeds));
    }
    assert!(
        entries == model.merged(&feeds),
        "entries are missing, doubled or out of order"
    );
    while markers == 0 {
        // It fell back to pages, so the feeds' states are sent again.
        markers += usize::from(stopped.next_of(&["marker"]).await.name == "marker");
    }
}

/// A stream over a socket with a very small buffer.
async fn small_socket(node: &Served, url: &str) -> Stream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut socket = socket.connect(node.address).await.expect("connects");
    // An HTTP/1.0 body has no chunks.
    let request = format!("GET {url} HTTP/1.0\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a head"));
    }
    assert!(
        head.starts_with(b"HTTP/1.0 200"),
        "{:?}",
        String::from_utf8(head)
    );
    Stream::over(stream::unfold(socket, async |mut socket| {
        let mut chunk = bytes::BytesMut::with_capacity(64 * 1024);
        match socket.read_buf(&mut chunk).await {
            Ok(0) => None,
            read => Some((read.map(|_| chunk.freeze()), socket)),
        }
    }))
}
