//! Quotas of callers. A trusted proxy tells callers apart by `X-Forwarded-For`; without one, all tests are one caller.

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, join_all},
};
use newsfeed::{
    append::QUEUE_KIB_MAX,
    http::{
        limits::{Limits, NetworkLimits},
        proxies::Proxies,
    },
    server::Settings,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    http::visits,
    limits::{all_transients, filler},
    operate::scrape::Scrape,
    support::{
        bed::{Answer, Bed, JSON, NDJSON, Served, default_settings},
        patience, raw,
        sse::Stream,
    },
};

/// More requests than the burst allows, however slowly they are sent.
const MANY: usize = 50;

fn some(max: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(max)
}

/// Sets `limits`, also for loopback. If `proxy`, loopback is a trusted proxy.
fn tell(limits: Limits, proxy: bool) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.limits = Limits {
            loopback: true,
            ..limits
        };
        let proxies = ["127.0.0.0/8"][..usize::from(proxy)].iter();
        settings.proxies = Proxies(proxies.map(|net| net.parse().expect("a network")).collect());
    }
}

async fn get_as(node: &Served, from: &str, path: &str) -> Answer {
    node.send("GET", path, &[("x-forwarded-for", from)]).await
}

async fn statuses(node: &Served, from: impl Fn(usize) -> String) -> BTreeSet<u16> {
    let mut statuses = BTreeSet::new();
    for number in 0..MANY {
        statuses.insert(get_as(node, &from(number), "/healthz").await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_a_caller_may_send_are_refused_until_it_waits() {
    let bed = Bed::embedded();
    let limits = Limits {
        requests_per_s: some(1),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    let refused = loop {
        let answer = get_as(&node, "203.0.113.1", "/v1/feeds/a").await;
        if answer.status != 200 {
            break answer;
        }
    };
    let problem = refused.problem(429, "too_many_requests").expect("a limit");
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("1 requests/s, in bursts of up to 2;"),
        "{detail}"
    );
    // Other addresses and IPv6 networks are unaffected.
    for other in ["203.0.113.2", "2001:db8:0:1::1", "2001:db8:0:2::1"] {
        assert_eq!(
            get_as(&node, other, "/v1/feeds/a").await.status,
            200,
            "{other}"
        );
    }
    let same = statuses(&node, |n| format!("2001:db8:0:1:{n:x}::1")).await;
    assert_eq!(same, [200, 429].into());
    // Only the address that the proxy appended counts, not those that the client sent.
    let spoofed = statuses(&node, |n| format!("192.0.2.{n}, 198.51.100.1")).await;
    assert_eq!(spoofed, [200, 429].into());
    let after: u64 = refused
        .header("retry-after")
        .expect("it")
        .parse()
        .expect("seconds");
    assert!((1..=2).contains(&after), "{after}");
    tokio::time::sleep(Duration::from_secs(after)).await;
    assert_eq!(
        get_as(&node, "203.0.113.1", "/v1/feeds/a").await.status,
        200
    );
    node.stop().await;

    // Without a trusted proxy the header is ignored.
    bed.close().await;
    let limits = Limits {
        requests_per_s: some(1),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, false)).await;
    let statuses = statuses(&node, |n| format!("192.0.2.{n}")).await;
    assert_eq!(statuses, [200, 429].into());
    node.stop().await;
}

/// A network may do as much as three callers.
fn three_callers() -> Option<NetworkLimits> {
    let callers = NonZeroU32::new(3).expect("not 0");
    Some(NetworkLimits { bits: 48, callers })
}

/// One machine can have as many addresses as it likes in an IPv6 network, and so be many callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_of_an_ipv6_network_share_a_limit() {
    let bed = Bed::embedded();
    let limits = Limits {
        requests_per_s: some(1),
        streams: some(2),
        network: three_callers(),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    // Each is a caller that has sent nothing before.
    let refused = async {
        for n in 0..1_000 {
            let answer = get_as(&node, &format!("2001:db8:1:{n:x}::1"), "/v1/feeds/a").await;
            if answer.status != 200 {
                return answer;
            }
        }
        panic!("the network has no limit");
    };
    let problem = refused.await.problem(429, "too_many_requests").expect("it");
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("the IPv6 network of this caller may send 3 requests/s"),
        "{detail}"
    );
    for other in ["2001:db8:2::1", "203.0.113.1"] {
        let answer = get_as(&node, other, "/v1/feeds/a").await;
        assert_eq!(answer.status, 200, "{other}");
    }
    let scrape = Scrape::of(&node).await;
    let series = r#"newsfeed_limits_exceeded_total{limit="requests",of="network"}"#;
    assert!(scrape.get(series) >= 1.0);

    // Of streams it may have as many as three callers.
    let mut open = Vec::new();
    let refused = loop {
        let n = open.len();
        let request = node.http.get(node.url("/v1/feeds/a/live"));
        let request = request.header("x-forwarded-for", format!("2001:db8:3:{n:x}::1"));
        let answer = request.send().await.expect("an answer");
        match answer.status().as_u16() {
            200 => open.push(answer),
            _ => {
                let answer = Answer::of(answer).await;
                match answer.problem(429, "too_many_caller_streams") {
                    Ok(problem) => break problem,
                    // The limit of requests: its bucket fills again.
                    Err(_) => answer.problem(429, "too_many_requests").expect("it"),
                };
            }
        }
    };
    assert_eq!(open.len(), 6);
    let detail = refused["detail"].as_str().expect("text");
    assert!(detail.contains("network"), "{detail}");
    drop(open);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_on_loopback_have_no_quotas_by_default() {
    let bed = Bed::embedded();
    let one = some(1);
    let limits = Limits {
        requests_per_s: one,
        bytes_per_s: one,
        streams: one,
        connections: one,
        events_per_s: one,
        stored_bytes_per_s: one,
        loopback: false,
        ..Limits::default()
    };
    let node = bed
        .node_with(None, |settings| settings.limits = limits)
        .await;
    assert_eq!(statuses(&node, |_| String::new()).await, [200].into());
    let url = node.url("/v1/feeds/a/live");
    let streams = join_all((0..5).map(|_| Stream::open(&node.http, &url, None))).await;
    assert_eq!(streams.len(), 5);
    for _ in 0..2 {
        node.append(&visits("v", 100, &["a"])).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_bytes_than_a_caller_may_send_are_refused_or_throttled() {
    let bed = Bed::embedded();
    let per_s = 64 * 1024;
    let limits = Limits {
        bytes_per_s: some(per_s),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    let from = ("x-forwarded-for", "203.0.113.1");
    // The burst allows the largest body.
    let big = " ".repeat(8 * 1024 * 1024);
    let headers = [JSON, from];
    let send = |body: String| node.send_body("POST", "/v1/events", &headers, body);
    send(big.clone())
        .await
        .problem(400, "invalid_json")
        .expect("let through");
    let refused = send(big.clone()).await;
    let problem = refused.problem(429, "too_many_bytes").expect("a limit");
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("body bytes/s") && !detail.contains("--"),
        "{detail}"
    );
    let after: u64 = refused
        .header("retry-after")
        .expect("it")
        .parse()
        .expect("seconds");
    assert!(after > 1, "{after}");
    // Requests without a body still work; other callers are unaffected.
    assert_eq!(get_as(&node, from.1, "/v1/feeds/a").await.status, 200);
    let other = ("x-forwarded-for", "203.0.113.2");
    let answer = node
        .send_body("POST", "/v1/events", &[JSON, other], "5")
        .await;
    assert_eq!(answer.status, 400);

    // A body without `Content-Length` is throttled, and accepted.
    let line = json!({ "id": "slow", "kind": "visit", "feeds": ["a"] }).to_string() + "\n";
    let lines = line.clone() + &" ".repeat(per_s as usize) + "\n" + &line;
    let stream = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(lines)]);
    let body = reqwest::Body::wrap_stream(stream);
    let answer = node
        .send_body("POST", "/v1/events", &[NDJSON, from], body)
        .await;
    let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let said: Vec<_> = ["appended", "duplicate"].map(|s| text.contains(s)).into();
    assert_eq!((answer.status, said), (200, vec![true, true]), "{text}");

    // With too many of them at once, some are refused.
    let many = (0..20).map(|_| {
        let pieces = vec![Ok::<_, std::convert::Infallible>(" ".repeat(per_s as usize)); 16];
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        Box::pin(async {
            let answer = node
                .send_body("POST", "/v1/events", &[JSON, from], body)
                .await;
            answer.problem(429, "too_many_bytes")
        })
    });
    let refused = futures_util::future::select_ok(many).await;
    refused.expect("one at least is refused");
    node.stop().await;
}

async fn until_it_may_stream(node: &Served, from: &str) -> reqwest::Response {
    loop {
        let request = node.http.get(node.url("/v1/feeds/a/live"));
        let request = request.header("x-forwarded-for", from);
        let answer = request.send().await.expect("an answer");
        match answer.status().as_u16() {
            200 => return answer,
            status => assert_eq!(status, 429),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_a_caller_may_have_are_refused_until_one_ends() {
    let bed = Bed::embedded();
    let limits = Limits {
        streams: some(3),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    let from = "203.0.113.1";
    let now = node.version("a").await;
    // HTTP/1.1, HTTP/2 and long polls count.
    let first = until_it_may_stream(&node, from).await;
    let socket = raw::connect(node.address).await;
    let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("a stream");
    let request =
        axum::http::Request::get(node.url("/v1/live?feed=a")).header("x-forwarded-for", from);
    let (second, _) = client
        .send_request(request.body(()).expect("a request"), true)
        .expect("sent");
    let second = second.await.expect("an answer");
    assert_eq!(second.status(), 200);
    let wait = format!("/v1/feeds/a/entries?after={now}&wait=60");
    let poll = || {
        let request = node.http.get(node.url(&wait));
        let request = request.header("x-forwarded-for", from);
        tokio::spawn(async move { Answer::of(request.send().await.expect("an answer")).await })
    };
    // There is room for one of two.
    let (refused, poll) = match futures_util::future::select(poll(), poll()).await {
        Either::Left(done) | Either::Right(done) => done,
    };
    let refused = refused.expect("no panic");
    let problem = refused
        .problem(429, "too_many_caller_streams")
        .expect("a limit");
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("3 streams") && !detail.contains("--"),
        "{detail}"
    );
    let full = || async {
        let answer = get_as(&node, from, "/v1/feeds/b/live").await;
        answer
            .problem(429, "too_many_caller_streams")
            .expect("no place");
    };
    full().await;
    // Other requests still work, and other callers are unaffected.
    assert_eq!(get_as(&node, from, "/v1/feeds/a").await.status, 200);
    drop(until_it_may_stream(&node, "203.0.113.2").await);

    drop(first);
    let first = until_it_may_stream(&node, from).await;
    drop(second);
    let second = until_it_may_stream(&node, from).await;
    full().await;
    node.append(&json!({ "kind": "visit", "feeds": ["a"] }))
        .await;
    assert_eq!(poll.await.expect("no panic").status, 200);
    let third = until_it_may_stream(&node, from).await;
    full().await;
    drop((first, second, third));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_an_address_may_have_are_closed() {
    let bed = Bed::embedded();
    let limits = || Limits {
        connections: some(3),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits(), false)).await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut socket = raw::connect(node.address).await;
        socket.write_all(request).await.expect("sent");
        socket.read_exact(&mut [0; 15]).await.expect("an answer");
        open.push(socket);
    }
    for _ in 0..5 {
        let mut socket = raw::connect(node.address).await;
        let _ = socket.write_all(request).await;
        assert_eq!(raw::drain(&mut socket).await, b"");
    }
    open.pop();
    loop {
        let mut socket = raw::connect(node.address).await;
        let _ = socket.write_all(request).await;
        if socket.read_exact(&mut [0; 15]).await.is_ok() {
            break;
        }
    }
    drop(open);
    node.stop().await;

    // A trusted proxy's connections are not limited: they carry many callers.
    bed.close().await;
    let node = bed.node_with(None, tell(limits(), true)).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut socket = raw::connect(node.address).await;
        socket.write_all(request).await.expect("sent");
        socket.read_exact(&mut [0; 15]).await.expect("an answer");
        open.push(socket);
    }
    node.stop().await;
}

/// An event in many feeds writes many times what was sent, and its caller pays for all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_charged_for_what_they_write() {
    let bed = Bed::embedded();
    let limits = Limits {
        stored_bytes_per_s: some(1024 * 1024),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    let from = ("x-forwarded-for", "203.0.113.1");
    let names: Vec<String> = (0..100).map(|index| format!("f{index}")).collect();
    let data = "x".repeat(10_000);
    let wide = |id: &str| json!({ "id": id, "kind": "visit", "feeds": names, "data": data });
    let post = |body: serde_json::Value, from: &'static str| {
        let body = body.to_string();
        let node = &node;
        async move {
            let headers = [JSON, ("x-forwarded-for", from)];
            node.send_body("POST", "/v1/events", &headers, body).await
        }
    };
    // 100 KB that write 20 MB.
    let many: Vec<_> = (0..10)
        .map(|index| wide(&format!("wide {index}")))
        .collect();
    assert_eq!(post(json!(many), from.1).await.status, 200);
    let small = json!({ "id": "small", "kind": "visit", "feeds": ["a"] });
    for body in [small.clone(), json!([small])] {
        let refused = post(body, from.1).await;
        let problem = refused.problem(429, "too_many_appends").expect("a limit");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("1048576 bytes/s"), "{detail}");
        let after: u64 = refused
            .header("retry-after")
            .expect("it")
            .parse()
            .expect("seconds");
        assert!((5..=20).contains(&after), "{after}");
    }
    // Nothing was appended; reading is not affected, and neither are others.
    let page = get_as(&node, from.1, "/v1/feeds/a/entries").await;
    assert_eq!(page.json()["entries"], json!([]));
    let metrics = node.send("GET", "/metrics", &[]).await;
    let metrics = String::from_utf8(metrics.body.to_vec()).expect("UTF-8");
    assert!(
        metrics.contains("newsfeed_appends_rejected_total{code=\"too_many_appends\"} 2"),
        "{metrics}"
    );
    let series = r#"newsfeed_limits_exceeded_total{limit="stored_bytes",of="caller"} 2"#;
    assert!(metrics.contains(series), "{metrics}");
    assert_eq!(post(small, "203.0.113.2").await.status, 200);
    node.stop().await;
}

async fn post_as(node: &Served, from: &str, path: &str, body: &Value) -> Answer {
    let headers = [JSON, ("x-forwarded-for", from)];
    node.send_body("POST", path, &headers, body.to_string())
        .await
}

/// A limit of events counts what the service looks up; the callers of an IPv6 network share it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_count_as_events_and_a_network_has_a_limit_of_events() {
    let bed = Bed::embedded();
    let limits = Limits {
        events_per_s: some(1),
        network: three_callers(),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    let events = visits("v", 600, &["a"]);
    for (from, refused, who) in [
        (
            "203.0.113.1",
            "203.0.113.1",
            "this caller may write 1 events/s",
        ),
        (
            "203.0.113.2",
            "203.0.113.2",
            "this caller may write 1 events/s",
        ),
        (
            "2001:db8:1:1::1",
            "2001:db8:1:2::1",
            "the IPv6 network of this caller may write 3 events/s",
        ),
    ] {
        assert_eq!(
            post_as(&node, from, "/v1/events", &events).await.status,
            200
        );
        let answer = post_as(&node, refused, "/v1/events", &events[0]).await;
        let problem = answer.problem(429, "too_many_appends").expect(from);
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.starts_with(who), "{detail}");
    }
    let other = post_as(&node, "2001:db8:2::1", "/v1/events", &events[0]).await;
    assert_eq!(other.status, 200);
    let scrape = Scrape::of(&node).await;
    let series = r#"newsfeed_limits_exceeded_total{limit="events",of="network"}"#;
    assert!(scrape.get(series) >= 1.0);
    node.stop().await;
}

