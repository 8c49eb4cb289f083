//! Raising the epoch: transactions in flight on any node are retried in the new epoch, and nothing else changes.

use std::sync::Arc;

use newsfeed::{store::epoch, version::Version};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    bed::{Bed, text},
    sse::Stream,
    stores::{failed_attempts, troubled},
    turnstile::Turnstile,
};

const NODES: usize = 3;

fn event(id: &str) -> Value {
    json!({ "id": id, "kind": "note", "feeds": ["a"] })
}

fn version(answer: &Value) -> Version {
    text(&answer["version"]).parse().expect("a version")
}

fn ids(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|entry| text(&entry["id"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_in_flight_during_a_raise_are_retried_in_the_new_epoch_and_old_cursors_keep_working()
 {
    let bed = Bed::fdb();
    let plain = bed.node().await;
    let before = plain.append(&event("before")).await;
    let cursors = [text(&before["version"]), plain.version("a").await];
    // A moment is known after a raise if something was stored since.
    plain
        .append(&json!({ "id": "elsewhere", "kind": "note", "feeds": ["b"] }))
        .await;
    let http = reqwest::Client::new();
    let live = plain.url("/v1/feeds/a/live");
    let mut stream = Stream::open(&http, &live, None).await;
    assert!(stream.caught_up().await.is_empty());

    // One append of each node has read in the old epoch, but not committed yet.
    let (mut appends, mut stores, mut turnstiles) = (JoinSet::new(), Vec::new(), Vec::new());
    for number in 0..NODES {
        let (store, turnstile) = (bed.store(), Turnstile::closed());
        let node = bed
            .node_on(troubled(Arc::clone(&store), Arc::clone(&turnstile)))
            .await;
        stores.push(store);
        appends.spawn(async move {
            let answer = node.append(&event(&format!("across-{number}"))).await;
            node.stop().await;
            answer
        });
        turnstile.have_come(1).await;
        turnstiles.push(turnstile);
    }
    let raised = epoch::raise(&*bed.store(), &bed.keys().await, &bed.wall, None).await;
    let raised = raised.expect("the epoch is raised");
    assert!(raised > version(&before).epoch());
    for turnstile in turnstiles {
        turnstile.let_pass(usize::MAX / 2);
    }
    let mut across = appends.join_all().await;
    across.sort_by_key(version);
    for answer in &across {
        assert_eq!(answer["status"], "appended");
        assert_eq!(version(answer).epoch(), raised, "{answer}");
    }
    for store in stores {
        let counts = failed_attempts(&*store, "append");
        assert!(
            counts.contains_key("conflict"),
            "the attempt aborted: {counts:?}"
        );
    }
    let after = plain.append(&event("after")).await;
    assert_eq!(version(&after).epoch(), raised);

    let newer = [&ids(&across)[..], &["after".to_owned()]].concat();
    let all = plain.all("a").await;
    assert_eq!(ids(&all), [&["before".to_owned()][..], &newer].concat());
    assert!(
        all.iter().map(version).is_sorted(),
        "versions grow: {all:?}"
    );
    for cursor in cursors {
        let page = plain
            .get(&format!("/v1/feeds/a/entries?after={cursor}"))
            .await;
        assert_eq!(ids(page["entries"].as_array().expect("entries")), newer);
        let page = plain
            .get(&format!("/v1/feeds/a/entries?until={cursor}"))
            .await;
        assert_eq!(
            ids(page["entries"].as_array().expect("entries")),
            ["before"]
        );
        let mut resumed = Stream::open(&http, &live, Some(&cursor)).await;
        let told: Vec<Value> = resumed
            .caught_up()
            .await
            .into_iter()
            .map(|event| event.data)
            .collect();
        assert_eq!(ids(&told), newer);
    }
    // A stream that was open all the time gets the same.
    let mut told = Vec::new();
    while told.len() < newer.len() {
        told.push(stream.next_of(&["entry", "notify"]).await.data);
    }
    assert_eq!(ids(&told), newer);
    plain.stop().await;
}
