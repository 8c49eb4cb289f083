//! Slow and silent clients. Time passes in jumps of tokio's clock.

use std::{pin::pin, time::Duration};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{UNTOUCHED, appends};
use crate::support::{
    bed::{Bed, JSON, NDJSON, Served},
    patience, raw,
};

crate::on_every_engine!(in one thread:
    a_stalled_body_times_out_and_appends_nothing,
    a_slow_body_is_accepted_while_bytes_arrive_but_not_for_ever,
    stalled_ndjson_ends_the_answer_after_the_lines_received,
    a_client_that_never_completes_its_head_is_cut_off,
);

const STALL: Duration = Duration::from_secs(10);

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("the server listens");
}

fn body() -> Vec<u8> {
    json!({ "id": "slow", "kind": "visit", "feeds": [UNTOUCHED] })
        .to_string()
        .into_bytes()
}

/// Half of [`STALL`] passes, after the node has taken what was sent to it before: an answer to another request shows that.
pub async fn pass(node: &Served) {
    node.send("GET", "/healthz", &[]).await;
    patience::jump(STALL / 2).await;
}

/// Awaits `outcome` while time passes.
pub async fn over_time<T>(node: &Served, outcome: impl Future<Output = T>) -> T {
    let mut outcome = pin!(outcome);
    loop {
        pass(node).await;
        if let Some(outcome) = outcome.as_mut().now_or_never() {
            return outcome;
        }
    }
}

/// Checks that nothing was appended.
async fn untouched(node: &Served) {
    assert_eq!(
        node.get(&format!("/v1/feeds/{UNTOUCHED}")).await["latest"],
        Value::Null
    );
}

async fn a_stalled_body_times_out_and_appends_nothing(bed: &Bed) {
    let node = bed.node().await;
    for (method, path) in [
        ("POST", "/v1/events"),
        ("POST", "/v1/transient"),
        ("PUT", "/v1/feeds/untouched/markers/read"),
    ] {
        for sent in [0, 10] {
            let body = body();
            let request = raw::request(method, path, &[JSON], &body);
            let mut stream = raw::connect(node.address).await;
            send(&mut stream, &request[..request.len() - body.len() + sent]).await;
            let answer = over_time(&node, raw::answer(&mut stream)).await;
            answer.problem(408, "body_timeout").expect(path);
            untouched(&node).await;
        }
    }
    appends(&node, "slow").await;
}

async fn a_slow_body_is_accepted_while_bytes_arrive_but_not_for_ever(bed: &Bed) {
    let node = bed.node().await;
    let head = raw::head(
        "POST",
        "/v1/events",
        &[JSON, ("transfer-encoding", "chunked")],
    );
    let mut stream = raw::connect(node.address).await;
    send(&mut stream, &head).await;
    let event = json!({ "id": "drips", "kind": "visit", "feeds": ["drips"] }).to_string();
    for part in event.as_bytes().chunks(event.len() / 5 + 1) {
        pass(&node).await;
        send(&mut stream, &raw::chunk(part)).await;
    }
    send(&mut stream, &raw::chunk(b"")).await;
    let answer = raw::answer(&mut stream).await;
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (200, &json!("appended"))
    );
    assert_eq!(node.all("drips").await.len(), 1);

    let mut stream = raw::connect(node.address).await;
    send(&mut stream, &head).await;
    let began = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let mut answer = pin!(raw::answer(&mut reader));
    let answer = loop {
        pass(&node).await;
        if let Some(answer) = answer.as_mut().now_or_never() {
            break answer;
        }
        // Fails if the node has just closed the connection.
        let _ = writer.write_all(&raw::chunk(b" ")).await;
    };
    answer.problem(408, "body_timeout").expect("an end to it");
    assert!(began.elapsed() >= Duration::from_secs(60));
    untouched(&node).await;
    appends(&node, "after").await;
}

async fn stalled_ndjson_ends_the_answer_after_the_lines_received(bed: &Bed) {
    let node = bed.node().await;
    for (round, cut) in [0, 20].into_iter().enumerate() {
        let whole = json!({ "kind": "visit", "feeds": ["lines"] }).to_string();
        let half = &body()[..cut];
        let mut stream = raw::connect(node.address).await;
        let headers = [NDJSON, ("transfer-encoding", "chunked")];
        send(&mut stream, &raw::head("POST", "/v1/events", &headers)).await;
        let lines = [whole.as_bytes(), b"\n", half].concat();
        send(&mut stream, &raw::chunk(&lines)).await;
        // The node waits for more when the result of the first line is there.
        let mut begin = Vec::new();
        while memchr::memmem::find(&begin, b"appended").is_none() {
            let read = stream.read_buf(&mut begin).await;
            assert_ne!(read.expect("no reset"), 0, "the result of the first line");
        }
        let mut whole = (&begin[..]).chain(&mut stream);
        let answer = over_time(&node, raw::answer(&mut whole)).await;
        untouched(&node).await;
        let lines: Vec<Value> = String::from_utf8_lossy(&answer.body)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0]["status"], "appended");
        assert_eq!(
            (&lines[1]["index"], &lines[1]["status"]),
            (&json!(1), &json!("rejected"))
        );
        assert_eq!(lines[1]["error"]["code"], "body_timeout");
        assert_eq!(node.all("lines").await.len(), round + 1);
    }
    appends(&node, "slow").await;
}

async fn a_client_that_never_completes_its_head_is_cut_off(bed: &Bed) {
    let node = bed.node().await;
    let heads: [&[u8]; 6] = [
        b"",
        // The beginning of an HTTP/2 preface or of a POST.
        b"P",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/feeds/untouched HT",
        b"GET /v1/feeds/untouched HTTP/1.1\r\nhost: localhost\r\n",
        // One request is answered, and no other follows.
        b"GET /v1/feeds/untouched HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    for head in heads {
        let mut stream = raw::connect(node.address).await;
        send(&mut stream, head).await;
        // The connection must end.
        over_time(&node, raw::drain(&mut stream)).await;
        untouched(&node).await;
    }
    appends(&node, "after").await;
}
