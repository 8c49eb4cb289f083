//! `POST /v1/events` with NDJSON: each line is answered when it is committed, in order.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{column, message, visit};
use crate::support::{
    bed::{Bed, Served},
    raw,
};

crate::on_every_engine!(
    lines_are_answered_as_they_commit_while_the_body_is_open,
    each_line_is_answered_in_order_whatever_it_contains,
    the_last_line_needs_no_line_feed,
    a_body_without_lines_has_an_answer_without_lines,
    versions_grow_over_any_number_of_lines,
    a_line_cut_off_by_a_disconnect_is_not_appended,
);

/// An NDJSON request whose body is sent while its answer is read.
struct Conversation {
    /// Dropping it ends the body.
    body: Option<mpsc::Sender<Bytes>>,
    answer: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: Vec<u8>,
}

impl Conversation {
    /// `first` is the beginning of the body.
    async fn open(node: &Served, first: &str) -> Self {
        let (body, receiver) = mpsc::channel(16);
        body.send(Bytes::from(first.to_owned()))
            .await
            .expect("room");
        let chunks = stream::unfold(receiver, |mut receiver| async move {
            let chunk: Bytes = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(chunk), receiver))
        });
        let response = node
            .http
            .post(node.url("/v1/events"))
            .header("content-type", "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(chunks))
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            body: Some(body),
            answer: Box::pin(response.bytes_stream()),
            buffer: Vec::new(),
        }
    }

    async fn send(&mut self, text: &str) {
        let body = self.body.as_ref().expect("the body is open");
        body.send(Bytes::from(text.to_owned()))
            .await
            .expect("the server reads");
    }

    /// The next line of the answer; `None` at its end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            match self.answer.next().await {
                Some(chunk) => self
                    .buffer
                    .extend_from_slice(&chunk.expect("the answer goes on")),
                None => {
                    assert!(self.buffer.is_empty(), "every line ends with a line feed");
                    return None;
                }
            }
        }
    }

    /// Ends the body; returns the rest of the answer.
    async fn finish(mut self) -> Vec<Value> {
        self.body = None;
        let mut lines = Vec::new();
        while let Some(line) = self.next().await {
            lines.push(line);
        }
        lines
    }
}

async fn answered(node: &Served, body: &str) -> Vec<Value> {
    Conversation::open(node, body).await.finish().await
}

fn line(event: &Value) -> String {
    format!("{event}\n")
}

async fn lines_are_answered_as_they_commit_while_the_body_is_open(bed: &Bed) {
    let node = bed.node().await;
    let mut talk = Conversation::open(&node, &line(&visit("0", &["a"]))).await;
    for index in 0..20 {
        let answer = talk.next().await.expect("an answer to the line sent");
        assert_eq!(answer["id"], index.to_string());
        assert_eq!(answer["status"], "appended");
        // An answered event is stored and visible.
        assert_eq!(node.get("/v1/feeds/a").await["latest"], answer["version"]);
        // A line may arrive in pieces.
        let next = line(&visit(&(index + 1).to_string(), &["a"]));
        let (begin, end) = next.split_at(index);
        talk.send(begin).await;
        talk.send(end).await;
    }
    assert_eq!(column(&talk.finish().await, "id"), ["20"]);
    assert_eq!(node.all("a").await.len(), 21);
}

