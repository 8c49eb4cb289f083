//! Hostile clients and half-closed connections: the service keeps working.

use std::{pin::pin, time::Duration};

use axum::http::Request;
use futures_util::FutureExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{
    UNTOUCHED, appends,
    slow::{over_time, pass},
};
use crate::{
    http::{column, visits},
    support::{
        bed::{Bed, JSON, NDJSON, text},
        patience, raw,
    },
};

/// Longest time for a complete request head.
const HEAD: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The header block of a GET, without Huffman coding or dynamic table (RFC 7541).
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    // :method GET, :scheme http, :authority localhost, then :path.
    let begin = [&[0x82, 0x86, 0x01, 9][..], b"localhost"].concat();
    [&begin[..], &[0x04, length], path.as_bytes()].concat()
}

/// An unknown header.
fn header(number: usize) -> Vec<u8> {
    let name = format!("x-{number:05}");
    [
        &[0x00, name.len() as u8],
        name.as_bytes(),
        &[100],
        &[b'v'; 100],
    ]
    .concat()
}

async fn http2(node: &crate::support::bed::Served) -> TcpStream {
    let mut socket = raw::connect(node.address).await;
    socket.write_all(PREFACE).await.expect("sent");
    socket
        .write_all(&frame(SETTINGS, 0, 0, &[]))
        .await
        .expect("sent");
    socket
}

/// Writes `bytes` `times` times, or until the server closes the connection or stops reading.
async fn flood(socket: &mut TcpStream, bytes: &[u8], times: usize) {
    for _ in 0..times {
        let written = tokio::time::timeout(Duration::from_secs(5), socket.write_all(bytes));
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
    }
}

#[tokio::test]
async fn a_request_head_sent_too_slowly_is_cut_off() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    for begin in ["", "GET / HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut socket = raw::connect(node.address).await;
        socket.write_all(begin.as_bytes()).await.expect("sent");
        let began = Instant::now();
        let (mut reader, mut writer) = socket.split();
        let mut end = pin!(raw::drain(&mut reader));
        let rest = b"GET / HTTP/1.1\r\nx: ".iter();
        for byte in rest.chain(std::iter::repeat(&b'x')) {
            pass(&node).await;
            if end.as_mut().now_or_never().is_some() {
                break;
            }
            // Fails if the node has just closed the connection.
            let _ = writer.write_all(&[*byte]).await;
        }
        // One timeout until HTTP/1.1 and HTTP/2 are told apart, and one for the head.
        assert!(began.elapsed() <= HEAD * 2 + Duration::from_secs(10));
    }
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_headers_are_refused() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let names: Vec<String> = (0..1_000).map(|number| format!("x-{number}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "v")).collect();
    let answer = raw::exchange(node.address, &raw::head("GET", "/healthz", &headers)).await;
    assert_eq!(answer.status, 431);

    let (client, connection) = h2::client::handshake(raw::connect(node.address).await)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    for (bytes, expected) in [(50_000, 200), (66_000, 431)] {
        let mut client = client.clone().ready().await.expect("a stream");
        let request = Request::get(node.url("/healthz"));
        let request = request.header("x-long", "v".repeat(bytes)).body(());
        let sent = client.send_request(request.expect("a request"), true);
        let answer = sent.expect("sent").0.await.expect("an answer");
        assert_eq!(answer.status(), expected, "{bytes}");
    }
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_header_block_ends_its_connection() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let mut socket = http2(&node).await;
    let begin = frame(HEADERS, END_STREAM, 1, &get("/healthz"));
    socket.write_all(&begin).await.expect("sent");
    let (mut reader, mut writer) = socket.split();
    let endless = async {
        for number in 0.. {
            let more = frame(CONTINUATION, 0, 1, &header(number));
            if writer.write_all(&more).await.is_err() {
                break;
            }
        }
    };
    // If the connection did not end, this would not return.
    tokio::join!(endless, raw::drain(&mut reader));
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_resets_end_their_connection() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let mut socket = http2(&node).await;
    let (mut reader, mut writer) = socket.split();
    let endless = async {
        // Many at once, so that they are reset before they are processed.
        for first in (1..).step_by(400) {
            let pairs = (first..first + 400).step_by(2).map(|stream| {
                let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/healthz"));
                [request, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
            });
            if writer
                .write_all(&pairs.collect::<Vec<_>>().concat())
                .await
                .is_err()
            {
                break;
            }
        }
    };
    tokio::join!(endless, raw::drain(&mut reader));
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_with_unread_answers_do_not_block_others() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    node.append(&visits("v", 500, &["a"])).await;
    let mut kept = Vec::new();
    for flooding in [
        frame(PING, 0, 0, b"12345678"),
        frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0]),
        // A window of size 0 for new streams.
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
    ] {
        let mut socket = http2(&node).await;
        flood(&mut socket, &flooding.repeat(1_000), 200).await;
        kept.push(socket);
    }
    // More requests than a connection may have at once, whose answers are never read.
    let mut socket = http2(&node).await;
    let none = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    socket.write_all(&none).await.expect("sent");
    for stream in (1..1_000).step_by(2) {
        let request = get("/v1/feeds/a/entries?limit=200");
        let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &request);
        if socket.write_all(&request).await.is_err() {
            break;
        }
    }
    kept.push(socket);
    // The pages that nobody reads are read from the store once. Reads of the same caller wait for that, and not for ever.
    patience::until("a read", async || {
        let page = node.send("GET", "/v1/feeds/a/entries?limit=1", &[]).await;
        (page.status == 200).then_some(())
    })
    .await;
    appends(&node, "after").await;
    drop(kept);
    node.stop().await;
}

