//! Real answers of every operation, compared with what `openapi.yaml` documents for their status.

mod backup;
mod storage_full;

use std::collections::BTreeSet;

use newsfeed::http::limits::{Budget, Limits};
use serde_json::{Value, json};

use super::spec::Spec;
use crate::{
    auth::{Site, bearer, master},
    limits::all_transients,
    support::{
        bed::{Answer, Bed, JSON, LINES, Served, text},
        entries::{UNKNOWN, ahead},
        sse::Stream,
    },
};

crate::on_every_engine!(every_answer_matches_the_file);

/// Statuses that no request here causes: slow bodies are tested elsewhere, and nothing should cause a 500.
const UNSEEN: [&str; 2] = ["408", "500"];

const LOG: &str = "/v1/admin/log";
const BACKUP: &str = "/v1/admin/backup";

/// Compares answers with the file, and notes which documented answers it has seen.
pub(super) struct Witness<'a> {
    pub(super) spec: &'a Spec,
    pub(super) node: &'a Served,
    pub(super) seen: BTreeSet<(String, String, String)>,
}

impl Witness<'_> {
    /// Sends a request to the operation at `template`; checks the answer and returns it.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        template: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let answer = self
            .node
            .send_body(method, path, headers, body.to_owned())
            .await;
        self.hold(method, template, path, &answer);
        answer
    }

    async fn get(&mut self, template: &str, path: &str) -> Answer {
        self.ask("GET", template, path, &[], "").await
    }

    /// POST of JSON to a path without parameters.
    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, path, &[JSON], &body.to_string())
            .await
    }

    fn hold(&mut self, method: &str, template: &str, path: &str, answer: &Answer) {
        let what = format!("{method} {path}: {}", answer.status);
        let nosniff = answer.header("x-content-type-options");
        assert_eq!(nosniff, Some("nosniff"), "{what}");
        let documented = self.documented(method, template);
        let (key, response) = self
            .spec
            .response(documented, answer.status)
            .unwrap_or_else(|| panic!("{what} is not documented"));
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let header = self.spec.resolve(header);
            match answer.header(name) {
                // Header values are text; the schema may describe a number.
                Some(value) => {
                    let said = match header["schema"]["type"] == "integer" {
                        true => value
                            .parse::<i64>()
                            .map_or(json!(value), |number| json!(number)),
                        false => json!(value),
                    };
                    self.spec
                        .check(&header["schema"], &said)
                        .unwrap_or_else(|error| panic!("{name} of {what}: {error}"));
                }
                None => assert!(header["required"] != true, "{what} without {name}"),
            }
        }
        match response.get("content") {
            Some(content) => self.hold_body(&what, content, answer),
            None => assert!(answer.body.is_empty(), "{what} with a body"),
        }
        self.seen
            .insert((template.to_owned(), method.to_lowercase(), key));
    }

    fn hold_body(&self, what: &str, content: &Value, answer: &Answer) {
        let media = answer.header("content-type").expect(what);
        let schema = &content[media]["schema"];
        assert!(schema.is_object(), "{what} is not documented as {media}");
        let body = String::from_utf8_lossy(&answer.body);
        let checked = match media {
            "text/plain; version=0.0.4; charset=utf-8"
            | "application/openmetrics-text; version=1.0.0; charset=utf-8" => {
                self.spec.check(schema, &json!(body))
            }
            "application/yaml" => {
                let body = serde_saphyr::from_str(&body).expect("YAML");
                self.spec.check(schema, &body)
            }
            // A line of JSON, then anything.
            "application/octet-stream" => {
                let line = body.lines().next().unwrap_or_default();
                let line = serde_json::from_str(line).expect("JSON");
                self.spec.check(schema, &line)
            }
            "application/x-ndjson" => body.lines().try_for_each(|line| {
                let line = serde_json::from_str(line).expect("JSON");
                self.spec.check(&schema["contentSchema"], &line)
            }),
            _ => self.spec.check(schema, &answer.json()),
        };
        checked.unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    /// Checks the head of a stream, not its events.
    async fn hold_stream(&mut self, template: &str, url: &str) {
        let response = self.node.http.get(url).send().await.expect("an answer");
        let documented = self.documented("GET", template);
        let (key, expected) = self
            .spec
            .response(documented, response.status().as_u16())
            .expect(url);
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let media = response.headers()["content-type"].to_str().expect("ASCII");
        assert!(
            expected["content"][media].is_object(),
            "{url} is not documented as {media}"
        );
        for (name, header) in expected["headers"].as_object().expect("headers") {
            let value = response.headers()[name].to_str().expect("ASCII");
            let schema = &self.spec.resolve(header)["schema"];
            self.spec.check(schema, &json!(value)).expect(url);
        }
        self.seen
            .insert((template.to_owned(), "get".to_owned(), key));
    }

    fn documented(&self, method: &str, template: &str) -> &Value {
        let method = method.to_lowercase();
        let found = self
            .spec
            .operations()
            .find(|(path, name, _)| *path == template && *name == method);
        match found {
            Some((_, _, operation)) => operation,
            // For an undocumented method: any operation of the path documents the answer.
            None => {
                self.spec
                    .operations()
                    .find(|(path, ..)| *path == template)
                    .expect("a path")
                    .2
            }
        }
    }
}

