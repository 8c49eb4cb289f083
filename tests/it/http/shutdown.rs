//! How a node stops: first it is not ready, then streams end with different `retry` values; it ends within its time
//! whatever clients and the store do.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};

use futures_util::future::join_all;
use http_body_util::BodyExt;
use newsfeed::server::{Drain, Settings};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use super::{visit, visits};
use crate::support::{
    bed::{Bed, Served, default_settings},
    gate::Gate,
    patience::PATIENCE,
    protocol::Protocol,
    raw,
    sse::Stream,
    stores::troubled,
};

const STREAMS: usize = 200;
/// The documented range of `retry`, in ms.
const RETRY_MS: RangeInclusive<u32> = 500..=5_000;

/// Reads all streams to their end; their `retry` values, both at the beginning and at the end, must be spread over the range.
async fn get_different_retry_values(streams: Vec<Stream>) {
    let mut told = [const { BTreeSet::new() }; 2];
    for mut stream in streams {
        let bye = stream.next_of(&["bye"]).await;
        assert_eq!(bye.data, json!({ "reason": "shutdown" }));
        assert_eq!(stream.retries.len(), 2);
        for (retry, told) in stream.retries.into_iter().zip(&mut told) {
            assert!(RETRY_MS.contains(&retry), "{retry}");
            told.insert(retry);
        }
    }
    for told in told {
        assert!(told.len() > STREAMS / 2, "{told:?}");
        let (first, last) = (told.first(), told.last());
        assert!(first < Some(&1_500) && last > Some(&4_000), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_get_different_retry_values_at_their_beginning_and_at_their_end() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let url = node.url("/v1/feeds/a/live");
    let clients = [Protocol::Http1, Protocol::Http2].map(Protocol::client);
    let open = async |index: usize| {
        let answer = clients[index % 2].get(url.parse().expect("a URL")).await;
        let body = answer.expect("an answer").into_body();
        let mut stream = Stream::over(body.into_data_stream());
        stream.caught_up().await;
        stream
    };
    let streams = join_all((0..STREAMS).map(open)).await;
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

/// A stream whose client reads slowly or not at all cannot be ended by `bye`, so it is cut off when the time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_off_streams_that_are_not_read() {
    let bed = Bed::embedded();
    let drain = Drain {
        delay: Duration::from_millis(10),
        time: Duration::from_secs(1),
    };
    let node = node(&bed, &Gate::open(), drain).await;
    let data = "x".repeat(60_000);
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        // More than the buffers of both sockets hold.
        let events =
            (0..100).map(|_| json!({ "kind": "visit", "feeds": [version[5..]], "data": data }));
        node.append(&events.collect()).await;
    }
    let mut unread = Vec::new();
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for _ in 0..2 {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(4096).expect("a small buffer");
            let mut socket = socket.connect(node.address).await.expect("connected");
            let feed = &version[5..];
            let request =
                format!("GET /v1/feeds/{feed}/live?after=0 {version}\r\nhost: localhost\r\n\r\n");
            socket.write_all(request.as_bytes()).await.expect("sent");
            let head = socket.read_u8().await;
            assert_eq!(head.expect("a head"), b'H');
            unread.push(socket);
        }
    }
    let mut slow = unread.split_off(2);
    let mut slow_reader = slow.pop().expect("a socket");
    let reads_slowly = tokio::spawn(async move {
        let (mut read, mut bytes) = (Vec::new(), [0; 1_000]);
        while let Ok(1..) = slow_reader.read_exact(&mut bytes).await {
            read.extend(bytes);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        read
    });
    timeout(PATIENCE, node.stop()).await.expect("it ends");
    let mut ends = vec![
        timeout(PATIENCE, reads_slowly)
            .await
            .expect("it ends")
            .expect("no panic"),
    ];
    for mut socket in unread.into_iter().chain(slow) {
        ends.push(raw::drain(&mut socket).await);
    }
    for read in ends {
        let end = String::from_utf8_lossy(&read[read.len().saturating_sub(200)..]);
        assert!(!end.contains("event: bye"), "{end}");
        assert!(read.len() < 100 * data.len(), "{}", read.len());
    }
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