async fn each_line_is_answered_in_order_whatever_it_contains(bed: &Bed) {
    let node = bed.node().await;
    let expect = |id: &str| {
        json!({ "id": id, "kind": "visit", "feeds": ["a"],
                "expect": { "feed": "a", "version": null } })
    };
    // The line; its answer's id, or index if it has no id; status, or error code; error field.
    let lines: Vec<(String, Value, &str, Value)> = vec![
        (
            line(&expect("first")),
            json!("first"),
            "appended",
            json!(null),
        ),
        ("\n  \r\n\t\n".into(), json!(null), "", json!(null)),
        ("{\"kind\":\n".into(), json!(1), "invalid_json", json!(null)),
        ("no JSON\n".into(), json!(2), "invalid_json", json!(null)),
        (
            line(&visit("bad", &["a", "b*"])),
            json!(3),
            "invalid_event",
            json!("feeds[1]"),
        ),
        ("[]\n".into(), json!(4), "invalid_event", json!(null)),
        (
            line(&expect("late")),
            json!("late"),
            "version_conflict",
            json!(null),
        ),
        (
            line(&json!({ "kind": "typing", "feeds": ["a"] })),
            json!(6),
            "kind_transient",
            json!(null),
        ),
        (
            line(&visit("first", &["a"])),
            json!("first"),
            "duplicate",
            json!(null),
        ),
        (
            line(&visit("first", &["b"])),
            json!("first"),
            "id_reused",
            json!(null),
        ),
        (
            format!("{}\r\n", message("m", &["a"])),
            json!("m"),
            "appended",
            json!(null),
        ),
        (
            line(&message("m", &["a"])),
            json!("m"),
            "duplicate",
            json!(null),
        ),
    ];
    let body: String = lines.iter().map(|(line, ..)| line.as_str()).collect();
    let answers = answered(&node, &body).await;
    let lines = lines
        .into_iter()
        .filter(|(.., outcome, _)| !outcome.is_empty());
    let mut results = answers.iter();
    for (line, whose, outcome, field) in lines {
        let result = results.next().expect("an answer to each line");
        let name = if whose.is_string() { "id" } else { "index" };
        assert_eq!(result[name], whose, "{line}");
        if ["appended", "duplicate"].contains(&outcome) {
            assert_eq!(result["status"], outcome, "{line}");
            continue;
        }
        assert_eq!(result["status"], "rejected", "{line}");
        let error = &result["error"];
        assert_eq!(
            (&error["code"], &error["field"]),
            (&json!(outcome), &field),
            "{line}"
        );
        assert!(error["detail"].is_string());
    }
    assert_eq!(results.next(), None);
    assert_eq!(column(&node.all("a").await, "id"), ["first", "m"]);
    assert!(node.all("b").await.is_empty());
}

async fn the_last_line_needs_no_line_feed(bed: &Bed) {
    let node = bed.node().await;
    let body = line(&visit("a", &["a"])) + &visit("b", &["a"]).to_string();
    assert_eq!(column(&answered(&node, &body).await, "id"), ["a", "b"]);
    assert_eq!(column(&node.all("a").await, "id"), ["a", "b"]);
}

async fn a_body_without_lines_has_an_answer_without_lines(bed: &Bed) {
    let node = bed.node().await;
    for body in ["", "\n\n", " \r\n "] {
        assert!(answered(&node, body).await.is_empty());
    }
}

async fn versions_grow_over_any_number_of_lines(bed: &Bed) {
    let node = bed.node().await;
    let lines: Vec<String> = (0..2500)
        .map(|i| line(&visit(&format!("e{i}"), &["a"])))
        .collect();
    let answers = answered(&node, &lines.concat()).await;
    let versions = column(&answers, "version");
    assert_eq!(versions.len(), 2500);
    assert!(versions.is_sorted_by(|a, b| a < b));
    let entries = node.all("a").await;
    assert_eq!(column(&entries, "version"), versions);
    assert_eq!(column(&entries, "id"), column(&answers, "id"));
    // Sent again, all are duplicates.
    let again = answered(&node, &lines.concat()).await;
    assert!(again.iter().all(|answer| answer["status"] == "duplicate"));
    assert_eq!(column(&again, "version"), versions);
}

async fn a_line_cut_off_by_a_disconnect_is_not_appended(bed: &Bed) {
    let node = bed.node().await;
    let headers = [
        ("content-type", "application/x-ndjson"),
        ("transfer-encoding", "chunked"),
    ];
    // The rest of the line is unknown, even if what arrived is complete JSON.
    for cut in [
        r#"{"id":"cut","kind":"visit","fee"#,
        r#"{"id":"cut","kind":"visit","feeds":["a"]}"#,
    ] {
        let mut stream = raw::connect(node.address).await;
        let whole = line(&visit("whole", &["a"]));
        let sent = [
            raw::head("POST", "/v1/events", &headers),
            raw::chunk(whole.as_bytes()),
            raw::chunk(cut.as_bytes()),
        ];
        stream.write_all(&sent.concat()).await.expect("sent");
        stream.shutdown().await.expect("no more to send");
        // When the answer ends, the service has finished the request.
        let answer = String::from_utf8(raw::drain(&mut stream).await).expect("UTF-8");
        assert!(answer.contains(r#""id":"whole""#), "{answer}");
        assert_eq!(column(&node.all("a").await, "id"), ["whole"]);
    }
    assert_eq!(
        node.append(&visit("cut", &["a"])).await["status"],
        "appended"
    );
}
