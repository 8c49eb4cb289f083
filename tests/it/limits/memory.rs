//! Memory for unread answers and unfinished bodies: shares per caller, a total for the node, and limits of each operation.

use std::num::NonZeroUsize;

use axum::http::Request;
use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use newsfeed::{
    http::{
        OPERATIONS,
        limits::{Budget, Limits},
        proxies::Proxies,
    },
    server::Settings,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    operate::scrape::Scrape,
    support::{
        bed::{Answer, Bed, JSON, NDJSON, Served},
        patience, raw,
    },
};

const MIB: usize = 1024 * 1024;

/// Two MiB for all and one for each caller, whom `X-Forwarded-For` tells apart.
fn tight(settings: &mut Settings) {
    let budget = Budget {
        total_bytes: NonZeroUsize::new(2 * MIB),
        caller_bytes: NonZeroUsize::new(MIB),
    };
    settings.limits = Limits {
        answers: budget,
        bodies: budget,
        loopback: true,
        ..Limits::default()
    };
    settings.proxies = Proxies(vec!["127.0.0.0/8".parse().expect("a network")]);
}

async fn used(node: &Served, gauge: &str) -> usize {
    Scrape::of(node).await.get(gauge) as usize
}

/// A client that reads heads, but no byte of a body.
struct Unreading {
    client: SendRequest<Bytes>,
    bodies: Vec<RecvStream>,
    from: &'static str,
}

impl Unreading {
    async fn connect(node: &Served, from: &'static str) -> Self {
        let socket = raw::connect(node.address).await;
        let mut client = h2::client::Builder::new();
        client.initial_window_size(0);
        let (client, connection) = client.handshake(socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            client,
            bodies: Vec::new(),
            from,
        }
    }

    /// Asks for a page of 320 KiB; returns the status.
    async fn ask(&mut self, node: &Served) -> u16 {
        let mut client = self.client.clone().ready().await.expect("a stream");
        let request = Request::get(node.url("/v1/feeds/a/entries?limit=10"));
        let request = request.header("x-forwarded-for", self.from).body(());
        let (answer, _) = client
            .send_request(request.expect("a request"), true)
            .expect("sent");
        let answer = answer.await.expect("a head");
        let status = answer.status().as_u16();
        self.bodies.push(answer.into_body());
        status
    }

    /// Asks until something else than 200 comes; returns that.
    async fn fill(&mut self, node: &Served) -> u16 {
        for _ in 0..200 {
            let status = self.ask(node).await;
            if status != 200 {
                return status;
            }
        }
        panic!("no answer is refused");
    }
}

