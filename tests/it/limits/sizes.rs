//! Sizes: exactly at each limit is accepted, one more is refused.

use serde_json::{Value, json};

use super::{Case, UNTOUCHED, appends, refused};
use crate::{
    http::items,
    support::{
        bed::{Answer, Bed, JSON, NDJSON, Served, text},
        raw,
    },
};

crate::on_every_engine!(
    an_event_at_every_limit_is_stored,
    an_event_over_a_limit_is_refused,
    an_array_holds_one_to_a_thousand_events,
    a_body_holds_eight_mebibytes,
    an_early_answer_reaches_a_client_that_is_still_sending,
    a_line_holds_256_kibibytes_and_a_longer_one_ends_the_answer,
    a_head_over_64_kibibytes_is_refused,
);

const KIB: usize = 1024;

async fn post(node: &Served, media: (&str, &str), body: Vec<u8>) -> Answer {
    node.send_body("POST", "/v1/events", &[media], body).await
}

/// A JSON string of exactly `bytes` bytes.
fn string(bytes: usize) -> Value {
    "x".repeat(bytes - 2).into()
}

fn nested(depth: usize) -> Value {
    (1..depth).fold(json!([]), |inner, level| match level % 2 {
        0 => json!([inner]),
        _ => json!({ "k": inner }),
    })
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("f{index}")).collect()
}

async fn an_event_at_every_limit_is_stored(bed: &Bed) {
    let node = bed.node().await;
    let longest = "n".repeat(255);
    let twice = [names(16), names(16)].concat();
    let events = [
        json!({ "kind": longest, "feeds": [longest], "actor": longest, "id": "é ".repeat(85),
                "expect": { "feed": longest, "version": null } }),
        json!({ "kind": "visit", "feeds": ["size"], "data": string(64 * KIB) }),
        json!({ "kind": "visit", "feeds": ["nested"], "data": nested(100) }),
        json!({ "kind": "visit", "feeds": names(100), "data": string(10 * KIB) }),
        json!({ "kind": "visit", "feeds": names(16), "data": string(64 * KIB) }),
        // A repeated feed is stored once.
        json!({ "kind": "visit", "feeds": twice, "data": string(64 * KIB) }),
    ];
    for event in &events {
        assert_eq!(node.append(event).await["status"], "appended");
        let feed = event["feeds"]
            .as_array()
            .and_then(|feeds| feeds.last())
            .expect("a feed");
        let path = format!("/v1/feeds/{}/entries?limit=1", text(feed));
        assert_eq!(node.get(&path).await["entries"][0]["data"], event["data"]);
    }
    // White space does not count.
    let spaced = format!(
        r#"{{"kind":"visit","feeds":["size"],"data":[{}1]}}"#,
        " ".repeat(65 * KIB)
    );
    assert_eq!(post(&node, JSON, spaced.into_bytes()).await.status, 200);
}

