//! CORS: pages of other origins.

use std::num::NonZeroU32;

use newsfeed::{
    http::{cors::Cors, limits::Limits},
    server::Settings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    bed::{Answer, Bed, Served},
    raw,
};

const OURS: &str = "https://app.example.com";
const THEIRS: &str = "https://evil.example.com";

async fn node(bed: &Bed, origins: &[&str]) -> Served {
    let origins = origins.iter().map(|o| o.parse().expect("an origin"));
    let cors = Cors(origins.collect());
    bed.node_with(None, |settings| settings.cors = cors).await
}

async fn preflight(node: &Served, origin: &str, path: &str, method: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", method),
        (
            "access-control-request-headers",
            "content-type,authorization",
        ),
    ];
    node.send("OPTIONS", path, &headers).await
}

fn allowed(answer: &Answer) -> (Option<&str>, bool) {
    let credentials = answer.header("access-control-allow-credentials");
    (
        answer.header("access-control-allow-origin"),
        credentials == Some("true"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_allowed_origins_there_are_no_cors_headers() {
    let bed = Bed::embedded();
    let node = node(&bed, &[]).await;
    let answer = node.send("GET", "/v1/feeds/a", &[("origin", OURS)]).await;
    let said = |answer: &Answer| {
        let mut names = answer.headers.keys().map(ToString::to_string);
        names.any(|name| name.starts_with("access-control") || name == "vary")
    };
    assert!(!said(&answer), "{answer:?}");
    let answer = preflight(&node, OURS, "/v1/feeds/a", "GET").await;
    answer
        .problem(405, "method_not_allowed")
        .expect("no answer to it");
    assert!(!said(&answer), "{answer:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_allowed_origins_may_use_the_api_and_others_may_not() {
    let bed = Bed::embedded();
    let node = node(&bed, &[OURS, "http://localhost:3000"]).await;
    for (path, method) in [
        ("/v1/events", "POST"),
        ("/v1/feeds/a/markers/read", "PUT"),
        ("/v1/feeds/a/live", "GET"),
        ("/v1/nothing", "GET"),
    ] {
        let answer = preflight(&node, OURS, path, method).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(allowed(&answer), (Some(OURS), true), "{path}");
        let list = |name: &str| -> Vec<String> {
            let names = answer.header(name).expect(name).split(',');
            names.map(|name| name.trim().to_lowercase()).collect()
        };
        assert_eq!(
            list("access-control-allow-methods"),
            ["delete", "get", "head", "patch", "post", "put"]
        );
        let headers = list("access-control-allow-headers");
        for header in [
            "authorization",
            "content-type",
            "last-event-id",
            "if-none-match",
            "traceparent",
        ] {
            assert!(headers.iter().any(|name| name == header), "{header}");
        }
        assert_eq!(
            allowed(&preflight(&node, THEIRS, path, method).await).0,
            None
        );
    }
    // Whatever the status of the answer.
    for (path, status) in [
        ("/v1/feeds/a", 200),
        ("/v1/feeds/a?x=1", 400),
        ("/nothing", 404),
    ] {
        for (origin, expected) in [
            (OURS, (Some(OURS), true)),
            (
                "http://localhost:3000",
                (Some("http://localhost:3000"), true),
            ),
            (THEIRS, (None, false)),
            ("http://app.example.com", (None, false)),
            ("https://app.example.com:8443", (None, false)),
            ("https://app.example.com.evil.example", (None, false)),
            ("null", (None, false)),
        ] {
            let answer = node.send("GET", path, &[("origin", origin)]).await;
            assert_eq!(
                (answer.status, allowed(&answer)),
                (status, expected),
                "{origin}"
            );
            let vary = answer.header("vary").expect("Vary");
            assert!(vary.contains("origin"), "{vary}");
            let exposed = answer.header("access-control-expose-headers");
            assert_eq!(
                exposed.map(str::to_lowercase).as_deref(),
                Some("etag,link,retry-after,x-request-id")
            );
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_allows_other_origins_without_credentials() {
    let bed = Bed::embedded();
    let node = node(&bed, &["*", OURS]).await;
    for (origin, credentials) in [(OURS, true), (THEIRS, false)] {
        let expected = (Some(origin), credentials);
        let answer = node.send("GET", "/healthz", &[("origin", origin)]).await;
        assert_eq!(allowed(&answer), expected);
        let answer = preflight(&node, origin, "/v1/events", "POST").await;
        assert_eq!(allowed(&answer), expected);
    }
    node.stop().await;
}

/// A stream's answer is not written by hyper, so its headers are tested separately.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_has_cors_headers_too() {
    let bed = Bed::embedded();
    let node = node(&bed, &[OURS]).await;
    for (origin, may) in [(OURS, true), (THEIRS, false)] {
        let mut socket = raw::connect(node.address).await;
        let request = raw::head("GET", "/v1/feeds/a/live", &[("origin", origin)]);
        socket.write_all(&request).await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.expect("a whole head"));
        }
        let head = String::from_utf8(head).expect("UTF-8");
        assert!(
            head.contains("\r\ncontent-type: text/event-stream\r\n"),
            "{head}"
        );
        let line = format!("\r\naccess-control-allow-origin: {OURS}\r\n");
        assert_eq!(head.contains(&line), may, "{head}");
        let line = "\r\naccess-control-allow-credentials: true\r\n";
        assert_eq!(head.contains(line), may, "{head}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_requests_count_against_their_caller() {
    let bed = Bed::embedded();
    let tell = |settings: &mut Settings| {
        settings.cors = Cors(vec![OURS.parse().expect("an origin")]);
        settings.limits = Limits {
            requests_per_s: NonZeroU32::new(1),
            loopback: true,
            ..Limits::default()
        };
    };
    let node = bed.node_with(None, tell).await;
    let mut answers = 0;
    let refused = loop {
        let answer = preflight(&node, OURS, "/v1/events", "POST").await;
        if answer.status != 200 {
            break answer;
        }
        answers += 1;
        assert!(answers < 1_000, "they do not count");
    };
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["code"], "too_many_requests");
    node.stop().await;
}
