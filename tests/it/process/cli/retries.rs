//! Which answers the commands retry and which end them, with a fake service behind a failing proxy.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use newsfeed::client::temporary::STATUSES;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{FEED, Running, Said, newsfeed};

const HTML: &str = "<!doctype html><title>It is not us</title>";

/// Answers before the service itself answers.
#[derive(Clone)]
enum Before {
    /// A status with `Retry-After`; odd ones come with a page of a proxy, others with a problem of the service.
    Status(u16, &'static str),
    /// Another server's page.
    Page,
    /// The service's stream with this entry, which ends.
    Entry(u32),
}

/// Each path answers everything in `script` first, and then as the service does.
struct Fake {
    script: Vec<Before>,
    requests: Mutex<HashMap<String, usize>>,
}

struct Server {
    url: String,
    fake: Arc<Fake>,
}

impl Server {
    async fn start(script: Vec<Before>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let fake = Arc::new(Fake {
            script,
            requests: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, fake }
    }

    /// The number of requests for each path.
    fn requests(&self) -> HashMap<String, usize> {
        self.fake.requests.lock().expect("no panic").clone()
    }

    fn requests_of(&self, path: &str) -> usize {
        self.requests().get(path).copied().unwrap_or_default()
    }

    fn begin(&self, args: &[&str]) -> Running {
        Running::start(newsfeed(args).env("NEWSFEED_URL", &self.url))
    }

    async fn run(&self, args: &[&str], input: &str) -> Said {
        let mut running = self.begin(args);
        running.write(input).await;
        running.end().await
    }
}

fn version(number: u32) -> String {
    format!("{number:026}")
}

fn entry(number: u32) -> Value {
    json!({ "feed": FEED, "version": version(number), "id": format!("m-{number}"), "kind": "message", "actor": null,
            "at": "", "data": number })
}

fn stream_of(number: u32, last: bool) -> Response {
    let frame = format!(
        "event: entry\nid: {}\ndata: {}\n\n",
        version(number),
        entry(number)
    );
    let frames = stream::iter([Ok::<_, std::io::Error>(Bytes::from(frame))]);
    let body = match last {
        true => Body::from_stream(frames.chain(stream::pending())),
        false => Body::from_stream(frames),
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn answer(
    State(fake): State<Arc<Fake>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let before = {
        let mut requests = fake.requests.lock().expect("no panic");
        let count = requests
            .entry(format!("{method} {}", uri.path()))
            .or_default();
        *count += 1;
        fake.script.get(*count - 1).cloned()
    };
    let json = |value: Value| {
        let media = [(header::CONTENT_TYPE, "application/json")];
        (media, value.to_string()).into_response()
    };
    match before {
        Some(Before::Status(status, after)) => {
            let problem = json!({ "code": "of_the_test", "detail": "not now" }).to_string();
            let body = if status % 2 == 1 {
                HTML.to_owned()
            } else {
                problem
            };
            let status = StatusCode::from_u16(status).expect("a status");
            return (status, [(header::RETRY_AFTER, after)], body).into_response();
        }
        Some(Before::Page) => {
            return ([(header::CONTENT_TYPE, "text/html")], HTML).into_response();
        }
        Some(Before::Entry(number)) => return stream_of(number, false),
        None => {}
    }
    let markers = json!({ "read": null, "seen": null });
    let unread = json!({ "total": 0, "kinds": {}, "more": false });
    let lines = String::from_utf8(body.to_vec()).expect("text");
    let stored = |event: &str| {
        let event: Value = serde_json::from_str(event).expect("an event");
        json!({ "id": event["id"], "version": version(1), "status": "appended" })
    };
    match (method.as_str(), uri.path()) {
        ("GET", "/readyz") => json(json!({})),
        ("GET", "/v1/entries") => {
            json(json!({ "version": version(1), "entries": [entry(1)], "next": null }))
        }
        ("GET", "/v1/live") => stream_of(9, true),
        ("POST", "/v1/events") if headers[header::CONTENT_TYPE] == "application/x-ndjson" => {
            let answers: Vec<_> = lines.lines().map(|line| stored(line).to_string()).collect();
            (answers.join("\n") + "\n").into_response()
        }
        ("POST", "/v1/events") => {
            let events: Vec<Value> = serde_json::from_str(&lines).expect("events");
            json(
                events
                    .iter()
                    .map(|event| stored(&event.to_string()))
                    .collect(),
            )
        }
        _ => json(
            json!({ "feed": FEED, "version": version(1), "latest": null, "unread": unread, "markers": markers }),
        ),
    }
}

const LINE: &str = "{\"id\":\"a\",\"kind\":\"b\",\"feeds\":[\"c\"]}\n";

#[tokio::test]
async fn answers_that_may_pass_are_retried_by_every_command() {
    let script = STATUSES.map(|status| Before::Status(status, "0")).to_vec();
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(list.path(), "1 2 1082040961\n").expect("written");
    let list = list.path().to_str().expect("UTF-8");
    for (args, input) in [
        (&["append"][..], LINE),
        (&["history", FEED], ""),
        (&["state", FEED], ""),
        (&["mark", FEED], ""),
        (&["tail", FEED, "--no-follow"], ""),
        (&["replay", list], ""),
    ] {
        let server = Server::start(script.clone()).await;
        let said = server
            .run(&[args, &["--wait", "600"]].concat(), input)
            .await;
        assert!(!said.lines(0).is_empty(), "{args:?}: {said:?}");
        said.told(0, "retrying for up to 600 s");
        for (path, requests) in server.requests() {
            // The address is probed once: a failing proxy is no reason to give up.
            let probed = path == "GET /readyz" && requests == 1;
            assert!(probed || requests > STATUSES.len(), "{args:?}: {path}");
        }
    }

    let server = Server::start(script).await;
    let mut tail = server.begin(&["tail", FEED, "-n", "0", "--wait", "600"]);
    assert!(tail.line().await.contains("\"m-9\""));
    for path in ["GET /v1/entries", "GET /v1/live"] {
        assert_eq!(server.requests_of(path), STATUSES.len() + 1, "{path}");
    }
    tail.child.kill().await.expect("killed and reaped");
}

#[tokio::test]
async fn every_other_answer_ends_the_command_at_once() {
    for status in [
        400, 401, 403, 404, 405, 409, 410, 413, 415, 431, 451, 501, 505, 507, 511, 525, 526,
    ] {
        let server = Server::start(vec![Before::Status(status, "0"); 9]).await;
        let said = server.run(&["append"], LINE).await;
        said.told(1, &format!("{status} "));
        assert_eq!(server.requests_of("POST /v1/events"), 1, "{said:?}");
        let advice = "does not look like a newsfeed service";
        assert_eq!(said.stderr.contains(advice), status % 2 == 1, "{said:?}");
        let said = server.run(&["tail", FEED, "--from", "beginning"], "").await;
        said.told(1, &format!("{status} "));
        assert_eq!(server.requests_of("GET /v1/live"), 1, "{said:?}");
    }
}

#[tokio::test]
async fn a_wait_longer_than_the_command_would_retry_ends_it() {
    let in_an_hour = std::time::SystemTime::now() + std::time::Duration::from_secs(3_600);
    let date: &str = httpdate::fmt_http_date(in_an_hour).leak();
    for after in ["3600", date] {
        let server = Server::start(vec![Before::Status(429, after)]).await;
        let said = server.run(&["append"], LINE).await;
        said.told(1, "The service asks to wait 3");
        assert_eq!(server.requests_of("POST /v1/events"), 1, "{said:?}");
    }
}

#[tokio::test]
async fn the_page_of_another_server_ends_a_command_but_not_a_tail_that_was_connected() {
    for args in [
        &["append"][..],
        &["history", FEED],
        &["tail", FEED],
        &["tail", FEED, "--from", "beginning"],
    ] {
        let server = Server::start(vec![Before::Page; 9]).await;
        let said = server.run(args, LINE).await;
        said.told(1, "does not look like a newsfeed service");
    }
    let script = [
        Before::Entry(2),
        Before::Page,
        Before::Entry(3),
        Before::Page,
    ];
    let server = Server::start(script.to_vec()).await;
    let mut tail = server.begin(&["tail", FEED, "--from", "beginning"]);
    for number in [2, 3, 9] {
        assert!(tail.line().await.contains(&format!("\"m-{number}\"")));
    }
    tail.child.kill().await.expect("killed and reaped");
}
