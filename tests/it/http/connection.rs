//! A live stream hijacks its connection from hyper. Nothing that the connection carried before is lost.

use std::time::{Duration, Instant};

use futures_util::stream;
use newsfeed::live::HEARTBEAT;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
};

use super::visits;
use crate::{
    on_every_engine,
    operate::scrape::Scrape,
    support::{bed::Bed, patience::until, raw, sse::Stream},
};

on_every_engine!(
    a_stream_begins_on_a_connection_that_served_other_requests,
    a_stream_begins_after_all_earlier_answers_were_sent,
    a_stream_ends_with_its_last_chunk_and_its_connection,
    a_stream_over_http_1_0_is_not_chunked,
    connections_that_stall_do_not_block_others,
    a_stream_ends_as_soon_as_its_client_disconnects,
    a_stream_over_http_1_0_ends_as_soon_as_its_client_disconnects,
);

const LIVE: &str = "/v1/feeds/user:1/live?after=0";

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n")
}

/// Reads one answer with `Content-Length`: head and body.
async fn answer(reader: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let head = head(reader).await;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body).await.expect("a whole body");
    (head, body)
}

async fn head(reader: &mut BufReader<TcpStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(reader.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("UTF-8")
}

/// The events after a head, chunked or not.
fn events(reader: BufReader<TcpStream>, chunked: bool) -> Stream {
    let bytes = stream::try_unfold(reader, move |mut reader| async move {
        let mut bytes = vec![0; 4096];
        if chunked {
            let mut size = Vec::new();
            while !size.ends_with(b"\r\n") {
                size.push(reader.read_u8().await?);
            }
            let size = std::str::from_utf8(&size).expect("ASCII").trim_end();
            let size = usize::from_str_radix(size, 16).expect("a size");
            bytes.resize(size + 2, 0);
            reader.read_exact(&mut bytes).await?;
            assert_eq!(&bytes[size..], b"\r\n");
            bytes.truncate(size);
        } else {
            let length = reader.read(&mut bytes).await?;
            bytes.truncate(length);
        }
        let more = (!bytes.is_empty()).then(|| (bytes::Bytes::from(bytes), reader));
        Ok::<_, std::io::Error>(more)
    });
    Stream::over(bytes)
}

async fn ids(stream: &mut Stream) -> Vec<String> {
    let entries = stream.caught_up().await;
    super::column(entries.iter().map(|event| &event.data), "id")
}

async fn a_stream_begins_on_a_connection_that_served_other_requests(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("v", 3, &["user:1"])).await;
    let mut connection = BufReader::new(raw::connect(node.address).await);
    for path in ["/v1/feeds/user:1", "/healthz"] {
        let request = get(path, "");
        connection
            .write_all(request.as_bytes())
            .await
            .expect("sent");
        let (head, _) = answer(&mut connection).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    }
    connection
        .write_all(get(LIVE, "").as_bytes())
        .await
        .expect("sent");
    let head = head(&mut connection).await;
    for line in [
        "HTTP/1.1 200 OK\r\n",
        "\r\ncontent-type: text/event-stream\r\n",
        "\r\ncache-control: no-store\r\n",
        "\r\ntransfer-encoding: chunked\r\n",
        "\r\nconnection: close\r\n",
        "\r\ndate: ",
    ] {
        assert!(head.contains(line), "{line:?} in {head}");
    }
    let mut stream = events(connection, true);
    let hello = stream.block().await.expect("a first block");
    assert!(
        hello.starts_with("retry: ") && hello.contains("\nid: "),
        "{hello}"
    );
    assert_eq!(ids(&mut stream).await, ["v0", "v1", "v2"]);
    // Live events arrive on the same connection.
    node.append(&visits("w", 1, &["user:1"])).await;
    assert_eq!(stream.next_of(&["entry"]).await.data["id"], "w0");
    node.stop().await;
}

/// The client has not read the answers before the stream. Hyper reads a request only when it has flushed the answers
/// before it; otherwise a stream that hijacks the connection would cut them off.
async fn a_stream_begins_after_all_earlier_answers_were_sent(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("v", 3, &["user:1"])).await;
    let expected = node.send("GET", "/openapi.yaml", &[]).await.body;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let connection = socket.connect(node.address).await.expect("connected");
    let mut connection = BufReader::new(connection);
    // All requests are sent at once.
    let requests = get("/openapi.yaml", "").repeat(3) + &get(LIVE, "");
    connection
        .write_all(requests.as_bytes())
        .await
        .expect("sent");
    // Gives an error time to happen.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..3 {
        assert!(answer(&mut connection).await.1 == expected);
    }
    head(&mut connection).await;
    let mut stream = events(connection, true);
    assert_eq!(ids(&mut stream).await, ["v0", "v1", "v2"]);
    node.stop().await;
}

