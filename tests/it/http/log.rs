//! `GET /v1/log` and `GET /v1/log/live`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::{column, items, visit};
use crate::{
    operate::scrape::Scrape,
    support::{
        bed::{Bed, LINES, Served, text},
        patience, raw,
        sse::Stream,
    },
};

crate::on_every_engine!(
    pages_lines_and_streams_show_the_same_events,
    a_long_poll_returns_with_the_next_event_that_passes_the_filter,
    lines_go_on_live_until_the_node_stops_and_say_so,
);

const ACCEPT: (&str, &str) = ("accept", LINES);

/// All lines of a complete answer: the events, and the cursor at its end.
async fn lines(node: &Served, query: &str) -> (Vec<Value>, String) {
    let answer = node
        .send("GET", &format!("/v1/log?{query}"), &[ACCEPT])
        .await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some(LINES));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let text = std::str::from_utf8(&answer.body).expect("text");
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let last = lines.pop().expect("a last line");
    assert_eq!(last["end"], true, "{last}");
    lines.retain(|line| line.get("cursor").is_none());
    (lines, self::text(&last["cursor"]))
}

/// The events of all pages that begin with `query`, which names a limit.
async fn pages(node: &Served, query: &str) -> Vec<Value> {
    let (mut events, mut from) = (Vec::new(), String::new());
    let direction = if query.contains("after=") {
        "after"
    } else {
        "before"
    };
    loop {
        let query = match from.is_empty() {
            true => query.to_owned(),
            false => {
                let rest = query.split('&').filter(|part| !part.starts_with(direction));
                format!("{}&{direction}={from}", rest.collect::<Vec<_>>().join("&"))
            }
        };
        let page = node.get(&format!("/v1/log?{query}")).await;
        events.extend(items(&page["events"]).iter().cloned());
        match page["next"].as_str() {
            Some(next) => from = next.to_owned(),
            None => return events,
        }
    }
}

/// The events of a stream up to the one with the id `last`.
async fn streamed(node: &Served, query: &str, last: &str) -> Vec<Value> {
    let url = node.url(&format!("/v1/log/live?{query}"));
    let mut stream = Stream::open(&node.http, &url, None).await;
    let mut events = Vec::new();
    loop {
        let event = stream.next_of(&["event"]).await;
        assert_eq!(event.id.as_deref(), event.data["version"].as_str());
        let is_last = event.data["id"] == last;
        events.push(event.data);
        if is_last {
            return events;
        }
    }
}

