//! DNS rebinding: a page of a web site whose name resolves to this machine. Its requests name the site's host.

use axum::http::Request;
use newsfeed::http::{cors::Cors, hosts::Hosts, limits::Limits};
use serde_json::json;

use crate::{
    auth::Site,
    support::{
        bed::{Answer, Bed, JSON, Served},
        raw,
    },
};

const EVIL: &str = "evil.example";

/// The requests of such a page, with every kind of answer.
const REQUESTS: [(&str, &str); 7] = [
    ("GET", "/v1/feeds/a"),
    ("GET", "/v1/feeds/a/live"),
    ("GET", "/v1/entries?feed=a"),
    ("POST", "/v1/events"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/nothing"),
];

/// An answer over HTTP/1.1 to a request with these `Host` lines and this target.
async fn ask(node: &Served, method: &str, target: &str, hosts: &[&str]) -> Answer {
    let body = match method {
        "POST" => json!({ "kind": "visit", "feeds": ["a"] }).to_string(),
        _ => String::new(),
    };
    let mut head = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
    for host in hosts {
        head.push_str(&format!("host: {host}\r\n"));
    }
    let (name, value) = JSON;
    let length = body.len();
    head.push_str(&format!(
        "{name}: {value}\r\ncontent-length: {length}\r\n\r\n{body}"
    ));
    raw::exchange(node.address, head.as_bytes()).await
}

/// The status of the answer to a request with this `:authority`.
async fn over_http2(node: &Served, authority: &str, path: &str) -> u16 {
    let socket = raw::connect(node.address).await;
    let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("a stream");
    let request = Request::get(format!("http://{authority}{path}"));
    let request = request.body(()).expect("a request");
    let (answer, _) = client.send_request(request, true).expect("sent");
    answer.await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn without_keys_a_page_whose_name_resolves_to_loopback_reads_and_writes_nothing() {
    let node = Bed::embedded().node().await;
    let port = node.address.port();
    let before = node.all("a").await;
    for (method, path) in REQUESTS {
        for host in [
            EVIL.to_owned(),
            format!("{EVIL}:{port}"),
            format!("127.0.0.1.{EVIL}:{port}"),
            format!("localhost.{EVIL}"),
            "192.0.2.1".to_owned(),
        ] {
            let answer = ask(&node, method, path, &[&host]).await;
            let problem = answer.problem(421, "host_not_allowed").expect(&host);
            let detail = problem["detail"].as_str().expect("text");
            assert!(
                !detail.contains("--") && detail.contains("/docs/security"),
                "{detail}"
            );
            assert!(answer.header("x-request-id").is_some());
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
        let answer = over_http2(&node, &format!("{EVIL}:{port}"), path).await;
        assert_eq!(answer, 421, "{path}");
        // What could be read as one host or another is refused before.
        for host in [
            format!("127.0.0.1@{EVIL}"),
            format!("{EVIL}@127.0.0.1"),
            String::new(),
        ] {
            let answer = ask(&node, method, path, &[&host]).await;
            answer.problem(400, "invalid_request").expect(&host);
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
    // So are two hosts.
    let local = format!("127.0.0.1:{port}");
    for (target, host) in [
        (format!("http://{EVIL}/v1/feeds/a"), local.as_str()),
        (format!("http://{local}/v1/feeds/a"), EVIL),
    ] {
        let answer = ask(&node, "GET", &target, &[host]).await;
        answer.problem(400, "invalid_request").expect(&target);
    }
    let answer = ask(&node, "GET", "/v1/feeds/a", &[&local, EVIL]).await;
    answer.problem(400, "invalid_request").expect("two hosts");
    assert_eq!(node.all("a").await, before);
}

#[tokio::test]
async fn without_keys_hosts_of_this_machine_are_served() {
    let node = Bed::embedded().node().await;
    let port = node.address.port();
    for host in [
        format!("127.0.0.1:{port}"),
        "127.0.0.1".to_owned(),
        format!("localhost:{port}"),
        "LOCALHOST".to_owned(),
        format!("app.localhost:{port}"),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(
            ask(&node, "GET", "/v1/feeds/a", &[&host]).await.status,
            200,
            "{host}"
        );
        assert_eq!(
            ask(&node, "POST", "/v1/events", &[&host]).await.status,
            200,
            "{host}"
        );
        assert_eq!(over_http2(&node, &host, "/v1/feeds/a").await, 200, "{host}");
    }
    // The health check of a container names no host.
    let answer = raw::exchange(node.address, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn allowed_hosts_are_served_and_no_others() {
    let parse = |text: &str| text.parse().expect("a host");
    let allowed = || Hosts::new(vec![parse("feeds.example"), parse("192.0.2.7")]);
    let open = Bed::embedded();
    let open = open
        .node_with(None, |settings| settings.hosts = allowed())
        .await;
    // With keys, hosts are checked only if some are allowed by name.
    let site = Site::new();
    let flags = site.secret_flags();
    let auth = site
        .auth(&flags.each_ref().map(String::as_str))
        .await
        .expect("keys");
    let guarded = site.bed.node_with(None, |settings| {
        settings.hosts = allowed();
        settings.auth = auth.clone();
    });
    let guarded = guarded.await;
    let any = site
        .bed
        .node_with(None, |settings| settings.auth = auth.clone())
        .await;
    for host in [
        "feeds.example",
        "Feeds.Example:8080",
        "192.0.2.7",
        "localhost",
    ] {
        assert_eq!(
            ask(&open, "GET", "/v1/feeds/a", &[host]).await.status,
            200,
            "{host}"
        );
        assert_eq!(
            ask(&guarded, "GET", "/healthz", &[host]).await.status,
            200,
            "{host}"
        );
    }
    for host in [EVIL, "x.feeds.example", "feeds.example.evil.example"] {
        for node in [&open, &guarded] {
            let answer = ask(node, "GET", "/healthz", &[host]).await;
            answer.problem(421, "host_not_allowed").expect(host);
        }
        assert_eq!(
            ask(&any, "GET", "/healthz", &[host]).await.status,
            200,
            "{host}"
        );
    }
}

#[tokio::test]
async fn refused_hosts_count_against_their_caller() {
    let bed = Bed::embedded();
    let limits = Limits {
        requests_per_s: std::num::NonZeroU32::new(1),
        loopback: true,
        ..Limits::default()
    };
    let node = bed
        .node_with(None, |settings| settings.limits = limits)
        .await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(ask(&node, "GET", "/healthz", &[EVIL]).await.status);
    }
    statuses.dedup();
    assert_eq!(statuses[..2], [421, 429], "{statuses:?}");
    node.stop().await;

    // Each counts once, also a preflight request.
    bed.close().await;
    let node = bed
        .node_with(None, |settings| {
            settings.cors = Cors(vec!["https://app.example.com".parse().expect("an origin")]);
            settings.limits = Limits {
                requests_per_s: std::num::NonZeroU32::new(10),
                loopback: true,
                ..Limits::default()
            };
        })
        .await;
    for index in 0..20 {
        let answer = ask(&node, "OPTIONS", "/v1/events", &[EVIL]).await;
        assert_eq!(answer.status, 421, "{index}");
    }
    node.stop().await;
}
