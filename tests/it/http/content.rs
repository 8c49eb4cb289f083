//! The content of events: what counts as the same, what is not text, and when an event happened.

use serde_json::{Value, json};

use super::{column, items};
use crate::support::{
    bed::{Answer, Bed, Served, text},
    sse::Stream,
};

crate::on_every_engine!(
    values_decide_whether_content_is_the_same_not_how_they_are_written,
    half_a_surrogate_pair_is_named_with_its_field_and_offset,
    a_body_that_is_not_utf_8_is_named_with_its_offset,
    line_separators_are_escaped_in_streams_and_unchanged_in_pages,
    the_time_of_an_event_is_returned_everywhere_as_it_was_sent,
    a_time_must_be_rfc_3339,
    times_are_the_same_content_if_they_are_the_same_instant,
);

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn post(node: &Served, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    node.send_body("POST", path, &JSON, body).await
}

fn event(id: &str, data: &str) -> String {
    format!(r#"{{"id":"{id}","kind":"visit","feeds":["a"],"data":{data}}}"#)
}

async fn values_decide_whether_content_is_the_same_not_how_they_are_written(bed: &Bed) {
    let node = bed.node().await;
    let groups: [&[&str]; 8] = [
        &["1", "1.0", "1e0", "10E-1"],
        &["[1e5]", "[100000]", "[1E+5]", "[ 100000.0 ]"],
        &[
            r#"{"x":0.1,"y":-0}"#,
            r#"{"y":0,"x":0.10}"#,
            r#"{"y":0.0,"x":1e-1}"#,
        ],
        &[r#""é🦀/\n""#, r#""\u00e9\ud83E\udd80\/\u000A""#],
        &[r#"{"é":[]}"#, r#"{"\u00E9":[]}"#, r#"{"é":7,"\u00e9":[]}"#],
        // As IEEE doubles, these are the same number.
        &["9007199254740993", "9007199254740992", "9007199254740992.0"],
        // No double is so large.
        &["1e999", "10e998", "1000.0E+996"],
        &["2e999"],
    ];
    for (index, group) in groups.iter().enumerate() {
        for (nth, data) in group.iter().enumerate() {
            let answer = post(&node, "/v1/events", event(&format!("e{index}"), data)).await;
            let status = if nth == 0 { "appended" } else { "duplicate" };
            assert_eq!(answer.json()["status"], status, "{data}");
        }
        // What was sent first comes back, digit for digit.
        let page = node.send("GET", "/v1/feeds/a/entries?limit=1", &[]).await;
        let page = String::from_utf8(page.body.to_vec()).expect("UTF-8");
        assert!(
            page.contains(&format!(r#""data":{}}}]"#, group[0])),
            "{page}"
        );
        for other in groups
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
        {
            let answer = post(&node, "/v1/events", event(&format!("e{index}"), other.1[0])).await;
            answer.problem(409, "id_reused").expect(other.1[0]);
        }
    }
}

async fn half_a_surrogate_pair_is_named_with_its_field_and_offset(bed: &Bed) {
    let node = bed.node().await;
    let events: [(&str, Option<&str>); 12] = [
        (
            r#"{"kind":"visit","feeds":["a"],"data":"\ud83d"}"#,
            Some("data"),
        ),
        (
            r#" {"kind":"visit","feeds":["a"],"data":{"text":[1,{},2,"Hi \ud83d!"]}}"#,
            Some("data.text[3]"),
        ),
        (
            r#"{"data":{"a b":"\udc4b"},"kind":"visit","feeds":["a"]}"#,
            Some("data[\"a b\"]"),
        ),
        (
            r#"{"kind":"visit","feeds":["a"],"data":{"a":[{"\ud83d":1}]}}"#,
            Some("data.a[0]"),
        ),
        (
            r#"{"kind":"visit","feeds":["a"],"data":{"\ud83d\u0041":1}}"#,
            Some("data"),
        ),
        (
            r#"{"kind":"visit","feeds":["a"],"id":"x\ud83d"}"#,
            Some("id"),
        ),
        (r#"{"kind":"\ud83d","feeds":["a"]}"#, Some("kind")),
        (
            r#"{"kind":"visit","feeds":["a","\ud83d"]}"#,
            Some("feeds[1]"),
        ),
        (
            r#"{"kind":"visit","feeds":["a"],"actor":"\ud83d"}"#,
            Some("actor"),
        ),
        (
            r#"{"kind":"visit","feeds":["a"],"time":"\ud83d"}"#,
            Some("time"),
        ),
        (
            r#"{"kind":"visit","feeds":["a"],"expect":{"feed":"\ud83d","version":null}}"#,
            Some("expect.feed"),
        ),
        (r#"{"kind":"visit","feeds":["a"],"\ud83d":1}"#, None),
    ];
    let check = |error: &Value, field: Option<&str>, body: &str, from: usize| {
        assert_eq!(error["code"], "invalid_event", "{error}");
        assert_eq!(
            error.get("field"),
            field.map(Value::from).as_ref(),
            "{error}"
        );
        let offset = from + body[from..].find(r"\ud").expect("a surrogate");
        assert_eq!(error["offset"], offset, "{error}");
        let detail = text(&error["detail"]);
        let what = field.unwrap_or("the object");
        let escape = &body[offset..offset + 6];
        for part in [
            what,
            "JSON by grammar but not Unicode text",
            escape,
            &format!("byte {offset}"),
        ] {
            assert!(detail.contains(part), "{part} is not in {detail}");
        }
    };
    let good = r#"{"id":"good","kind":"visit","feeds":["a"],"data":"\ud83d\udc4b"}"#;
    for (bad, field) in events {
        let single = post(&node, "/v1/events", bad).await;
        let problem = single.problem(400, "invalid_event").expect(bad);
        assert_eq!(problem["index"], 0);
        check(&problem, field, bad, 0);
        let array = format!("[{good}, {bad}]");
        let problem = post(&node, "/v1/events", array.clone()).await;
        let problem = problem.problem(400, "invalid_event").expect(bad);
        assert_eq!(problem["index"], 1);
        check(&problem, field, &array, good.len());
        let lines = format!("{good}\n{bad}\n");
        let ndjson = [("content-type", "application/x-ndjson")];
        let answer = node.send_body("POST", "/v1/events", &ndjson, lines).await;
        let answer = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
        let results: Vec<Value> = answer
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!((results.len(), &results[1]["index"]), (2, &json!(1)));
        // The offset is one in the line.
        check(&results[1]["error"], field, bad, 0);
        let signal = bad.replace("visit", "typing");
        if !signal.contains("expect") {
            let problem = post(&node, "/v1/transient", signal.clone()).await;
            check(
                &problem.problem(400, "invalid_event").expect(bad),
                field,
                &signal,
                0,
            );
        }
    }
    // Strings of other bodies, too.
    let answer = node.send_body(
        "PUT",
        "/v1/feeds/a/markers/read",
        &JSON,
        r#"{"version":"\ud83d"}"#,
    );
    let problem = answer
        .await
        .problem(400, "invalid_body")
        .expect("a problem");
    assert_eq!(
        (&problem["field"], &problem["offset"]),
        (&json!("version"), &json!(12))
    );
    assert_eq!(column(&node.all("a").await, "id"), ["good"]);
    assert_eq!(node.all("a").await[0]["data"], "👋");
}

async fn a_body_that_is_not_utf_8_is_named_with_its_offset(bed: &Bed) {
    let node = bed.node().await;
    // Half a surrogate pair as bytes, as CESU-8 has it.
    let body = b"{\"kind\":\"visit\",\"feeds\":[\"a\"],\"data\":\"\xed\xa0\xbd\"}";
    let problem = post(&node, "/v1/events", body.to_vec()).await;
    let problem = problem.problem(400, "invalid_json").expect("a problem");
    assert_eq!(problem["offset"], 38);
    assert!(text(&problem["detail"]).contains("not UTF-8"), "{problem}");
}

async fn line_separators_are_escaped_in_streams_and_unchanged_in_pages(bed: &Bed) {
    let node = bed.node().await;
    let raw = "a\u{2028}b\u{2029}c\u{85}d";
    let key = "k\u{2028}";
    let data = format!(r#"{{"{key}":["{raw}","–é\\u2028"]}}"#);
    let escaped = r#"{"k\u2028":["a\u2028b\u2029c\u0085d","–é\\u2028"]}"#;
    let body = |id: &str, kind: &str| {
        format!(r#"{{"id":"{id}","kind":"{kind}","feeds":["a"],"data":{data}}}"#)
    };
    post(&node, "/v1/events", body("early", "visit")).await;
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live?after=0"), None).await;
    let mut merged = Stream::open(
        &node.http,
        &node.url("/v1/live?feed=a&feed=b&after=0"),
        None,
    )
    .await;
    for stream in [&mut stream, &mut merged] {
        assert_eq!(
            stream
                .caught_up()
                .await
                .iter()
                .filter(|event| event.name == "entry")
                .count(),
            1
        );
    }
    post(&node, "/v1/events", body("late", "message")).await;
    post(&node, "/v1/transient", body("signal", "typing")).await;
    let mut again = Stream::open(&node.http, &node.url("/v1/feeds/a/live?after=0"), None).await;
    for (stream, mut wanted) in [
        (&mut stream, vec!["late", "signal"]),
        (&mut merged, vec!["late", "signal"]),
        (&mut again, vec!["early", "late"]),
    ] {
        while !wanted.is_empty() {
            let block = stream.block().await.expect("the stream goes on");
            assert!(
                !block.contains(['\u{85}', '\u{2028}', '\u{2029}']),
                "{block}"
            );
            let Some(at) = wanted
                .iter()
                .position(|id| block.contains(&format!("\"id\":\"{id}\"")))
            else {
                continue;
            };
            wanted.remove(at);
            // What comes live has the unread count behind it.
            let data = format!("\"data\":{escaped}");
            let (_, rest) = block.split_once(&data).expect(&block);
            assert!(rest == "}" || rest.starts_with(",\"unread\":"), "{block}");
        }
    }
    let page = node.send("GET", "/v1/feeds/a/entries", &[]).await;
    let page = String::from_utf8(page.body.to_vec()).expect("UTF-8");
    assert_eq!(
        page.matches(&format!("\"data\":{data}}}")).count(),
        2,
        "{page}"
    );
    let value: Value = serde_json::from_str(escaped).expect("JSON");
    assert_eq!(node.all("a").await[0]["data"], value);
}

async fn the_time_of_an_event_is_returned_everywhere_as_it_was_sent(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let sent = "2004-04-15T16:56:01.50+02:00";
    let with =
        |id: &str, kind: &str| json!({ "id": id, "kind": kind, "feeds": ["a", "b"], "time": sent });
    let mut live = Stream::open(&nodes[1].http, &nodes[1].url("/v1/feeds/a/live"), None).await;
    let now = nodes[1].version("a").await;
    live.caught_up().await;
    let poll = nodes[1].url(&format!("/v1/feeds/b/entries?after={now}&wait=30"));
    let poll = tokio::spawn(nodes[1].http.get(poll).send());
    let without = json!({ "id": "without", "kind": "visit", "feeds": ["a", "b"], "time": null });
    let answer = nodes[0]
        .append(&json!([with("with", "message"), without]))
        .await;
    assert_eq!(column(items(&answer), "status"), ["appended", "appended"]);
    let (status, _) = nodes[0]
        .post("/v1/transient", &with("signal", "typing"))
        .await;
    assert_eq!(status, 202);
    let check = |entry: &Value| {
        let expected = (entry["id"] != "without").then(|| json!(sent));
        assert_eq!(entry.get("time"), expected.as_ref(), "{entry}");
        assert_ne!(entry["at"], sent);
    };
    let polled = poll.await.expect("no panic").expect("an answer");
    check(&Answer::of(polled).await.json()["entries"][0]);
    for name in ["notify", "entry", "transient"] {
        check(&live.next_of(&[name]).await.data);
    }
    for node in &nodes {
        for path in [
            "/v1/feeds/a/entries?",
            "/v1/feeds/b/entries?after=0",
            "/v1/entries?feed=b&feed=a",
        ] {
            let page = node.get(path).await;
            assert_eq!(items(&page["entries"]).len(), 2);
            items(&page["entries"]).iter().for_each(check);
        }
        let mut stream =
            Stream::open(&node.http, &node.url("/v1/feeds/a/live?after=0"), None).await;
        for name in ["notify", "entry"] {
            check(&stream.next_of(&[name]).await.data);
        }
    }
}

async fn a_time_must_be_rfc_3339(bed: &Bed) {
    let node = bed.node().await;
    for bad in [
        json!(""),
        json!("2026-11-29"),
        json!("2026-11-29T10:53:13"),
        json!("2026-11-29 10:53:13Z"),
        json!("2026-02-30T10:53:13Z"),
        json!("Sun, 29 Nov 2026 10:53:13 GMT"),
        json!("2026-11-29T10:53:13.000000000000000000Z"),
    ] {
        let event = json!({ "kind": "visit", "feeds": ["a"], "time": bad });
        let answer = post(&node, "/v1/events", event.to_string()).await;
        let problem = answer.problem(400, "invalid_event").expect("a problem");
        assert_eq!(problem["field"], "time", "{bad}");
        assert!(
            text(&problem["detail"]).starts_with("time must be an RFC 3339 time"),
            "{problem}"
        );
    }
    let number = json!({ "kind": "visit", "feeds": ["a"], "time": 1_795_949_593 });
    let answer = post(&node, "/v1/events", number.to_string()).await;
    answer.problem(400, "invalid_event").expect("a problem");
    assert!(node.all("a").await.is_empty());
}

async fn times_are_the_same_content_if_they_are_the_same_instant(bed: &Bed) {
    let node = bed.node().await;
    let event = |time: Value| json!({ "id": "e", "kind": "visit", "feeds": ["a"], "time": time });
    let first = json!("2026-11-29T10:53:13Z");
    assert_eq!(
        node.append(&event(first.clone())).await["status"],
        "appended"
    );
    for same in ["2026-11-29T10:53:13Z", "2026-11-29T11:53:13.000+01:00"] {
        assert_eq!(
            node.append(&event(json!(same))).await["status"],
            "duplicate",
            "{same}"
        );
    }
    for other in [
        json!("2026-11-29T10:53:13.001Z"),
        json!("2026-11-29T10:53:13+01:00"),
        json!(null),
    ] {
        let answer = post(&node, "/v1/events", event(other.clone()).to_string()).await;
        answer.problem(409, "id_reused").expect("a conflict");
    }
    assert_eq!(node.all("a").await[0]["time"], first);
}
