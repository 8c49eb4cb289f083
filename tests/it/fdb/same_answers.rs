//! Both engines answer alike, byte for byte: the same session on each differs only in the values of versions, times and
//! digests.

use std::{collections::HashMap, sync::LazyLock};

use newsfeed::version::{TEXT_LEN, Version};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{
    bed::{Bed, Served, text},
    entries::UNKNOWN,
    sse::Stream,
};

const TIME: &str = "2026-11-21T21:08:10.123456Z";

/// A line of the transcript: the request, and the answer's length and text with values replaced by names.
#[derive(Debug)]
struct Said {
    asked: String,
    length: usize,
    named: String,
}

struct Session {
    node: Served,
    said: Vec<Said>,
    /// Versions of entries, numbered in the order of their appends. All other versions are moments.
    entries: HashMap<String, usize>,
}

impl Session {
    fn note(&mut self, asked: &str, answer: &str) {
        self.said.push(Said {
            asked: asked.to_owned(),
            length: answer.len(),
            named: self.name_values(answer),
        });
    }

    /// Replaces versions and times by names.
    fn name_values(&self, text: &str) -> String {
        let mut named = String::new();
        let mut word = String::new();
        for character in text.chars().chain(['\n']) {
            if character.is_ascii_alphanumeric() || "-:.".contains(character) {
                word.push(character);
                continue;
            }
            named.push_str(&self.name_of(&word));
            word.clear();
            named.push(character);
        }
        named
    }

    fn name_of(&self, word: &str) -> String {
        if let Some(number) = self.entries.get(word) {
            format!("ENTRY{number}")
        } else if word.len() == TEXT_LEN && word.parse::<Version>().is_ok() {
            "MOMENT".to_owned()
        } else if has_form(word, TIME) {
            "TIME".to_owned()
        } else {
            word.to_owned()
        }
    }

    async fn send(&mut self, method: Method, path: &str, media: &str, body: String) -> String {
        let request = self
            .node
            .http
            .request(method.clone(), self.node.url(path))
            .header("content-type", media)
            .body(body.clone());
        let response = request.send().await.expect("an answer");
        let head = head_of(&response);
        let answer = response.text().await.expect("text");
        let asked = self.name_values(&format!("{method} {path} {body}"));
        self.learn(&answer);
        self.note(&asked, &head);
        self.note(&asked, &answer);
        answer
    }

    /// Notes the versions in answers to appends, in order.
    fn learn(&mut self, answer: &str) {
        for line in answer.lines() {
            let told: Value = serde_json::from_str(line).unwrap_or_default();
            let told = match told {
                Value::Array(told) => told,
                told => vec![told],
            };
            for answer in told.iter().filter(|answer| answer["status"] == "appended") {
                let number = self.entries.len();
                self.entries.insert(text(&answer["version"]), number);
            }
        }
    }

    async fn append(&mut self, events: &Value) -> Value {
        let body = events.to_string();
        let answer = self
            .send(Method::POST, "/v1/events", "application/json", body)
            .await;
        serde_json::from_str(&answer).expect("JSON")
    }

