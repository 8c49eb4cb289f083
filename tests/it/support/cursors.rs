//! A version that a client hands in, everywhere where one can be handed in.

use serde_json::json;

use super::{
    bed::{Api, JSON, LINES},
    sse::Stream,
};

/// Checks that `version` is refused as one of another life of the store, or accepted if `is_known`, by pages, a long poll,
/// streams, markers and conditions. Nothing is ever added to the feed `nothing`.
pub async fn check_cursor(api: &Api, version: &str, is_known: bool) {
    let status = if is_known { 200 } else { 410 };
    let check = |answer: super::bed::Answer, what: &str| {
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        if !is_known {
            let problem = answer.problem(410, "cursor_unknown").expect(what);
            assert!(problem["version"].is_string(), "{problem}");
        }
    };
    for path in [
        "/v1/feeds/a/entries?",
        "/v1/entries?feed=a&feed=b&",
        "/v1/log?",
    ] {
        for query in [
            format!("after={version}"),
            format!("until={version}"),
            format!("before={version}"),
            format!("after=0&until={version}"),
            format!("after={version}&limit=1&wait=0"),
        ] {
            let path = format!("{path}{query}");
            check(api.send("GET", &path, &[]).await, &path);
        }
    }
    if !is_known {
        let path = format!("/v1/feeds/nothing/entries?after={version}&wait=60");
        check(api.send("GET", &path, &[]).await, &path);
    }
    for query in ["", "&follow=true"] {
        let path = format!("/v1/log?after={version}{query}");
        let request = api.http.get(api.url(&path)).header("accept", LINES);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
    }
    let marker = json!({ "version": version }).to_string();
    for path in ["/v1/feeds/m/markers/seen", "/v1/markers/read?feed=m"] {
        check(
            api.send_body("PUT", path, &[JSON], marker.clone()).await,
            path,
        );
    }
    let expecting = json!({
        "kind": "visit", "feeds": ["elsewhere"], "expect": { "feed": "nothing", "version": version }
    });
    let body = expecting.to_string();
    let answer = api.send_body("POST", "/v1/events", &[JSON], body).await;
    check(answer, "expect");
    let (_, answers) = api.post("/v1/events", &json!([expecting])).await;
    match is_known {
        true => assert_eq!(answers[0]["status"], "appended", "{answers}"),
        false => assert_eq!(answers[0]["error"]["code"], "cursor_unknown", "{answers}"),
    }
    for (path, header) in [
        (format!("/v1/feeds/a/live?after={version}"), None),
        (format!("/v1/live?feed=a&feed=b&after={version}"), None),
        (format!("/v1/feeds/a/live?lastEventId={version}"), None),
        (format!("/v1/log/live?feed=nothing&after={version}"), None),
        ("/v1/feeds/a/live?after=0".to_owned(), Some(version)),
    ] {
        let mut stream = Stream::open(&api.http, &api.url(&path), header).await;
        let names = ["reset", "version"];
        let first = stream.next_of(&names).await;
        if is_known {
            assert_eq!(first.name, "version", "{path} {header:?}");
            continue;
        }
        assert_eq!(first.name, "reset", "{path} {header:?}");
        assert_eq!(first.data["code"], "cursor_unknown");
        // The client's position is now one of this store.
        assert_eq!(first.id.as_deref(), first.data["version"].as_str());
        assert!(stream.caught_up().await.is_empty());
    }
}