async fn get_as(node: &Served, from: &str) -> Answer {
    let path = "/v1/feeds/a/entries?limit=10";
    node.send("GET", path, &[("x-forwarded-for", from)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_are_limited_for_each_caller_and_for_the_node() {
    let bed = Bed::embedded();
    let node = bed.node_with(None, tight).await;
    let data = "x".repeat(32 * 1024);
    let event =
        |n: usize| json!({ "id": n.to_string(), "kind": "visit", "feeds": ["a"], "data": data });
    node.append(&(0..10).map(event).collect::<Value>()).await;
    let gauge = "newsfeed_answer_bytes";
    let mut first = Unreading::connect(&node, "203.0.113.1").await;
    assert_eq!(first.fill(&node).await, 429);
    let held = used(&node, gauge).await;
    assert!((MIB / 2..=MIB + 64 * 1024).contains(&held), "{held}");
    let refused = get_as(&node, "203.0.113.1").await;
    let problem = refused.problem(429, "too_many_caller_answers").expect("it");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("1048576 bytes of answers"), "{detail}");
    // Others get theirs, until all together hold too much.
    assert_eq!(get_as(&node, "203.0.113.2").await.status, 200);
    let mut second = Unreading::connect(&node, "203.0.113.2").await;
    let mut third = Unreading::connect(&node, "203.0.113.3").await;
    second.fill(&node).await;
    assert_eq!(third.fill(&node).await, 503);
    let refused = get_as(&node, "203.0.113.4").await;
    refused.problem(503, "too_many_answers").expect("no room");
    // What needs no page still works.
    let state = [("x-forwarded-for", "203.0.113.1")];
    assert_eq!(node.send("GET", "/v1/feeds/a", &state).await.status, 200);
    drop((second, third));
    patience::until("memory", async || {
        (get_as(&node, "203.0.113.4").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(get_as(&node, "203.0.113.1").await.status, 429);
    drop(first);
    patience::until("memory", async || {
        let held = used(&node, gauge).await;
        (held < 64 * 1024 && get_as(&node, "203.0.113.1").await.status == 200).then_some(())
    })
    .await;
    let scrape = Scrape::of(&node).await;
    for of in ["caller", "node"] {
        let series =
            format!("newsfeed_limits_exceeded_total{{limit=\"answer_bytes\",of=\"{of}\"}}");
        assert!(scrape.get(&series) >= 1.0, "{series}");
    }
    node.stop().await;
}

/// A request whose body of 800 KB lacks its end.
async fn unfinished(node: &Served, from: &str) -> TcpStream {
    let length = 900_000.to_string();
    let headers = [JSON, ("x-forwarded-for", from), ("content-length", &length)];
    let mut socket = raw::connect(node.address).await;
    let head = raw::head("POST", "/v1/events", &headers);
    socket.write_all(&head).await.expect("sent");
    let _ = socket.write_all(&[b' '; 800_000]).await;
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_are_limited_for_each_caller_and_for_the_node() {
    let bed = Bed::embedded();
    let node = bed.node_with(None, tight).await;
    let gauge = "newsfeed_body_bytes";
    let held = async |least: usize| {
        patience::until("bodies", async || {
            (used(&node, gauge).await >= least).then_some(())
        })
        .await;
    };
    let first = unfinished(&node, "203.0.113.1").await;
    held(800_000).await;
    let mut same = unfinished(&node, "203.0.113.1").await;
    let refused = raw::answer(&mut same).await;
    refused
        .problem(429, "too_many_caller_bodies")
        .expect("no room");
    let second = unfinished(&node, "203.0.113.2").await;
    held(1_600_000).await;
    let mut third = unfinished(&node, "203.0.113.3").await;
    let refused = raw::answer(&mut third).await;
    refused.problem(503, "too_many_bodies").expect("no room");
    assert!(used(&node, gauge).await <= 2 * MIB);
    // Small bodies need no room.
    let event = json!({ "kind": "visit", "feeds": ["a"] });
    node.append(&event).await;
    drop((first, second));
    patience::until("no bodies", async || {
        (used(&node, gauge).await == 0).then_some(())
    })
    .await;

    // Lines of NDJSON that are not complete.
    let mut open = Vec::new();
    for _ in 0..4 {
        let headers = [
            NDJSON,
            ("x-forwarded-for", "203.0.113.1"),
            ("transfer-encoding", "chunked"),
        ];
        let mut socket = raw::connect(node.address).await;
        let head = raw::head("POST", "/v1/events", &headers);
        socket.write_all(&head).await.expect("sent");
        let part = raw::chunk(&[b' '; 200_000]);
        socket.write_all(&part).await.expect("sent");
        open.push(socket);
    }
    held(800_000).await;
    let mut last = unfinished(&node, "203.0.113.1").await;
    let refused = raw::answer(&mut last).await;
    refused
        .problem(429, "too_many_caller_bodies")
        .expect("no room");
    drop(open);
    node.stop().await;
}

/// A request that says how long its body is gets the answer before it has sent a byte of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_reads_no_longer_body_than_it_needs() {
    let site = crate::auth::Site::new();
    let node = site.node_with_secret().await;
    let (name, token) = crate::auth::bearer(&crate::auth::master());
    let reads = OPERATIONS
        .iter()
        .filter(|operation| operation.body_bytes_max > 0);
    for operation in reads {
        let (method, path) = (operation.method.as_str(), operation.path);
        let query = match (method, path) {
            ("PATCH", "/v1/events") => "?id=a",
            (_, path) if path.starts_with("/v1/markers/") => "?feed=a",
            (_, path) if path.starts_with("/v1/entries/") => "?feed=a",
            _ => "",
        };
        let path = path.replace("{feed}", "a").replace("{marker}", "read");
        let path = path.replace("{version}", "0");
        let path = path.replace("{id}", "a") + query;
        let most = match &*path {
            "/v1/events" => 8 * MIB,
            "/v1/events?id=a" | "/v1/events/a" => 256 * 1024,
            "/v1/erasures" => 512 * 1024,
            "/v1/admin/backup" => MIB,
            "/v1/transient" => 256 * 1024,
            "/v1/tickets" => 160 * 1024,
            "/v1/feeds" | "/v1/state/live" => 1_536 * 1024,
            _ => 16 * 1024,
        };
        assert_eq!(operation.body_bytes_max, most, "{path}");
        let length = (most + 1).to_string();
        let headers = [JSON, (name, &token), ("content-length", &length)];
        let answer = raw::exchange(node.address, &raw::head(method, &path, &headers)).await;
        if path == "/v1/session" {
            assert_eq!(answer.status, 200, "its body is ignored");
            continue;
        }
        answer.problem(413, "body_too_large").expect(&path);
        let headers = [JSON, (name, &token), ("transfer-encoding", "chunked")];
        let head = raw::head(method, &path, &headers);
        for (bytes, status, code) in [
            (most + 1, 413, "body_too_large"),
            (most, 400, "invalid_json"),
        ] {
            let body = raw::chunk(&vec![b' '; bytes]);
            let request = [&head[..], &body, b"0\r\n\r\n"].concat();
            let answer = raw::exchange(node.address, &request).await;
            answer.problem(status, code).expect(&path);
        }
    }
    node.stop().await;
}
