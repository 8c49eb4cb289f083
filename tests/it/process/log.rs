//! What the process logs, and what it never logs.

use std::{fs::File, path::Path};

use serde_json::{Value, json};

use super::{Process, newsfeed};
use crate::support::raw;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A service that logs into a file in `folder`.
struct Logged<'a> {
    process: Process,
    folder: &'a Path,
}

impl<'a> Logged<'a> {
    async fn start(folder: &'a Path, filter: &str, args: &[&str]) -> Self {
        let data = folder.join("data");
        let data = data.to_str().expect("a UTF-8 path");
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data", data];
        let mut command = newsfeed(&[&serve, args].concat());
        let log = File::create(folder.join("log")).expect("a file");
        command.env("NEWSFEED_LOG", filter).stderr(log);
        let process = Process::of(command).await;
        Self { process, folder }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) {
        self.process.api.send("GET", path, headers).await;
    }

    async fn stop(self) -> String {
        self.process.stop().await;
        std::fs::read_to_string(self.folder.join("log")).expect("text")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_requests_are_never_logged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = Logged::start(folder.path(), "trace", &[]).await;
    let headers = [
        ("authorization", "Bearer sesame-1"),
        ("cookie", "session=sesame-2"),
        ("x-request-id", "found-again"),
    ];
    for path in [
        "/v1/feeds/a?ticket=sesame-3",
        "/v1/feeds/a/entries?ticket=sesame-3",
        "/nothing?ticket=sesame-3",
        "/v1/live?ticket=sesame-3",
        "/v1/feeds/a/live?after=sesame-3",
    ] {
        service.get(path, &headers).await;
    }
    // A stream, and bytes that are not HTTP.
    let api = &service.process.api;
    let live = api.http.get(api.url("/v1/feeds/a/live"));
    let live = live.header(headers[0].0, headers[0].1).send().await;
    assert_eq!(live.expect("a stream").status(), 200);
    let address = api
        .url("")
        .replace("http://", "")
        .parse()
        .expect("an address");
    let bad = "GET /?ticket=sesame-3 HTTP/1.1\r\ncookie: sesame-2\r\nbad header\r\n\r\n";
    raw::exchange(address, bad.as_bytes()).await;

    let log = service.stop().await;
    assert!(
        log.contains("found-again") && log.contains("TRACE"),
        "{log}"
    );
    for line in log.lines() {
        assert!(!line.contains("sesame"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_lines_have_the_request_id_and_the_callers_trace_id() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = Logged::start(
        folder.path(),
        "info,newsfeed=debug",
        &["--log-format", "json"],
    )
    .await;
    service
        .get(
            "/v1/feeds/a",
            &[("x-request-id", "one"), ("traceparent", PARENT)],
        )
        .await;
    let bad = PARENT.to_uppercase();
    service
        .get(
            "/v1/feeds/a",
            &[("x-request-id", "two"), ("traceparent", &bad)],
        )
        .await;
    let log = service.stop().await;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let of = |id: &str| {
        let mut answers = lines.iter().filter(|line| {
            line["message"] == "request completed" && line["span"]["request_id"] == id
        });
        let line = answers.next().unwrap_or_else(|| panic!("no {id} in {log}"));
        assert!(answers.next().is_none(), "{id} twice");
        line
    };
    let one = of("one");
    assert_eq!(one["level"], "DEBUG");
    assert!(one["duration_ms"].is_number());
    for (field, value) in [
        ("method", json!("GET")),
        ("route", json!("/v1/feeds/{feed}")),
        ("status", json!(200)),
        ("trace_id", json!("0af7651916cd43dd8448eb211c80319c")),
    ] {
        assert_eq!(one["span"][field], value, "{one}");
    }
    let other = of("two")["span"]["trace_id"].as_str().expect("an id");
    assert_eq!(other.len(), 32);
    assert_ne!(other, "0af7651916cd43dd8448eb211c80319c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_filter_can_be_changed_while_the_service_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = Logged::start(folder.path(), "info", &[]).await;
    let set = |filter: &'static str| {
        let api = &service.process.api;
        let headers = [("content-type", "application/json")];
        let body = json!({ "filter": filter }).to_string();
        async move {
            api.send_body("PUT", "/v1/admin/log", &headers, body)
                .await
                .status
        }
    };
    let asked = async |id: &str| service.get("/v1/feeds/a", &[("x-request-id", id)]).await;
    asked("silent-1").await;
    assert_eq!(set("info,newsfeed=debug").await, 200);
    asked("heard-1").await;
    assert_eq!(set("loud").await, 400);
    asked("heard-2").await;
    assert_eq!(set("warn").await, 200);
    asked("silent-2").await;
    let log = service.stop().await;
    for id in ["heard-1", "heard-2"] {
        assert!(log.contains(id), "{id} is not in {log}");
    }
    assert!(!log.contains("silent"), "{log}");
}
