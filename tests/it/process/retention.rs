//! Retention in processes that are killed, and what the command line says of it.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use super::{Process, failure, newsfeed, run};
use crate::{
    http::{column, items, message},
    operate::scrape::Scrape,
    support::{bed::text, patience::until, sse::Stream},
};

const OLD: usize = 2_000;

fn messages(prefix: &str, count: usize) -> Value {
    let feeds = |index: usize| [format!("chat:{}", index % 7), format!("user:{}", index % 3)];
    let one = |index: usize| {
        let feeds = feeds(index);
        message(&format!("{prefix}{index}"), &[&feeds[0], &feeds[1]])
    };
    (0..count).map(one).collect()
}

/// Killed in the middle of passes, a node goes on where the last step ended: everything that is due goes, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_during_the_sweep_everything_that_is_due_goes_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    // Two hours ago.
    let old = Process::start_with(folder.path(), &["--wall-offset-s", "-7200"]).await;
    // The version of a time is known once the first one has been noted, after 10 s at most.
    sleep(Duration::from_secs(11)).await;
    let mut first = None;
    for begin in 0..OLD / 1_000 {
        let events = messages(&format!("old{begin}-"), 1_000);
        let answer = old.api.append(&events).await;
        first.get_or_insert_with(|| text(&items(&answer)[0]["version"]));
    }
    let first = first.expect("something was appended");
    old.kill().await;
    let new = Process::start(folder.path()).await;
    new.api.append(&messages("new", 100)).await;
    new.stop().await;

    let rules = ["--retention", "age=1h", "--retention-log-age", "1h"];
    let survey = [
        &["admin", "retention", "--dry-run", "--data", path][..],
        &rules,
    ]
    .concat();
    let said = String::from_utf8(run(&survey).await.stdout).expect("text");
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].starts_with("feeds=*,age=3600s: 4000 entries of 10 feeds, about "),
        "{said}"
    );
    assert!(lines[1].starts_with("log: 2000 events, about "), "{said}");

    let mut kills = 0;
    loop {
        let node = Process::start_with(folder.path(), &rules).await;
        let removed = until("some steps are taken", async || {
            let scrape = Scrape::of(&node.api).await;
            let removed = scrape.get("newsfeed_retention_entries_removed_total")
                + scrape.get("newsfeed_retention_events_removed_total");
            let is_done = scrape.get("newsfeed_retention_steps_total{outcome=\"won\"}") > 0.0
                && removed == 0.0;
            (removed > 500.0 || is_done).then_some(removed)
        })
        .await;
        if removed == 0.0 {
            node.stop().await;
            break;
        }
        kills += 1;
        node.kill().await;
    }
    assert!(kills > 1);

    let said = String::from_utf8(run(&survey).await.stdout).expect("text");
    assert_eq!(
        said,
        "feeds=*,age=3600s: 0 entries of 0 feeds, about 0 bytes\nlog: 0 events, about 0 bytes\n"
    );
    let output = run(&["admin", "check", "--data", path]).await;
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(
        said.contains("100 ids, 200 feed entries, 200 notify keys, 100 log records"),
        "{said}"
    );
    let node = Process::start_with(folder.path(), &rules).await;
    let log = node.api.get("/v1/log?after=0&limit=200").await;
    let ids = column(items(&log["events"]), "id");
    assert_eq!(ids, column(items(&messages("new", 100)), "id"));
    whoever_was_offline_is_told(&node, folder.path(), &first).await;
    // Their ids are free again.
    let again = node
        .api
        .append(&json!([messages("old0-", 1)[0], messages("new", 1)[0]]))
        .await;
    assert_eq!(column(items(&again), "status"), ["appended", "duplicate"]);
    node.stop().await;
}

