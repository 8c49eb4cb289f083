//! A service that is killed in the middle of an erasure: another life ends it, and nothing of the erased remains in any file.

use std::path::Path;

use serde_json::{Value, json};

use super::{Process, run};
use crate::support::{
    bed::{Api, text},
    patience::until,
};

/// More than one request works through.
const EVENTS: usize = 6_000;
const SECRET: &str = "nobody-may-find-this";
const ACTOR: &str = "user:to-be-forgotten";

async fn append(api: &Api) {
    for begin in (0..EVENTS).step_by(500) {
        let event = |number: usize| {
            let is_secret = number.is_multiple_of(2);
            json!({
                "id": format!("e{number}"),
                "kind": "message",
                "feeds": [format!("a{}", number % 7), "all"],
                "actor": if is_secret { ACTOR } else { "user:other" },
                "data": { "text": format!("{} {number}", if is_secret { SECRET } else { "kept" }) },
            })
        };
        api.append(&(begin..begin + 500).map(event).collect::<Value>())
            .await;
    }
}

/// The files under `folder` that contain `what`.
fn files_with(folder: &Path, what: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).expect("a folder") {
            let path = file.expect("a file").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("a file");
            if memchr::memmem::find(&bytes, what.as_bytes()).is_some() {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_goes_on_after_kills_and_leaves_nothing_in_any_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start_with(folder.path(), &[]).await;
    append(&process.api).await;
    let before = process.api.version("all").await;
    let edit = json!({ "data": { "text": format!("{SECRET} edited") } });
    let answer = process
        .api
        .send_body(
            "PATCH",
            "/v1/events/e2",
            &[crate::support::bed::JSON],
            edit.to_string(),
        )
        .await;
    assert_eq!(answer.status, 200);
    assert!(!files_with(folder.path(), SECRET).is_empty());

    // Killed before the first answer, and then again and again.
    let api = process.api.clone();
    let asked = tokio::spawn(async move {
        let body = json!({ "actor": ACTOR }).to_string();
        let request = api.http.post(api.url("/v1/erasures")).body(body);
        request
            .header("content-type", "application/json")
            .send()
            .await
            .is_ok()
    });
    until("a part of the erasure", async || {
        let page = process
            .api
            .get("/v1/feeds/all/entries?after=0&limit=1")
            .await;
        (page["entries"][0]["id"] != "e0").then_some(())
    })
    .await;
    process.kill().await;
    assert!(
        !asked.await.expect("no panic"),
        "it was too fast to be killed in the middle"
    );
    let process = Process::start_with(folder.path(), &[]).await;
    let left = async |api: &Api| {
        let state = api.get("/v1/feeds/all").await;
        state["unread"]["total"].as_u64().expect("a number") as usize
    };
    let first = left(&process.api).await;
    assert!(first > EVENTS / 2, "there is something left to erase");
    until("another step", async || {
        (left(&process.api).await < first).then_some(())
    })
    .await;
    process.kill().await;

    let process = Process::start_with(folder.path(), &[]).await;
    until("the end", async || {
        (left(&process.api).await == EVENTS / 2).then_some(())
    })
    .await;
    let api = &process.api;
    let kept = api.all("all").await;
    assert_eq!(kept.len(), EVENTS / 2);
    assert!(kept.iter().all(|entry| entry["actor"] == "user:other"));
    // Whoever was offline is told of each, once.
    let (mut after, mut told) = (before, 0);
    loop {
        let page = api
            .get(&format!("/v1/feeds/all/entries?after={after}&limit=200"))
            .await;
        let changes = page["changes"].as_array().map_or(0, Vec::len);
        told += changes;
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(told, EVENTS / 2);
    let log = api.lines("/v1/log?after=0").await;
    let erased = log.iter().filter(|line| line["change"] == "erased");
    assert_eq!((log.len(), erased.count()), (EVENTS, EVENTS / 2));
    let retried = json!({ "id": "e0", "kind": "message", "feeds": ["all"], "data": 1 });
    assert_eq!(text(&api.append(&retried).await["status"]), "erased");
    process.stop().await;

    let data = folder.path().to_str().expect("a UTF-8 path");
    let compact = run(&["admin", "compact", "--data", data]).await;
    assert!(compact.status.success(), "{compact:?}");
    for what in [SECRET, ACTOR] {
        assert_eq!(files_with(folder.path(), what), [""; 0], "{what}");
    }
    assert!(
        !files_with(folder.path(), "user:other").is_empty(),
        "files are not searched well"
    );
    let process = Process::start_with(folder.path(), &[]).await;
    assert_eq!(process.api.all("all").await.len(), EVENTS / 2);
    process.stop().await;
}
