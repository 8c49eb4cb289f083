//! Over HTTP/2 without TLS the same requests get the same answers as over HTTP/1.1, except for versions and times. All
//! requests share one connection, also with an open stream, long poll and request body.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{
    body::Body,
    http::{HeaderMap, Request, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use newsfeed::version::{TEXT_LEN, Version};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{PATIENCE, Process};
use crate::support::{bed::text, protocol::Protocol, sse::Stream};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// Headers that depend on the protocol or the time.
const NOT_COMPARED: [&str; 5] = [
    "connection",
    "content-length",
    "date",
    "transfer-encoding",
    "x-request-id",
];

/// A client, and a transcript of its requests and answers.
struct Talk {
    protocol: Protocol,
    client: Client<HttpConnector, Body>,
    base: String,
    /// The event of each known version.
    versions: BTreeMap<String, String>,
    transcript: Vec<String>,
}

impl Talk {
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).expect("a request");
        let answer = timeout(PATIENCE, self.client.request(request)).await;
        let answer = answer.expect("an answer in time").expect("an answer");
        assert_eq!(answer.version(), self.protocol.version());
        answer
    }

    /// Sends a request; adds the answer to the transcript.
    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> (HeaderMap, Value) {
        let response = self.send(method, path, headers, body.into()).await;
        self.note(&format!("{method} {path}"), response).await
    }

    async fn get(&mut self, path: &str) -> (HeaderMap, Value) {
        self.ask("GET", path, &[], Body::empty()).await
    }

    async fn post(&mut self, path: &str, body: &Value) -> Value {
        let headers = [("content-type", JSON)];
        self.ask("POST", path, &headers, body.to_string()).await.1
    }

    async fn note(&mut self, request: &str, response: Response<Incoming>) -> (HeaderMap, Value) {
        let (head, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect()).await;
        let body = body
            .expect("a body in time")
            .expect("a whole body")
            .to_bytes();
        let body =
            serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        self.learn(&body);
        let mut headers: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &head.headers {
            let value = if name == "etag" {
                "a tag"
            } else {
                value.to_str().expect("ASCII")
            };
            headers.push((name.as_str(), value));
        }
        headers.retain(|(name, _)| !NOT_COMPARED.contains(name));
        headers.sort_unstable();
        let line = json!([request, head.status.as_u16(), headers, body]);
        self.note_line(line);
        (head.headers, body)
    }

    /// Notes the versions in the answer to an append.
    fn learn(&mut self, answer: &Value) {
        for outcome in answer.as_array().unwrap_or(&vec![answer.clone()]) {
            if let (Some(id), Some(version), Some(_)) = (
                outcome["id"].as_str(),
                outcome["version"].as_str(),
                outcome["status"].as_str(),
            ) {
                self.versions
                    .insert(version.to_owned(), format!("the version of {id}"));
            }
        }
    }

    fn note_line(&mut self, mut line: Value) {
        self.forget_the_moment(&mut line);
        self.transcript.push(line.to_string());
    }

    /// Replaces versions and times by words.
    fn forget_the_moment(&self, value: &mut Value) {
        match value {
            Value::Array(values) => values
                .iter_mut()
                .for_each(|value| self.forget_the_moment(value)),
            Value::Object(fields) => {
                if let Some(at) = fields.get_mut("at") {
                    *at = json!("a time");
                }
                fields
                    .values_mut()
                    .for_each(|value| self.forget_the_moment(value));
            }
            Value::String(text) => {
                for (version, name) in &self.versions {
                    *text = text.replace(version, name);
                }
                if text.len() == TEXT_LEN && text.parse::<Version>().is_ok() {
                    "a version".clone_into(text);
                }
            }
            _ => {}
        }
    }
}

fn event(id: &str) -> Value {
    json!({ "id": id, "kind": "message", "feeds": ["user:ben", "chat:anna-ben"], "actor": "user:anna", "data": { "text": id } })
}

async fn appends(talk: &mut Talk) {
    talk.post("/v1/events", &event("one")).await;
    talk.post("/v1/events", &event("one")).await;
    talk.post("/v1/events", &json!([event("two"), { "id": "three", "kind": "visit", "feeds": ["user:ben"] }, event("one")])).await;
    talk.post(
        "/v1/transient",
        &json!({ "id": "t", "kind": "typing", "feeds": ["user:ben"] }),
    )
    .await;

    let mut changed = event("one");
    changed["data"] = json!("else");
    talk.post("/v1/events", &changed).await;
    let mut conditional = event("if");
    conditional["expect"] = json!({ "feed": "user:ben", "version": null });
    talk.post("/v1/events", &conditional).await;
    talk.post(
        "/v1/events",
        &json!({ "kind": "typing", "feeds": ["user:ben"] }),
    )
    .await;
    talk.post("/v1/events", &json!([])).await;
    talk.post("/v1/events?x=y", &event("one")).await;
    for (kind, body) in [
        (JSON, "{"),
        ("text/plain", "{}"),
        (JSON, &" ".repeat(8 * 1024 * 1024 + 1)),
    ] {
        talk.ask(
            "POST",
            "/v1/events",
            &[("content-type", kind)],
            body.to_owned(),
        )
        .await;
    }
}

