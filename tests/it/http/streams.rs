//! Live streams: their events, where they start and how they end; transients.

use serde_json::{Value, json};

use super::{column, items, message, visit, visits};
use crate::support::{
    bed::{Bed, Served, text},
    entries::{UNKNOWN, ahead},
    gate::Gate,
    sse::{Event, Stream},
    stores::troubled,
};

crate::on_every_engine!(
    a_stream_begins_with_missed_entries_then_states_then_its_position,
    live_events_have_the_documented_names_ids_and_data,
    an_event_in_several_followed_feeds_is_sent_once_and_names_them,
    the_header_precedes_last_event_id_and_that_precedes_after_and_empty_ones_count_as_absent,
    without_a_position_a_stream_starts_from_now,
    a_position_ahead_or_of_another_store_is_reset_and_the_stream_continues,
    a_transient_reaches_live_streams_on_every_node_and_no_history,
    a_graceful_stop_says_bye_and_ends_streams_and_long_polls,
    a_stream_whose_store_fails_says_bye_unavailable,
);

async fn open(node: &Served, path: &str) -> Stream {
    Stream::open(&node.http, &node.url(path), None).await
}

fn ids(events: &[Event]) -> Vec<String> {
    column(events.iter().map(|event| &event.data), "id")
}

async fn a_stream_begins_with_missed_entries_then_states_then_its_position(bed: &Bed) {
    let node = bed.node().await;
    let events = json!([
        visit("old", &["a"]),
        message("m", &["b"]),
        visit("v", &["a", "b"])
    ]);
    let appended = node.append(&events).await;
    let path = format!(
        "/v1/live?feed=b&feed=a&after={}",
        text(&appended[0]["version"])
    );
    let answer = node
        .http
        .get(node.url(&path))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    drop(answer);

    let mut stream = open(&node, &path).await;
    let hello = stream.block().await.expect("a first block");
    let after = text(&appended[0]["version"]);
    let (retry, id) = hello.split_once('\n').expect("two lines");
    assert!(retry.starts_with("retry: "), "{hello}");
    assert_eq!(id, format!("id: {after}"));
    let mut events = Vec::new();
    for name in ["notify", "entry", "marker", "marker", "version"] {
        let event = stream.next().await.expect("an event");
        assert_eq!(event.name, name);
        events.push(event);
    }
    assert_eq!(ids(&events[..2]), ["m", "v"]);
    for (event, result) in events.iter().zip(&items(&appended)[1..]) {
        assert_eq!(event.id, Some(text(&result["version"])));
    }
    let expected = ["b", "a"].map(|feed| (None, json!(feed), json!(usize::from(feed == "b"))));
    let marker = |event: &Event| {
        let data = &event.data;
        (
            event.id.clone(),
            data["feed"].clone(),
            data["unread"]["total"].clone(),
        )
    };
    assert_eq!([marker(&events[2]), marker(&events[3])], expected);
    // The position covers all that was sent, and the stream can be resumed from it.
    let position = text(&events[4].data["version"]);
    assert_eq!(events[4].id.as_ref(), Some(&position));
    assert!(position > text(&appended[2]["version"]));
}

async fn live_events_have_the_documented_names_ids_and_data(bed: &Bed) {
    let node = bed.node().await;
    let mut stream = open(&node, "/v1/feeds/a/live").await;
    stream.caught_up().await;
    let appended = node
        .append(&json!([
            { "id": "m", "kind": "message", "feeds": ["a"], "actor": "x", "data": { "t": [1] } },
            { "id": "f", "kind": "flirt", "feeds": ["a", "z"] },
            { "id": "u", "kind": "unheard-of", "feeds": ["a"] },
        ]))
        .await;
    for (index, name) in ["notify", "entry", "entry"].into_iter().enumerate() {
        let event = stream.next_of(&["entry", "notify", "transient"]).await;
        let version = &appended[index]["version"];
        assert_eq!((event.name.as_str(), event.id), (name, Some(text(version))));
        // The same as in a page.
        let mut entry = node.all("a").await[index].clone();
        entry["feed"] = json!("a");
        if name == "notify" {
            entry["unread"] = json!({ "total": 1, "kinds": { "message": 1 }, "more": false });
        }
        assert_eq!(event.data, entry);
    }
    let signal = json!({ "kind": "typing", "feeds": ["a"], "actor": "x", "data": 1, "id": "t" });
    assert_eq!(
        node.post("/v1/transient", &signal).await,
        (202, json!({ "id": "t" }))
    );
    let event = stream.next_of(&["entry", "notify", "transient"]).await;
    assert_eq!((event.name.as_str(), &event.id), ("transient", &None));
    let at = event.data["at"].clone();
    let expected =
        json!({ "feed": "a", "id": "t", "kind": "typing", "actor": "x", "at": at, "data": 1 });
    assert_eq!(event.data, expected);
    let version = text(&appended[0]["version"]);
    let (_, state) = put_read(&node, "a", &version).await;
    let event = stream.next_of(&["marker"]).await;
    assert_eq!(event.id, None);
    assert_eq!(
        event.data["markers"],
        json!({ "read": version, "seen": null, "archived": null })
    );
    assert_eq!(event.data["unread"], state["unread"]);
    let fields = ["feed", "markers", "unread", "version"];
    assert!(
        event
            .data
            .as_object()
            .expect("an object")
            .keys()
            .eq(fields.iter())
    );
}