#[tokio::test]
async fn an_http2_client_that_answers_no_ping_is_cut_off() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let mut socket = http2(&node).await;
    let live = get("/v1/feeds/a/live");
    let live = frame(HEADERS, END_STREAM | END_HEADERS, 1, &live);
    socket.write_all(&live).await.expect("sent");
    // The stream has begun.
    while socket.read_u8().await.expect("an answer") != b'\n' {}
    let began = Instant::now();
    // The client reads everything but does not answer pings.
    over_time(&node, raw::drain(&mut socket)).await;
    assert!(began.elapsed() <= HEAD * 3, "{:?}", began.elapsed());
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_is_refused() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let body = json!({ "kind": "visit", "feeds": [UNTOUCHED] }).to_string();
    for (method, path, media) in [
        ("POST", "/v1/events", JSON),
        ("POST", "/v1/events", NDJSON),
        ("POST", "/v1/transient", JSON),
        ("PUT", "/v1/feeds/untouched/markers/read", JSON),
    ] {
        for coding in ["gzip", "br", "zstd", "identity, gzip", "x"] {
            let headers = [media, ("content-encoding", coding)];
            let answer = node.send_body(method, path, &headers, body.clone()).await;
            let problem = answer.problem(415, "unsupported_media_type").expect(path);
            let detail = text(&problem["detail"]);
            assert!(detail.contains("uncompressed"), "{detail}");
        }
    }
    let head = node.get(&format!("/v1/feeds/{UNTOUCHED}")).await;
    assert!(head["latest"].is_null());
    let headers = [JSON, ("content-encoding", "identity")];
    let answer = node.send_body("POST", "/v1/events", &headers, body).await;
    assert_eq!(answer.status, 200);
    node.stop().await;
}

/// A client that closes its sending half after the request gets the complete answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_connection_gets_its_answer() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let half_closed = async |request: &[u8]| {
        let mut socket = raw::connect(node.address).await;
        socket.write_all(request).await.expect("sent");
        socket.shutdown().await.expect("half closed");
        socket
    };
    let events = visits("v", 1_000, &["a"]).to_string();
    let request = raw::request("POST", "/v1/events", &[JSON], events.as_bytes());
    let answer = raw::answer(&mut half_closed(&request).await).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().as_array().expect("results").len(), 1_000);
    let lines = visits("w", 2, &["a"]);
    let lines = format!("{}\n{}\n", lines[0], lines[1]);
    let request = raw::request("POST", "/v1/events", &[NDJSON], lines.as_bytes());
    let answer = raw::answer(&mut half_closed(&request).await).await;
    assert_eq!(answer.body.iter().filter(|byte| **byte == b'\n').count(), 2);
    let request = raw::head("GET", "/v1/feeds/a/entries?limit=200", &[]);
    let answer = raw::answer(&mut half_closed(&request).await).await;
    assert_eq!(
        answer.json()["entries"].as_array().expect("entries").len(),
        200
    );

    // A long poll is answered when an entry arrives.
    let now = node.version("a").await;
    let wait = format!("/v1/feeds/a/entries?after={now}&wait=60");
    let mut socket = half_closed(&raw::head("GET", &wait, &[])).await;
    // Gives an error time to happen.
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.append(&visits("x", 1, &["a"])).await;
    let answer = raw::answer(&mut socket).await;
    assert_eq!(
        column(answer.json()["entries"].as_array().expect("entries"), "id"),
        ["x0"]
    );
    node.stop().await;
}