async fn reads(talk: &mut Talk) {
    talk.get("/v1/feeds/user:ben").await;
    talk.get("/v1/feeds/user:nobody").await;
    talk.get("/v1/entries?feed=user:ben&feed=chat:anna-ben&after=0")
        .await;
    talk.get("/v1/feeds/user:ben/entries?after=0&kind=visit")
        .await;
    let (_, page) = talk.get("/v1/feeds/user:ben/entries?limit=2").await;
    let latest = text(&page["entries"][0]["version"]);
    let (headers, page) = talk
        .get(&format!(
            "/v1/feeds/user:ben/entries?until={latest}&limit=2"
        ))
        .await;
    let before = text(&page["next"]);
    talk.get(&format!(
        "/v1/feeds/user:ben/entries?until={latest}&limit=2&before={before}"
    ))
    .await;
    let tag = headers["etag"].to_str().expect("ASCII");
    let path = format!("/v1/feeds/user:ben/entries?until={latest}&limit=2");
    talk.ask("GET", &path, &[("if-none-match", tag)], Body::empty())
        .await;
    talk.ask("HEAD", &path, &[], Body::empty()).await;

    let marker = json!({ "version": latest }).to_string();
    for (path, body) in [
        ("/v1/feeds/user:ben/markers/read", &*marker),
        ("/v1/feeds/user:ben/markers/read", r#"{"version":"zzzzzz"}"#),
        ("/v1/feeds/user:ben/markers/other", &*marker),
    ] {
        talk.ask("PUT", path, &[("content-type", JSON)], body.to_owned())
            .await;
    }
    for path in [
        "/v1/feeds/user:ben/entries?limit=0",
        "/v1/feeds/user:ben/entries?until=ffffff",
        "/v1/feeds/b%20n",
        "/v1/entries",
        "/v1/nothing",
        "/healthz",
        "/readyz",
    ] {
        talk.get(path).await;
    }
    talk.ask("DELETE", "/v1/events", &[], Body::empty()).await;
}

/// A stream and a long poll, while other requests are answered.
async fn waits(talk: &mut Talk) {
    let after = text(&talk.get("/v1/feeds/user:ben").await.1["version"]);
    let stream = talk
        .send("GET", "/v1/live?feed=user:ben&after=0", &[], Body::empty())
        .await;
    let mut stream = Stream::over(stream.into_body().into_data_stream());
    let path = format!("/v1/feeds/user:ben/entries?after={after}&wait=60");
    let poll = tokio::spawn({
        let request = Request::get(format!("{}{path}", talk.base)).body(Body::empty());
        let client = talk.client.clone();
        async move { client.request(request.expect("a request")).await }
    });
    let mut entries = 0;
    while entries < 4 {
        let heard = stream.next().await.expect("the stream goes on");
        if ["entry", "notify"].contains(&&*heard.name) {
            entries += 1;
            if entries == 3 {
                talk.post("/v1/events", &event("four")).await;
            }
            talk.note_line(json!([heard.name, heard.id, heard.data]));
        }
    }
    let answer = timeout(PATIENCE, poll)
        .await
        .expect("an answer in time")
        .expect("no panic");
    talk.note("the long poll", answer.expect("an answer")).await;
}

/// NDJSON: each line is answered before the next is sent.
async fn lines(talk: &mut Talk) {
    let (body, receiver) = mpsc::channel::<Bytes>(1);
    let chunks = stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, Infallible>(chunk), receiver))
    });
    let headers = [("content-type", NDJSON)];
    let response = talk
        .send("POST", "/v1/events", &headers, Body::from_stream(chunks))
        .await;
    assert_eq!(response.headers()["content-type"], NDJSON);
    // The end of a body may be an empty chunk.
    let chunks = response.into_body().into_data_stream();
    let mut answers = Box::pin(chunks.filter(|chunk| {
        let empty = chunk.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready(!empty)
    }));
    for line in [
        event("line 1").to_string(),
        event("line 2").to_string(),
        "no JSON".to_owned(),
        event("line 1").to_string(),
    ] {
        let line = Bytes::from(line + "\n");
        body.send(line).await.expect("the service reads");
        let answer = timeout(PATIENCE, answers.next()).await;
        let answer = answer.expect("an answer in time").expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.expect("whole")).expect("JSON");
        talk.learn(&answer);
        talk.note_line(answer);
    }
    drop(body);
    let end = timeout(PATIENCE, answers.next()).await;
    assert!(end.expect("an end in time").is_none());
}

async fn transcript(protocol: Protocol) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start(folder.path()).await;
    let mut talk = Talk {
        protocol,
        client: protocol.client(),
        base: process.api.url(""),
        versions: BTreeMap::new(),
        transcript: Vec::new(),
    };
    appends(&mut talk).await;
    reads(&mut talk).await;
    waits(&mut talk).await;
    lines(&mut talk).await;
    process.stop().await;
    talk.transcript
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_requests_get_the_same_answers_as_over_http1() {
    let (http1, http2) = tokio::join!(transcript(Protocol::Http1), transcript(Protocol::Http2));
    for (http1, http2) in http1.iter().zip(&http2) {
        assert_eq!(http1, http2);
    }
    assert_eq!(http1.len(), http2.len());
}
