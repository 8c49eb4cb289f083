//! Clients whose network fails: nothing arrives from them any more, not even the end of the connection.

use std::time::{Duration, Instant};

use axum::http::Request;
use newsfeed::live::HEARTBEAT;
use rustls::version::TLS13;
use socket2::{SockFilter, SockRef};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    operate::scrape::Scrape,
    support::{
        bed::{Api, Bed, Served},
        certs::{Authority, Folder},
        patience::until,
        raw,
    },
};

/// The promise is 60 s. Without the options of the sockets it takes 16 minutes, so a busy machine cannot blur the two.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);

/// Makes the kernel drop everything that arrives at the socket, before it acknowledges anything.
fn lose_network(socket: &TcpStream) {
    const RETURN: u16 = 0x06;
    let drop_all = SockFilter::new(RETURN, 0, 0, 0);
    let socket = SockRef::from(socket);
    socket.attach_filter(&[drop_all]).expect("a filter");
}

async fn send(socket: &mut (impl AsyncWrite + Unpin), request: &str) {
    let request = format!("{request}\r\nhost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
}

async fn hear(socket: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut heard = Vec::new();
    while memchr::memmem::find(&heard, text.as_bytes()).is_none() {
        let read = socket.read_buf(&mut heard).await;
        assert_ne!(read.expect("it goes on"), 0);
    }
}

/// A client over HTTP/1 that has received `text` in answer to its request.
async fn http1(node: &Served, request: &str, text: &str) -> TcpStream {
    let mut socket = raw::connect(node.address).await;
    send(&mut socket, request).await;
    hear(&mut socket, text).await;
    socket
}

/// A stream over HTTP/2. The client loses its network when the stream has begun.
async fn http2_stream(node: &Served) {
    let socket = std::net::TcpStream::connect(node.address).expect("connected");
    let twin = socket.try_clone().expect("another handle");
    for socket in [&socket, &twin] {
        socket.set_nonblocking(true).expect("not blocking");
    }
    let [socket, twin] =
        [socket, twin].map(|socket| TcpStream::from_std(socket).expect("a socket"));
    let opened = h2::client::handshake(socket).await;
    let (sender, connection) = opened.expect("HTTP/2");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("open");
    let request = Request::get(format!("http://{}/v1/feeds/a/live", node.address)).body(());
    let (answer, _) = sender
        .send_request(request.expect("a request"), true)
        .expect("sent");
    let mut body = answer.await.expect("an answer").into_body();
    body.data().await.expect("a frame").expect("a frame");
    lose_network(&twin);
    // The client lives on.
    std::mem::forget((sender, body));
}

/// Streams, long polls and connections of the node, apart from the connection of `api`.
async fn open(api: &Api) -> f64 {
    let scrape = Scrape::of(api).await;
    let of = |protocol| scrape.get(&format!(r#"newsfeed_connections{{protocol="{protocol}"}}"#));
    let held = ["newsfeed_live_streams", "newsfeed_long_polls"].map(|name| scrape.get(name));
    held.iter().sum::<f64>() + of("http1") - 1.0 + of("http2")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_network_is_noticed_within_a_minute() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let mut clients = Vec::new();
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let request = format!("GET /v1/feeds/a/live {version}");
        clients.push(http1(&node, &request, "event: version").await);
    }
    // Idle between two requests.
    clients.push(http1(&node, "GET /healthz HTTP/1.1", "\r\n\r\n").await);
    let now = node.version("a").await;
    let poll = format!("GET /v1/feeds/a/entries?after={now}&wait=60 HTTP/1.1");
    let mut poller = raw::connect(node.address).await;
    send(&mut poller, &poll).await;
    clients.push(poller);
    http2_stream(&node).await;
    // 3 streams, a long poll, 4 connections over HTTP/1 and one over HTTP/2.
    let all = async || (open(&node).await == 9.0).then_some(());
    until("all clients", all).await;

    let authority = Authority::new();
    let folder = Folder::with(&authority.issue());
    let other_bed = Bed::embedded();
    let tls = folder.open().expect("a good pair");
    let secure = other_bed.node_with(Some(tls), |_| ()).await;
    let api = Api::at(format!("https://{}", secure.address));
    let mut over_tls = authority
        .connect(secure.address, &["http/1.1"], &[&TLS13])
        .await
        .expect("a handshake");
    send(&mut over_tls, "GET /v1/feeds/a/live HTTP/1.1").await;
    hear(&mut over_tls, "event: version").await;

    let lost = Instant::now();
    clients.iter().for_each(lose_network);
    lose_network(over_tls.get_ref().0);
    for api in [&*node, &api] {
        // Reading the metrics again and again for most of a minute would keep a processor busy.
        let gone = async || {
            sleep(Duration::from_millis(500)).await;
            (open(api).await == 0.0).then_some(())
        };
        until("the end of all clients", gone).await;
    }
    let after = lost.elapsed();
    println!("figure: clients without network were noticed after {after:?}");
    assert!((HEARTBEAT..NOTICED_WITHIN).contains(&after), "{after:?}");
}
