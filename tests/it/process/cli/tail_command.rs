//! `newsfeed tail`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{FEED, PATIENCE, Running, Service};
use crate::{
    process::newsfeed,
    support::entries::{UNKNOWN, ahead},
};

async fn take(tail: &mut Running, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(as_page(&tail.line().await));
    }
    lines
}

/// A line as pages have it: without the unread count, which the entries of streams end with.
fn as_page(line: &str) -> String {
    match line.rfind(",\"unread\":{") {
        Some(counts) => format!("{}}}", &line[..counts]),
        None => line.to_owned(),
    }
}

#[tokio::test]
async fn it_starts_at_the_requested_position() {
    let service = Service::start().await;
    service.fill(0..250).await;
    let all = service.entries().await;
    let entry: Value = serde_json::from_str(&all[200]).expect("JSON");
    let from = entry["version"].as_str().expect("a version");
    let visits: Vec<&String> = all
        .iter()
        .filter(|entry| entry.contains("\"visit\""))
        .collect();
    let tail = async |args: &[&str]| {
        let args = [&["tail", FEED, "--no-follow"], args].concat();
        service.run(&args).await
    };
    assert_eq!(tail(&[]).await.lines(0), all[240..]);
    assert_eq!(tail(&["-n", "0"]).await.lines(0), all[250..]);
    assert_eq!(tail(&["-n", "1"]).await.lines(0), all[249..]);
    assert_eq!(tail(&["-n", "220"]).await.lines(0), all[30..]);
    assert_eq!(tail(&["-n", "250"]).await.lines(0), all);
    assert_eq!(tail(&["-n", "9999999999"]).await.lines(0), all);
    assert_eq!(tail(&["--from", "beginning"]).await.lines(0), all);
    assert_eq!(tail(&["--from", "now"]).await.lines(0), all[250..]);
    assert_eq!(tail(&["--from", from]).await.lines(0), all[201..]);
    let last = visits.len() - 20;
    assert_eq!(
        tail(&["--kind", "visit", "-n", "20"]).await.lines(0),
        visits[last..]
    );
    let both = ["--kind", "visit", "--kind", "flirt", "-n", "20"];
    assert_eq!(tail(&both).await.lines(0), visits[last..]);

    // When it follows, it starts at the same positions.
    let mut some = service.begin(&["tail", FEED, "-n", "220"]);
    let mut few = service.begin(&["tail", FEED, "-n", "3", "--kind", "visit"]);
    let mut none = service.begin(&["tail", FEED, "--from", "now"]);
    none.says("following user:ben").await;
    assert_eq!(take(&mut some, 220).await, all[30..]);
    let last: Vec<&String> = visits.iter().rev().take(3).rev().copied().collect();
    assert_eq!(take(&mut few, 3).await.iter().collect::<Vec<_>>(), last);
    service.fill(250..253).await;
    let new = &service.entries().await[250..];
    assert_eq!(take(&mut some, 3).await, new);
    assert_eq!(take(&mut none, 3).await, new);
    assert_eq!(
        as_page(&few.line().await),
        *new.iter()
            .find(|entry| entry.contains("\"visit\""))
            .expect("one")
    );
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_over_killed_services_and_a_cursor_goes_on() {
    let mut service = Service::start().await;
    let cursor = service.file("cursor");
    let cursor_path = cursor.to_str().expect("UTF-8").to_owned();
    let args = [
        "tail",
        FEED,
        "--from",
        "beginning",
        "--cursor",
        &cursor_path,
    ];
    let mut tail = service.begin(&args);
    let mut got = Vec::new();
    for round in 0..4 {
        // Some entries arrive while it is disconnected, some while it is connected.
        service.fill(round * 40..round * 40 + 20).await;
        got.extend(take(&mut tail, 10).await);
        service.fill(round * 40 + 20..round * 40 + 40).await;
        service.kill().await;
        service.restart().await;
    }
    got.extend(take(&mut tail, 120).await);
    assert_eq!(got, service.entries().await);
    tail.says("following user:ben").await;
    tail.says("retrying until Ctrl-C").await;

    tail.interrupt();
    let said = tail.end().await;
    assert_eq!(said.lines(0), [""; 0], "nothing more came");
    let position = std::fs::read_to_string(&cursor).expect("kept");
    let position = position.trim_end();
    said.told(
        0,
        &format!("-- stopped at {position}; saved in {cursor_path}"),
    );

    service.fill(160..180).await;
    let new = &service.entries().await[160..];
    // The cursor file takes precedence over --from.
    let mut again = service.begin(&args);
    assert_eq!(take(&mut again, 10).await, new[..10]);
    again.child.kill().await.expect("killed and reaped");
    // When killed, it may have printed more than its cursor covers, never less.
    let kept = std::fs::read_to_string(&cursor).expect("kept");
    let later = |entry: &&String| {
        let entry: Value = serde_json::from_str(entry).expect("JSON");
        entry["version"].as_str() > Some(kept.trim_end())
    };
    let later: Vec<&String> = new.iter().filter(later).collect();
    let rest = service.run(&[&args[..], &["--no-follow"]].concat()).await;
    assert_eq!(rest.lines(0), later);
    let none = service.run(&[&args[..], &["--no-follow"]].concat()).await;
    assert_eq!(none.lines(0), [""; 0]);
}

#[tokio::test]
async fn without_a_cursor_file_the_position_is_printed() {
    let service = Service::start().await;
    service.fill(0..2).await;
    let mut tail = service.begin(&["tail", FEED, "-n", "1"]);
    tail.line().await;
    tail.interrupt();
    let said = tail.end().await;
    let (_, position) = said.stderr.split_once("--from ").expect("a position");
    let position = position
        .split_whitespace()
        .next()
        .expect("a word")
        .to_owned();
    service.fill(2..4).await;
    let rest = service
        .run(&["tail", FEED, "--no-follow", "--from", &position])
        .await;
    assert_eq!(rest.lines(0), service.entries().await[2..]);

    let bad = service.file("bad");
    std::fs::write(&bad, "yesterday\n").expect("written");
    let refused = service
        .run(&["tail", FEED, "--cursor", bad.to_str().expect("UTF-8")])
        .await;
    refused.told(1, "it does not contain a version; remove it to start over");
}

#[tokio::test]
async fn a_closed_pipe_ends_it_quietly_although_nothing_more_is_written() {
    let service = Service::start().await;
    service.fill(0..300).await;
    for args in [
        // One line, after which nothing is written.
        &["tail", FEED, "--quiet", "-n", "1"][..],
        &["tail", FEED, "--quiet", "--from", "beginning"],
        &["history", FEED, "chat:anna-ben"],
    ] {
        let mut running = service.begin(args);
        running.line().await;
        let Running {
            mut child,
            lines,
            mut stderr,
            ..
        } = running;
        drop(lines);
        let status = timeout(PATIENCE, child.wait()).await;
        assert_eq!(
            status.expect("it ends").expect("reaped").code(),
            Some(0),
            "{args:?}"
        );
        assert_eq!(stderr.next_line().await.expect("text"), None, "{args:?}");
    }
}

#[tokio::test]
async fn transients_and_states_are_printed_on_request() {
    let service = Service::start().await;
    service.fill(0..2).await;
    let mut tail = service.begin(&["tail", FEED, "--events", "all", "-n", "1"]);
    let mut kind = service.begin(&[
        "tail", FEED, "--events", "all", "-n", "1", "--kind", "typing",
    ]);
    kind.says("following").await;
    let parsed = |line: String| serde_json::from_str::<Value>(&line).expect("JSON");
    assert_eq!(parsed(tail.line().await)["id"], "m-1");
    assert_eq!(parsed(tail.line().await)["unread"]["total"], 2);
    service.run(&["mark", FEED]).await.json(0);
    assert_eq!(parsed(tail.line().await)["unread"]["total"], 0);
    let typing = ["append", "--transient", "--kind", "typing", "--feed", FEED];
    let sent = service.run(&typing).await.json(0);
    assert_eq!(parsed(tail.line().await)["id"], sent[0]["id"]);
    assert_eq!(parsed(kind.line().await)["id"], sent[0]["id"]);
}

#[tokio::test]
async fn a_position_ahead_or_of_another_store_is_reported_and_new_entries_are_printed() {
    let service = Service::start().await;
    service.fill(0..2).await;
    let last: Value = serde_json::from_str(&service.entries().await[1]).expect("JSON");
    let ahead = ahead(last["version"].as_str().expect("a version"));
    for (position, reported, new) in [
        (&*ahead, format!("the service has not reached {ahead}"), 2),
        (
            UNKNOWN,
            format!("the position {UNKNOWN} is not of this store"),
            3u32,
        ),
    ] {
        let mut tail = service.begin(&["tail", FEED, "--from", position]);
        tail.says(&reported).await;
        service.fill(new..new + 1).await;
        assert_eq!(
            as_page(&tail.line().await),
            service.entries().await[new as usize]
        );
        tail.interrupt();
        let said = tail.end().await;
        assert!(!said.stderr.contains(position), "{said:?}");
    }
}

/// The service leaves out other kinds, so that they cost neither it nor the network anything.
#[tokio::test]
async fn the_service_is_told_the_kinds() {
    let of_feeds = "GET /v1/live?feed=user:ben&kind=visit&kind=flirt ";
    let of_log = "GET /v1/log/live?kind=visit&kind=flirt ";
    for (of, expected) in [(FEED, of_feeds), ("--all", of_log)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let args = ["--kind", "visit", "--kind", "flirt", "--from", "beginning"];
        let args = [&["tail", of], &args[..], &["--url", &url]].concat();
        let _tail = newsfeed(&args).spawn().expect("it runs");
        let accepted = timeout(PATIENCE, listener.accept()).await;
        let (mut socket, _) = accepted.expect("it connects").expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut head).await.expect("a head"), 0);
        }
        let head = String::from_utf8(head).expect("text").replace("%3A", ":");
        assert!(head.starts_with(expected), "{head}");
    }
}

/// The service asks each client to wait for a different time, so that not all return at once.
#[tokio::test]
async fn it_reconnects_when_the_stream_has_asked_it_to() {
    let asked = Duration::from_millis(1_500);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let mut tail = newsfeed(&["tail", FEED, "--from", "beginning", "--url", &url]);
    let _tail = tail.spawn().expect("it runs");
    let mut ended: Option<Instant> = None;
    for _ in 0..3 {
        let accepted = timeout(PATIENCE, listener.accept()).await;
        let (mut socket, _) = accepted.expect("it connects").expect("a connection");
        if let Some(ended) = ended {
            assert!(ended.elapsed() >= asked, "{:?}", ended.elapsed());
        }
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut head).await.expect("a head"), 0);
        }
        ended = Some(Instant::now());
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nretry: 1500\n\n";
        socket.write_all(answer.as_bytes()).await.expect("sent");
    }
}