async fn put_read(node: &Served, feed: &str, version: &str) -> (u16, Value) {
    let headers = [("content-type", "application/json")];
    let body = json!({ "version": version }).to_string();
    let path = format!("/v1/feeds/{feed}/markers/read");
    let answer = node.send_body("PUT", &path, &headers, body).await;
    (answer.status, answer.json())
}

async fn an_event_in_several_followed_feeds_is_sent_once_and_names_them(bed: &Bed) {
    let node = bed.node().await;
    let path = "/v1/live?feed=c&feed=a&feed=b&feed=a";
    let mut live = open(&node, path).await;
    live.caught_up().await;
    let places: [&[&str]; 5] = [
        &["a"],
        &["b", "a"],
        &["x", "c"],
        &["a", "b", "c", "x"],
        &["b"],
    ];
    let events: Value = (0..5).map(|i| visit(&format!("e{i}"), places[i])).collect();
    node.append(&events).await;
    node.append(&visit("other", &["x"])).await;
    node.append(&visit("last", &["c"])).await;
    let mut heard = Vec::new();
    while heard.len() < 6 {
        heard.push(live.next_of(&["entry"]).await);
    }
    let feeds = |event: &Event| (event.data["feed"].clone(), event.data.get("feeds").cloned());
    let expected = [
        (json!("a"), None),
        (json!("a"), Some(json!(["a", "b"]))),
        (json!("c"), None),
        (json!("c"), Some(json!(["c", "a", "b"]))),
        (json!("b"), None),
        (json!("c"), None),
    ];
    assert_eq!(heard.iter().map(feeds).collect::<Vec<_>>(), expected);
    assert_eq!(ids(&heard), ["e0", "e1", "e2", "e3", "e4", "last"]);
    // Reading it again gives the same, then one state for each feed, in the order of the request.
    let mut again = open(&node, &format!("{path}&after=0")).await;
    for event in &heard {
        assert_eq!(again.next().await.as_ref(), Some(event));
    }
    for feed in ["c", "a", "b"] {
        let event = again.next().await.expect("an event");
        assert_eq!(
            (event.name.as_str(), &event.data["feed"]),
            ("marker", &json!(feed))
        );
    }
    assert_eq!(again.next().await.expect("an event").name, "version");
}

