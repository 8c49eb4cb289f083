//! Bodies that are not valid events, transients or markers.

use serde_json::{Value, json};

use super::{Case, UNTOUCHED, appends, refused};
use crate::support::{
    bed::{Bed, JSON, NDJSON, text},
    entries::{UNKNOWN, ahead},
};

crate::on_every_engine!(
    an_invalid_event_is_refused_with_the_reason,
    one_invalid_event_refuses_its_whole_array_and_is_named,
    an_invalid_transient_is_refused,
    an_invalid_marker_is_refused,
    an_unsupported_content_type_is_refused,
    long_mistakes_get_short_answers,
);

/// What a client sent does not come back at its full length: an answer that is not read would hold it in memory.
async fn long_mistakes_get_short_answers(bed: &Bed) {
    let node = bed.node().await;
    let long = "x".repeat(200_000);
    let escaped = "\\u0001".repeat(30_000);
    let event = |body: String| ("POST", "/v1/events".to_owned(), JSON, body);
    let requests = [
        event(format!(r#"{{"{long}": 1}}"#)),
        event(format!(r#"{{"{escaped}": 1}}"#)),
        event(format!(r#"[{{"{long}": 1}}]"#)),
        event(format!(r#"{{"kind": "visit", "feeds": "{long}"}}"#)),
        event(format!(
            r#"{{"kind": "visit", "feeds": ["{UNTOUCHED}"], "expect": {{"{long}": 1}}}}"#
        )),
        (
            "POST",
            "/v1/events".to_owned(),
            NDJSON,
            format!(r#"{{"{long}": 1}}"#),
        ),
        (
            "POST",
            "/v1/transient".to_owned(),
            JSON,
            format!(r#"{{"{long}": 1}}"#),
        ),
        (
            "PUT",
            format!("/v1/feeds/{UNTOUCHED}/markers/read"),
            JSON,
            format!(r#"{{"{}": 1}}"#, &long[..15_000]),
        ),
        (
            "GET",
            format!("/v1/feeds/{UNTOUCHED}?{}", "%01".repeat(20_000)),
            JSON,
            String::new(),
        ),
    ];
    for (method, path, media, body) in requests {
        let answer = node.send_body(method, &path, &[media], body).await;
        let status = if media == NDJSON { 200 } else { 400 };
        assert_eq!(answer.status, status, "{path:.40}");
        // The detail is escaped, with up to six bytes for one.
        let length = answer.body.len();
        assert!((1_000..7_000).contains(&length), "{path:.40}: {length}");
    }
    appends(&node, "after").await;
}

/// A valid event with one field replaced, or removed if `value` is null.
fn but(field: &str, value: Value) -> Value {
    let mut event = json!({ "id": "refused", "kind": "visit", "feeds": [UNTOUCHED], "data": 1,
                            "actor": "x", "expect": { "feed": UNTOUCHED, "version": null } });
    match (&value, event.as_object_mut()) {
        (Value::Null, Some(fields)) => {
            fields.remove(field);
        }
        _ => event[field] = value,
    }
    event
}

/// Bodies that are not JSON.
const NO_JSON: [&[u8]; 14] = [
    b"",
    b" \n ",
    b"{",
    b"[",
    b"nul",
    b"{'kind':'visit'}",
    br#"{"kind":"visit","feeds":["untouched"]}{}"#,
    br#"{"kind":"visit","feeds":["untouched"]} ,"#,
    br#"[{"kind":"visit","feeds":["untouched"]},]"#,
    br#"{"kind":"visit","feeds":["untouched"],"data":01}"#,
    br#"{"kind":"visit","feeds":["untouched"],"data":NaN}"#,
    b"{\"kind\":\"visit\",\"feeds\":[\"untouched\"],\"data\":\"\xff\"}",
    b"{\"kind\":\"visit\",\"feeds\":[\"untouched\"],\"data\":\"\n\"}",
    b"\xef\xbb\xbf{\"kind\":\"visit\",\"feeds\":[\"untouched\"]}",
];

/// Invalid events, and the field that is named as wrong; null if none is.
fn invalid_events() -> Vec<(String, Value)> {
    let long = "n".repeat(256);
    let whole = json!(null);
    let mut cases: Vec<(String, Value)> = vec![
        // Wrong JSON types, unknown fields, repeated fields.
        (but("kind", json!(5)).to_string(), whole.clone()),
        (but("kind", whole.clone()).to_string(), whole.clone()),
        (but("feeds", json!(UNTOUCHED)).to_string(), whole.clone()),
        (
            but("feeds", json!([UNTOUCHED, 1])).to_string(),
            whole.clone(),
        ),
        (but("feeds", json!({})).to_string(), whole.clone()),
        (but("feeds", whole.clone()).to_string(), whole.clone()),
        (but("id", json!(5)).to_string(), whole.clone()),
        (but("id", json!(["x"])).to_string(), whole.clone()),
        (but("actor", json!({})).to_string(), whole.clone()),
        (but("expect", json!("0")).to_string(), json!("expect")),
        (
            but("expect", json!([UNTOUCHED, null])).to_string(),
            json!("expect"),
        ),
        (
            but("expect", json!({ "feed": UNTOUCHED })).to_string(),
            json!("expect"),
        ),
        (
            but("expect", json!({ "version": null })).to_string(),
            json!("expect"),
        ),
        (
            but("expect", json!({ "feed": UNTOUCHED, "version": 5 })).to_string(),
            json!("expect"),
        ),
        (
            but(
                "expect",
                json!({ "feed": UNTOUCHED, "version": null, "x": 1 }),
            )
            .to_string(),
            json!("expect"),
        ),
        (but("extra", json!(1)).to_string(), whole.clone()),
        (but("Kind", json!("visit")).to_string(), whole.clone()),
        (but("version", json!("0")).to_string(), whole.clone()),
        (
            r#"{"kind":"visit","kind":"visit","feeds":["untouched"]}"#.into(),
            whole.clone(),
        ),
        (
            r#"{"kind":"visit","feeds":["untouched"],"data":1,"data":1}"#.into(),
            whole.clone(),
        ),
        (
            r#"{"kind":"visit","feeds":["untouched"],"feeds":["untouched"]}"#.into(),
            whole.clone(),
        ),
        (
            r#"{"id":null,"id":"x","kind":"visit","feeds":["untouched"]}"#.into(),
            whole.clone(),
        ),
        // Lists of feeds.
        (but("feeds", json!([])).to_string(), json!("feeds")),
        (
            but("feeds", (0..101).map(|i| format!("f{i}")).collect()).to_string(),
            json!("feeds"),
        ),
        // Versions.
        (
            but("data", json!("d"))
                .to_string()
                .replace(r#""d""#, r#""\ud800""#),
            json!("data"),
        ),
    ];
    for version in [
        "",
        "x",
        "00",
        &UNKNOWN[1..],
        &format!("{UNKNOWN}0"),
        &UNKNOWN.to_uppercase(),
        &UNKNOWN.replace('s', "t"),
        &UNKNOWN.replace('s', "w"),
    ] {
        let expect = json!({ "feed": UNTOUCHED, "version": version });
        cases.push((but("expect", expect).to_string(), json!("expect.version")));
    }
    // Names.
    for name in [
        "",
        ".",
        "..",
        " a",
        "a ",
        "a\u{3000}",
        "a*",
        "a\u{0}",
        "a\n",
        "a\u{2028}",
        "a\u{202e}",
        "a\u{308}",
        &long,
    ] {
        for (field, value) in [
            ("kind", json!(name)),
            ("actor", json!(name)),
            ("feeds[1]", json!([UNTOUCHED, name])),
            ("expect.feed", json!({ "feed": name, "version": null })),
        ] {
            let key = field.split(['[', '.']).next().expect("a key");
            cases.push((but(key, value).to_string(), json!(field)));
        }
    }
    for id in [
        "", "a\tb", "a\n", "\u{0}", "\u{7f}", "\u{85}", "\u{2029}", "a\u{308}", &long,
    ] {
        cases.push((but("id", json!(id)).to_string(), json!("id")));
    }
    cases
}

async fn an_invalid_event_is_refused_with_the_reason(bed: &Bed) {
    let node = bed.node().await;
    let post = |code, body: &[u8]| Case::body(400, code, "POST", "/v1/events", &[JSON], body);
    let mut cases: Vec<Case> = NO_JSON
        .iter()
        .map(|body| post("invalid_json", body))
        .collect();
    for body in ["[]", " [ ] ", "null", "true", "5", r#""visit""#] {
        cases.push(post("invalid_body", body.as_bytes()));
    }
    for (event, field) in invalid_events() {
        let with = json!({ "index": 0, "field": field });
        cases.push(post("invalid_event", event.as_bytes()).with(with));
    }
    for event in [
        "1",
        "null",
        r#""x""#,
        "[]",
        r#"["refused","visit",["untouched"],null,null,null]"#,
    ] {
        let array = format!("[{event}]");
        let with = json!({ "index": 0, "field": null });
        cases.push(post("invalid_event", array.as_bytes()).with(with));
    }
    let typing = but("kind", json!("typing")).to_string();
    cases.push(post("kind_transient", typing.as_bytes()).with(json!({ "index": 0 })));
    refused(&node, cases).await;
    appends(&node, "refused").await;
}

async fn one_invalid_event_refuses_its_whole_array_and_is_named(bed: &Bed) {
    let node = bed.node().await;
    let good = |index: usize| json!({ "id": format!("good{index}"), "kind": "message", "feeds": [UNTOUCHED] });
    let mut cases = Vec::new();
    let bad = [
        (
            but("feeds", json!([UNTOUCHED, "a*"])),
            "invalid_event",
            json!("feeds[1]"),
        ),
        (but("extra", json!(1)), "invalid_event", json!(null)),
        (json!(7), "invalid_event", json!(null)),
        (but("kind", json!("typing")), "kind_transient", json!(null)),
    ];
    for (bad, code, field) in bad {
        for place in [0, 2, 4] {
            let mut events: Vec<Value> = (0..5).map(good).collect();
            events[place] = bad.clone();
            let body = json!(events).to_string();
            let case = Case::body(400, code, "POST", "/v1/events", &[JSON], body.as_bytes());
            cases.push(case.with(json!({ "index": place, "field": field })));
        }
    }
    refused(&node, cases).await;
    appends(&node, "good0").await;
}

async fn an_invalid_transient_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let typing = |field: &str, value: Value| {
        let mut signal = but("kind", json!("typing"));
        signal.as_object_mut().expect("an object").remove("expect");
        signal[field] = value;
        signal.to_string()
    };
    let post = |code, body: &[u8]| Case::body(400, code, "POST", "/v1/transient", &[JSON], body);
    let mut cases: Vec<Case> = NO_JSON
        .iter()
        .map(|body| post("invalid_json", body))
        .collect();
    for (body, field) in [
        ("5".into(), json!(null)),
        ("[]".into(), json!(null)),
        (
            r#"["x","typing",["untouched"],null,null]"#.into(),
            json!(null),
        ),
        (format!("[{}]", typing("id", json!("x"))), json!(null)),
        (typing("extra", json!(1)), json!(null)),
        (typing("kind", json!(5)), json!(null)),
        (
            typing("expect", json!({ "feed": UNTOUCHED, "version": null })),
            json!("expect"),
        ),
        (typing("feeds", json!([])), json!("feeds")),
        (typing("feeds", json!(["a "])), json!("feeds[0]")),
        (typing("actor", json!("")), json!("actor")),
        (typing("id", json!("")), json!("id")),
        (typing("data", json!("x".repeat(64 * 1024))), json!("data")),
    ] {
        cases.push(post("invalid_event", body.as_bytes()).with(json!({ "field": field })));
    }
    for kind in ["visit", "message", "unheard-of"] {
        cases.push(post(
            "kind_not_transient",
            typing("kind", json!(kind)).as_bytes(),
        ));
    }
    refused(&node, cases).await;
    let (status, _) = node
        .post(
            "/v1/transient",
            &json!({ "kind": "typing", "feeds": ["a"] }),
        )
        .await;
    assert_eq!(status, 202);
}

async fn an_invalid_marker_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let path = format!("/v1/feeds/{UNTOUCHED}/markers/read");
    let put = |code, body: &[u8]| Case::body(400, code, "PUT", &path, &[JSON], body);
    let mut cases: Vec<Case> = NO_JSON
        .iter()
        .map(|body| put("invalid_json", body))
        .collect();
    for body in [
        "{}",
        "[]",
        "5",
        "null",
        r#""0""#,
        r#"["0"]"#,
        r#"{"version":5}"#,
        r#"{"version":null}"#,
        r#"{"version":"0","version":"0"}"#,
        r#"{"version":"0","x":1}"#,
        r#"{"Version":"0"}"#,
    ] {
        cases.push(put("invalid_body", body.as_bytes()));
    }
    for version in [
        "",
        "x",
        "00",
        &UNKNOWN[1..],
        &format!("{UNKNOWN}0"),
        &UNKNOWN.to_uppercase(),
        " 0",
    ] {
        let body = json!({ "version": version }).to_string();
        cases.push(put("invalid_version", body.as_bytes()));
    }
    let far = json!({ "version": ahead(&node.version(UNTOUCHED).await) }).to_string();
    cases.push(put("version_ahead", far.as_bytes()));
    for marker in ["other", "Read", "read/", "", "%72ead%20"] {
        let path = format!("/v1/feeds/{UNTOUCHED}/markers/{marker}");
        let body = br#"{"version":"0"}"#;
        cases.push(Case::body(404, "not_found", "PUT", &path, &[JSON], body));
    }
    refused(&node, cases).await;
    let head = node.get(&format!("/v1/feeds/{UNTOUCHED}")).await;
    assert_eq!(
        head["markers"],
        json!({ "read": null, "seen": null, "archived": null })
    );
    // The answer to a version ahead, or of another store, has the current version.
    for (version, status, code) in [
        (&*ahead(&node.version("a").await), 400, "version_ahead"),
        (UNKNOWN, 410, "cursor_unknown"),
    ] {
        let body = json!({ "version": version }).to_string();
        let answer = node.send_body("PUT", &path, &[JSON], body).await;
        let now = text(&answer.problem(status, code).expect("refused")["version"]);
        assert!(text(&head["version"]) <= now && now <= node.version("a").await);
    }
}

async fn an_unsupported_content_type_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let event = but("expect", json!(null)).to_string();
    let signal = json!({ "kind": "typing", "feeds": [UNTOUCHED] }).to_string();
    let marker = r#"{"version":"0"}"#.to_owned();
    let marker_path = format!("/v1/feeds/{UNTOUCHED}/markers/read");
    let mut cases = Vec::new();
    for (method, path, body) in [
        ("POST", "/v1/events", event),
        ("POST", "/v1/transient", signal),
        ("PUT", &marker_path, marker),
    ] {
        let mut types = vec![
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "json",
            "",
            "application/json-patch+json",
            "multipart/form-data; boundary=application/json",
            "\"",
        ];
        if path != "/v1/events" {
            types.push(NDJSON.1);
        }
        let refuse = |headers: &[(&str, &str)]| {
            Case::body(
                415,
                "unsupported_media_type",
                method,
                path,
                headers,
                body.as_bytes(),
            )
        };
        cases.push(refuse(&[]));
        cases.extend(
            types
                .into_iter()
                .map(|media| refuse(&[("content-type", media)])),
        );
    }
    refused(&node, cases).await;
    for media in [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
    ] {
        let body = json!({ "kind": "visit", "feeds": ["a"] }).to_string();
        let headers = [("content-type", media)];
        assert_eq!(
            node.send_body("POST", "/v1/events", &headers, body)
                .await
                .status,
            200
        );
    }
}
