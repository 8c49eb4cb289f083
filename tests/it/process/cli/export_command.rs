//! `newsfeed export`, and `newsfeed tail --all`.

use std::{path::Path, time::Duration};

use rand::RngExt;
use serde_json::Value;

use super::{FEED, Running, Service};
use crate::support::{bed::LINES, entries::UNKNOWN, patience};

/// The events of the log as the service writes them, one a line.
async fn log(service: &Service, query: &str) -> Vec<String> {
    let api = &service.process().api;
    let path = format!("/v1/log?after=0{query}");
    let answer = api.send("GET", &path, &[("accept", LINES)]).await;
    assert_eq!(answer.status, 200);
    let lines = String::from_utf8(answer.body.to_vec()).expect("text");
    let is_event = |line: &&str| !line.starts_with("{\"cursor\"");
    lines.lines().filter(is_event).map(str::to_owned).collect()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a file");
    text.lines().map(str::to_owned).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn it_writes_what_is_asked_for_and_then_only_what_is_new() {
    let service = Service::start().await;
    service.fill(0..300).await;
    let all = log(&service, "").await;
    assert_eq!(all.len(), 300);
    assert_eq!(service.run(&["export"]).await.lines(0), all);
    let said = service
        .run(&["export", "--kind", "visit", "--feed", "chat:*"])
        .await;
    assert_eq!(said.lines(0), log(&service, "&kind=visit").await);
    said.told(0, "100 events up to ");
    let none = service
        .run(&["export", "--actor", "user:nobody", "--quiet"])
        .await;
    assert_eq!((none.lines(0).len(), none.stderr.as_str()), (0, ""));
    let version = |line: &String| -> String {
        let event: Value = serde_json::from_str(line).expect("JSON");
        event["version"].as_str().expect("a version").to_owned()
    };
    let (after, until) = (version(&all[9]), version(&all[19]));
    let some = service
        .run(&["export", "--after", &after, "--until", &until])
        .await;
    assert_eq!(some.lines(0), all[10..20]);
    // Nothing was there then.
    let long_ago = "2004-04-15T16:56:01+02:00";
    assert_eq!(
        service.run(&["export", "--after", long_ago]).await.lines(0),
        all
    );
    let none = service.run(&["export", "--until", long_ago]).await;
    assert!(none.lines(0).is_empty());
    let ahead = service
        .run(&["export", "--until", "2996-01-01T00:00:00Z"])
        .await;
    ahead.told(1, "in the future");

    let (file, cursor) = (service.file("events"), service.file("cursor"));
    let args = ["export", "--output", text(&file), "--cursor", text(&cursor)];
    service.run(&args).await.lines(0);
    assert_eq!(lines(&file), all);
    service.fill(300..310).await;
    service.run(&args).await.told(0, "10 events up to ");
    assert_eq!(lines(&file), log(&service, "").await);
    service.run(&args).await.told(0, "0 events up to ");

    // Through a pipe, only the position is kept.
    let pipe = service.file("pipe");
    let args = ["export", "--cursor", text(&pipe)];
    assert_eq!(service.run(&args).await.lines(0).len(), 310);
    assert_eq!(service.run(&args).await.lines(0).len(), 0);
}

#[tokio::test]
async fn nothing_is_overwritten_and_a_position_of_another_store_is_an_error() {
    let service = Service::start().await;
    service.fill(0..3).await;
    let (file, cursor) = (service.file("events"), service.file("cursor"));
    std::fs::write(&file, "mine\n").expect("written");
    let refused = service.run(&["export", "--output", text(&file)]).await;
    refused.told(1, "it exists: give the --cursor that belongs to it");
    std::fs::write(&cursor, format!("{UNKNOWN}\n5\n")).expect("written");
    let args = ["export", "--output", text(&file), "--cursor", text(&cursor)];
    service.run(&args).await.told(1, "is not of this store");
    std::fs::write(&cursor, "0\n6\n").expect("written");
    service
        .run(&args)
        .await
        .told(1, "it is not the file that was exported to");
    assert_eq!(std::fs::read_to_string(&file).expect("kept"), "mine\n");
}

/// The command and the service are killed again and again while events are appended.
#[tokio::test]
async fn a_file_has_every_event_once_whatever_is_killed() {
    let mut service = Service::start().await;
    let (file, cursor) = (service.file("events"), service.file("cursor"));
    let args = [
        "export",
        "--output",
        text(&file),
        "--cursor",
        text(&cursor),
        "--follow",
    ];
    let mut seen = 0;
    for round in 0..8_u32 {
        let mut export = service.begin(&args);
        for part in 0..3 {
            let first = (3 * round + part) * 400;
            service.fill(first..first + 400).await;
        }
        if round % 3 == 2 {
            service.kill().await;
            service.restart().await;
        }
        // Something has been written; how much of it was saved is left to chance.
        patience::until("output", async || {
            let length = std::fs::metadata(&file).map_or(0, |found| found.len());
            (length > seen).then_some(())
        })
        .await;
        let pause = Duration::from_millis(rand::rng().random_range(0..1_500));
        tokio::time::sleep(pause).await;
        export.child.kill().await.expect("killed and reaped");
        seen = std::fs::metadata(&file).expect("a file").len();
    }
    let last = service.run(&args[..5]).await;
    assert_eq!(last.code, Some(0), "{last:?}");
    let expected = log(&service, "").await;
    assert_eq!(expected.len(), 8 * 3 * 400);
    crate::support::entries::assert_same(&lines(&file), &expected, "the file");
}

#[tokio::test]
async fn tail_follows_the_whole_log_or_the_feeds_of_a_pattern() {
    let service = Service::start().await;
    service.fill(0..20).await;
    let all = log(&service, "").await;
    let visits = log(&service, "&kind=visit").await;
    let tail = async |args: &[&str]| {
        let args = [&["tail", "--no-follow"], args].concat();
        service.run(&args).await
    };
    assert_eq!(tail(&["--all"]).await.lines(0), all[10..]);
    assert_eq!(
        tail(&["--feed", "user:*", "-n", "3"]).await.lines(0),
        all[17..]
    );
    assert_eq!(tail(&["--feed", "nobody:*"]).await.lines(0), [""; 0]);
    assert_eq!(
        tail(&["--all", "--kind", "visit", "--from", "beginning"])
            .await
            .lines(0),
        visits
    );
    let text = tail(&["--all", "-n", "1", "--format", "text"]).await;
    assert!(
        text.lines(0)[0].contains("→ user:ben, chat:anna-ben"),
        "{text:?}"
    );
    tail(&["--all", FEED]).await.told(2, "cannot be used with");

    let mut live: Running =
        service.begin(&["tail", "--feed", "chat:*", "--kind", "visit", "-n", "1"]);
    assert_eq!(live.line().await, visits[visits.len() - 1]);
    service.fill(20..30).await;
    let new = &log(&service, "&kind=visit").await[visits.len()..];
    for event in new {
        assert_eq!(live.line().await, *event);
    }
}
