//! Full queues, too many streams, garbage, and thousands of requests at once.

use std::{cell::Cell, collections::BTreeSet};

use newsfeed::{
    append::{QUEUE_KIB_MAX, TransientPermit},
    http::App,
    live::STREAMS_MAX,
    types::{Data, Delivery, Draft, Event},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::appends;
use crate::{
    http::{column, visits},
    support::{
        bed::{Bed, NDJSON, text},
        gate::Gate,
        raw,
        stores::troubled,
    },
};

crate::on_every_engine!(
    a_full_append_queue_refuses_with_busy_and_appends_nothing,
    too_many_streams_are_refused_until_one_ends,
    too_many_transients_under_way_are_refused,
    a_stopping_node_refuses_new_streams_and_is_not_ready,
    garbage_on_a_connection_does_not_affect_others,
    thousands_of_parallel_appends_are_all_answered_and_all_stored_once,
);

/// An event that counts as `kib` KiB in the append queue.
pub fn filler(kib: usize) -> Event {
    let data = format!("\"{}\"", "x".repeat((kib - 1) * 1024));
    let data = serde_json::value::RawValue::from_string(data).expect("JSON");
    let draft = Draft {
        id: "filler".parse().expect("an id"),
        kind: "visit".parse().expect("a kind"),
        delivery: Delivery::Entry,
        feeds: vec!["filler".parse().expect("a name")],
        actor: None,
        time: None,
        data: Data::from_raw(&data).expect("small"),
        expect: None,
    };
    draft.check().expect("valid")
}

/// Waits until the append queue has room for `kib`.
async fn until_room(app: &App, kib: usize) {
    let events = vec![filler(1); kib];
    while app.appender.try_reserve(events.clone()).is_err() {
        tokio::task::yield_now().await;
    }
}

async fn a_full_append_queue_refuses_with_busy_and_appends_nothing(bed: &Bed) {
    let gate = Gate::open();
    let (app, node) = bed.app_on(troubled(bed.store(), gate.clone())).await;
    let busy = |events: Value| {
        let node = &node;
        let headers = [("content-type", "application/json")];
        async move {
            let answer = node.send_body("POST", "/v1/events", &headers, events.to_string());
            answer.await.problem(503, "busy").expect("no room");
        }
    };
    // All but 3 KiB are taken; a small event counts as 1 KiB.
    let mut rest = vec![filler(32); QUEUE_KIB_MAX / 32 - 1];
    rest.extend(vec![filler(1); 32 - 3]);
    let taken = app.appender.try_reserve(rest);
    let taken = taken.expect("room for all of it");
    busy(visits("x", 4, &["a"])).await;
    busy(visits("x", 1000, &["a"])).await;
    assert!(node.all("a").await.is_empty());
    node.append(&visits("e", 3, &["a"])).await;

    // Three events that cannot be committed yet occupy the queue until they are.
    until_room(&app, 3).await;
    gate.hold(true);
    let held = tokio::spawn({
        let (http, url) = (node.http.clone(), node.url("/v1/events"));
        async move { http.post(url).json(&visits("held", 3, &["a"])).send().await }
    });
    gate.something_is_held().await;
    busy(visits("x", 1, &["a"])[0].take()).await;
    busy(json!([visits("e", 3, &["a"])[0]])).await;
    // NDJSON waits instead: the service stops reading the body.
    let line = format!("{}\n", visits("line", 1, &["a"])[0]);
    let waiting = tokio::spawn({
        let request = node
            .http
            .post(node.url("/v1/events"))
            .header(NDJSON.0, NDJSON.1);
        async move { request.body(line).send().await?.text().await }
    });
    assert_eq!(column(&node.all("a").await, "id"), ["e0", "e1", "e2"]);
    gate.hold(false);
    let held = held.await.expect("no panic").expect("an answer");
    assert_eq!(held.status(), 200);
    let waiting = waiting.await.expect("no panic").expect("an answer");
    assert!(waiting.contains("appended"), "{waiting}");

    // All room is free again.
    until_room(&app, 3).await;
    drop(taken);
    until_room(&app, QUEUE_KIB_MAX).await;
    appends(&node, "x0").await;
    let expected: BTreeSet<_> = ["e0", "e1", "e2", "held0", "held1", "held2", "line0"].into();
    let stored = column(&node.all("a").await, "id");
    assert_eq!(stored.len(), expected.len());
    assert!(
        stored.iter().all(|id| expected.contains(id.as_str())),
        "{stored:?}"
    );
}

async fn too_many_streams_are_refused_until_one_ends(bed: &Bed) {
    let (app, node) = bed.app_on(bed.store()).await;
    let now = node.version("a").await;
    let stream = || app.hub.subscribe(vec!["a".parse().expect("a name")]);
    let mut others: Vec<_> = (0..STREAMS_MAX).map(|_| stream().expect("room")).collect();
    let wait = format!("/v1/feeds/a/entries?after={now}&wait=60");
    let paths = ["/v1/feeds/a/live", "/v1/live?feed=a&feed=b", &wait];
    for path in paths {
        let answer = node.send("GET", path, &[]).await;
        answer.problem(503, "too_many_streams").expect(path);
    }
    // Requests that need no stream still work.
    node.get(&format!("/v1/feeds/a/entries?after={now}&wait=0"))
        .await;
    appends(&node, "e").await;
    others.pop();
    let url = node.url("/v1/feeds/a/live");
    let live = node.http.get(url).send().await.expect("an answer");
    assert_eq!(live.status(), 200);
    node.send("GET", "/v1/feeds/a/live", &[])
        .await
        .problem(503, "too_many_streams")
        .expect("full");
    // A client that disconnects frees its stream.
    drop(live);
    while app.hub.subscribers() >= STREAMS_MAX {
        tokio::task::yield_now().await;
    }
    // Dropping so many subscriptions is slow in a debug build.
    std::mem::forget(others);
}

/// Every slot for transients that are in flight.
pub fn all_transients(app: &App) -> Vec<TransientPermit> {
    std::iter::from_fn(|| app.appender.try_reserve_transient(filler(1)).ok()).collect()
}

async fn too_many_transients_under_way_are_refused(bed: &Bed) {
    let (app, node) = bed.app_on(bed.store()).await;
    let signal = json!({ "kind": "typing", "feeds": ["a"] });
    let taken = all_transients(&app);
    let headers = [("content-type", "application/json")];
    let answer = node
        .send_body("POST", "/v1/transient", &headers, signal.to_string())
        .await;
    answer.problem(503, "busy").expect("no room");
    drop(taken);
    assert_eq!(node.post("/v1/transient", &signal).await.0, 202);
}

async fn a_stopping_node_refuses_new_streams_and_is_not_ready(bed: &Bed) {
    let (app, node) = bed.app_on(bed.store()).await;
    let now = node.version("a").await;
    app.stopping.cancel();
    app.hub.close();
    let wait = format!("/v1/entries?feed=a&after={now}&wait=60");
    for path in ["/readyz", "/v1/feeds/a/live", "/v1/live?feed=a", &wait] {
        let answer = node.send("GET", path, &[]).await;
        answer.problem(503, "shutting_down").expect(path);
    }
    assert_eq!(node.send("GET", "/healthz", &[]).await.status, 200);
}

async fn garbage_on_a_connection_does_not_affect_others(bed: &Bed) {
    let node = bed.node().await;
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |length: usize| -> Vec<u8> {
        let byte = |_| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (noise >> 56) as u8
        };
        (0..length).map(byte).collect()
    };
    let mut garbage: Vec<Vec<u8>> = (0..50).map(|index| random(1 << (index % 17))).collect();
    garbage.extend(
        [
            "\r\n\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET  /healthz HTTP/1.1\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
            "GET /\u{0} HTTP/1.1\r\nhost: localhost\r\n\r\n",
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n{}",
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}",
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\u{0}\u{0}\u{0}garbage",
            "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
    let bystander = node
        .http
        .get(node.url("/v1/feeds/a/live"))
        .send()
        .await
        .expect("a stream");
    for bytes in garbage {
        let mut stream = raw::connect(node.address).await;
        // The server may have closed the connection already.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let answer = raw::drain(&mut stream).await;
        let start = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        assert!(
            answer.is_empty() || start == "HTTP/1.1 400" || !start.starts_with("HTTP"),
            "{start} to {bytes:?}"
        );
    }
    appends(&node, "after").await;
    drop(bystander);
}

async fn thousands_of_parallel_appends_are_all_answered_and_all_stored_once(bed: &Bed) {
    const CONNECTIONS: usize = 200;
    const EACH: usize = 15;
    let node = bed.node().await;
    let refused = Cell::new(false);
    let client = |client: usize| {
        let (node, url, refused) = (&node, node.url("/v1/events"), &refused);
        async move {
            // Each client has its own connection.
            let http = crate::support::bed::http_client();
            let mut versions = Vec::new();
            for index in 0..EACH {
                let event = json!({ "id": format!("{client}-{index}"), "kind": "message",
                                    "feeds": ["all", format!("client:{client}")] });
                // A slow machine may refuse, and then the same event is sent again.
                let answer: Value = loop {
                    let sent = http.post(&url).json(&event).send().await;
                    let answer = sent.expect("an answer");
                    if answer.status() != 503 {
                        assert_eq!(answer.status(), 200);
                        break answer.json().await.expect("JSON");
                    }
                    refused.set(true);
                };
                match refused.get() {
                    true => assert_ne!(answer["status"], "rejected"),
                    false => assert_eq!(answer["status"], "appended"),
                }
                versions.push(text(&answer["version"]));
            }
            let own = node.all(&format!("client:{client}")).await;
            assert_eq!(column(&own, "version"), versions);
            versions
        }
    };
    let answers = futures_util::future::join_all((0..CONNECTIONS).map(client)).await;
    let mut answered = answers.concat();
    answered.sort();
    assert_eq!(column(&node.all("all").await, "version"), answered);
    let unread = &node.get("/v1/feeds/all").await["unread"]["total"];
    assert_eq!(*unread, json!(CONNECTIONS * EACH));
}