/// A reader that has not been there since `first`: over HTTP, on the command line, and with the JavaScript library.
async fn whoever_was_offline_is_told(node: &Process, folder: &Path, first: &str) {
    let feed = "chat:1";
    let mut oldest = BTreeSet::new();
    for path in [
        format!("/v1/feeds/{feed}/entries?after={first}"),
        format!("/v1/feeds/{feed}/entries?after={first}&wait=60"),
        format!("/v1/entries?feed=user:1&feed={feed}&after={first}&kind=message&wait=60"),
        format!("/v1/log?after={first}"),
        format!("/v1/log?after={first}&wait=60"),
    ] {
        let answer = node.api.send("GET", &path, &[]).await;
        let problem = answer.problem(410, "cursor_expired").expect(&path);
        let now = text(&problem["version"]);
        let best = text(&problem["oldest"]);
        assert!(first < &*best && best < now, "{path}: {problem}");
        // It is a good position.
        let path = path.replace(first, &best).replace("&wait=60", "");
        let page = node.api.get(&path).await;
        let entries = page.get("entries").unwrap_or(&page["events"]);
        assert_eq!(
            items(entries)[0]["id"].as_str().map(|id| &id[..3]),
            Some("new")
        );
        oldest.insert((path.starts_with("/v1/log"), best));
    }
    for path in [
        format!("/v1/feeds/{feed}/live"),
        format!("/v1/live?feed=user:1&feed={feed}"),
        "/v1/log/live".to_owned(),
    ] {
        let mut stream = Stream::open(&node.api.http, &node.api.url(&path), Some(first)).await;
        let reset = stream.next().await.expect("an event");
        assert_eq!(
            (&*reset.name, &reset.data["code"]),
            ("reset", &json!("cursor_expired"))
        );
        stream.caught_up().await;
    }

    let url = node.api.url("");
    let said = async |args: &[&str]| {
        let mut command = newsfeed(args);
        let output = command.env("NEWSFEED_URL", &url).output().await;
        let output = output.expect("it runs");
        let [out, err] =
            [output.stdout, output.stderr].map(|it| String::from_utf8(it).expect("text"));
        (output.status.code(), out, err)
    };
    let is_older = "is older than what the service keeps: something after it has been removed";
    // What a reader has said itself is an error; where it left off, it starts over.
    let (code, out, err) = said(&["tail", feed, "--no-follow", "--from", first]).await;
    let refused = "410 cursor_expired to GET /v1/entries";
    assert!(
        code == Some(1) && out.is_empty() && err.contains(refused),
        "{code:?} {err}"
    );
    let cursor = folder.join("cursor");
    std::fs::write(&cursor, first).expect("written");
    let cursor = cursor.to_str().expect("UTF-8");
    let tail = [
        "tail",
        feed,
        "--no-follow",
        "--from",
        "beginning",
        "--cursor",
        cursor,
    ];
    let (code, out, err) = said(&tail).await;
    assert!(code == Some(0) && err.contains(is_older), "{code:?} {err}");
    let news = messages("new", 100);
    let in_feed = items(&news)
        .iter()
        .filter(|event| event["feeds"][0] == feed);
    assert_eq!(out.lines().count(), in_feed.count(), "{out}");
    let (code, out, err) = said(&["export", "--after", first]).await;
    let (_, best) = oldest.last().expect("of the log");
    let continues = format!("{is_older}; the oldest position to continue from is {best}");
    assert!(
        code == Some(1) && out.is_empty() && err.contains(&continues),
        "{code:?} {err}"
    );
    let (code, out, err) = said(&["export", "--after", best]).await;
    assert!(
        code == Some(0) && out.lines().filter(|line| line.contains("\"id\"")).count() == 100,
        "{err}"
    );
    std::fs::write(cursor, first).expect("written");
    let (code, _, err) = said(&["export", "--cursor", cursor]).await;
    assert!(
        code == Some(1) && err.contains("let it start over, remove"),
        "{code:?} {err}"
    );
}

#[tokio::test]
async fn rules_that_say_nothing_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let said = failure(&["admin", "retention", "--dry-run", "--data", path]).await;
    assert!(said.contains("no retention is configured"), "{said}");
}
