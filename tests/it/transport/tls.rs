//! HTTPS over both protocols, renewed certificates, and failed handshakes.

use std::io;

use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{
    http::{column, visits},
    support::{
        bed::{Bed, Served},
        certs::{Authority, Folder},
        raw,
        sse::Stream,
    },
};

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

async fn secure(bed: &Bed) -> (Authority, Folder, Served) {
    let authority = Authority::new();
    let folder = Folder::with(&authority.issue());
    let tls = folder.open().expect("a good pair");
    let node = bed.node_with(Some(tls), |_| ()).await;
    (authority, folder, node)
}

/// Sends a request over HTTP/2; returns the answer's status and its body, which arrives later.
async fn over_http2(
    authority: &Authority,
    node: &Served,
    path: &str,
    last_event_id: Option<&str>,
) -> (StatusCode, h2::RecvStream) {
    let socket = authority
        .connect(node.address, &["h2", "http/1.1"], &BOTH)
        .await
        .expect("a handshake");
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("a stream");
    let mut request = Request::get(format!("https://{}{path}", node.address));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let request = request.body(()).expect("a request");
    let (answer, _) = client.send_request(request, true).expect("sent");
    let answer = answer.await.expect("an answer");
    (answer.status(), answer.into_body())
}

fn chunks(body: h2::RecvStream) -> Stream {
    let chunks = futures_util::stream::unfold(body, |mut body| async move {
        let chunk = body.data().await?;
        if let Ok(chunk) = &chunk {
            let _ = body.flow_control().release_capacity(chunk.len());
        }
        Some((chunk, body))
    });
    Stream::over(chunks.boxed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_tls_carry_both_protocols() {
    let bed = Bed::embedded();
    let (authority, _folder, node) = secure(&bed).await;
    for version in [&TLS12, &TLS13] {
        for (offered, spoken) in [
            (&["h2", "http/1.1"][..], Some("h2")),
            (&["http/1.1"], Some("http/1.1")),
            (&[], None),
        ] {
            let socket = authority.connect(node.address, offered, &[version]).await;
            let mut socket = socket.expect("a handshake");
            let alpn = socket.get_ref().1.alpn_protocol();
            assert_eq!(alpn, spoken.map(str::as_bytes), "{version:?} {offered:?}");
            if spoken != Some("h2") {
                let request = raw::head("GET", "/healthz", &[]);
                socket.write_all(&request).await.expect("sent");
                assert_eq!(raw::answer(&mut socket).await.status, 200);
            }
        }
    }
    let (status, mut parts) = over_http2(&authority, &node, "/healthz", None).await;
    let mut body = Vec::new();
    while let Some(part) = parts.data().await {
        body.extend(part.expect("a whole body"));
    }
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("ok")));
    // Plain text is not answered.
    let mut plain = raw::connect(node.address).await;
    plain
        .write_all(&raw::head("GET", "/healthz", &[]))
        .await
        .expect("sent");
    let answer = raw::drain(&mut plain).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_resumes_where_it_was() {
    const EVENTS: usize = 12;
    let bed = Bed::embedded();
    let (authority, _folder, node) = secure(&bed).await;
    let http = authority.http_client();
    let url = format!("https://{}", node.address);
    let mut wanted = Vec::new();
    let mut heard: [(Vec<String>, Option<String>); 2] = Default::default();
    for round in 0..EVENTS {
        let id = format!("e{round}-");
        let events = visits(&id, 1, &["a"]).to_string();
        let sent = http
            .post(format!("{url}/v1/events"))
            .header("content-type", "application/json");
        let sent = sent.body(events).send().await.expect("an answer");
        assert_eq!(sent.status(), 200);
        wanted.push(format!("{id}0"));
        // Each stream reads one event, then its connection is dropped.
        for (http2, (ids, last)) in heard.iter_mut().enumerate() {
            let path = "/v1/feeds/a/live?after=0";
            let mut stream = if http2 == 1 {
                let (status, body) = over_http2(&authority, &node, path, last.as_deref()).await;
                assert_eq!(status, StatusCode::OK);
                chunks(body)
            } else {
                Stream::open(&http, &format!("{url}{path}"), last.as_deref()).await
            };
            let event = stream.next_of(&["entry"]).await;
            ids.extend(column([&event.data], "id"));
            *last = stream.last_id.clone();
        }
    }
    for (ids, _) in heard {
        assert_eq!(ids, wanted);
    }
    node.stop().await;
}

/// Without `close_notify` a client cannot tell the end from a cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_last_chunk_and_close_notify() {
    let bed = Bed::embedded();
    let (authority, _folder, node) = secure(&bed).await;
    let socket = authority.connect(node.address, &["http/1.1"], &BOTH).await;
    let mut socket = socket.expect("a handshake");
    let request = raw::head("GET", "/v1/feeds/a/live", &[]);
    socket.write_all(&request).await.expect("sent");
    let mut first = [0; 15];
    socket.read_exact(&mut first).await.expect("a head");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let mut rest = Vec::new();
    let (end, ()) = tokio::join!(socket.read_to_end(&mut rest), node.stop());
    end.expect("an end announced by close_notify");
    let rest = String::from_utf8(rest).expect("UTF-8");
    assert!(
        rest.contains("event: bye\n") && rest.ends_with("\r\n0\r\n\r\n"),
        "{rest}"
    );
}

