//! The version that was current at a time, and pages and streams that begin at one.

use newsfeed::{store::Batch, version::Version};
use serde_json::json;

use super::{column, items, visit};
use crate::support::{
    bed::{Bed, Served, text},
    patience::until,
    sse::Stream,
};

crate::on_every_engine!(
    pages_and_streams_begin_at_a_time_and_versions_are_those_of_their_times,
    times_before_the_first_note_are_the_beginning_and_others_are_refused,
    a_running_node_notes_the_version_and_only_one_of_several_does,
);

fn rfc3339(seconds: u64) -> String {
    let time = jiff::Timestamp::from_second(seconds as i64).expect("a time");
    time.to_string()
}

/// The time now, in seconds.
fn now(bed: &Bed) -> u64 {
    bed.wall.micros() / 1_000_000
}

/// Notes what version is current now as the version of `number` · 10 s.
async fn note(bed: &Bed, number: u64) -> Version {
    let (store, keys) = (bed.store(), bed.keys().await);
    let snapshot = store.snapshot().await.expect("a snapshot");
    let version = Version::moment(snapshot.version().epoch(), snapshot.taken_at());
    let batch = Batch {
        puts: vec![(keys.time(number), version.to_bytes().to_vec())],
        ..Batch::default()
    };
    snapshot.commit(batch).await.expect("noted");
    version
}

async fn ids(node: &Served, query: &str) -> Vec<String> {
    let page = node.get(&format!("/v1/feeds/a/entries?{query}")).await;
    column(items(&page["entries"]), "id")
}

async fn pages_and_streams_begin_at_a_time_and_versions_are_those_of_their_times(bed: &Bed) {
    let node = bed.node().await;
    // An hour and half an hour ago.
    let first = now(bed) / 10 - 360;
    let second = first + 180;
    node.append(&visit("before", &["a"])).await;
    let began = note(bed, first).await;
    node.append(&visit("between", &["a"])).await;
    let later = note(bed, second).await;
    node.append(&visit("after", &["a"])).await;

    let at = async |seconds: u64| {
        let answer = node
            .get(&format!("/v1/versions?at={}", rfc3339(seconds)))
            .await;
        assert_eq!(answer["at"], rfc3339(seconds));
        text(&answer["version"])
    };
    assert_eq!(at(first * 10 - 1).await, "0");
    assert_eq!(at(first * 10).await, began.to_string());
    assert_eq!(at(second * 10).await, later.to_string());
    // Between two notes it lies between their versions.
    let between = at(second * 10 - 1).await;
    assert!(began.to_string() < between && between <= later.to_string());
    for seconds in [first * 10, second * 10 - 1, second * 10 + 3, now(bed)] {
        let (time, version) = (rfc3339(seconds), at(seconds).await);
        let by_version = ids(&node, &format!("after={version}")).await;
        assert_eq!(ids(&node, &format!("after={time}")).await, by_version);
    }
    let time = rfc3339(first * 10);
    assert_eq!(
        ids(&node, &format!("after={time}")).await,
        ["between", "after"]
    );
    let until = at(second * 10).await;
    let digest = format!("after={time}&until={until}");
    assert_eq!(ids(&node, &digest).await, ["between"]);
    // With another offset, in a long poll, merged, and in a stream.
    let zone = jiff::Timestamp::from_second(second as i64 * 10 + 3_600).expect("a time");
    let zone = zone.to_string().replace('Z', "%2B01:00");
    for path in [
        format!("/v1/feeds/a/entries?after={zone}&wait=30"),
        format!("/v1/entries?feed=a&after={zone}"),
    ] {
        let page = node.get(&path).await;
        assert_eq!(column(items(&page["entries"]), "id"), ["after"], "{path}");
    }
    let url = node.url(&format!("/v1/feeds/a/live?after={zone}"));
    let mut stream = Stream::open(&node.http, &url, None).await;
    assert_eq!(stream.next_of(&["entry"]).await.data["id"], "after");
    // A position that was received counts more.
    let mut stream = Stream::open(&node.http, &url, Some("0")).await;
    assert_eq!(stream.next_of(&["entry"]).await.data["id"], "before");
    node.stop().await;
}

async fn times_before_the_first_note_are_the_beginning_and_others_are_refused(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visit("old", &["a"])).await;
    for time in ["1960-01-01T00:00:00Z", "2025-01-01T00:00:00Z"] {
        let answer = node.get(&format!("/v1/versions?at={time}")).await;
        assert_eq!(answer, json!({ "at": time, "version": "0" }));
        assert_eq!(ids(&node, &format!("after={time}")).await, ["old"]);
    }
    let future = rfc3339(now(bed) + 3_600);
    for (path, code) in [
        (format!("/v1/versions?at={future}"), "time_ahead"),
        (format!("/v1/feeds/a/entries?after={future}"), "time_ahead"),
        (format!("/v1/feeds/a/live?after={future}"), "time_ahead"),
        ("/v1/versions?at=2026-11-28".to_owned(), "invalid_time"),
        ("/v1/versions?at=0".to_owned(), "invalid_time"),
        ("/v1/versions?at=%FF".to_owned(), "invalid_time"),
        ("/v1/versions".to_owned(), "invalid_query"),
        (
            "/v1/versions?at=2025-01-01T00:00:00Z&x=1".to_owned(),
            "invalid_query",
        ),
        (
            "/v1/entries?feed=a&after=2026-11-28T00:00Z".to_owned(),
            "invalid_time",
        ),
        (
            "/v1/feeds/a/live?after=2026-11-28T00:00Z".to_owned(),
            "invalid_time",
        ),
        (
            "/v1/feeds/a/live?lastEventId=2025-01-01T00:00:00Z".to_owned(),
            "invalid_version",
        ),
        (
            "/v1/feeds/a/entries?until=2025-01-01T00:00:00Z".to_owned(),
            "invalid_version",
        ),
    ] {
        let answer = node.send("GET", &path, &[]).await;
        answer.problem(400, code).expect(&path);
    }
    node.stop().await;
}

async fn a_running_node_notes_the_version_and_only_one_of_several_does(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let began = nodes[0].version("a").await;
    nodes[0].append(&visit("early", &["a"])).await;
    let (store, keys) = (bed.store(), bed.keys().await);
    let first = now(bed) / 10 + 1;
    let noted = until("a note", async || {
        let snapshot = store.snapshot().await.expect("a snapshot");
        let found = snapshot.get((first..first + 6).map(|n| keys.time(n)).collect());
        let found = found.await.expect("read");
        let row = found.iter().position(Option::is_some)?;
        let version = <[u8; 16]>::try_from(&found[row].as_ref()?[..]).expect("a version");
        Some((first + row as u64, Version::from_bytes(version)))
    })
    .await;
    let (number, version) = noted;
    assert!(version.to_string() > began);
    nodes[1].append(&visit("late", &["a"])).await;
    for node in &nodes {
        let answer = node
            .get(&format!("/v1/versions?at={}", rfc3339(number * 10)))
            .await;
        assert_eq!(answer["version"], version.to_string());
        let since = format!("after={}", rfc3339(number * 10));
        assert_eq!(ids(node, &since).await, ["late"]);
    }
    // The note of a time stays: the other node has not replaced it.
    let found = store
        .snapshot()
        .await
        .expect("a snapshot")
        .get(vec![keys.time(number)])
        .await;
    let found = found.expect("read")[0].clone().expect("it is there");
    assert_eq!(found[..], version.to_bytes());
    let [first, second] = nodes;
    first.stop().await;
    second.stop().await;
}
