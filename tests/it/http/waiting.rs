//! Long polls and heartbeats. Where a test only has to let time pass, it pauses Tokio's clock, which then jumps.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{column, items, visit, visits};
use crate::support::{
    bed::{Bed, text},
    entries::position_after,
    gate::Gate,
    sse::Stream,
    stores::troubled,
};

crate::on_every_engine!(in one thread:
    a_long_poll_is_answered_at_once_if_there_are_entries,
    a_long_poll_is_answered_when_an_entry_arrives,
    a_long_poll_that_times_out_returns_an_empty_page_to_continue_from,
    following_by_long_polls_misses_nothing_and_repeats_nothing,
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
        assert!(asked.elapsed() >= Duration::from_secs(wait));
        tokio::time::resume();
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