async fn a_stream_ends_with_its_last_chunk_and_its_connection(bed: &Bed) {
    let node = bed.node().await;
    let mut connection = BufReader::new(raw::connect(node.address).await);
    connection
        .write_all(get(LIVE, "").as_bytes())
        .await
        .expect("sent");
    head(&mut connection).await;
    let (rest, ()) = tokio::join!(raw::drain(&mut connection), node.stop());
    let rest = String::from_utf8(rest).expect("UTF-8");
    assert!(
        rest.contains("event: bye\ndata: {\"reason\":\"shutdown\"}\n\n"),
        "{rest}"
    );
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
}

async fn a_stream_over_http_1_0_is_not_chunked(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("v", 2, &["user:1"])).await;
    let request = get(LIVE, "").replace("HTTP/1.1", "HTTP/1.0");
    let mut connection = BufReader::new(raw::connect(node.address).await);
    connection
        .write_all(request.as_bytes())
        .await
        .expect("sent");
    let head = head(&mut connection).await;
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    let mut stream = events(connection, false);
    assert_eq!(ids(&mut stream).await, ["v0", "v1"]);
    node.append(&visits("w", 1, &["user:1"])).await;
    assert_eq!(stream.next_of(&["entry"]).await.data["id"], "w0");
    let ends = async {
        assert_eq!(stream.next_of(&["bye"]).await.data["reason"], "shutdown");
        assert_eq!(stream.block().await, None);
    };
    tokio::join!(ends, node.stop());
}

/// Before the next heartbeat, whichever way the client leaves.
async fn a_stream_over_http_1_0_ends_as_soon_as_its_client_disconnects(bed: &Bed) {
    let node = bed.node().await;
    let request = get(LIVE, "").replace("HTTP/1.1", "HTTP/1.0");
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut connection = BufReader::new(raw::connect(node.address).await);
        connection
            .write_all(request.as_bytes())
            .await
            .expect("sent");
        head(&mut connection).await;
        connections.push(connection.into_inner());
    }
    let streams = async |count: f64| {
        let open = async || {
            let scrape = Scrape::of(&node).await;
            (scrape.get("newsfeed_live_streams") == count).then_some(())
        };
        until("the end of a stream", open).await;
    };
    streams(3.0).await;
    let began = Instant::now();
    let [mut half_closed, closed, reset] = connections.try_into().expect("three");
    half_closed.shutdown().await.expect("half closed");
    let rest = raw::drain(&mut half_closed).await;
    drop(closed);
    let linger = Some(Duration::ZERO);
    SockRef::from(&reset).set_linger(linger).expect("an option");
    drop(reset);
    streams(0.0).await;
    assert!(began.elapsed() < HEARTBEAT, "{:?}", began.elapsed());
    assert!(memchr::memmem::find(&rest, b"event: bye").is_none());
    node.stop().await;
}

async fn connections_that_stall_do_not_block_others(bed: &Bed) {
    let node = bed.node().await;
    let mut stalled = Vec::new();
    for begin in [
        "GET /v1/feeds/user:1",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "P",
    ] {
        for _ in 0..50 {
            let mut connection = raw::connect(node.address).await;
            connection.write_all(begin.as_bytes()).await.expect("sent");
            stalled.push(connection);
        }
    }
    for _ in 0..3 {
        let answer = raw::exchange(node.address, &raw::head("GET", "/healthz", &[])).await;
        assert_eq!(answer.status, 200);
    }
    node.stop().await;
}

/// The service notices it at once, not only when a write fails.
async fn a_stream_ends_as_soon_as_its_client_disconnects(bed: &Bed) {
    let node = bed.node().await;
    let mut connection = BufReader::new(raw::connect(node.address).await);
    let request = get(LIVE, "") + "ignored bytes";
    connection
        .write_all(request.as_bytes())
        .await
        .expect("sent");
    head(&mut connection).await;
    connection.shutdown().await.expect("half closed");
    let rest = raw::drain(&mut connection).await;
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "the stream ended as if the service had ended it"
    );
    node.stop().await;
}
