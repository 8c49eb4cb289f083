//! What the process logs, and what it never logs.

use std::{fs::File, path::Path};

use serde_json::{Value, json};

use super::{Process, newsfeed};
use crate::{auth::SECRET_FILE, support::raw};

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

/// One line says which program started where, so that a log can be understood without the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_is_one_line_with_what_differs_from_the_defaults() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("newsfeed.toml");
    std::fs::write(&file, "tail_gap_ms = 9\nkinds = \"a=notify,b=transient\"\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let args = [
        "--config",
        file,
        "--log-format",
        "json",
        "--append-batches",
        "4",
    ];
    let data = folder.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let mut command = newsfeed(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
    let log = File::create(folder.path().join("log")).expect("a file");
    command
        .args(args)
        .env("NEWSFEED_LOG", "info")
        .env("NEWSFEED_AUTH_SECRET", SECRET_FILE)
        .stderr(log);
    let process = Process::of(command).await;
    let address = process.api.url("");
    process.stop().await;
    let log = std::fs::read_to_string(folder.path().join("log")).expect("text");
    assert!(!log.contains(SECRET_FILE), "{log}");
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let starts: Vec<Value> = lines.filter(|line| line["message"] == "started").collect();
    let [start] = &starts[..] else {
        panic!("one start in {log}")
    };
    for (field, value) in [
        ("level", json!("INFO")),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("addresses", json!(address)),
        ("tls", json!(false)),
        ("engine", json!("embedded")),
        ("folder", json!(data)),
        ("cluster_file", Value::Null),
        ("format", json!(newsfeed::store::keys::FORMAT)),
    ] {
        assert_eq!(start[field], value, "{field} in {start}");
    }
    assert!(start["epoch"].is_u64(), "{start}");
    let settings = start["settings"].as_str().expect("text");
    for part in [
        &format!("config={file:?}"),
        "listen=127.0.0.1:0",
        &format!("data={data}"),
        "kinds=a=notify,b=transient",
        "tail_gap_ms=9",
        "log_format=json",
        "auth_secret is set",
    ] {
        assert!(settings.contains(part), "{part} in {settings}");
    }
    // A flag with the default value does not differ from it.
    assert!(!settings.contains("append_batches"), "{settings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_is_logged_as_text_too_and_stdout_has_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = Logged::start(folder.path(), "info", &[]).await;
    let address = service.process.api.url("");
    let log = service.stop().await;
    let starts: Vec<_> = log
        .lines()
        .filter(|line| line.contains("started"))
        .collect();
    let [start] = starts[..] else {
        panic!("one start in {log}")
    };
    assert!(
        start.contains(&address) && start.contains("embedded"),
        "{start}"
    );
}
