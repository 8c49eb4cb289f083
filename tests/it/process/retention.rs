//! Retention in processes that are killed, and what the command line says of it.

use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use super::{Process, failure, run};
use crate::{
    http::{column, items, message},
    operate::scrape::Scrape,
    support::patience::until,
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
    for begin in 0..OLD / 1_000 {
        old.api
            .append(&messages(&format!("old{begin}-"), 1_000))
            .await;
    }
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
    // Their ids are free again.
    let again = node
        .api
        .append(&json!([messages("old0-", 1)[0], messages("new", 1)[0]]))
        .await;
    assert_eq!(column(items(&again), "status"), ["appended", "duplicate"]);
    node.stop().await;
}

#[tokio::test]
async fn rules_that_say_nothing_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let said = failure(&["admin", "retention", "--dry-run", "--data", path]).await;
    assert!(said.contains("no retention is configured"), "{said}");
}