/// The certificate that a new connection gets.
async fn shown(authority: &Authority, node: &Served) -> io::Result<Vec<u8>> {
    let socket = authority.connect(node.address, &[], &BOTH).await?;
    let shown = socket
        .get_ref()
        .1
        .peer_certificates()
        .expect("certificates");
    Ok(shown[0].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_files_are_loaded_automatically_and_invalid_ones_are_not() {
    let bed = Bed::embedded();
    let authority = Authority::new();
    let (first, second, third) = (authority.issue(), authority.issue(), authority.issue());
    let folder = Folder::with(&first);
    let tls = folder.open().expect("a good pair");
    let node = bed.node_with(Some(tls.clone()), |_| ()).await;
    assert_eq!(shown(&authority, &node).await.expect("shown"), first.der);
    let before = authority.connect(node.address, &["http/1.1"], &BOTH).await;
    let mut before = before.expect("a handshake");

    assert!(!tls.reload().expect("nothing new"));
    for (cert, key, wrong) in [
        (
            &second.cert,
            &first.key,
            "does not belong to the first certificate",
        ),
        (&"no PEM".to_owned(), &second.key, "has no certificate"),
        (&second.cert, &String::new(), "has no private key"),
    ] {
        folder.put(cert, key);
        let error = tls.reload().expect_err(wrong).to_string();
        assert!(error.contains(wrong), "{error}");
        assert_eq!(shown(&authority, &node).await.expect("shown"), first.der);
    }

    // The node notices the files by itself, without a call of `reload`.
    folder.put(&third.cert, &third.key);
    while shown(&authority, &node).await.expect("shown") != third.der {
        tokio::task::yield_now().await;
    }
    assert!(!tls.reload().expect("nothing new"));
    // An existing connection is unaffected.
    let request = raw::head("GET", "/healthz", &[]);
    before.write_all(&request).await.expect("sent");
    assert_eq!(raw::answer(&mut before).await.status, 200);
    node.stop().await;
}

/// Tokio's clock is paused, so it jumps when every task waits.
#[tokio::test]
async fn stalled_handshakes_time_out_and_do_not_block_others() {
    let bed = Bed::embedded();
    let (authority, _folder, node) = secure(&bed).await;
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for begin in [&b""[..], &hello[..1], &hello] {
        let mut silent = raw::connect(node.address).await;
        silent.write_all(begin).await.expect("sent");
        tokio::time::pause();
        let began = Instant::now();
        assert_eq!(raw::drain(&mut silent).await, b"");
        assert!(began.elapsed() <= newsfeed::tls::HANDSHAKE_TIME_MAX * 2);
        tokio::time::resume();
    }
    let mut stalled = Vec::new();
    for begin in [&b""[..], &hello].into_iter().cycle().take(200) {
        let mut silent = raw::connect(node.address).await;
        silent.write_all(begin).await.expect("sent");
        stalled.push(silent);
    }
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 20_000],
        &[0x16; 20_000],
    ] {
        let mut socket = raw::connect(node.address).await;
        // The service may have closed the connection already.
        let _ = socket.write_all(garbage).await;
        let answer = raw::drain(&mut socket).await;
        assert!(answer.len() < 100, "an alert at most: {answer:?}");
    }
    let socket = authority.connect(node.address, &[], &BOTH).await;
    let mut socket = socket.expect("a handshake");
    let request = raw::head("GET", "/healthz", &[]);
    socket.write_all(&request).await.expect("sent");
    assert_eq!(raw::answer(&mut socket).await.status, 200);
    drop(stalled);
    node.stop().await;
}

/// With TLS, browsers are told to stay with it, also by errors and streams. Without, the header would mean nothing.
#[tokio::test]
async fn browsers_are_told_to_stay_with_https() {
    let bed = Bed::embedded();
    let (authority, _folder, node) = secure(&bed).await;
    let plain = bed.node().await;
    for path in [
        "/",
        "/docs",
        "/healthz",
        "/v1/feeds/a",
        "/v1/feeds/a/live",
        "/nothing",
        "/v1/feeds/a?x=1",
    ] {
        let mut socket = authority
            .connect(node.address, &["http/1.1"], &BOTH)
            .await
            .expect("a handshake");
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(
                socket.read_buf(&mut head).await.expect("a head") > 0,
                "{path}"
            );
        }
        let head = String::from_utf8_lossy(&head);
        assert!(
            head.contains("strict-transport-security: max-age=31536000\r\n"),
            "{head}"
        );
        assert!(
            head.contains("x-content-type-options: nosniff\r\n"),
            "{head}"
        );
        let answer = plain
            .http
            .get(plain.url(path))
            .send()
            .await
            .expect("an answer");
        assert!(
            !answer.headers().contains_key("strict-transport-security"),
            "{path}"
        );
        assert_eq!(
            answer.headers()["x-content-type-options"],
            "nosniff",
            "{path}"
        );
    }
}