/// Each of the requests below would leave a debt that the next one has to wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_written_is_not_charged() {
    let bed = Bed::embedded();
    let mut settings = default_settings();
    let limits = Limits {
        stored_bytes_per_s: some(4 * 1024),
        ..Limits::default()
    };
    tell(limits, false)(&mut settings);
    let (app, node) = bed.app_with(bed.store(), settings).await;
    let post = |from, events| post_as(&node, from, "/v1/events", events);
    let feeds: Vec<_> = (0..10).map(|index| format!("f{index}")).collect();
    // Five of these write more than 500 KB.
    let wide = |id: String| json!({ "id": id, "kind": "visit", "feeds": feeds, "data": "x".repeat(5_000) });
    let array = |name: &str| Value::from_iter((0..5).map(|index| wide(format!("{name} {index}"))));
    let events = array("e");

    let all = vec![filler(32); QUEUE_KIB_MAX / 32];
    let taken = app.appender.try_reserve(all).expect("the whole queue");
    let from = "203.0.113.1";
    for body in [&events, &events[0], &events] {
        let refused = post(from, body).await;
        refused.problem(503, "busy").expect("no room");
    }
    drop(taken);
    let appended = post(from, &events).await;
    assert_eq!(appended.status, 200, "nothing was owed");
    let refused = post(from, &events).await;
    refused.problem(429, "too_many_appends").expect("a debt");

    // Duplicates, reused ids and failed conditions write nothing.
    let from = "203.0.113.2";
    let (mut other, mut conditional) = (events.clone(), array("c"));
    for index in 0..5 {
        other[index]["kind"] = json!("other");
        conditional[index]["expect"] = json!({ "feed": "f0", "version": null });
    }
    for (body, status, code) in [
        (&events, "duplicate", None),
        (&other, "rejected", Some("id_reused")),
        (&conditional, "rejected", Some("version_conflict")),
    ] {
        let answer = post(from, body).await;
        assert_eq!(answer.status, 200, "before {status} {code:?}");
        for result in answer.json().as_array().expect("results") {
            assert_eq!(result["status"], status);
            assert_eq!(result["error"]["code"].as_str(), code);
        }
    }
    let lines = events.as_array().expect("an array").iter();
    let lines: String = lines.map(|event| format!("{event}\n")).collect();
    let headers = [NDJSON, ("x-forwarded-for", from)];
    let answer = node.send_body("POST", "/v1/events", &headers, lines).await;
    let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    assert_eq!(text.matches("\"duplicate\"").count(), 5);
    let new = post(from, &wide("new".to_owned())).await;
    assert_eq!(new.status, 200, "after NDJSON");

    // Nor do transients that find no room.
    let taken = all_transients(&app);
    let signal = json!({ "kind": "typing", "feeds": feeds, "data": "x".repeat(5_000) });
    let send = || post_as(&node, "203.0.113.3", "/v1/transient", &signal);
    for _ in 0..3 {
        send().await.problem(503, "busy").expect("no room");
    }
    drop(taken);
    assert_eq!(send().await.status, 202);
    send()
        .await
        .problem(429, "too_many_appends")
        .expect("a debt");
}