async fn the_header_precedes_last_event_id_and_that_precedes_after_and_empty_ones_count_as_absent(
    bed: &Bed,
) {
    let node = bed.node().await;
    let appended = node.append(&visits("e", 6, &["a"])).await;
    let v = column(items(&appended), "version");
    for path in ["/v1/feeds/a/live?", "/v1/live?feed=a&"] {
        let cases = [
            (Some(&v[0]), Some(v[3].as_str()), 4),
            (Some(&v[4]), Some(&v[1]), 2),
            (Some(&v[4]), Some("0"), 0),
            (None, Some(&v[2]), 3),
            (Some(&v[2]), None, 3),
            (Some(&v[2]), Some(""), 3),
            (None, Some(""), 6),
        ];
        for (after, last, first) in cases {
            let url = match after {
                Some(after) => node.url(&format!("{path}after={after}")),
                None => node.url(path.trim_end_matches(['?', '&'])),
            };
            let mut stream = Stream::open(&node.http, &url, last).await;
            let expected: Vec<_> = (first..6).map(|index| format!("e{index}")).collect();
            assert_eq!(
                ids(&stream.caught_up().await),
                expected,
                "{after:?} {last:?}"
            );
        }
        let empty = String::new();
        let cases = [
            (format!("after={}&lastEventId={}", v[0], v[3]), None, 4),
            (
                format!("lastEventId={}&after={}", v[1], v[3]),
                Some(&empty),
                2,
            ),
            (format!("lastEventId={}", v[2]), None, 3),
            (format!("lastEventId={}&after=0", v[2]), Some(&v[4]), 5),
            (format!("lastEventId=&after={}", v[2]), None, 3),
            ("after=&lastEventId=0".to_owned(), None, 0),
            ("after=".to_owned(), Some(&v[2]), 3),
            ("after=".to_owned(), None, 6),
            ("lastEventId=&after=".to_owned(), Some(&empty), 6),
        ];
        for (query, header, first) in cases {
            let url = node.url(&format!("{path}{query}"));
            let mut stream = Stream::open(&node.http, &url, header.map(|last| last as &str)).await;
            let expected: Vec<_> = (first..6).map(|index| format!("e{index}")).collect();
            assert_eq!(
                ids(&stream.caught_up().await),
                expected,
                "{query} {header:?}"
            );
        }
    }
}

async fn without_a_position_a_stream_starts_from_now(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("old", 3, &["a"])).await;
    let mut stream = open(&node, "/v1/feeds/a/live").await;
    assert!(stream.caught_up().await.is_empty());
    let position = stream.last_id.clone().expect("a position");
    assert!(position >= text(&node.get("/v1/feeds/a").await["latest"]));
    node.append(&visit("new", &["a"])).await;
    assert_eq!(ids(&[stream.next_of(&["entry"]).await]), ["new"]);
}

async fn a_position_ahead_or_of_another_store_is_reset_and_the_stream_continues(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("old", 3, &["a"])).await;
    let far = ahead(&node.version("a").await);
    for (position, code) in [(&*far, "version_ahead"), (UNKNOWN, "cursor_unknown")] {
        for (path, last) in [
            (format!("/v1/feeds/a/live?after={position}"), None),
            ("/v1/live?feed=a&after=0".to_owned(), Some(position)),
        ] {
            reset_at(&node, &path, last, code).await;
        }
    }
}

async fn reset_at(node: &Served, path: &str, last: Option<&str>, code: &str) {
    let before = node.version("a").await;
    let mut stream = Stream::open(&node.http, &node.url(path), last).await;
    let reset = stream.next().await.expect("an event");
    assert_eq!(
        (reset.name.as_str(), &reset.data["code"]),
        ("reset", &json!(code))
    );
    let version = text(&reset.data["version"]);
    assert_eq!(reset.id.as_ref(), Some(&version));
    assert!(version >= before);
    assert!(stream.caught_up().await.is_empty());
    node.append(&json!({ "kind": "visit", "feeds": ["a"], "data": path }))
        .await;
    assert_eq!(stream.next_of(&["entry"]).await.data["data"], path);
    // A client that reconnects sends the version of the reset, which is known.
    let mut again = Stream::open(&node.http, &node.url(path), Some(&version)).await;
    assert_eq!(again.next_of(&["entry", "reset"]).await.name, "entry");
}

