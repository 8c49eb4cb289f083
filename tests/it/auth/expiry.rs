//! Streams, long polls and uploads end when their token expires, and say so.

use std::time::Duration;

use http_body_util::BodyExt;
use newsfeed::clock::WallTime;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{SECRET_FILE, Signer, Site, ask, bearer, read, speak};
use crate::support::{bed::Served, patience::PATIENCE, protocol::Protocol, sse::Stream};

/// The clock by which new requests are checked stands still, so that only open ones expire.
const NOW: u64 = 1_800_000_000;

/// A node, and a token that is valid for two seconds from its use.
async fn scene(site: &Site) -> (Served, String) {
    let node = site
        .node_with_keys(SECRET_FILE, &["--auth-leeway-s", "1"])
        .await;
    let claims = json!({ "scope": "read append", "feeds": ["a", "b"], "exp": NOW + 1 });
    (node, Signer::hs256().sign(&claims))
}

fn site() -> Site {
    Site::at(WallTime::manual(NOW * 1_000_000))
}

async fn open(protocol: Protocol, url: &str, token: Option<&str>) -> Stream {
    let token = token.map(bearer);
    let headers: Vec<_> = token
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let answer = speak(protocol, "GET", url, &headers, String::new()).await;
    assert_eq!(answer.status(), 200);
    Stream::over(answer.into_body().into_data_stream())
}

async fn ends_with_its_token(mut stream: Stream) {
    // If the stream did not end, heartbeats would keep it open.
    let bye = timeout(PATIENCE, stream.next_of(&["bye"])).await;
    let bye = bye.expect("it ends");
    assert_eq!(
        (bye.id, bye.data),
        (None, json!({ "reason": "token_expired" }))
    );
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_stream_ends_with_its_token_on_both_protocols() {
    let site = site();
    let (node, token) = scene(&site).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for path in ["/v1/feeds/a/live", "/v1/live?feed=a&feed=b&after=0"] {
            let mut stream = open(protocol, &node.url(path), Some(&token)).await;
            stream.caught_up().await;
            ends_with_its_token(stream).await;
        }
    }
    // A reconnection with the same token is refused.
    site.wall.set((NOW + 2) * 1_000_000);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (name, value) = bearer(&token);
        let headers = [(name, value.as_str()), ("last-event-id", "0")];
        let url = node.url("/v1/feeds/a/live");
        let answer = speak(protocol, "GET", &url, &headers, String::new()).await;
        assert_eq!(answer.status(), 401);
        let body = answer.into_body().collect().await.expect("a body");
        let problem: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        assert_eq!(problem["code"], "token_expired");
    }
    read(&node, &token)
        .await
        .problem(401, "token_expired")
        .expect("everywhere");
}

#[tokio::test]
async fn a_stream_of_a_ticket_ends_with_the_token_behind_it() {
    let site = site();
    let (node, token) = scene(&site).await;
    let (name, value) = bearer(&token);
    let body = json!({ "feeds": ["a"] });
    let answer = ask(&node, "POST", "/v1/tickets", &[(name, &value)], Some(&body)).await;
    let ticket = answer.json()["ticket"]
        .as_str()
        .expect("a ticket")
        .to_owned();
    let url = node.url(&format!("/v1/feeds/a/live?ticket={ticket}"));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        ends_with_its_token(open(protocol, &url, None).await).await;
    }
}

/// A stream that always has something to send, also while it reads history.
#[tokio::test]
async fn a_busy_stream_ends_with_its_token() {
    let site = site();
    let (node, token) = scene(&site).await;
    let stream = open(
        Protocol::Http1,
        &node.url("/v1/feeds/a/live?after=0"),
        Some(&token),
    )
    .await;
    let (name, value) = bearer(&token);
    let append = async {
        let event = json!({ "kind": "visit", "feeds": ["a"] });
        loop {
            let answer = ask(&node, "POST", "/v1/events", &[(name, &value)], Some(&event)).await;
            assert_eq!(answer.status, 200);
        }
    };
    tokio::select! {
        () = append => {}
        () = ends_with_its_token(stream) => {}
    }
}

#[tokio::test]
async fn a_long_poll_is_answered_when_its_token_expires() {
    let site = site();
    let (node, token) = scene(&site).await;
    let (name, value) = bearer(&token);
    let begun = std::time::Instant::now();
    let path = "/v1/feeds/a/entries?after=0&wait=60";
    let answer = ask(&node, "GET", path, &[(name, &value)], None).await;
    assert_eq!(
        (answer.status, &answer.json()["entries"]),
        (200, &json!([]))
    );
    // Long before the end of the wait, even on a slow machine.
    assert!(begun.elapsed() < Duration::from_secs(59));
}

#[tokio::test]
async fn an_upload_ends_with_its_token() {
    let site = site();
    let (node, token) = scene(&site).await;
    let (lines, body) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(1);
    let line = "{\"kind\":\"visit\",\"feeds\":[\"a\"]}\n";
    lines.send(Ok(line.to_owned())).await.expect("a place");
    let body = futures_util::stream::unfold(body, |mut body| async move {
        let line = body.recv().await?;
        Some((line, body))
    });
    let request = node
        .http
        .post(node.url("/v1/events"))
        .bearer_auth(&token)
        .header("content-type", "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(body));
    // The body stays open: the service ends the answer.
    let answer = request
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    let results: Vec<Value> = answer
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(results.len(), 2, "{answer}");
    assert_eq!(results[0]["status"], "appended");
    assert_eq!(results[1]["index"], 1);
    assert_eq!(results[1]["error"]["code"], "token_expired");
    drop(lines);
}
