//! Long polls and heartbeats. Where a test only has to let time pass, it pauses Tokio's clock, which then jumps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use newsfeed::feed::PAGE_EXAMINED_MAX;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};

use super::{column, items, message, visit, visits};
use crate::{
    operate::scrape::Scrape,
    support::{
        bed::{Bed, Served, text},
        entries::position_after,
        gate::Gate,
        patience::until,
        sse::Stream,
        stores::{Trouble, troubled},
    },
};

crate::on_every_engine!(in one thread:
    a_long_poll_is_answered_at_once_if_there_are_entries,
    a_long_poll_is_answered_when_an_entry_arrives,
    a_long_poll_that_times_out_returns_an_empty_page_to_continue_from,
    following_by_long_polls_misses_nothing_and_repeats_nothing,
    following_one_kind_by_long_polls_misses_nothing_and_repeats_nothing,
    long_polls_do_not_read_what_they_do_not_ask_for,
    a_long_poll_continues_from_where_nothing_matched,
    an_idle_stream_gets_its_position_every_fifteen_seconds,
);

async fn a_long_poll_is_answered_at_once_if_there_are_entries(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("e", 3, &["a"])).await;
    let asked = Instant::now();
    tokio::time::pause();
    let page = node
        .get("/v1/feeds/a/entries?after=0&wait=60&limit=2")
        .await;
    assert_eq!(column(items(&page["entries"]), "id"), ["e0", "e1"]);
    let path = format!(
        "/v1/entries?feed=b&feed=a&after={}&wait=60",
        text(&page["next"])
    );
    let page = node.get(&path).await;
    assert_eq!(column(items(&page["entries"]), "id"), ["e2"]);
    // Nothing waited: a paused clock advances only when every task waits.
    assert!(asked.elapsed() < Duration::from_secs(60));
    tokio::time::resume();
}

async fn a_long_poll_is_answered_when_an_entry_arrives(bed: &Bed) {
    for path in ["/v1/feeds/a/entries?", "/v1/entries?feed=b&feed=a&"] {
        let gate = Gate::open();
        let node = bed.node_on(troubled(bed.store(), gate.clone())).await;
        let now = node.version("a").await;
        let poll = node.url(&format!("{path}after={now}&wait=60"));
        let poll = tokio::spawn(node.http.get(poll).send());
        gate.somebody_waits().await;
        let other = bed.node().await;
        other
            .append(&json!({ "kind": "visit", "feeds": ["elsewhere"] }))
            .await;
        let signal = json!({ "kind": "typing", "feeds": ["a"] });
        other.post("/v1/transient", &signal).await;
        let appended = other
            .append(&json!({ "kind": "visit", "feeds": ["a"] }))
            .await;
        let answer = poll.await.expect("no panic").expect("an answer");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let page: Value = answer.json().await.expect("JSON");
        assert_eq!(
            column(items(&page["entries"]), "id"),
            [text(&appended["id"])]
        );
    }
}

async fn a_long_poll_that_times_out_returns_an_empty_page_to_continue_from(bed: &Bed) {
    let node = bed.node().await;
    let mut after = text(&node.append(&visit("old", &["a"])).await["version"]);
    for (index, wait) in [0, 1, 60].into_iter().enumerate() {
        tokio::time::pause();
        let asked = Instant::now();
        let page = node
            .get(&format!("/v1/feeds/a/entries?after={after}&wait={wait}"))
            .await;
        let waited = asked.elapsed();
        tokio::time::resume();
        // The longest ends before a proxy gives up.
        assert!(waited >= Duration::from_secs(wait.min(50)), "{waited:?}");
        assert!(waited < Duration::from_secs(60), "{waited:?}");
        assert_eq!(
            (&page["entries"], &page["next"]),
            (&json!([]), &json!(null))
        );
        let appended = node.append(&visit(&format!("new{index}"), &["a"])).await;
        let path = format!(
            "/v1/feeds/a/entries?after={}&wait=60",
            text(&page["version"])
        );
        let page = node.get(&path).await;
        assert_eq!(
            column(items(&page["entries"]), "version"),
            [text(&appended["version"])]
        );
        after = text(&page["version"]);
    }
}