    async fn get(&mut self, path: &str) -> Value {
        let answer = self
            .send(Method::GET, path, "application/json", String::new())
            .await;
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Notes blocks of a stream up to the first that has `needle`, except for heartbeats.
    async fn listen(&mut self, stream: &mut Stream, asked: &str, needle: &str) {
        loop {
            let block = stream.block().await.expect("the stream goes on");
            let block = without_retry(&block);
            let found = block.contains(needle);
            if found || !block.starts_with("event: version") {
                self.note(asked, &block);
            }
            if found {
                return;
            }
        }
    }
}

/// The block without the time of its `retry`, which is random.
fn without_retry(block: &str) -> String {
    let line = |line: &str| match line.starts_with("retry: ") {
        true => "retry: RANDOM".to_owned(),
        false => line.to_owned(),
    };
    block.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// The status and the headers, without date, request id and ETag value.
fn head_of(response: &Response) -> String {
    let mut lines: Vec<String> = response
        .headers()
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| {
            let value = value.to_str().expect("text");
            let etag = r#""0123456789abcdef""#;
            let value = if name == "etag" && has_form(value, etag) {
                etag
            } else {
                value
            };
            format!("{name}: {value}")
        })
        .collect();
    lines.sort();
    format!("{}\n{}", response.status(), lines.join("\n"))
}

/// Whether `word` equals `form`, except that digits may differ (hexadecimal digits if `form` is quoted).
fn has_form(word: &str, form: &str) -> bool {
    word.len() == form.len()
        && word.bytes().zip(form.bytes()).all(|(a, b)| {
            a == b || (a.is_ascii_digit() && b.is_ascii_digit()) || {
                form.starts_with('"') && a.is_ascii_hexdigit() && b.is_ascii_hexdigit()
            }
        })
}

static EVENTS: LazyLock<[Value; 4]> = LazyLock::new(|| {
    [
        json!({ "id": "one", "kind": "message", "feeds": ["user:1"] }),
        json!([
            { "id": "two", "kind": "message", "feeds": ["user:1", "chat:1-2"], "actor": "user:2",
              "data": { "text": "grüße \"quoted\" 😀", "n": 1.50, "deep": [[], {}, null, true] } },
            { "id": "a third, with spaces", "kind": "visit", "feeds": ["user:1"], "data": "plain" },
            { "id": "two", "kind": "message", "feeds": ["chat:1-2", "user:1"], "actor": "user:2",
              "data": { "n": 1.50, "text": "grüße \"quoted\" 😀", "deep": [[], {}, null, true] } },
            { "id": "four", "kind": "flirt", "feeds": ["user:2"], "data": 7 },
        ]),
        json!([
            { "id": "one", "kind": "message", "feeds": ["user:1"], "data": "something else" },
            { "id": "late", "kind": "visit", "feeds": ["user:1"], "expect": { "feed": "user:1", "version": null } },
            { "id": "first", "kind": "visit", "feeds": ["slot"], "expect": { "feed": "slot", "version": null } },
        ]),
        json!({ "id": "later", "kind": "visit", "feeds": ["slot"], "expect": { "feed": "slot", "version": null } }),
    ]
});

/// A session: appends, pages, states, markers, problems and a stream, each based on the answers before.
async fn session(bed: &Bed) -> Vec<Said> {
    let mut session = Session {
        node: bed.node().await,
        said: Vec::new(),
        entries: HashMap::new(),
    };
    let s = &mut session;
    s.get("/v1/feeds/user:1").await;
    s.get("/v1/feeds/user:1/entries").await;
    for events in EVENTS.iter() {
        s.append(events).await;
    }
    let lines = concat!(
        r#"{"id":"l1","kind":"visit","feeds":["user:1"]}"#,
        "\n{\"bad\":1}\n",
        r#"{"id":"l2","kind":"visit","feeds":["user:2"]}"#,
    );
    s.send(
        Method::POST,
        "/v1/events",
        "application/x-ndjson",
        lines.to_owned(),
    )
    .await;

    s.get("/v1/feeds/user:1").await;
    let newest = s.get("/v1/feeds/user:1/entries?limit=2").await;
    let next = text(&newest["next"]);
    s.get(&format!("/v1/feeds/user:1/entries?limit=2&before={next}"))
        .await;
    s.get(&format!("/v1/feeds/user:1/entries?limit=2&until={next}"))
        .await;
    let oldest = s
        .get("/v1/entries?feed=user:2&feed=chat:1-2&feed=user:1&after=0&limit=3")
        .await;
    let after = text(&oldest["next"]);
    s.get(&format!(
        "/v1/entries?feed=user:2&feed=chat:1-2&feed=user:1&after={after}"
    ))
    .await;
    s.get("/v1/feeds/user:1/entries?kind=visit&after=0").await;
    let moment = text(&s.get("/v1/feeds/user:1").await["version"]);
    s.get(&format!("/v1/feeds/user:1/entries?wait=1&after={moment}"))
        .await;

    for (marker, version) in [("seen", &moment), ("read", &after), ("read", &moment)] {
        let body = json!({ "version": version }).to_string();
        let path = format!("/v1/feeds/user:1/markers/{marker}");
        s.send(Method::PUT, &path, "application/json", body).await;
        s.get("/v1/feeds/user:1").await;
    }
    for path in [
        "/v1/feeds/user:1/entries?after=rubbish".to_owned(),
        format!("/v1/feeds/user:1/entries?after={UNKNOWN}"),
        "/v1/feeds/user:1/entries?after=0&before=0".to_owned(),
        "/v1/feeds/a%20b".to_owned(),
        "/v1/nothing".to_owned(),
        "/readyz".to_owned(),
    ] {
        s.get(&path).await;
    }
    streams(s).await;
    let Session { node, said, .. } = session;
    node.stop().await;
    said
}

async fn streams(s: &mut Session) {
    let path = "/v1/live?feed=user:1&feed=chat:1-2&after=0";
    let http = reqwest::Client::new();
    let mut stream = Stream::open(&http, &s.node.url(path), None).await;
    s.listen(&mut stream, path, "event: version").await;
    let typing =
        json!({ "id": "t1", "kind": "typing", "feeds": ["user:1", "chat:1-2"], "actor": "user:2" });
    let body = typing.to_string();
    s.send(Method::POST, "/v1/transient", "application/json", body)
        .await;
    s.listen(&mut stream, path, "event: transient").await;
    s.append(
        &json!({ "id": "hello", "kind": "message", "feeds": ["user:1", "chat:1-2"], "data": {} }),
    )
    .await;
    s.listen(&mut stream, path, "event: notify").await;
    let appended = s
        .append(&json!({ "id": "saw you", "kind": "visit", "feeds": ["user:1"] }))
        .await;
    s.listen(&mut stream, path, "event: entry").await;
    let body = json!({ "version": appended["version"] }).to_string();
    s.send(
        Method::PUT,
        "/v1/feeds/user:1/markers/read",
        "application/json",
        body,
    )
    .await;
    s.listen(&mut stream, path, "event: marker").await;
    let mut stream = Stream::open(&http, &s.node.url(path), Some(UNKNOWN)).await;
    s.listen(&mut stream, "a position ahead", "event: version")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_give_the_same_answers() {
    let (embedded, fdb) = (session(&Bed::embedded()).await, session(&Bed::fdb()).await);
    assert_eq!(embedded.len(), fdb.len());
    let named: Vec<&str> = embedded.iter().map(|said| &*said.named).collect();
    for name in ["ENTRY8", "MOMENT", "TIME"] {
        assert!(
            named.iter().any(|named| named.contains(name)),
            "there is no {name} in the session"
        );
    }
    for (embedded, fdb) in embedded.iter().zip(&fdb) {
        assert_eq!(embedded.asked, fdb.asked);
        assert_eq!(embedded.named, fdb.named, "{}", embedded.asked);
        assert_eq!(embedded.length, fdb.length, "{}", embedded.asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_make_versions_of_the_same_parts() {
    for bed in [Bed::embedded(), Bed::fdb()] {
        let node = bed.node().await;
        let events: Vec<Value> = (0..300)
            .map(|number| json!({ "id": number.to_string(), "kind": "note", "feeds": ["a"] }))
            .collect();
        let before: Version = node.version("a").await.parse().expect("a version");
        let answers = node.append(&json!(events)).await;
        let versions: Vec<Version> = answers
            .as_array()
            .expect("answers")
            .iter()
            .map(|answer| text(&answer["version"]).parse().expect("a version"))
            .collect();
        let after: Version = node.version("a").await.parse().expect("a version");
        for (index, version) in (0..).zip(&versions) {
            assert_eq!(
                *version,
                versions[0].at_index(index),
                "the index of the event in its transaction"
            );
            assert_eq!(version.epoch(), before.epoch());
        }
        // A moment includes all commits of its tick.
        for moment in [before, after] {
            assert_eq!(moment, Version::moment(before.epoch(), moment.time()));
        }
        assert!(before < versions[0] && versions[299] < after);
        node.stop().await;
    }
}