async fn pages_lines_and_streams_show_the_same_events(bed: &Bed) {
    let node = bed.node().await;
    let mut sent = Vec::new();
    for number in 0..60 {
        let mut feeds = vec![format!("chat:{}", number % 7)];
        if number % 3 == 0 {
            feeds.push(format!("user:{}", number % 4));
            feeds.push("all".to_owned());
        }
        let kind = ["visit", "message", "flirt"][number % 3];
        sent.push(json!({
            "id": format!("e-{number}"), "feeds": feeds, "kind": kind,
            "actor": format!("user:{}", number % 2), "data": { "text": "two\u{2028}lines", "n": number },
        }));
    }
    for part in sent.chunks(25) {
        node.append(&json!(part)).await;
    }
    let all = pages(&node, "after=0&limit=7").await;
    assert_eq!(all.len(), sent.len());
    for (event, sent) in all.iter().zip(&sent) {
        for field in ["id", "feeds", "kind", "actor", "data"] {
            assert_eq!(event[field], sent[field], "{field}");
        }
        assert!(event["at"].is_string() && event["version"].is_string());
    }
    assert!(column(&all, "version").is_sorted());
    let reversed: Vec<Value> = all.iter().rev().cloned().collect();
    assert_eq!(pages(&node, "limit=7").await, reversed);
    assert_eq!(lines(&node, "after=0").await.0, all);
    assert_eq!(streamed(&node, "after=0", "e-59").await, all);

    let cut = text(&all[20]["version"]);
    for (query, wanted) in [
        (
            "kind=visit",
            Box::new(|it: &Value| it["kind"] == "visit") as Box<dyn Fn(&Value) -> bool>,
        ),
        (
            "kind=visit&kind=flirt",
            Box::new(|it| it["kind"] != "message"),
        ),
        ("actor=user:1", Box::new(|it| it["actor"] == "user:1")),
        (
            "feed=all",
            Box::new(|it| items(&it["feeds"]).contains(&json!("all"))),
        ),
        (
            "feed=chat:1*&feed=user:*&kind=visit",
            Box::new(|it| it["kind"] == "visit" && it["feeds"].to_string().contains("user:")),
        ),
    ] {
        let passing: Vec<Value> = all.iter().filter(|it| wanted(it)).cloned().collect();
        assert!(!passing.is_empty(), "{query}");
        let last = text(&passing[passing.len() - 1]["id"]);
        assert_eq!(
            pages(&node, &format!("after=0&limit=3&{query}")).await,
            passing,
            "{query}"
        );
        assert_eq!(
            lines(&node, &format!("after=0&{query}")).await.0,
            passing,
            "{query}"
        );
        assert_eq!(
            streamed(&node, &format!("after=0&{query}"), &last).await,
            passing,
            "{query}"
        );
        let above: Vec<Value> = passing
            .into_iter()
            .filter(|it| text(&it["version"]) > cut)
            .collect();
        assert_eq!(
            lines(&node, &format!("after={cut}&{query}")).await.0,
            above,
            "{query}"
        );
    }
    let mut shards = Vec::new();
    for index in 0..3 {
        shards.extend(lines(&node, &format!("after=0&shard={index}/3")).await.0);
    }
    shards.sort_by_key(|event| text(&event["version"]));
    assert_eq!(shards, all);

    // Lines up to a version, and on from the cursor at their end.
    let (until, end) = lines(&node, &format!("after=0&until={cut}")).await;
    assert_eq!((&until[..], end), (&all[..21], cut.clone()));
    let (rest, end) = lines(&node, &format!("after={cut}")).await;
    assert_eq!(rest, all[21..]);
    node.append(&visit("later", &["elsewhere"])).await;
    assert_eq!(
        column(&lines(&node, &format!("after={end}")).await.0, "id"),
        ["later"]
    );

    // A page that is fixed can be kept; `Link` continues it.
    let answer = node
        .send("GET", &format!("/v1/log?until={cut}&limit=5"), &[])
        .await;
    let etag = answer.header("etag").expect("an ETag").to_owned();
    assert_eq!(answer.header("vary"), Some("accept"));
    let link = answer.header("link").expect("a link");
    assert!(
        link.contains("/v1/log?") && link.contains("before="),
        "{link}"
    );
    let path = format!("/v1/log?until={cut}&limit=5");
    let again = node.send("GET", &path, &[("if-none-match", &etag)]).await;
    assert_eq!(again.status, 304);
}

async fn a_long_poll_returns_with_the_next_event_that_passes_the_filter(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visit("first", &["a"])).await;
    let (_, end) = lines(&node, "after=0").await;
    let path = format!("/v1/log?after={end}&kind=flirt&wait=50");
    let poll = tokio::spawn({
        let (http, url) = (node.http.clone(), node.url(&path));
        async move {
            http.get(url)
                .send()
                .await
                .expect("an answer")
                .json::<Value>()
                .await
        }
    });
    patience::until("a long poll", async || {
        (Scrape::of(&node).await.get("newsfeed_long_polls") == 1.0).then_some(())
    })
    .await;
    node.append(&visit("other", &["a"])).await;
    node.append(&json!({ "id": "wanted", "kind": "flirt", "feeds": ["b", "c"] }))
        .await;
    let page = poll.await.expect("no panic").expect("JSON");
    assert_eq!(column(items(&page["events"]), "id"), ["wanted"]);
    let empty = node
        .get(&format!("/v1/log?after={}&wait=0", text(&page["version"])))
        .await;
    assert_eq!(empty["events"], json!([]));
}

/// Reads lines of an answer as they arrive.
struct Following(reqwest::Response, Vec<u8>);

impl Following {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.1.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.1.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            let chunk = self.0.chunk();
            let chunk = tokio::time::timeout(Duration::from_secs(60), chunk).await;
            self.1.extend(chunk.expect("a heartbeat").ok().flatten()?);
        }
    }
}