async fn every_answer_matches_the_file(bed: &Bed) {
    let spec = Spec::read();
    let node = bed.node().await;
    let mut witness = Witness {
        spec,
        node: &node,
        seen: BTreeSet::new(),
    };
    append(&mut witness).await;
    inbox(&mut witness).await;
    change(&mut witness).await;
    read(&mut witness).await;
    follow(&mut witness).await;
    refuse(&mut witness).await;
    let mut seen = witness.seen;
    limit(spec, &mut seen).await;
    crowd(spec, &mut seen).await;
    backup::answer(spec, &mut seen).await;
    storage_full::erase_slowly(bed, spec, &mut seen).await;
    storage_full::refuse(bed, spec, &mut seen).await;
    stop(bed, spec, node, &mut seen).await;
    super::access::access(spec, &mut seen).await;

    for (path, method, operation) in spec.operations() {
        for status in operation["responses"]
            .as_object()
            .expect("responses")
            .keys()
        {
            let key = (path.to_owned(), method.to_owned(), status.clone());
            assert!(
                seen.contains(&key) || UNSEEN.contains(&status.as_str()),
                "{key:?} was not seen"
            );
        }
    }
}

async fn append(witness: &mut Witness<'_>) {
    let event = json!({ "id": "m", "kind": "message", "feeds": ["a", "b"], "actor": "x", "data": { "t": [null, 1.5] } });
    assert_eq!(witness.post("/v1/events", &event).await.status, 200);
    witness.post("/v1/events", &event).await;
    let reused = json!({ "id": "m", "kind": "visit", "feeds": ["a"] });
    let late = json!({ "id": "l", "kind": "visit", "feeds": ["a"], "expect": { "feed": "a", "version": null } });
    for event in [&reused, &late] {
        assert_eq!(witness.post("/v1/events", event).await.status, 409);
    }
    let made =
        json!({ "kind": "visit", "feeds": ["a", "b"], "time": "2004-04-15T16:56:01.5+02:00" });
    let half = r#"{"kind":"visit","feeds":["a"],"data":{"text":"\ud83d"}}"#;
    for (path, body) in [
        ("/v1/events", half.to_owned()),
        ("/v1/transient", half.replace("visit", "typing")),
    ] {
        let answer = witness.ask("POST", path, path, &[JSON], &body).await;
        let problem = answer.problem(400, "invalid_event").expect("a problem");
        assert_eq!(problem["field"], "data.text");
    }
    let atomic = "/v1/events?atomic=true";
    let conditions = |version: &str| json!([{ "feed": "a", "version": null }, { "feed": "b", "version": version }]);
    for (body, status) in [
        (json!([event, made]), 200),
        (
            json!({ "events": [made], "expect": [{ "feed": "empty", "version": null }] }),
            200,
        ),
        (json!([event, reused]), 409),
        (json!([made, late]), 409),
        (json!({ "events": [made], "expect": conditions("0") }), 409),
        (
            json!({ "events": [made], "expect": [{ "feed": "a", "version": UNKNOWN }] }),
            410,
        ),
        (
            json!({ "events": [made], "expect": [{ "feed": "a" }] }),
            400,
        ),
        (json!({ "events": [], "expect": [] }), 400),
    ] {
        let body = body.to_string();
        let answer = witness
            .ask("POST", "/v1/events", atomic, &[JSON], &body)
            .await;
        assert_eq!(answer.status, status, "{body}");
    }
    let several = json!([event, reused, late, made]);
    assert_eq!(witness.post("/v1/events", &several).await.status, 200);
    let lines = format!(
        "{event}\n{reused}\n{late}\n{made}\nno JSON\n{half}\n{{}}\n{}\n",
        json!({ "kind": "typing", "feeds": ["a"] })
    );
    let long = format!("{lines}{}", " ".repeat(300 * 1024));
    for lines in ["", &lines, &long] {
        let headers = [("content-type", "application/x-ndjson")];
        let answer = witness
            .ask("POST", "/v1/events", "/v1/events", &headers, lines)
            .await;
        assert_eq!(answer.status, 200);
    }
    let typing = json!({ "kind": "typing", "feeds": ["a"], "actor": "x" });
    assert_eq!(witness.post("/v1/transient", &typing).await.status, 202);
}

