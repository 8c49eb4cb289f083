//! Request ids, trace headers, and the log filter.

use serde_json::json;

use crate::support::{
    bed::{Bed, Served},
    patience::until,
    raw,
};

const GIVEN: &str = "x-request-id";

/// The request id in the answer to a request with these headers.
async fn id(node: &Served, path: &str, headers: &[(&str, &str)]) -> String {
    let request = raw::request("GET", path, headers, b"");
    let answer = raw::exchange(node.address, &request).await;
    answer.header(GIVEN).expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_callers_request_id_if_that_is_valid() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let longest = "a".repeat(128);
    for good in ["1", "a-Z_0.9~b:c@d/e+f=", &longest] {
        for path in ["/healthz", "/v1/feeds/a/entries?x=1", "/nothing"] {
            assert_eq!(id(&node, path, &[(GIVEN, good)]).await, good);
        }
    }
    let too_long = "a".repeat(129);
    let mut made = std::collections::BTreeSet::new();
    for bad in [
        "", "a b", "a\"b", "a\tb", "a;b", "{}", "<b>", "ä", &too_long,
    ] {
        let id = id(&node, "/healthz", &[(GIVEN, bad)]).await;
        assert_eq!(
            id.parse::<uuid::Uuid>().expect("a UUID").get_version_num(),
            7
        );
        made.insert(id);
    }
    made.insert(id(&node, "/healthz", &[]).await);
    assert_eq!(made.len(), 10, "each request has its own id");

    // A stream's head is written separately.
    let url = node.url("/v1/feeds/a/live");
    let stream = node.http.get(url).header(GIVEN, "of-a-stream").send().await;
    assert_eq!(stream.expect("a stream").headers()[GIVEN], "of-a-stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_trace_headers_are_ignored() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for headers in [
        vec![("traceparent", good), ("tracestate", "a=1,b=2")],
        vec![("traceparent", good), ("tracestate", ",,=;;")],
        vec![("traceparent", good), ("traceparent", good)],
        vec![("traceparent", "rubbish")],
        vec![("traceparent", "")],
        vec![("tracestate", "a=1")],
    ] {
        let request = raw::request("GET", "/healthz", &headers, b"");
        let answer = raw::exchange(node.address, &request).await;
        assert_eq!(answer.status, 200, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_filter_can_be_read_and_changed_and_an_invalid_one_is_refused() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let put = |body: serde_json::Value| {
        let node = &node;
        let headers = [("content-type", "application/json")];
        async move {
            let path = "/v1/admin/log";
            node.send_body("PUT", path, &headers, body.to_string())
                .await
        }
    };
    assert_eq!(node.get("/v1/admin/log").await, json!({ "filter": "info" }));
    let answer = put(json!({ "filter": "info,newsfeed=debug" })).await;
    assert_eq!(answer.json(), json!({ "filter": "info,newsfeed=debug" }));
    for (bad, code) in [
        (json!({ "filter": "loud" }), "invalid_filter"),
        (json!({ "filter": "newsfeed=loud" }), "invalid_filter"),
        (json!({ "filter": "" }), "invalid_filter"),
        (json!({ "filter": "x=".repeat(1000) }), "invalid_filter"),
        (json!({ "filter": "warn", "seconds": 0 }), "invalid_body"),
        (
            json!({ "filter": "warn", "seconds": 86401 }),
            "invalid_body",
        ),
        (json!({ "filter": "warn", "seconds": "5" }), "invalid_body"),
        (json!({ "filter": "warn", "for": 5 }), "invalid_body"),
        (json!({}), "invalid_body"),
    ] {
        put(bad).await.problem(400, code).expect(code);
        assert_eq!(
            node.get("/v1/admin/log").await,
            json!({ "filter": "info,newsfeed=debug" })
        );
    }
    let passing = put(json!({ "filter": "trace", "seconds": 86400 }))
        .await
        .json();
    assert_eq!(passing["then"], "info,newsfeed=debug");
    assert_eq!(passing["seconds"], 86400.0);

    // A temporary filter ends by itself.
    put(json!({ "filter": "trace", "seconds": 1 })).await;
    until("the end of the temporary filter", async || {
        let now = node.get("/v1/admin/log").await;
        (now["filter"] != "trace").then_some(())
    })
    .await;
    assert_eq!(
        node.get("/v1/admin/log").await,
        json!({ "filter": "info,newsfeed=debug" })
    );
}