async fn following_by_long_polls_misses_nothing_and_repeats_nothing(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let produce = async {
        for index in 0..60 {
            nodes[index % 2]
                .append(&visit(&format!("e{index}"), &["a"]))
                .await;
        }
    };
    let consume = async {
        let (mut heard, mut after) = (Vec::new(), "0".to_owned());
        for turn in 0.. {
            let path = format!("/v1/feeds/a/entries?after={after}&wait=60&limit=5");
            let page = nodes[turn % 2].get(&path).await;
            // More entries are always to come, so no long poll may end empty.
            assert!(!items(&page["entries"]).is_empty());
            heard.extend(column(items(&page["entries"]), "id"));
            after = position_after(&page);
            if heard.len() >= 60 {
                break;
            }
        }
        heard
    };
    let ((), heard) = tokio::join!(produce, consume);
    let expected: Vec<_> = (0..60).map(|index| format!("e{index}")).collect();
    assert_eq!(heard, expected);
}

async fn following_one_kind_by_long_polls_misses_nothing_and_repeats_nothing(bed: &Bed) {
    const MESSAGES: usize = 30;
    let nodes = [bed.node().await, bed.node().await];
    let produce = async {
        for index in 0..MESSAGES {
            let visits = visits(&format!("v{index}-"), 1 + index % 7, &["a", "b"]);
            nodes[index % 2].append(&visits).await;
            let feed = ["a", "b"][index % 3 % 2];
            let message = message(&format!("m{index}"), &[feed]);
            nodes[index / 2 % 2].append(&message).await;
        }
    };
    let consume = async {
        let (mut heard, mut after) = (Vec::new(), "0".to_owned());
        for turn in 0.. {
            let path =
                format!("/v1/entries?feed=a&feed=b&kind=message&after={after}&wait=60&limit=2");
            let page = nodes[turn % 2].get(&path).await;
            heard.extend(column(items(&page["entries"]), "id"));
            after = position_after(&page);
            if heard.len() >= MESSAGES {
                break;
            }
        }
        heard
    };
    let ((), heard) = tokio::join!(produce, consume);
    let expected: Vec<_> = (0..MESSAGES).map(|index| format!("m{index}")).collect();
    assert_eq!(heard, expected);
}

/// Counts snapshots.
#[derive(Default)]
struct Snapshots(AtomicUsize);