/// Edits and erasures, and then pages, an event and the log with all that they leave.
async fn change(witness: &mut Witness<'_>) {
    let events = ["c", "d", "e", "f"]
        .map(|id| json!({ "id": id, "kind": "message", "feeds": ["a", "b"], "actor": "z" }));
    assert_eq!(witness.post("/v1/events", &json!(events)).await.status, 200);
    for (template, path) in [
        ("/v1/events/{id}", "/v1/events/c"),
        ("/v1/events", "/v1/events?id=d"),
    ] {
        let with = |query: &str| match (query, path.contains('?')) {
            ("", _) => path.to_owned(),
            (_, true) => format!("{path}&{query}"),
            (_, false) => format!("{path}?{query}"),
        };
        for (method, query, body, status) in [
            ("PATCH", "", r#"{"data":1,"change":"1"}"#, 200),
            ("PATCH", "", r#"{"data":1,"change":"1"}"#, 200),
            ("PATCH", "", r#"{"data":1,"revision":"0"}"#, 409),
            ("PATCH", "", r#"{"data":1,"revision":"x"}"#, 400),
            ("GET", "", "", 200),
            ("DELETE", "revision=0", "", 409),
            ("DELETE", "revision=x", "", 400),
            ("DELETE", "x=1", "", 400),
            ("DELETE", "", "", 200),
            ("DELETE", "", "", 200),
            ("PATCH", "", r#"{"data":1}"#, 410),
        ] {
            let path = with(query);
            let answer = witness.ask(method, template, &path, &[JSON], body).await;
            assert_eq!(answer.status, status, "{method} {path} {body}");
        }
        let unknown = path.replace("/c", "/never").replace("=d", "=never");
        for method in ["PATCH", "DELETE"] {
            let answer = witness.ask(method, template, &unknown, &[JSON], r#"{"data":1}"#);
            assert_eq!(answer.await.status, 404);
        }
    }
    assert_eq!(
        witness.post("/v1/events", &events[0]).await.json()["status"],
        "erased"
    );
    let edit = r#"{"data":{"text":"?"}}"#;
    let answer = witness.ask("PATCH", "/v1/events/{id}", "/v1/events/e", &[JSON], edit);
    assert_eq!(answer.await.status, 200);
    let one = json!({ "events": ["f", "never"] });
    let done = witness.post("/v1/erasures", &one).await;
    assert_eq!(done.status, 200);
    let erasure = "/v1/erasures/{id}";
    let path = format!("/v1/erasures/{}", text(&done.json()["id"]));
    assert_eq!(witness.get(erasure, &path).await.status, 200);
    assert_eq!(
        witness.get(erasure, &format!("{path}?x=1")).await.status,
        400
    );
    assert_eq!(witness.get(erasure, "/v1/erasures/m").await.status, 404);
    for (template, path) in [
        ("/v1/feeds/{feed}/entries", "/v1/feeds/a/entries"),
        ("/v1/entries", "/v1/entries?feed=a&feed=b"),
        ("/v1/log", "/v1/log"),
    ] {
        let after = if path.contains('?') {
            "&after=0"
        } else {
            "?after=0"
        };
        let page = witness
            .get(template, &format!("{path}{after}"))
            .await
            .json();
        let changes = page.get("changes").or(page.get("events"));
        let changes = changes.and_then(Value::as_array).into_iter().flatten();
        let told: BTreeSet<_> = changes.filter_map(|news| news["change"].as_str()).collect();
        assert_eq!(told, ["edited", "erased"].into(), "{path}");
    }
}

/// Readers, and the states of entries.
async fn inbox(witness: &mut Witness<'_>) {
    let events = ["i", "j", "k"].map(
        |id| json!({ "id": id, "kind": "message", "feeds": ["inbox", "other"], "actor": "anna" }),
    );
    let visit = json!({ "kind": "visit", "feeds": ["inbox"] });
    let appended = witness.post("/v1/events", &json!(events)).await.json();
    let entry = &*text(&appended[0]["version"]);
    let visit = witness.post("/v1/events", &visit).await.json();
    let visit = &*text(&visit["version"]);
    let now = &*witness.node.version("inbox").await;
    for (template, path) in [
        (
            "/v1/feeds/{feed}/entries/{version}/state",
            "/v1/feeds/inbox/entries/{version}/state?",
        ),
        (
            "/v1/entries/{version}/state",
            "/v1/entries/{version}/state?feed=inbox&",
        ),
    ] {
        for (version, query, body, status) in [
            (entry, "reader=ben", r#"{"read":true}"#, 200),
            (entry, "reader=ben", r#"{"read":true}"#, 200),
            (
                entry,
                "reader=ben",
                r#"{"read":false,"archived":false}"#,
                200,
            ),
            (entry, "reader=ben", r#"{"archived":true}"#, 200),
            (entry, "", r#"{"read":false}"#, 200),
            (entry, "", r#"{"read":false,"archived":true}"#, 400),
            (entry, "reader=b%20", r#"{"read":true}"#, 400),
            (entry, "reader=a&reader=b", r#"{"read":true}"#, 400),
            ("x", "", r#"{"read":true}"#, 400),
            (&*ahead(entry), "", r#"{"read":true}"#, 400),
            (UNKNOWN, "", r#"{"read":true}"#, 410),
            (now, "", r#"{"read":true}"#, 404),
            (visit, "", r#"{"read":true}"#, 409),
            (entry, "reader=anna", r#"{"read":false}"#, 409),
            (entry, "reader=anna", r#"{"archived":true}"#, 200),
        ] {
            let path = path.replace("{version}", version) + query;
            let answer = witness.ask("PUT", template, &path, &[JSON], body).await;
            assert_eq!(answer.status, status, "{path} {body}");
        }
    }
    let body = json!({ "version": entry }).to_string();
    for marker in ["read", "archived"] {
        let path = format!("/v1/markers/{marker}?feed=inbox&reader=ben");
        let answer = witness.ask("PUT", "/v1/markers/{marker}", &path, &[JSON], &body);
        assert_eq!(answer.await.status, 200);
    }
    for (template, path) in [
        ("/v1/feeds/{feed}", "/v1/feeds/inbox?reader=ben"),
        ("/v1/state", "/v1/state?feed=inbox&reader=ben"),
        ("/v1/feeds", "/v1/feeds?feed=inbox&feed=a&reader=ben"),
        ("/v1/feeds/{feed}/readers", "/v1/feeds/inbox/readers"),
        (
            "/v1/feeds/{feed}/readers",
            "/v1/feeds/inbox/readers?from=anna&limit=1",
        ),
        ("/v1/readers", "/v1/readers?feed=inbox&limit=1"),
    ] {
        assert_eq!(witness.get(template, path).await.status, 200, "{path}");
    }
    for state in ["any", "unread", "read", "archived"] {
        for (template, path) in [
            ("/v1/feeds/{feed}/entries", "/v1/feeds/inbox/entries?"),
            ("/v1/entries", "/v1/entries?feed=inbox&feed=other&"),
        ] {
            let path = format!("{path}state={state}&reader=ben");
            assert_eq!(witness.get(template, &path).await.status, 200, "{path}");
        }
    }
    states(witness).await;
}

/// The streams of states, up to a change.
async fn states(witness: &mut Witness<'_>) {
    let path = "/v1/state/live";
    let url = witness
        .node
        .url(&format!("{path}?feed=inbox&feed=a&reader=ben"));
    witness.hold_stream(path, &url).await;
    let post = || {
        let request = witness.node.http.post(witness.node.url(path));
        request.json(&json!({ "feeds": ["inbox"] })).send()
    };
    let posted = post().await.expect("an answer");
    assert_eq!(posted.status(), 200);
    let mut streams = [
        Stream::open(&witness.node.http, &url, None).await,
        Stream::over(posted.bytes_stream()),
    ];
    let mut heard = [String::new(), String::new()];
    for (stream, heard) in streams.iter_mut().zip(&mut heard) {
        let mut at_start = true;
        // The states, then the one that changes.
        loop {
            let block = stream.block().await.expect("the stream goes on");
            *heard += &block;
            *heard += "\n\n";
            if block.starts_with("event: version\n") && at_start {
                let event = json!({ "kind": "message", "feeds": ["inbox"] });
                witness.node.append(&event).await;
                at_start = false;
            } else if block.starts_with("event: state\n") && !at_start {
                break;
            }
        }
        let checked = witness.spec.check_stream(heard);
        checked.expect("a stream as documented");
    }
    let posted = (path.to_owned(), "post".to_owned(), "200".to_owned());
    witness.seen.insert(posted);
}

async fn read(witness: &mut Witness<'_>) {
    let now = witness.node.version("a").await;
    for (query, status) in [
        ("at=2025-01-01T00:00:00Z", 200),
        ("at=2025-01-01T00:00:00.5%2B01:00", 200),
        ("at=9000-01-01T00:00:00Z", 400),
        ("at=yesterday", 400),
        ("", 400),
    ] {
        let path = format!("/v1/versions?{query}");
        assert_eq!(witness.get("/v1/versions", &path).await.status, status);
    }
    for feed in ["a", "never"] {
        witness
            .get("/v1/feeds/{feed}", &format!("/v1/feeds/{feed}"))
            .await;
        let path = format!("/v1/state?feed={feed}");
        assert_eq!(witness.get("/v1/state", &path).await.status, 200);
    }
    let feeds = r#"{"feeds":["a","never","a"]}"#;
    let states = "/v1/feeds?feed=a&feed=never";
    assert_eq!(witness.get("/v1/feeds", states).await.status, 200);
    let answer = witness.ask("POST", "/v1/feeds", "/v1/feeds", &[JSON], feeds);
    assert_eq!(answer.await.status, 200);
    for (template, path) in [
        ("/v1/events/{id}", "/v1/events/m"),
        ("/v1/events", "/v1/events?id=m"),
    ] {
        let found = witness.get(template, path).await;
        assert_eq!(found.status, 200);
        let etag = found.header("etag").expect("an ETag").to_owned();
        let headers = [("if-none-match", &*etag)];
        let known = witness.ask("GET", template, path, &headers, "").await;
        assert_eq!(known.status, 304);
        let missing = witness.get(template, &path.replace('m', "n")).await;
        assert_eq!(missing.status, 404);
    }
    for (template, path) in [
        ("/v1/feeds/{feed}/entries", "/v1/feeds/a/entries?"),
        ("/v1/feeds/{feed}/entries", "/v1/feeds/never/entries?"),
        ("/v1/entries", "/v1/entries?feed=a&feed=b&"),
        ("/v1/log", "/v1/log?feed=a*&kind=message&shard=0/1&"),
    ] {
        let until = format!("until={now}&limit=1");
        for query in [
            "",
            "limit=1",
            "after=0&limit=1",
            &until,
            &format!("before={now}"),
            &format!("after={now}&wait=0"),
            "after=2025-01-01T00:00:00Z",
        ] {
            assert_eq!(
                witness
                    .get(template, &format!("{path}{query}"))
                    .await
                    .status,
                200
            );
        }
        let path = format!("{path}{until}");
        let etag = witness
            .get(template, &path)
            .await
            .header("etag")
            .expect("an ETag")
            .to_owned();
        let known = witness
            .ask("GET", template, &path, &[("if-none-match", &etag)], "")
            .await;
        assert_eq!(known.status, 304);
    }
    for query in ["after=0", "after=0&kind=nothing"] {
        let path = format!("/v1/log?{query}");
        let answer = witness.ask("GET", "/v1/log", &path, &[("accept", LINES)], "");
        assert_eq!(answer.await.status, 200);
    }
    let body = json!({ "version": now }).to_string();
    for marker in ["read", "seen", "archived"] {
        for (template, path) in [
            (
                "/v1/feeds/{feed}/markers/{marker}",
                format!("/v1/feeds/a/markers/{marker}"),
            ),
            (
                "/v1/markers/{marker}",
                format!("/v1/markers/{marker}?feed=a"),
            ),
        ] {
            let answer = witness.ask("PUT", template, &path, &[JSON], &body).await;
            assert_eq!(answer.status, 200);
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.yaml", "/metrics", LOG] {
        assert_eq!(witness.get(path, path).await.status, 200);
    }
    let open = [("accept", "application/openmetrics-text")];
    let answer = witness.ask("GET", "/metrics", "/metrics", &open, "");
    assert_eq!(answer.await.status, 200);
    for body in [r#"{"filter":"warn"}"#, r#"{"filter":"info","seconds":600}"#] {
        let answer = witness.ask("PUT", LOG, LOG, &[JSON], body).await;
        assert_eq!(answer.status, 200);
    }
    witness.get(LOG, LOG).await;
}

/// Reads each stream until it has sent an event of every name.
async fn follow(witness: &mut Witness<'_>) {
    for (template, path) in [
        ("/v1/feeds/{feed}/live", "/v1/feeds/a/live?"),
        ("/v1/live", "/v1/live?feed=b&feed=a&"),
        ("/v1/log/live", "/v1/log/live?feed=b&feed=a&"),
    ] {
        let ahead = ahead(&witness.node.version("a").await);
        for after in ["0", UNKNOWN, &ahead] {
            let url = witness.node.url(&format!("{path}after={after}"));
            witness.hold_stream(template, &url).await;
            let mut stream = Stream::open(&witness.node.http, &url, None).await;
            let mut wanted: BTreeSet<&str> = match template {
                "/v1/log/live" => ["version", "event", "edited", "erased"].into(),
                _ => [
                    "marker",
                    "marked",
                    "version",
                    "transient",
                    "edited",
                    "erased",
                ]
                .into(),
            };
            match (after, template) {
                ("0", "/v1/log/live") => {}
                ("0", _) => wanted.extend(["notify", "entry"]),
                _ => wanted.extend(["reset"]),
            }
            let mut heard = String::new();
            let mut visited: Option<String> = None;
            while !wanted.is_empty() {
                let block = stream.block().await.expect("the stream goes on");
                let name = block
                    .lines()
                    .next()
                    .and_then(|line| line.strip_prefix("event: "));
                wanted.remove(name.unwrap_or_default());
                if name == Some("version") && visited.is_none() {
                    mark(witness.node).await;
                    let typing = json!({ "kind": "typing", "feeds": ["a", "b"], "data": {}, "time": "2026-11-29T10:53:13Z" });
                    witness.node.post("/v1/transient", &typing).await;
                    let visit = json!({ "kind": "visit", "feeds": ["a", "b"] });
                    let id = text(&witness.node.append(&visit).await["id"]);
                    let path = format!("/v1/events/{id}");
                    let edit = r#"{"data":1}"#;
                    let edited = witness.node.send_body("PATCH", &path, &[JSON], edit).await;
                    assert_eq!(edited.status, 200);
                    visited = Some(path);
                } else if let (Some("edited"), Some(path)) = (name, &visited) {
                    // Only now, because it takes the place of the news of the edit.
                    witness.node.send("DELETE", path, &[]).await;
                }
                heard.push_str(&block);
                heard.push_str("\n\n");
            }
            witness
                .spec
                .check_stream(&heard)
                .expect("a stream as documented");
        }
    }
}

/// Marks an entry of feed `a` by itself, for its own reader, and moves a marker of another one.
async fn mark(node: &Served) {
    let page = "/v1/feeds/a/entries?kind=message&limit=1";
    let page = node.send("GET", page, &[]).await.json();
    let entry = text(&page["entries"][0]["version"]);
    for archived in [true, false] {
        let path = format!("/v1/feeds/a/entries/{entry}/state");
        let body = json!({ "archived": archived }).to_string();
        assert_eq!(
            node.send_body("PUT", &path, &[JSON], body).await.status,
            200
        );
    }
    let body = json!({ "version": page["version"] }).to_string();
    let moved = node.send_body("PUT", "/v1/markers/read?feed=a&reader=zoe", &[JSON], body);
    assert_eq!(moved.await.status, 200);
}

async fn refuse(witness: &mut Witness<'_>) {
    let templates = [
        ("/v1/feeds/{feed}", "/v1/feeds/a"),
        ("/v1/feeds/{feed}/entries", "/v1/feeds/a/entries"),
        ("/v1/feeds/{feed}/live", "/v1/feeds/a/live"),
        ("/v1/entries", "/v1/entries"),
        ("/v1/live", "/v1/live"),
        ("/v1/state", "/v1/state"),
        ("/v1/log", "/v1/log"),
        ("/v1/log/live", "/v1/log/live"),
        ("/v1/feeds", "/v1/feeds"),
        ("/v1/feeds/{feed}/readers", "/v1/feeds/a/readers"),
        ("/v1/readers", "/v1/readers"),
        ("/v1/state/live", "/v1/state/live"),
        ("/v1/events", "/v1/events"),
        ("/v1/events/{id}", "/v1/events/m"),
    ];
    for (template, path) in templates {
        for query in [
            "?x=1",
            "?feed=a%20",
            "?feed=a&after=x",
            "?feed=a&feed=a&limit=0",
        ] {
            assert_eq!(
                witness
                    .get(template, &format!("{path}{query}"))
                    .await
                    .status,
                400
            );
        }
        if let Some(path) = path.strip_suffix("entries").filter(|path| *path != "/v1/") {
            let version = ahead(&witness.node.version("a").await);
            for (version, status) in [(&*version, 400), (UNKNOWN, 410)] {
                let path = format!("{path}entries?until={version}");
                assert_eq!(witness.get(template, &path).await.status, status);
            }
        }
    }
    for (template, query) in [("/v1/log", ""), ("/v1/entries", "feed=a&")] {
        let path = format!("{template}?{query}after={UNKNOWN}");
        assert_eq!(witness.get(template, &path).await.status, 410);
    }
    let marker = (
        "/v1/feeds/{feed}/markers/{marker}",
        "/v1/feeds/a/markers/read",
    );
    let by_query = ("/v1/markers/{marker}", "/v1/markers/read?feed=a");
    let writes = [
        ("POST", "/v1/events", "/v1/events"),
        ("POST", "/v1/transient", "/v1/transient"),
        ("PUT", marker.0, marker.1),
        ("PUT", by_query.0, by_query.1),
        ("PUT", LOG, LOG),
        ("POST", "/v1/feeds", "/v1/feeds"),
        ("POST", "/v1/state/live", "/v1/state/live"),
        (
            "PUT",
            "/v1/feeds/{feed}/entries/{version}/state",
            &*filled("/v1/feeds/{feed}/entries/{version}/state"),
        ),
        (
            "PUT",
            "/v1/entries/{version}/state",
            &(filled("/v1/entries/{version}/state") + "?feed=a"),
        ),
        ("PATCH", "/v1/events", "/v1/events?id=m"),
        ("PATCH", "/v1/events/{id}", "/v1/events/m"),
        ("POST", "/v1/erasures", "/v1/erasures"),
    ];
    let ahead = ahead(&witness.node.version("a").await);
    let ahead = json!({ "version": ahead }).to_string();
    let unknown = json!({ "version": UNKNOWN }).to_string();
    for (method, template, path) in &writes[2..4] {
        let answer = witness.ask(method, template, path, &[JSON], &unknown).await;
        assert_eq!(answer.status, 410);
    }
    let expect =
        json!({ "kind": "visit", "feeds": ["a"], "expect": { "feed": "a", "version": UNKNOWN } });
    let answer = witness
        .ask(
            "POST",
            "/v1/events",
            "/v1/events",
            &[JSON],
            &expect.to_string(),
        )
        .await;
    assert_eq!(answer.status, 410);
    let huge = " ".repeat(8 * 1024 * 1024 + 1);
    for (method, template, path) in writes {
        for body in [
            "",
            "{}",
            "[]",
            "[{}]",
            "5",
            r#"{"version":"x"}"#,
            &ahead,
            r#"{"kind":"visit","feeds":["a "]}"#,
            r#"{"kind":"typing","feeds":[]}"#,
            r#"{"filter":"debgu"}"#,
        ] {
            let answer = witness.ask(method, template, path, &[JSON], body).await;
            assert_eq!(answer.status, 400);
        }
        assert_eq!(
            witness
                .ask(method, template, &with_x(path), &[JSON], "{}")
                .await
                .status,
            400
        );
        assert_eq!(
            witness.ask(method, template, path, &[], "{}").await.status,
            415
        );
        assert_eq!(
            witness
                .ask(method, template, path, &[JSON], &huge)
                .await
                .status,
            413
        );
    }
    for (method, path) in [("GET", "/v1/admin/log?x=1"), ("PUT", LOG)] {
        let body = r#"{"filter":"info","seconds":0}"#;
        let answer = witness.ask(method, LOG, path, &[JSON], body).await;
        assert_eq!(answer.status, 400);
    }
    let many = format!("[{}{{}}]", "{},".repeat(1000));
    assert_eq!(
        witness
            .ask("POST", "/v1/events", "/v1/events", &[JSON], &many)
            .await
            .status,
        413
    );
    let wrong_kind = json!({ "kind": "visit", "feeds": ["a"] });
    assert_eq!(witness.post("/v1/transient", &wrong_kind).await.status, 400);
    let wrong_kind = json!([{ "kind": "typing", "feeds": ["a"] }]);
    assert_eq!(witness.post("/v1/events", &wrong_kind).await.status, 400);
    for (template, other) in [
        (marker.0, "/v1/feeds/a/markers/other"),
        (by_query.0, "/v1/markers/other?feed=a"),
    ] {
        let body = r#"{"version":"0"}"#;
        let answer = witness.ask("PUT", template, other, &[JSON], body).await;
        assert_eq!(answer.status, 404);
    }

    // Every path with an unsupported method; its methods document the answer.
    let spec = witness.spec;
    for (template, method, _) in spec.operations() {
        let path = filled(template);
        let answer = witness.node.send("PURGE", &path, &[]).await;
        assert_eq!(answer.status, 405);
        witness.hold(&method.to_uppercase(), template, &path, &answer);
    }
}

/// The path of a template.
pub(super) fn filled(template: &str) -> String {
    let path = template.replace("{feed}", "a").replace("{marker}", "read");
    path.replace("{id}", "m").replace("{version}", UNKNOWN)
}

/// With an unknown query parameter.
fn with_x(path: &str) -> String {
    match path.contains('?') {
        true => format!("{path}&x=1"),
        false => format!("{path}?x=1"),
    }
}

/// Answers to a caller that exceeds its quota.
async fn limit(spec: &Spec, seen: &mut BTreeSet<(String, String, String)>) {
    let bed = Bed::embedded();
    let one = std::num::NonZeroU32::new(1);
    let node = bed.node_with(None, |settings| {
        settings.limits.requests_per_s = one;
        settings.limits.loopback = true;
    });
    let node = node.await;
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    for (template, method, _) in spec.operations() {
        let path = filled(template);
        // An invalid query, so that no stream begins.
        let path = format!("{path}?x=1");
        let method = method.to_uppercase();
        while witness
            .ask(&method, template, &path, &[JSON], "5")
            .await
            .status
            != 429
        {}
    }
    *seen = witness.seen;
    node.stop().await;
}

/// Answers when memory for answers and bodies is short.
async fn crowd(spec: &Spec, seen: &mut BTreeSet<(String, String, String)>) {
    let site = Site::new();
    let flags = site.secret_flags();
    let budget = Budget {
        total_bytes: std::num::NonZeroUsize::new(1),
        caller_bytes: None,
    };
    let limits = Limits {
        answers: budget,
        bodies: budget,
        ..Limits::default()
    };
    let flags = flags.each_ref().map(String::as_str);
    let node = site.node_limited(&flags, limits).await;
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    let (name, token) = bearer(&master());
    let headers = [(name, token.as_str()), JSON];
    let body = " ".repeat(5_000);
    for (method, template, path, code) in [
        ("GET", "/metrics", "/metrics", "too_many_answers"),
        (
            "GET",
            "/v1/entries",
            "/v1/entries?feed=a",
            "too_many_answers",
        ),
        ("GET", "/v1/events/{id}", "/v1/events/m", "too_many_answers"),
        ("GET", "/v1/feeds", "/v1/feeds?feed=a", "too_many_answers"),
        ("POST", "/v1/feeds", "/v1/feeds", "too_many_bodies"),
        ("PUT", LOG, LOG, "too_many_bodies"),
        ("POST", BACKUP, BACKUP, "too_many_bodies"),
        ("POST", "/v1/tickets", "/v1/tickets", "too_many_bodies"),
        ("POST", "/v1/events", "/v1/events", "too_many_bodies"),
    ] {
        let body = if method == "GET" { "" } else { &body };
        let answer = witness.ask(method, template, path, &headers, body).await;
        answer.problem(503, code).expect(path);
    }
    *seen = witness.seen;
    node.stop().await;
}

/// Answers when the store is closed.
async fn stop(bed: &Bed, spec: &Spec, node: Served, seen: &mut BTreeSet<(String, String, String)>) {
    let now = node.version("a").await;
    node.stop().await;
    bed.close().await;
    let store = bed.store();
    let (app, node) = bed.app_on(store.clone()).await;
    app.hub.close();
    let _taken = all_transients(&app);
    store.close().await;
    let ended = tokio::spawn(async {});
    app.health.tasks.watch("tailer", ended.abort_handle());
    ended.await.expect("no panic");
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    let wait = format!("after={now}&wait=60");
    for (method, template, path, body) in [
        (
            "POST",
            "/v1/events",
            "/v1/events",
            r#"{"kind":"visit","feeds":["a"]}"#,
        ),
        (
            "POST",
            "/v1/transient",
            "/v1/transient",
            r#"{"kind":"typing","feeds":["a"]}"#,
        ),
        (
            "PUT",
            "/v1/feeds/{feed}/markers/{marker}",
            "/v1/feeds/a/markers/read",
            r#"{"version":"0"}"#,
        ),
        (
            "PUT",
            "/v1/markers/{marker}",
            "/v1/markers/read?feed=a",
            r#"{"version":"0"}"#,
        ),
        ("GET", "/v1/feeds/{feed}", "/v1/feeds/a", ""),
        ("GET", "/v1/state", "/v1/state?feed=a", ""),
        (
            "GET",
            "/v1/versions",
            "/v1/versions?at=2025-01-01T00:00:00Z",
            "",
        ),
        ("GET", "/v1/feeds", "/v1/feeds?feed=a", ""),
        ("POST", "/v1/feeds", "/v1/feeds", r#"{"feeds":["a"]}"#),
        ("GET", "/v1/state/live", "/v1/state/live?feed=a", ""),
        (
            "POST",
            "/v1/state/live",
            "/v1/state/live",
            r#"{"feeds":["a"]}"#,
        ),
        ("GET", "/v1/feeds/{feed}/readers", "/v1/feeds/a/readers", ""),
        ("GET", "/v1/readers", "/v1/readers?feed=a", ""),
        (
            "PUT",
            "/v1/feeds/{feed}/entries/{version}/state",
            &format!("/v1/feeds/a/entries/{now}/state"),
            r#"{"read":true}"#,
        ),
        (
            "PUT",
            "/v1/entries/{version}/state",
            &format!("/v1/entries/{now}/state?feed=a"),
            r#"{"read":true}"#,
        ),
        ("GET", "/v1/events", "/v1/events?id=m", ""),
        ("GET", "/v1/events/{id}", "/v1/events/m", ""),
        (
            "POST",
            "/v1/events",
            "/v1/events?atomic=true",
            r#"[{"kind":"visit","feeds":["a"]}]"#,
        ),
        ("GET", "/v1/feeds/{feed}/entries", "/v1/feeds/a/entries", ""),
        (
            "GET",
            "/v1/feeds/{feed}/entries",
            &format!("/v1/feeds/a/entries?{wait}"),
            "",
        ),
        (
            "GET",
            "/v1/entries",
            &format!("/v1/entries?feed=a&{wait}"),
            "",
        ),
        ("GET", "/v1/feeds/{feed}/live", "/v1/feeds/a/live", ""),
        ("GET", "/v1/live", "/v1/live?feed=a", ""),
        ("GET", "/v1/log", &format!("/v1/log?{wait}"), ""),
        ("GET", "/v1/log/live", "/v1/log/live", ""),
        ("PATCH", "/v1/events", "/v1/events?id=m", r#"{"data":1}"#),
        ("PATCH", "/v1/events/{id}", "/v1/events/m", r#"{"data":1}"#),
        ("DELETE", "/v1/events", "/v1/events?id=m", ""),
        ("DELETE", "/v1/events/{id}", "/v1/events/m", ""),
        ("POST", "/v1/erasures", "/v1/erasures", r#"{"feed":"a"}"#),
        (
            "GET",
            "/v1/erasures/{id}",
            &format!("/v1/erasures/{now}"),
            "",
        ),
        ("GET", "/readyz", "/readyz", ""),
        ("GET", "/healthz", "/healthz", ""),
    ] {
        let answer = witness.ask(method, template, path, &[JSON], body).await;
        assert_eq!(answer.status, 503, "{path}");
        assert_ne!(text(&answer.json()["code"]), "store_unavailable");
    }
    for method in ["GET", "PUT"] {
        let body = r#"{"filter":"info"}"#;
        let answer = witness.ask(method, LOG, LOG, &[JSON], body).await;
        assert_eq!(answer.status, 501);
    }
    // In an array the error is reported for each event.
    let events = r#"[{"kind":"visit","feeds":["a"]},{"kind":"visit","feeds":["b"]}]"#;
    let answer = witness
        .ask("POST", "/v1/events", "/v1/events", &[JSON], events)
        .await;
    assert_eq!(answer.json()[1]["error"]["code"], "shutting_down");
    *seen = witness.seen;
}
