//! HTTP that two programs might read in two ways is refused.

use tokio::io::AsyncWriteExt;

use super::{UNTOUCHED, appends};
use crate::support::{
    bed::{Bed, Served},
    raw,
};

/// Sends a request with `head` and, as its body or after it, an append. Expects an answer, the end of the connection, and
/// that nothing is appended.
async fn refused(node: &Served, head: &str) {
    let event = format!(r#"{{"kind":"visit","feeds":["{UNTOUCHED}"]}}"#);
    let smuggled = format!(
        "POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    );
    let body = match head.to_lowercase().contains("transfer-encoding") {
        true => format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n{smuggled}", smuggled.len()),
        false => smuggled,
    };
    let request = format!("{head}\r\n\r\n{body}");
    let mut socket = raw::connect(node.address).await;
    socket.write_all(request.as_bytes()).await.expect("sent");
    let answer = raw::answer(&mut socket).await;
    answer.problem(400, "invalid_request").expect(head);
    assert_eq!(answer.header("connection"), Some("close"), "{head}");
    let state = node.get(&format!("/v1/feeds/{UNTOUCHED}")).await;
    assert!(state["latest"].is_null(), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_one_host_and_ends_in_one_way() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    for head in [
        "GET /healthz HTTP/1.1",
        "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a",
        "GET /healthz HTTP/1.1\r\nhost: a\r\nHost: b",
        "GET /healthz HTTP/1.0\r\nhost: a\r\nhost: b",
        "GET /healthz HTTP/1.1\r\nhost:",
        "GET /healthz HTTP/1.1\r\nhost: a, b",
        "GET /healthz HTTP/1.1\r\nhost: a/b",
        "GET /healthz HTTP/1.1\r\nhost: user@a",
        "GET http://a/healthz HTTP/1.1\r\nhost: b",
        "POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked",
        "POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked",
        "POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity, chunked",
        "POST /v1/events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "GET /nowhere HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked",
    ] {
        refused(&node, head).await;
    }
    for head in [
        "GET /healthz HTTP/1.0",
        "GET /healthz HTTP/1.1\r\nhost: localhost",
        "GET /healthz HTTP/1.1\r\nhost: [::1]:8080",
        "GET http://LocalHost:80/healthz HTTP/1.1\r\nhost: localhost:80",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: Chunked",
    ] {
        let body = match head.contains("Chunked") {
            true => "0\r\n\r\n",
            false => "",
        };
        let request = format!("{head}\r\nconnection: close\r\n\r\n{body}");
        let answer = raw::exchange(node.address, request.as_bytes()).await;
        assert_eq!(answer.status, 200, "{head}");
    }
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_http2_names_one_host() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let socket = raw::connect(node.address).await;
    let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    for (hosts, status) in [
        (&[][..], 200),
        (&["localhost"][..], 200),
        (&["other"][..], 400),
        (&["localhost", "localhost"][..], 400),
    ] {
        let mut client = client.clone().ready().await.expect("a stream");
        let mut request = axum::http::Request::get("http://localhost/healthz");
        for host in hosts {
            request = request.header("host", *host);
        }
        let sent = client.send_request(request.body(()).expect("a request"), true);
        let answer = sent.expect("sent").0.await.expect("an answer");
        assert_eq!(answer.status(), status, "{hosts:?}");
    }
    node.stop().await;
}