async fn lines_go_on_live_until_the_node_stops_and_say_so(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visit("first", &["a"])).await;
    let url = node.url("/v1/log?after=0&follow=true&kind=visit");
    let answer = node.http.get(url).header("accept", LINES).send().await;
    let mut following = Following(answer.expect("an answer"), Vec::new());
    let first = following.next().await.expect("a line");
    assert_eq!(first["id"], "first");
    let cursor = following.next().await.expect("a line");
    assert!(
        cursor["cursor"].as_str() >= first["version"].as_str(),
        "{cursor}"
    );
    node.append(&json!({ "kind": "flirt", "feeds": ["a"] }))
        .await;
    node.append(&visit("second", &["b", "a"])).await;
    let second = loop {
        let line = following.next().await.expect("a line");
        if line.get("cursor").is_none() {
            break line;
        }
    };
    assert_eq!(
        (&second["id"], &second["feeds"]),
        (&json!("second"), &json!(["b", "a"]))
    );
    let stopped = tokio::spawn(node.stop());
    let mut last = Value::Null;
    while let Some(line) = following.next().await {
        last = line;
    }
    assert_eq!(last["error"]["code"], "shutting_down", "{last}");
    assert!(
        last["cursor"].as_str() >= second["version"].as_str(),
        "{last}"
    );
    stopped.await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let many: String = (0..101).map(|number| format!("&kind=k{number}")).collect();
    for (query, accept, code) in [
        ("shard=2/2", "*/*", "invalid_query"),
        ("shard=0/1025", "*/*", "invalid_query"),
        ("shard=1", "*/*", "invalid_query"),
        ("feed=a*b", "*/*", "invalid_feed"),
        ("feed=", "*/*", "invalid_feed"),
        ("kind=", "*/*", "invalid_query"),
        (&many[1..], "*/*", "invalid_query"),
        ("follow=true", "*/*", "invalid_query"),
        ("follow=yes", "*/*", "invalid_query"),
        ("follow=yes", LINES, "invalid_query"),
        ("after=0&before=0", "*/*", "invalid_query"),
        ("wait=1", "*/*", "invalid_query"),
        ("", LINES, "invalid_query"),
        ("before=0", LINES, "invalid_query"),
        ("after=0&limit=5", LINES, "invalid_query"),
        ("after=0&until=0&follow=true", LINES, "invalid_query"),
        ("after=x", LINES, "invalid_version"),
        ("since=0", "*/*", "invalid_query"),
    ] {
        let path = format!("/v1/log?{query}");
        let answer = node.send("GET", &path, &[("accept", accept)]).await;
        answer
            .problem(400, code)
            .unwrap_or_else(|wrong| panic!("{path}: {wrong}"));
    }
}

/// A client that does not read costs a part of the answer, not the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_little_and_gets_everything_when_it_does() {
    const EVENTS: usize = 320;
    let bed = Bed::embedded();
    let node = bed.node().await;
    let data = "x".repeat(60 * 1024);
    for part in 0..EVENTS / 16 {
        let event = |n: usize| json!({ "id": format!("{part}-{n}"), "kind": "visit", "feeds": ["big"], "data": data });
        node.append(&(0..16).map(event).collect::<Value>()).await;
    }
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("an option");
    let mut socket = socket.connect(node.address).await.expect("connected");
    let request = raw::head("GET", "/v1/log?after=0", &[ACCEPT]);
    socket.write_all(&request).await.expect("sent");
    let mut first = [0; 1];
    socket.read_exact(&mut first).await.expect("an answer");
    for _ in 0..20 {
        let scrape = Scrape::of(&node).await;
        assert_eq!(scrape.get("newsfeed_log_exports"), 1.0);
        assert!(scrape.get("newsfeed_answer_bytes") < 1024.0 * 1024.0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rest = raw::drain(&mut socket).await;
    let count = memchr::memmem::find_iter(&rest, b"\"version\"").count();
    assert_eq!(count, EVENTS);
    assert!(memchr::memmem::find(&rest, b"\"end\":true").is_some());
    patience::until("the end of the answer", async || {
        (Scrape::of(&node).await.get("newsfeed_log_exports") == 0.0).then_some(())
    })
    .await;
}
