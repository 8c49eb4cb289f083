//! What the service exports to a collector.

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

use super::super::{PATIENCE, Process};

const TRACE: [u8; 16] = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
const SPAN: [u8; 8] = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
const PARENT: (&str, &str) = (
    "traceparent",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
);

/// Starts a collector; returns its address and a channel of the bodies it receives.
async fn collector() -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let (spans, received) = mpsc::unbounded_channel();
    let take = move |headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let _ = spans.send(body);
        async {}
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let router = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/"), received)
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

/// Everything the service exports, until its end, for a request with a parent span and one without.
async fn sent(args: &[&str]) -> Vec<u8> {
    let (endpoint, mut received) = collector().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = [&["--otlp-endpoint", &endpoint], args].concat();
    let process = Process::start_with(folder.path(), &args).await;
    let path = "/v1/feeds/a/entries?ticket=sesame";
    process
        .api
        .send("GET", path, &[PARENT, ("tracestate", "vendor=value")])
        .await;
    process
        .api
        .append(&json!({ "kind": "visit", "feeds": ["a"] }))
        .await;
    process.stop().await;
    let mut all = Vec::new();
    while let Ok(spans) = received.try_recv() {
        all.extend_from_slice(&spans);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requests_span_is_a_child_of_the_callers_and_is_exported_before_the_service_ends() {
    let spans = sent(&["--log", "info,newsfeed=debug"]).await;
    for part in [
        &TRACE[..],
        &SPAN,
        b"vendor=value",
        b"GET /v1/feeds/{feed}/entries",
        b"POST /v1/events",
        b"append_batch",
        b"commit",
        b"tail_round",
        b"newsfeed",
    ] {
        assert!(has(&spans, part), "{}", String::from_utf8_lossy(part));
    }
    assert!(!has(&spans, b"sesame"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_traces_are_sampled_and_callers_decide_about_theirs() {
    let spans = sent(&["--log", "info", "--otlp-sample", "0"]).await;
    assert!(has(&spans, &TRACE) && has(&spans, b"GET /v1/feeds/{feed}/entries"));
    for part in [&b"POST /v1/events"[..], b"append_batch"] {
        assert!(!has(&spans, part), "{}", String::from_utf8_lossy(part));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unavailable_collector_does_not_affect_requests() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent_address = silent.local_addr().expect("bound");
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gone_address = gone.local_addr().expect("bound");
    drop(gone);
    for address in [silent_address, gone_address] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let endpoint = format!("http://{address}");
        let args = ["--otlp-endpoint", &endpoint];
        let process = Process::start_with(folder.path(), &args).await;
        for number in 0..50 {
            let event = json!({ "id": number.to_string(), "kind": "visit", "feeds": ["a"] });
            process.api.append(&event).await;
        }
        assert_eq!(process.api.all("a").await.len(), 50);
        let stopped = tokio::time::timeout(PATIENCE, process.stop()).await;
        stopped.expect("it does not wait for the collector for ever");
    }
}
