//! Answers that their clients do not read. Time passes in jumps of tokio's clock.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
    time::Duration,
};

use axum::http::{Request, StatusCode};
use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest};
use newsfeed::http::{
    limits::{Budget, Limits},
    proxies::Proxies,
};
use rustls::version::TLS13;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use super::appends;
use crate::{
    auth::{Site, bearer, master},
    operate::scrape::Scrape,
    support::{
        bed::{Bed, JSON, LINES, NDJSON, Served},
        certs::{Authority, Folder},
        patience, raw,
        stores::{Trouble, troubled},
    },
};

/// How long an answer waits for its client.
const STALL: Duration = Duration::from_secs(30);
/// How much of it passes at once.
const STEP: Duration = Duration::from_secs(2);
const CUT: &str = "newsfeed_http_answers_cut_total";
const HELD: &str = "newsfeed_answer_bytes";

/// Appends 64 entries of nearly 64 KiB: a page of 4 MiB.
async fn fill(node: &Served) {
    for part in 0..4 {
        let data = "x".repeat(64 * 1024 - 100);
        let event = |n: usize| json!({ "id": format!("{part}-{n}"), "kind": "visit", "feeds": ["big"], "data": data });
        node.append(&(0..16).map(event).collect::<Value>()).await;
    }
}

const PAGE: &str = "/v1/feeds/big/entries?limit=200";
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A connection whose kernel keeps little for the client.
async fn connect(node: &Served) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("an option");
    socket.connect(node.address).await.expect("connected")
}

/// Waits until this many answers have been cut and none is held. Returns how long that took.
async fn until_cut(node: &Served, count: usize) -> Duration {
    let began = Instant::now();
    loop {
        let scrape = Scrape::of(node).await;
        // The scrape itself holds one answer while it is made.
        if scrape.get(CUT) == count as f64 && scrape.get(HELD) < 128.0 * 1024.0 {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < 10 * STALL,
            "{} were cut, and {} bytes are held",
            scrape.get(CUT),
            scrape.get(HELD)
        );
        patience::jump(STEP).await;
    }
}

/// Waits until answers hold `least` bytes.
async fn until_held(node: &Served, least: usize) {
    patience::until("unread answers", async || {
        (Scrape::of(node).await.get(HELD) >= least as f64).then_some(())
    })
    .await;
}

async fn over_http1<S: AsyncRead + AsyncWrite + Unpin>(node: &Served, mut socket: S) {
    let request = raw::head("GET", PAGE, &[]);
    socket.write_all(&request).await.expect("sent");
    until_held(node, PAGE_BYTES / 2).await;
    let took = until_cut(node, 1).await;
    // On a busy machine the clock may jump while the kernel still takes bytes, and each of them is progress.
    assert!(took < 4 * STALL, "{took:?}");
    let received = raw::drain(&mut socket).await;
    assert!(received.len() < PAGE_BYTES / 2, "{}", received.len());
    appends(node, "after").await;
}

#[tokio::test]
async fn a_connection_whose_client_reads_nothing_is_cut() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    fill(&node).await;
    over_http1(&node, connect(&node).await).await;
    node.stop().await;
}

#[tokio::test]
async fn a_tls_connection_whose_client_reads_nothing_is_cut() {
    let bed = Bed::embedded();
    let authority = Authority::new();
    let folder = Folder::with(&authority.issue());
    let tls = folder.open().expect("a good pair");
    let node = bed.node_with(Some(tls), |_| ()).await.over_https();
    fill(&node).await;
    let socket = authority
        .connect(node.address, &["http/1.1"], &[&TLS13])
        .await
        .expect("a handshake");
    over_http1(&node, socket).await;
    node.stop().await;
}

