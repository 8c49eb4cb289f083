//! Metrics after known work.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use newsfeed::store::{Batch, Error, Result};
use serde_json::json;

use super::scrape::{Scrape, parse};
use crate::{
    http::{message, visit, visits},
    support::{
        bed::{Api, Bed},
        gate::Gate,
        patience,
        sse::Stream,
        stores::{Trouble, troubled},
        turnstile::Turnstile,
    },
};

/// Scrapes until `series` has `value`.
async fn scrape_until(api: &Api, series: &str, value: f64) -> Scrape {
    patience::until(series, async || {
        let scrape = Scrape::of(api).await;
        (scrape.get(series) == value).then_some(scrape)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_requests_are_counted_by_outcome() {
    let node = Bed::embedded();
    let node = node.node().await;
    node.append(&visits("e", 5, &["secret-feed"])).await;
    node.append(&visits("e", 7, &["secret-feed"])).await;
    let reused = message("e0", &["other"]);
    let late = json!({ "id": "late", "kind": "visit", "feeds": ["secret-feed"],
                       "expect": { "feed": "secret-feed", "version": null } });
    for event in [&reused, &late, &late] {
        assert_eq!(node.post("/v1/events", event).await.0, 409);
    }
    let typing = json!({ "kind": "typing", "feeds": ["secret-feed"] });
    assert_eq!(node.post("/v1/transient", &typing).await.0, 202);
    assert_eq!(node.post("/v1/events", &typing).await.0, 400);
    node.all("secret-feed").await;
    for (method, path) in [
        ("GET", "/secret/path"),
        ("PUT", "/v1/events"),
        ("BREW", "/coffee"),
    ] {
        node.send(method, path, &[]).await;
    }

    let scrape = scrape_until(&node, "newsfeed_transients_total", 1.0).await;
    for (series, value) in [
        (r#"newsfeed_appends_total{outcome="appended"}"#, 7.0),
        (r#"newsfeed_appends_total{outcome="duplicate"}"#, 5.0),
        (r#"newsfeed_appends_rejected_total{code="id_reused"}"#, 1.0),
        (
            r#"newsfeed_appends_rejected_total{code="version_conflict"}"#,
            2.0,
        ),
        ("newsfeed_append_batch_events_count", 5.0),
        ("newsfeed_append_batch_events_sum", 15.0),
        ("newsfeed_append_commit_duration_seconds_count", 5.0),
        ("newsfeed_append_batches_in_flight", 0.0),
        ("newsfeed_append_queue_events", 0.0),
        ("newsfeed_append_queue_kibibytes", 0.0),
        (
            r#"newsfeed_http_requests_total{route="/v1/events",method="POST",status="200"}"#,
            2.0,
        ),
        (
            r#"newsfeed_http_requests_total{route="/v1/events",method="POST",status="409"}"#,
            3.0,
        ),
        (
            r#"newsfeed_http_requests_total{route="/v1/events",method="POST",status="400"}"#,
            1.0,
        ),
        (
            r#"newsfeed_http_requests_total{route="/v1/events",method="PUT",status="405"}"#,
            1.0,
        ),
        (
            r#"newsfeed_http_requests_total{route="/v1/feeds/{feed}/entries",method="GET",status="200"}"#,
            1.0,
        ),
        (
            r#"newsfeed_http_requests_total{route="other",method="GET",status="404"}"#,
            1.0,
        ),
        (
            r#"newsfeed_http_requests_total{route="other",method="other",status="404"}"#,
            1.0,
        ),
        (
            r#"newsfeed_http_request_duration_seconds_count{route="/v1/events",method="POST"}"#,
            6.0,
        ),
        (
            r#"newsfeed_http_problems_total{route="/v1/events",code="kind_transient"}"#,
            1.0,
        ),
        (
            r#"newsfeed_http_problems_total{route="/v1/events",code="version_conflict"}"#,
            2.0,
        ),
        (r#"newsfeed_http_requests_in_flight"#, 1.0),
        (
            concat!(
                "newsfeed_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"}"
            ),
            1.0,
        ),
    ] {
        assert_eq!(scrape.get(series), value, "{series}");
    }
    // The client may have opened a second one before the first was free again.
    let connections = scrape.get(r#"newsfeed_connections{protocol="http1"}"#);
    assert!((1.0..=2.0).contains(&connections), "{connections}");
    for series in scrape.series() {
        for secret in ["secret", "coffee", "BREW", "late"] {
            assert!(!series.contains(secret), "{series}");
        }
    }
    for (name, least) in [
        ("process_resident_memory_bytes", 1e6),
        ("process_cpu_seconds_total", 0.0),
        ("process_open_fds", 5.0),
        ("process_start_time_seconds", 1.7e9),
        ("newsfeed_store_disk_bytes", 1.0),
        ("newsfeed_store_memtable_bytes", 1.0),
    ] {
        assert!(scrape.get(name) >= least, "{name} {}", scrape.get(name));
    }

    let answer = node
        .send(
            "GET",
            "/metrics",
            &[(
                "accept",
                "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            )],
        )
        .await;
    let open = parse(std::str::from_utf8(&answer.body).expect("UTF-8"), true);
    assert_eq!(open[r#"newsfeed_appends_total{outcome="appended"}"#], 7.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_append_queue_is_visible_while_events_wait() {
    let bed = Bed::embedded();
    let gate = Gate::open();
    let (app, node) = bed.app_on(troubled(bed.store(), gate.clone())).await;
    gate.hold(true);
    let append = |events| {
        let (http, url) = (node.http.clone(), node.url("/v1/events"));
        tokio::spawn(async move { http.post(url).json(&events).send().await })
    };
    let first = append(visits("e", 3, &["a"]));
    gate.something_is_held().await;
    // The same ids wait for the first append.
    let second = append(visits("e", 3, &["a"]));
    for (name, value) in [
        ("newsfeed_append_queue_events", 3.0),
        ("newsfeed_append_batches_in_flight", 1.0),
        ("newsfeed_append_queue_kibibytes", 6.0),
        // Including the scrape itself.
        ("newsfeed_http_requests_in_flight", 3.0),
    ] {
        scrape_until(&node, name, value).await;
    }
    patience::until("the age of the queue", async || {
        let scrape = Scrape::of(&node).await;
        let age = scrape.get("newsfeed_append_queue_oldest_seconds");
        (age > 0.0).then_some(())
    })
    .await;
    gate.hold(false);
    for append in [first, second] {
        let answer = append.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    for name in [
        "newsfeed_append_queue_kibibytes",
        "newsfeed_append_queue_events",
        "newsfeed_append_batches_in_flight",
    ] {
        scrape_until(&node, name, 0.0).await;
    }

    // Refused events are counted too.
    let all = vec![crate::limits::filler(32); newsfeed::append::QUEUE_KIB_MAX / 32];
    let _all = app.appender.try_reserve(all).expect("room");
    assert_eq!(
        node.post("/v1/events", &visits("f", 4, &["a"])).await.0,
        503
    );
    let scrape = Scrape::of(&node).await;
    assert_eq!(
        scrape.get(r#"newsfeed_appends_rejected_total{code="busy"}"#),
        4.0
    );
}

/// Commits fail with these errors, last one first; then they succeed.
struct Failing(Mutex<Vec<Error>>);

#[async_trait]
impl Trouble for Failing {
    async fn before_commit(&self, _batch: &Batch) -> Result<()> {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        next.map_or(Ok(()), Err)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_counted_by_store_error() {
    let bed = Bed::embedded();
    let away = || Error::Unavailable("made to fail by the test".into());
    let failing = Failing(Mutex::new(vec![
        Error::Conflict,
        away(),
        Error::Unknown,
        away(),
    ]));
    let node = bed.node_on(troubled(bed.store(), failing.into())).await;
    let answer = node.append(&visit("a", &["a"])).await;
    assert_eq!(answer["status"], "appended");
    let scrape = Scrape::of(&node).await;
    for (code, count) in [
        ("conflict", 1.0),
        ("unavailable", 2.0),
        ("unknown_result", 1.0),
    ] {
        let retries =
            format!(r#"newsfeed_store_retries_total{{transaction="append",code="{code}"}}"#);
        assert_eq!(scrape.get(&retries), count);
        let errors = format!(r#"newsfeed_store_errors_total{{operation="commit",code="{code}"}}"#);
        assert_eq!(scrape.get(&errors), count);
    }
    assert_eq!(
        scrape.get("newsfeed_append_commit_duration_seconds_count"),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_twins_are_counted_by_reader() {
    let bed = Bed::embedded();
    let turnstile = Turnstile::closed();
    let store = troubled(bed.store(), turnstile.clone());
    let nodes = [bed.node_on(store.clone()).await, bed.node_on(store).await];
    let mut stream = Stream::open(&nodes[0].http, &nodes[0].url("/v1/feeds/a/live"), None).await;
    assert_eq!(stream.caught_up().await, []);
    let event = message("twice", &["a"]);
    let both_have_read = async {
        turnstile.have_come(2).await;
        turnstile.let_pass(2);
    };
    let appended = tokio::join!(
        nodes[0].append(&event),
        nodes[1].append(&event),
        both_have_read
    );
    for answer in [appended.0, appended.1] {
        assert_eq!(answer["status"], "appended");
    }
    stream.next_of(&["notify"]).await;
    let live = r#"newsfeed_twins_hidden_total{reader="live"}"#;
    let scrape = scrape_until(&nodes[0], live, 1.0).await;
    assert_eq!(
        scrape.get(r#"newsfeed_twins_hidden_total{reader="page"}"#),
        0.0
    );
    assert_eq!(
        scrape.get(r#"newsfeed_twins_hidden_total{reader="unread"}"#),
        0.0
    );

    nodes[0].get("/v1/feeds/a/entries").await;
    nodes[0].get("/v1/feeds/a/entries?after=0").await;
    nodes[0].version("a").await;
    let scrape = Scrape::of(&nodes[0]).await;
    assert_eq!(
        scrape.get(r#"newsfeed_twins_hidden_total{reader="page"}"#),
        2.0
    );
    assert_eq!(
        scrape.get(r#"newsfeed_twins_hidden_total{reader="unread"}"#),
        1.0
    );
    assert_eq!(scrape.get(live), 1.0);
    // Each node counts separately.
    let scrape = Scrape::of(&nodes[1]).await;
    for reader in ["page", "unread", "live"] {
        let series = format!(r#"newsfeed_twins_hidden_total{{reader="{reader}"}}"#);
        assert_eq!(scrape.get(&series), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_long_polls_are_counted_while_they_are_open() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let url = node.url("/v1/feeds/a/live");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = Stream::open(&node.http, &url, None).await;
        assert_eq!(stream.caught_up().await, []);
        streams.push(stream);
    }
    let now = node.version("a").await;
    let poll = tokio::spawn({
        let url = node.url(&format!("/v1/feeds/a/entries?after={now}&wait=60"));
        let http = node.http.clone();
        async move { http.get(url).send().await }
    });
    scrape_until(&node, "newsfeed_long_polls", 1.0).await;
    // Figures of the hub and counters are read one after the other, so they may differ for a moment.
    scrape_until(&node, "newsfeed_live_subscribers", 4.0).await;
    let scrape = scrape_until(&node, "newsfeed_live_lagging_subscribers", 0.0).await;
    assert_eq!(scrape.get("newsfeed_live_streams"), 3.0);
    let requests =
        r#"newsfeed_http_requests_total{route="/v1/feeds/{feed}/live",method="GET",status="200"}"#;
    assert_eq!(scrape.get(requests), 3.0);

    node.append(&visit("e", &["a"])).await;
    poll.await.expect("no panic").expect("an answer");
    scrape_until(&node, "newsfeed_long_polls", 0.0).await;
    // A tailer round counts its records after it has delivered them.
    scrape_until(&node, "newsfeed_tail_round_records_sum", 1.0).await;
    drop(streams.pop());
    let gone = r#"newsfeed_live_streams_ended_total{reason="gone"}"#;
    scrape_until(&node, gone, 1.0).await;
    scrape_until(&node, "newsfeed_live_streams", 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ended_by_an_unavailable_store_is_counted_as_such() {
    let bed = Bed::embedded();
    let gate = Gate::open();
    let node = bed.node_on(troubled(bed.store(), gate.clone())).await;
    // Nothing was followed before, so the tailer's first round reads nothing.
    gate.fail(true);
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live"), None).await;
    stream.next_of(&["bye"]).await;
    let ended = r#"newsfeed_live_streams_ended_total{reason="unavailable"}"#;
    let scrape = scrape_until(&node, ended, 1.0).await;
    let errors = r#"newsfeed_store_errors_total{operation="read",code="unavailable"}"#;
    assert!(scrape.get(errors) >= 1.0);
    let gone = r#"newsfeed_live_streams_ended_total{reason="gone"}"#;
    assert_eq!(scrape.get(gone), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_ended_by_a_shutdown_are_counted_apart_from_disconnects() {
    let bed = Bed::embedded();
    let (app, node) = bed.app_on(bed.store()).await;
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live"), None).await;
    scrape_until(&node, "newsfeed_live_streams", 1.0).await;
    scrape_until(&node, "newsfeed_live_subscribers", 1.0).await;
    app.hub.close();
    stream.next_of(&["bye"]).await;
    let ended = r#"newsfeed_live_streams_ended_total{reason="shutdown"}"#;
    scrape_until(&node, ended, 1.0).await;
    scrape_until(&node, "newsfeed_live_streams", 0.0).await;
}

/// The next reads fail, as many as the test sets.
#[derive(Default)]
struct Reads(AtomicUsize);

#[async_trait]
impl Trouble for Reads {
    async fn before_read(&self) -> Result<()> {
        let left = self.0.load(Ordering::SeqCst);
        match left {
            0 => Ok(()),
            _ => {
                self.0.store(left - 1, Ordering::SeqCst);
                Err(Error::TooOld)
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_reads_outside_of_transactions_are_counted_too() {
    let bed = Bed::embedded();
    let reads = std::sync::Arc::new(Reads::default());
    let (_app, node) = bed.app_on(troubled(bed.store(), reads.clone())).await;
    for path in ["/v1/feeds/a", "/v1/feeds/a/entries", "/readyz"] {
        // One read fails; concurrent reads of the same request are cancelled.
        reads.0.store(1, Ordering::SeqCst);
        assert_eq!(node.send("GET", path, &[]).await.status, 503, "{path}");
    }
    let scrape = Scrape::of(&node).await;
    let errors = r#"newsfeed_store_errors_total{operation="read",code="too_old"}"#;
    assert_eq!(scrape.get(errors), 3.0);
    assert!(!scrape.has("newsfeed_store_retries_total"));
}