async fn a_transient_reaches_live_streams_on_every_node_and_no_history(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let mut streams = Vec::new();
    for path in ["/v1/feeds/a/live", "/v1/live?feed=b&feed=a"] {
        for node in &nodes {
            let mut stream = open(node, path).await;
            stream.caught_up().await;
            streams.push((path, stream));
        }
    }
    let before = streams[0].1.last_id.clone();
    let signal =
        json!({ "kind": "typing", "feeds": ["a", "b", "elsewhere"], "data": { "now": true } });
    let (status, answer) = nodes[0].post("/v1/transient", &signal).await;
    assert_eq!(status, 202);
    assert_eq!(
        text(&answer["id"])
            .parse::<uuid::Uuid>()
            .expect("a UUID")
            .get_version_num(),
        7
    );
    for (path, stream) in &mut streams {
        let event = stream.next_of(&["transient", "entry", "notify"]).await;
        assert_eq!((event.name.as_str(), event.id), ("transient", None));
        assert_eq!(
            (&event.data["id"], &event.data["data"]),
            (&answer["id"], &json!({ "now": true }))
        );
        // Once, however many of its feeds are followed.
        let (feed, feeds) = match path.contains("feed=b") {
            true => (json!("b"), json!(["b", "a"])),
            false => (json!("a"), json!(null)),
        };
        assert_eq!((&event.data["feed"], &event.data["feeds"]), (&feed, &feeds));
    }
    // It is in no page and no state, and later streams do not get it.
    nodes[0].append(&visit("after", &["a"])).await;
    assert_eq!(column(&nodes[1].all("a").await, "id"), ["after"]);
    assert!(nodes[0].all("b").await.is_empty());
    assert_eq!(nodes[0].get("/v1/feeds/b").await["latest"], json!(null));
    for node in &nodes {
        let url = node.url("/v1/live?feed=a&feed=b");
        let mut later = Stream::open(&node.http, &url, before.as_deref()).await;
        let heard = [
            later.next().await.expect("an event"),
            later.next().await.expect("an event"),
        ];
        assert_eq!(heard.map(|event| event.name), ["entry", "marker"]);
    }
    for (_, stream) in &mut streams {
        assert_eq!(stream.next_of(&["transient", "entry"]).await.name, "entry");
    }
}

async fn a_graceful_stop_says_bye_and_ends_streams_and_long_polls(bed: &Bed) {
    let gate = Gate::open();
    let node = bed.node_on(troubled(bed.store(), gate.clone())).await;
    let now = node.version("a").await;
    let poll = node.url(&format!("/v1/feeds/a/entries?after={now}&wait=60"));
    let poll = tokio::spawn(node.http.get(poll).send());
    // The long poll is the only subscriber so far.
    gate.somebody_waits().await;
    let mut single = open(&node, "/v1/feeds/a/live").await;
    let mut merged = open(&node, "/v1/live?feed=a&feed=b&after=0").await;
    single.caught_up().await;
    let mut heard = merged.caught_up().await;
    for index in 0..20 {
        node.append(&visit(&format!("e{index}"), &["b"])).await;
    }
    let (http, url) = (node.http.clone(), node.url("/healthz"));
    node.stop().await;
    let answer = poll.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), 200);
    let page: Value = answer.json().await.expect("JSON");
    assert_eq!(
        (&page["entries"], &page["next"]),
        (&json!([]), &json!(null))
    );
    assert!(text(&page["version"]) >= now);
    for stream in [&mut single, &mut merged] {
        let bye = loop {
            match stream.next().await.expect("a bye before the end") {
                event if event.name == "bye" => break event,
                event => heard.extend((event.name == "entry").then_some(event)),
            }
        };
        assert_eq!((bye.id, bye.data), (None, json!({ "reason": "shutdown" })));
        assert_eq!(stream.next().await, None);
    }
    http.get(url)
        .send()
        .await
        .expect_err("the service has stopped");

    // A resumed stream gets what the ended one did not: nothing is lost or doubled.
    bed.close().await;
    let node = bed.node().await;
    let url = node.url("/v1/live?feed=a&feed=b");
    let mut resumed = Stream::open(&node.http, &url, merged.last_id.as_deref()).await;
    heard.extend(resumed.caught_up().await);
    let expected: Vec<_> = (0..20).map(|index| format!("e{index}")).collect();
    assert_eq!(ids(&heard), expected);
}

async fn a_stream_whose_store_fails_says_bye_unavailable(bed: &Bed) {
    let gate = Gate::open();
    let node = bed.node_on(troubled(bed.store(), gate.clone())).await;
    node.append(&visits("e", 2, &["a"])).await;
    gate.fail(true);
    let mut stream = open(&node, "/v1/feeds/a/live?after=0").await;
    let bye = stream.next_of(&["bye"]).await;
    assert_eq!(
        (bye.id, bye.data),
        (None, json!({ "reason": "unavailable" }))
    );
    assert!(matches!(stream.retries[..], [500..=5_000, 500..=5_000]));
    assert_eq!(stream.next().await, None);
    gate.fail(false);
    let mut stream = open(&node, "/v1/feeds/a/live?after=0").await;
    assert_eq!(ids(&stream.caught_up().await), ["e0", "e1"]);
}