/// An HTTP/2 client with this window for each stream.
async fn http2(node: &Served, window: u32) -> SendRequest<Bytes> {
    let socket = raw::connect(node.address).await;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(window);
    let (client, connection) = client.handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

async fn begin(client: &SendRequest<Bytes>, node: &Served, path: &str) -> RecvStream {
    let mut client = client.clone().ready().await.expect("a stream");
    let request = Request::get(node.url(path)).body(()).expect("a request");
    let (answer, _) = client.send_request(request, true).expect("sent");
    let answer = answer.await.expect("a head");
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.into_body()
}

/// Reads to the end, which must be a reset; returns its reason.
async fn end(mut body: RecvStream) -> Option<Reason> {
    loop {
        if let Err(error) = body.data().await.expect("no regular end") {
            return error.reason();
        }
    }
}

#[tokio::test]
async fn http2_streams_whose_client_opens_no_window_are_reset() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    fill(&node).await;
    let mut cut = 0;
    // Without a window; and with one that takes a part even of small answers.
    for window in [0, 10] {
        let client = http2(&node, window).await;
        let mut bodies = Vec::new();
        for path in [
            PAGE,
            PAGE,
            "/v1/feeds/big",
            "/v1/feeds/big/live?after=0",
            "/healthz",
        ] {
            bodies.push(begin(&client, &node, path).await);
        }
        cut += bodies.len();
        let took = until_cut(&node, cut).await;
        assert!(took < 5 * STALL, "{took:?}");
        for body in bodies {
            assert_eq!(end(body).await, Some(Reason::CANCEL));
        }
        // The connection serves on.
        let mut client = client.ready().await.expect("a stream");
        let request = Request::head(node.url("/healthz")).body(());
        let sent = client.send_request(request.expect("a request"), true);
        let answer = sent.expect("sent").0.await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    appends(&node, "after").await;
    node.stop().await;
}

#[tokio::test]
async fn unread_results_of_ndjson_hold_little_and_end_the_connection() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let mut socket = connect(&node).await;
    let headers = [NDJSON, ("transfer-encoding", "chunked")];
    let head = raw::head("POST", "/v1/events", &headers);
    socket.write_all(&head).await.expect("sent");
    let (mut reader, mut writer) = socket.into_split();
    let lines = raw::chunk(&b"x\n".repeat(1_000));
    let flood = tokio::spawn(async move { while writer.write_all(&lines).await.is_ok() {} });
    until_held(&node, 200_000).await;
    // The flood stalls, because the results are not taken.
    let mut most = 0.0_f64;
    let began = Instant::now();
    while Scrape::of(&node).await.get(CUT) == 0.0 {
        assert!(began.elapsed() < 10 * STALL, "the connection is not cut");
        most = most.max(Scrape::of(&node).await.get(HELD));
        patience::jump(STEP).await;
    }
    assert!(most < 3.0 * 1024.0 * 1024.0, "{most} bytes");
    raw::drain(&mut reader).await;
    flood.await.expect("no panic");
    until_cut(&node, 1).await;
    appends(&node, "after").await;
    node.stop().await;
}

/// Counts the snapshots that are open.
#[derive(Default)]
struct Snapshots(AtomicIsize);