/// NDJSON waits, and is then appended.
#[tokio::test]
async fn ndjson_beyond_the_rate_of_events_is_slowed_down() {
    let bed = Bed::embedded();
    let limits = Limits {
        events_per_s: some(10),
        ..Limits::default()
    };
    let node = bed.node_with(None, tell(limits, true)).await;
    let from = "203.0.113.1";
    let first = post_as(&node, from, "/v1/events", &visits("v", 500, &["a"])).await;
    assert_eq!(first.status, 200);
    // They are paid off in 50 s, of which 4 are the burst.
    let lines = visits("line", 5, &["a"]);
    let lines = lines.as_array().expect("an array").iter();
    let lines: String = lines.map(|event| format!("{event}\n")).collect();
    let request = node.http.post(node.url("/v1/events")).body(lines);
    let request = request.header(NDJSON.0, NDJSON.1);
    let request = request.header("x-forwarded-for", from);
    let mut answer = request.send().await.expect("an answer");
    for index in 0..10 {
        let other = visits(&format!("other {index} "), 1, &["b"]);
        let answer = post_as(&node, "203.0.113.2", "/v1/events", &other).await;
        assert_eq!(answer.status, 200);
    }
    let early = answer.chunk().now_or_never();
    assert!(early.is_none(), "{early:?}");
    patience::jump(Duration::from_secs(50)).await;
    let results = answer.text().await.expect("results");
    assert_eq!(results.matches("\"appended\"").count(), 5, "{results}");
    node.stop().await;
}