async fn an_event_over_a_limit_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let feeds = |count: usize| {
        let mut feeds = names(count - 1);
        feeds.push(UNTOUCHED.to_owned());
        feeds
    };
    let over: Vec<(Value, &str)> = vec![
        (
            json!({ "kind": "visit", "feeds": [UNTOUCHED], "data": string(64 * KIB + 1) }),
            "data",
        ),
        (
            json!({ "kind": "visit", "feeds": [UNTOUCHED], "data": nested(101) }),
            "data",
        ),
        // Just over 1 MiB in all feeds together, with few and with many feeds.
        (
            json!({ "kind": "visit", "feeds": feeds(17), "data": string(KIB * KIB / 17 + 1) }),
            "data",
        ),
        (
            json!({ "kind": "visit", "feeds": feeds(100),
                 "data": string(KIB * KIB / 100 + 1) }),
            "data",
        ),
        (json!({ "kind": "visit", "feeds": feeds(101) }), "feeds"),
    ];
    let mut cases: Vec<Case> = over
        .iter()
        .map(|(event, field)| {
            let body = event.to_string();
            let case = Case::body(
                400,
                "invalid_event",
                "POST",
                "/v1/events",
                &[JSON],
                body.as_bytes(),
            );
            case.with(json!({ "field": field, "index": 0 }))
        })
        .collect();
    // So deep that a recursive parser would overflow the stack.
    for bracket in ["[", r#"{"a":"#] {
        let in_data = format!(
            r#"{{"kind":"visit","feeds":["untouched"],"data":{}"#,
            bracket.repeat(300_000)
        );
        for body in [in_data, bracket.repeat(1_000_000)] {
            cases.push(Case::body(
                400,
                "invalid_json",
                "POST",
                "/v1/events",
                &[JSON],
                body.as_bytes(),
            ));
        }
    }
    // Within the limit of a transient's body.
    let deep = format!("{}{}", "[".repeat(120_000), "]".repeat(120_000));
    for field in ["data", "feeds", "extra"] {
        let body = format!(r#"{{"kind":"visit","{field}":{deep}}}"#);
        cases.push(Case::body(
            400,
            "invalid_event",
            "POST",
            "/v1/events",
            &[JSON],
            body.as_bytes(),
        ));
        cases.push(Case::body(
            400,
            "invalid_event",
            "POST",
            "/v1/transient",
            &[JSON],
            body.as_bytes(),
        ));
    }
    refused(&node, cases).await;
    for feed in names(100) {
        assert_eq!(
            node.get(&format!("/v1/feeds/{feed}")).await["latest"],
            Value::Null
        );
    }
}

fn array(count: usize, feed: &str) -> Vec<u8> {
    let event =
        |index: usize| json!({ "id": format!("{feed}{index}"), "kind": "visit", "feeds": [feed] });
    (0..count)
        .map(event)
        .collect::<Value>()
        .to_string()
        .into_bytes()
}

async fn an_array_holds_one_to_a_thousand_events(bed: &Bed) {
    let node = bed.node().await;
    let many = |count| {
        let body = array(count, UNTOUCHED);
        Case::body(413, "too_many_events", "POST", "/v1/events", &[JSON], &body)
    };
    let zeros = format!("[{}0]", "0,".repeat(2_000_000));
    let zeros = Case::body(
        413,
        "too_many_events",
        "POST",
        "/v1/events",
        &[JSON],
        zeros.as_bytes(),
    );
    refused(&node, vec![many(1001), many(5000), zeros]).await;
    for count in [1, 1000] {
        let answer = post(&node, JSON, array(count, &format!("n{count}"))).await;
        assert_eq!((answer.status, items(&answer.json()).len()), (200, count));
        assert_eq!(node.all(&format!("n{count}")).await.len(), count);
    }
}

/// An array of one event, padded with white space to `bytes` bytes.
fn padded(bytes: usize, feed: &str) -> Vec<u8> {
    let mut body = array(1, feed);
    let end = body.split_off(body.len() - 1);
    body.resize(bytes - 1, b' ');
    [body, end].concat()
}

async fn a_body_holds_eight_mebibytes(bed: &Bed) {
    let node = bed.node().await;
    let limit = 8 * KIB * KIB;
    let answer = post(&node, JSON, padded(limit, "a")).await;
    assert_eq!((answer.status, node.all("a").await.len()), (200, 1));

    let chunked = |bytes: usize, headers: &[(&str, &str)]| {
        let mut request = raw::head(
            "POST",
            "/v1/events",
            &[headers, &[("transfer-encoding", "chunked")]].concat(),
        );
        for part in padded(bytes, UNTOUCHED).chunks(KIB * KIB) {
            request.extend(raw::chunk(part));
        }
        request.extend(raw::chunk(b""));
        request
    };
    // Also if the client keeps sending.
    let mut cases = Vec::new();
    for bytes in [limit + 1, 3 * limit] {
        let body = padded(bytes, UNTOUCHED);
        for (method, path) in [
            ("POST", "/v1/events"),
            ("POST", "/v1/transient"),
            ("PUT", "/v1/feeds/a/markers/read"),
        ] {
            cases.push(Case::body(
                413,
                "body_too_large",
                method,
                path,
                &[JSON],
                &body,
            ));
        }
        let mut case = Case::new(413, "body_too_large", "POST", "/v1/events");
        case.request = chunked(bytes, &[JSON]);
        cases.push(case);
    }
    refused(&node, cases).await;
    appends(&node, &format!("{UNTOUCHED}0")).await;
}