impl Trouble for Snapshots {
    fn before_begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn after_end(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_no_snapshot_and_ends() {
    let bed = Bed::embedded();
    let snapshots = Arc::new(Snapshots::default());
    let node = bed
        .node_on(troubled(bed.store(), Arc::clone(&snapshots)))
        .await;
    fill(&node).await;
    let lines = [("accept", LINES)];
    for (number, (path, headers, open)) in [
        ("/v1/feeds/big/live?after=0", &[][..], "live_streams"),
        ("/v1/log/live?after=0", &[], "live_streams"),
        ("/v1/log?after=0&follow=true", &lines, "live_streams"),
        ("/v1/log?after=0", &lines, "log_exports"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = connect(&node).await;
        let request = raw::head("GET", path, headers);
        socket.write_all(&request).await.expect("sent");
        let opened = format!("newsfeed_{open}");
        patience::until("the stream", async || {
            (Scrape::of(&node).await.get(&opened) == 1.0).then_some(())
        })
        .await;
        let (began, mut most) = (Instant::now(), 0.0_f64);
        while Scrape::of(&node).await.get(CUT) == number as f64 {
            let took = began.elapsed();
            assert!(took < 10 * STALL, "{path} is not cut after {took:?}");
            patience::until("all snapshots to be closed", async || {
                (snapshots.0.load(Ordering::SeqCst) == 0).then_some(())
            })
            .await;
            most = most.max(Scrape::of(&node).await.get(HELD));
            patience::jump(STEP).await;
        }
        assert!(most < 1024.0 * 1024.0, "{path}: {most} bytes");
        patience::until("the stream to end", async || {
            (Scrape::of(&node).await.get(&opened) == 0.0).then_some(())
        })
        .await;
    }
    node.stop().await;
}

/// An answer of a few bytes takes a stream with everything that belongs to it, and a connection has room for hundreds.
#[tokio::test]
async fn requests_over_http2_are_limited_like_connections() {
    let bed = Bed::embedded();
    let node = bed
        .node_with(None, |settings| {
            settings.limits = Limits {
                connections: NonZeroU32::new(2),
                loopback: true,
                ..Limits::default()
            };
            settings.proxies = Proxies(vec!["127.0.0.0/8".parse().expect("a network")]);
        })
        .await;
    let client = http2(&node, 0).await;
    let ask = async |from: &str| {
        let mut client = client.clone().ready().await.expect("a stream");
        let request = Request::get(node.url("/v1/feeds/a")).header("x-forwarded-for", from);
        let sent = client.send_request(request.body(()).expect("a request"), true);
        sent.expect("sent").0.await
    };
    let refused = async |from: &str| {
        let error = ask(from).await.expect_err("refused");
        error.reason() == Some(Reason::REFUSED_STREAM)
    };
    let mut unread = Vec::new();
    for from in ["203.0.113.1", "203.0.113.1", "203.0.113.2"] {
        unread.push(ask(from).await.expect("an answer").into_body());
    }
    assert!(refused("203.0.113.1").await);
    let series = r#"newsfeed_limits_exceeded_total{limit="http2_requests",of="caller"}"#;
    assert_eq!(Scrape::of(&node).await.get(series), 1.0);
    // The connection serves on, and whoever takes an answer may ask again.
    unread.push(ask("203.0.113.2").await.expect("an answer").into_body());
    assert!(refused("203.0.113.2").await);
    // Dropping a body resets its stream.
    drop(unread.remove(0));
    patience::until("a permit", async || ask("203.0.113.1").await.ok()).await;
    node.stop().await;
}

/// A ticket is longer than other small answers.
#[tokio::test]
async fn unread_tickets_count_as_answers() {
    let site = Site::new();
    let flags = site.secret_flags();
    let limits = Limits {
        answers: Budget {
            total_bytes: None,
            caller_bytes: NonZeroUsize::new(1024 * 1024),
        },
        ..Limits::default()
    };
    let node = site
        .node_limited(&flags.each_ref().map(|flag| &**flag), limits)
        .await;
    let (name, token) = bearer(&master());
    let feeds: Vec<_> = (0..100).map(|n| format!("{n:0250}")).collect();
    let body = Bytes::from(json!({ "feeds": feeds }).to_string());
    let client = http2(&node, 0).await;
    let mut unread = Vec::new();
    let refused = loop {
        let mut client = client.clone().ready().await.expect("a stream");
        let request = Request::post(node.url("/v1/tickets"))
            .header(name, &token)
            .header(JSON.0, JSON.1)
            .body(());
        let request = request.expect("a request");
        let (answer, mut sending) = client.send_request(request, false).expect("sent");
        sending.send_data(body.clone(), true).expect("sent");
        let answer = answer.await.expect("a head");
        if answer.status() != StatusCode::OK {
            break answer.status();
        }
        unread.push(answer.into_body());
        assert!(unread.len() < 100, "no answer is refused");
    };
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
    assert!(unread.len() > 20, "{} tickets", unread.len());
    drop((unread, client));
    node.stop().await;
}
