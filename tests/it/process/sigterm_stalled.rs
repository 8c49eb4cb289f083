//! SIGTERM with stalled clients, and over HTTP/2.

use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{PATIENCE, Process};

/// A stream of `feed` whose client stops reading after the beginning.
async fn unread_stream(address: &str, feed: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = address.parse().expect("an address");
    let mut connection = socket.connect(address).await.expect("connected");
    let request = format!("GET /v1/feeds/{feed}/live HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection
        .write_all(request.as_bytes())
        .await
        .expect("sent");
    let mut heard = Vec::new();
    while memchr::memmem::find(&heard, b"event: version").is_none() {
        let read = connection.read_buf(&mut heard).await;
        assert_ne!(read.expect("it goes on"), 0);
    }
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_service_in_time_although_clients_stall() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let flags = ["--drain-delay-ms", "50", "--drain-time-ms", "500"];
    let process = Process::start_with(folder.path(), &flags).await;
    let api = process.api.clone();
    let address = api.url("").replace("http://", "");
    let mut held = vec![
        unread_stream(&address, "a").await,
        unread_stream(&address, "a").await,
    ];
    // More than the socket buffers hold.
    for id in 0..200 {
        let data = "x".repeat(60_000);
        let event = json!({ "id": format!("{id}"), "kind": "visit", "feeds": ["a"], "data": data });
        api.append(&event).await;
    }
    for begun in [
        "GET /v1/feeds/a HTTP/1.1\r\n",
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "P",
        "",
    ] {
        let mut connection = TcpStream::connect(&address).await.expect("connected");
        connection.write_all(begun.as_bytes()).await.expect("sent");
        held.push(connection);
    }
    process.signal(Signal::TERM);
    assert_eq!(process.exited().await.code(), Some(0));
    drop(held);
    Process::start(folder.path()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_open_requests_are_answered_and_the_connection_ends_with_goaway() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start(folder.path()).await;
    let base = process.api.url("");
    let socket = TcpStream::connect(base.replace("http://", "")).await;
    let opened = h2::client::handshake(socket.expect("connected")).await;
    let (sender, connection) = opened.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("open");
    let append = Request::post(format!("{base}/v1/events"))
        .header("content-type", "application/json")
        .body(())
        .expect("a request");
    let (append, mut body) = sender.send_request(append, false).expect("sent");
    let event = json!({ "kind": "visit", "feeds": ["a"] }).to_string();
    let (first, rest) = event.split_at(5);
    body.send_data(Bytes::copy_from_slice(first.as_bytes()), false)
        .expect("sent");
    // Frames are read in order, so the service has the beginning of the append too.
    let health = Request::get(format!("{base}/healthz")).body(());
    let (health, _) = sender
        .send_request(health.expect("a request"), true)
        .expect("sent");
    assert_eq!(health.await.expect("an answer").status(), 200);

    process.signal(Signal::TERM);
    let refused = timeout(PATIENCE, async {
        loop {
            let Ok(ready) = sender.clone().ready().await else {
                return;
            };
            drop(ready);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    refused.await.expect("it takes no more requests");
    body.send_data(Bytes::copy_from_slice(rest.as_bytes()), true)
        .expect("sent");
    let answer = timeout(PATIENCE, append).await.expect("in time");
    assert_eq!(answer.expect("an answer").status(), 200);
    let ended = timeout(PATIENCE, connection).await.expect("it ends");
    ended
        .expect("no panic")
        .expect("by GOAWAY, without an error");
    assert_eq!(process.exited().await.code(), Some(0));
}