async fn an_early_answer_reaches_a_client_that_is_still_sending(bed: &Bed) {
    let node = bed.node().await;
    let text = ("content-type", "text/plain");
    for (path, media, mebibytes, status, code) in [
        ("/v1/events", JSON, 16, 413, "body_too_large"),
        ("/v1/events", text, 8, 415, "unsupported_media_type"),
        ("/v1/events?x=1", JSON, 8, 400, "invalid_query"),
        ("/v1/feeds/a/live", JSON, 8, 405, "method_not_allowed"),
        ("/nothing", JSON, 8, 404, "not_found"),
    ] {
        for _ in 0..3 {
            let body = padded(mebibytes * KIB * KIB, UNTOUCHED);
            let answer = node.send_body("POST", path, &[media], body).await;
            answer.problem(status, code).expect(path);
        }
    }
    for _ in 0..3 {
        let answer = post(&node, NDJSON, padded(8 * KIB * KIB, UNTOUCHED)).await;
        assert!(String::from_utf8_lossy(&answer.body).contains("body_too_large"));
    }
}

async fn a_line_holds_256_kibibytes_and_a_longer_one_ends_the_answer(bed: &Bed) {
    let node = bed.node().await;
    let limit = 256 * KIB;
    let line = |id: &str, bytes: usize| {
        let mut line = json!({ "id": id, "kind": "visit", "feeds": ["a"] })
            .to_string()
            .into_bytes();
        let end = line.split_off(line.len() - 1);
        line.resize(bytes - 1, b' ');
        [line, end].concat()
    };
    for (last, ended) in [("\n", true), ("", false)] {
        let (first, long, never) = (
            line("first", 100),
            line("at", limit),
            line("never", limit + 1),
        );
        let after = line("after", 100);
        let tail = if ended {
            [b"\n", &after[..], b"\n"].concat()
        } else {
            Vec::new()
        };
        let body = [&first[..], b"\n", &long, b"\n", &never, &tail].concat();
        let answer = post(&node, NDJSON, body).await;
        let lines: Vec<Value> = String::from_utf8_lossy(&answer.body)
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(
            (&lines[0]["id"], &lines[1]["id"]),
            (&json!("first"), &json!("at"))
        );
        assert_eq!(
            (&lines[2]["index"], &lines[2]["error"]["code"]),
            (&json!(2), &json!("body_too_large"))
        );
        let ids: Vec<_> = node
            .all("a")
            .await
            .iter()
            .map(|entry| entry["id"].clone())
            .collect();
        assert_eq!(ids, ["first", "at"], "{last:?}");
    }
    // A line without end is refused as soon as it is too long.
    let endless = vec![b'x'; 3 * limit];
    let answer = post(&node, NDJSON, endless).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("body_too_large"));
    appends(&node, "never").await;
}

async fn a_head_over_64_kibibytes_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let long = "n".repeat(70 * KIB);
    let heads = [
        raw::head("GET", "/v1/feeds/a", &[("x-long", &long)]),
        raw::head("GET", &format!("/v1/entries?feed={long}"), &[]),
        raw::head("GET", &format!("/{long}"), &[]),
        raw::head("GET", "/v1/feeds/a", &vec![("x-many", "value"); 7_000]),
    ];
    for head in heads {
        let answer = raw::exchange(node.address, &head).await;
        assert_eq!(answer.status, 431);
        appends(&node, &format!("after{}", head.len())).await;
    }
    // Well below the limit it is accepted.
    let long = "n".repeat(40 * KIB);
    let answer = node.send("GET", "/v1/feeds/a", &[("x-long", &long)]).await;
    assert_eq!(answer.status, 200);
}
