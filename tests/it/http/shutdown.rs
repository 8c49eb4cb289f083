//! How a node stops: first it is not ready, then streams end with different `retry` values; it ends within its time
//! whatever clients and the store do.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};

use futures_util::future::join_all;
use newsfeed::server::{Drain, Settings};
use serde_json::json;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{visit, visits};
use crate::support::{
    bed::{Bed, Served, default_settings},
    gate::Gate,
    patience::PATIENCE,
    raw,
    sse::Stream,
    stores::troubled,
};

const STREAMS: usize = 200;
/// The documented range of `retry`, in ms.
const RETRY_MS: RangeInclusive<u32> = 500..=5_000;

/// Reads all streams to their end; their `retry` values must be spread over the range.
async fn get_different_retry_values(streams: Vec<Stream>) {
    let mut told = BTreeSet::new();
    for mut stream in streams {
        let bye = stream.next_of(&["bye"]).await;
        assert_eq!(bye.data, json!({ "reason": "shutdown" }));
        let [hello, retry] = stream.retries[..] else {
            panic!("{:?}", stream.retries);
        };
        assert_eq!(hello, 2_000, "the `retry` after any other break");
        assert!(RETRY_MS.contains(&retry), "{retry}");
        told.insert(retry);
    }
    assert!(told.len() > STREAMS / 2, "{told:?}");
    let (first, last) = (told.first(), told.last());
    assert!(first < Some(&1_500) && last > Some(&4_000), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_end_together_get_different_retry_values() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let url = node.url("/v1/feeds/a/live");
    let open = || async {
        let mut stream = Stream::open(&node.http, &url, None).await;
        stream.caught_up().await;
        stream
    };
    let streams = join_all((0..STREAMS).map(|_| open())).await;
    tokio::join!(get_different_retry_values(streams), node.stop());
}

async fn node(bed: &Bed, gate: &Arc<Gate>, drain: Drain) -> Served {
    let settings = Settings {
        drain,
        ..default_settings()
    };
    let store = troubled(bed.store(), Arc::clone(gate));
    bed.node_as(store, settings).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_is_not_ready_but_serves_everything_until_its_delay_is_over() {
    let bed = Bed::embedded();
    let drain = Drain {
        delay: Duration::from_secs(3_600),
        ..default_settings().drain
    };
    let node = node(&bed, &Gate::open(), drain).await;
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live"), None).await;
    stream.caught_up().await;
    assert_eq!(node.send("GET", "/readyz", &[]).await.status, 200);

    node.leave();
    let not_ready = async {
        while node.send("GET", "/readyz", &[]).await.status == 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, not_ready).await.expect("it notices");
    let answer = node.send("GET", "/readyz", &[]).await;
    answer.problem(503, "shutting_down").expect("not ready");
    // New connections are accepted too.
    let healthy = raw::exchange(node.address, &raw::head("GET", "/healthz", &[])).await;
    assert_eq!(healthy.status, 200);
    node.append(&visits("e", 2, &["a"])).await;
    assert_eq!(node.all("a").await.len(), 2);
    assert_eq!(stream.next_of(&["entry"]).await.data["id"], "e0");
    let mut late = Stream::open(&node.http, &node.url("/v1/feeds/a/live?after=0"), None).await;
    assert_eq!(late.caught_up().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_within_its_time_although_an_append_hangs_and_a_client_stalls() {
    let bed = Bed::embedded();
    let gate = Gate::open();
    let drain = Drain {
        delay: Duration::from_millis(10),
        time: Duration::from_millis(400),
    };
    let node = node(&bed, &gate, drain).await;
    node.append(&visit("kept", &["a"])).await;
    let mut silent = raw::connect(node.address).await;
    let begun = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    silent.write_all(begun).await.expect("sent");
    gate.hold(true);
    let append = {
        let (http, url) = (node.http.clone(), node.url("/v1/events"));
        async move { http.post(url).json(&visit("held", &["a"])).send().await }
    };
    let append = tokio::spawn(append);
    gate.something_is_held().await;

    timeout(PATIENCE, node.stop()).await.expect("it ends");
    let answer = append.await.expect("no panic");
    answer.expect_err("the outcome is unknown, so there is no answer");
    assert_eq!(raw::drain(&mut silent).await, b"");
    gate.hold(false);
    bed.close().await;
    let node = bed.node().await;
    assert_eq!(node.all("a").await[0]["id"], "kept");
    node.stop().await;
}

/// `TimeoutStopSec` of the unit in the guide: the time after which systemd kills the process.
#[test]
fn the_systemd_unit_allows_enough_time_to_drain() {
    let guide = include_str!("../../../src/docs/operations.md");
    let seconds = guide
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let seconds = seconds.expect("a unit").parse().expect("a number");
    let Drain { delay, time } = default_settings().drain;
    assert!(delay + time < Duration::from_secs(seconds));
}