impl Trouble for Snapshots {
    fn before_begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn until_long_polls(node: &Served, count: usize) {
    let waiting = async || {
        let scrape = Scrape::of(node).await;
        (scrape.get("newsfeed_long_polls") == count as f64).then_some(())
    };
    until("the long polls", waiting).await;
}

/// A long poll of `path`, under way.
fn poll(node: &Served, path: &str) -> JoinHandle<Value> {
    let request = node.http.get(node.url(path)).send();
    tokio::spawn(async {
        let answer = request.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json().await.expect("JSON")
    })
}

async fn long_polls_do_not_read_what_they_do_not_ask_for(bed: &Bed) {
    const POLLS: usize = 40;
    const APPENDS: usize = 50;
    let snapshots = Arc::new(Snapshots::default());
    let node = bed
        .node_on(troubled(bed.store(), Arc::clone(&snapshots)))
        .await;
    let other = bed.node().await;
    let first = text(&other.append(&visit("first", &["a"])).await["version"]);
    let asked: Vec<String> = (0..POLLS)
        .map(|index| {
            let feeds = ["/v1/feeds/a/entries?", "/v1/entries?feed=b&feed=a&"][index % 2];
            format!("{feeds}kind=message&after={first}")
        })
        .collect();
    let polls: Vec<_> = asked
        .iter()
        .map(|path| poll(&node, &format!("{path}&wait=50")))
        .collect();
    until_long_polls(&node, POLLS).await;
    let begun = snapshots.0.load(Ordering::SeqCst);
    for index in 0..APPENDS {
        other
            .append(&visit(&format!("v{index}"), &["a", "b"]))
            .await;
        let signal = json!({ "kind": "message", "feeds": ["a"] });
        other.post("/v1/transient", &signal).await;
    }
    let begun = snapshots.0.load(Ordering::SeqCst) - begun;
    assert!(polls.iter().all(|poll| !poll.is_finished()));
    // The tailer reads once for each commit, at most, and the polls have read once since they began.
    assert!(begun < POLLS + 4 * APPENDS, "{begun} snapshots");

    // Each gets what a new request gets.
    other
        .append(&json!([message("m0", &["a"]), message("m1", &["b", "a"])]))
        .await;
    for (poll, path) in polls.into_iter().zip(asked) {
        let page = poll.await.expect("no panic");
        let new = node.get(&path).await;
        assert_eq!(page["entries"], new["entries"]);
        assert_eq!(page["next"], new["next"]);
        assert_eq!(column(items(&page["entries"]), "id"), ["m0", "m1"]);
    }
}

/// Also when more lies between than one page examines.
async fn a_long_poll_continues_from_where_nothing_matched(bed: &Bed) {
    let node = bed.node().await;
    let now = text(&node.append(&visit("first", &["a"])).await["version"]);
    let path = format!("/v1/feeds/a/entries?kind=message&after={now}");
    let fill = async |round: usize| {
        let mut last = String::new();
        for part in 0..=PAGE_EXAMINED_MAX / 1_000 {
            let visits = visits(&format!("r{round}p{part}-"), 1_000, &["a"]);
            let appended = node.append(&visits).await;
            last = text(&items(&appended).last().expect("the last")["version"]);
        }
        last
    };
    let two = [
        poll(&node, &format!("{path}&wait=50")),
        poll(&node, &format!("{path}&wait=60")),
    ];
    until_long_polls(&node, 2).await;
    fill(0).await;
    let appended = node.append(&message("m", &["a"])).await;
    for poll in two {
        let page = poll.await.expect("no panic");
        assert_eq!(
            column(items(&page["entries"]), "version"),
            [text(&appended["version"])]
        );
        assert_eq!(page["next"], json!(null));
        assert!(text(&page["version"]) >= text(&appended["version"]));
    }

    // At its deadline it tells a position above all that did not match.
    let path = format!(
        "/v1/feeds/a/entries?kind=message&after={}",
        text(&appended["version"])
    );
    let poll = poll(&node, &format!("{path}&wait=60"));
    until_long_polls(&node, 1).await;
    let last = fill(1).await;
    tokio::time::pause();
    let page = poll.await.expect("no panic");
    tokio::time::resume();
    assert_eq!(
        (&page["entries"], &page["next"]),
        (&json!([]), &json!(null))
    );
    assert!(text(&page["version"]) >= last);
}

async fn an_idle_stream_gets_its_position_every_fifteen_seconds(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visit("old", &["a"])).await;
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live?after=0"), None).await;
    stream.caught_up().await;
    // The position of an idle stream advances with commits to other feeds.
    let elsewhere = node.append(&visit("x", &["elsewhere"])).await;
    tokio::time::pause();
    let mut last = stream.last_id.clone().expect("a position");
    for beat in 0..4 {
        let began = Instant::now();
        let event = stream.next().await.expect("an event");
        assert_eq!(event.name, "version");
        assert_eq!(event.id, Some(text(&event.data["version"])));
        if beat > 0 {
            assert!(
                began.elapsed() >= Duration::from_secs(14),
                "{:?}",
                began.elapsed()
            );
            assert!(
                began.elapsed() <= Duration::from_secs(16),
                "{:?}",
                began.elapsed()
            );
        }
        let position = event.id.expect("a position");
        assert!(position >= last);
        last = position;
    }
    tokio::time::resume();
    assert!(last >= text(&elsewhere["version"]));
    // The stream can be resumed from it.
    let url = node.url("/v1/feeds/a/live");
    let mut resumed = Stream::open(&node.http, &url, Some(&last)).await;
    assert!(resumed.caught_up().await.is_empty());
}
