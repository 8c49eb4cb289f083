//! Paths, methods and query parameters.

use std::collections::BTreeMap;

use newsfeed::http::OPERATIONS;

use super::{Case, UNTOUCHED, appends, refused};
use crate::support::{
    bed::{Bed, JSON, text},
    entries::{UNKNOWN, ahead},
    raw,
};

crate::on_every_engine!(
    an_invalid_query_is_refused,
    a_version_ahead_and_one_of_another_store_are_refused_with_the_version_now,
    an_invalid_feed_name_is_refused_however_it_is_encoded,
    names_may_be_percent_encoded,
    unknown_paths_are_not_found,
    other_methods_are_answered_with_the_allowed_ones,
    head_answers_like_get_without_a_body,
);

/// `count` different feeds as query parameters.
fn feeds(count: usize) -> String {
    let names: Vec<_> = (0..count).map(|index| format!("feed=f{index}")).collect();
    names.join("&")
}

/// A path for each endpoint with pages; parameters can be appended.
const PAGES: [&str; 2] = [
    "/v1/feeds/untouched/entries?",
    "/v1/entries?feed=untouched&",
];
const STREAMS: [&str; 2] = ["/v1/feeds/untouched/live?", "/v1/live?feed=untouched&"];

async fn an_invalid_query_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let get = |code, path: String| Case::new(400, code, "GET", &path);
    let mut cases = Vec::new();
    for path in PAGES {
        for query in [
            "x=1",
            "Limit=5",
            "=",
            "=5",
            "limit",
            "%FF=1",
            "limit=5&x=",
            "limit=0",
            "limit=201",
            "limit=x",
            "limit=-1",
            "limit=1.5",
            "limit=",
            "limit=5&limit=5",
            "limit=99999999999999999999999",
            "limit=%205",
            "limit=0x10",
            "after=0&wait=61",
            "after=0&wait=-1",
            "after=0&wait=x",
            "after=0&wait=",
            "after=0&wait=1&wait=1",
            "wait=1",
            "until=0&wait=1",
            "before=0&wait=1",
            "after=0&until=0&wait=1",
            "after=0&before=0&wait=0",
            "after=0&before=0",
            "after=0&before=0&until=0",
            "after=0&after=0",
            "until=0&until=0",
            "before=0&before=0",
            "kind=",
            "kind=%20a",
            "kind=a*",
            "kind=Zoe%CC%88",
            "kind=%FF",
            "kind=.",
        ] {
            cases.push(get("invalid_query", format!("{path}{query}")));
        }
        for name in ["after", "until", "before"] {
            for version in [
                "",
                "x",
                "00",
                "-1",
                &UNKNOWN[1..],
                &UNKNOWN.to_uppercase(),
                "%FF",
            ] {
                cases.push(get("invalid_version", format!("{path}{name}={version}")));
            }
        }
    }
    for path in STREAMS {
        for query in [
            "x=1",
            "until=0",
            "limit=5",
            "wait=1",
            "kind=",
            "kind=a*",
            "after=0&after=0",
            "lastEventId=0&lastEventId=0",
            "lasteventid=0",
        ] {
            cases.push(get("invalid_query", format!("{path}{query}")));
        }
        for name in ["after", "lastEventId"] {
            for version in ["x", &UNKNOWN[1..], "%FF"] {
                cases.push(get("invalid_version", format!("{path}{name}={version}")));
            }
        }
        for last in ["x", &UNKNOWN[1..], "*", "0 0", "é"] {
            let headers = [("last-event-id", last)];
            let path = path.trim_end_matches(['?', '&']);
            cases.push(Case::body(
                400,
                "invalid_version",
                "GET",
                path,
                &headers,
                b"",
            ));
        }
    }
    for path in ["/v1/entries", "/v1/live"] {
        cases.push(get("invalid_query", path.into()));
        cases.push(get("invalid_query", format!("{path}?after=0")));
        cases.push(get("invalid_query", format!("{path}?{}", feeds(101))));
        for name in [
            "",
            "%20a",
            "a+",
            "%FF",
            ".",
            "..",
            "*",
            "a%0A",
            "Zoe%CC%88",
            &"n".repeat(256),
        ] {
            cases.push(get("invalid_feed", format!("{path}?feed=ok&feed={name}")));
        }
    }
    cases.push(get("invalid_query", "/v1/feeds/untouched?limit=5".into()));
    cases.push(get(
        "invalid_query",
        "/v1/feeds/untouched/entries?feed=a".into(),
    ));
    cases.push(get(
        "invalid_query",
        "/v1/feeds/untouched/live?feed=a".into(),
    ));
    let event = br#"{"kind":"visit","feeds":["untouched"]}"#;
    let signal = br#"{"kind":"typing","feeds":["untouched"]}"#;
    let marker = br#"{"version":"0"}"#;
    for (method, path, body) in [
        ("POST", "/v1/events?x=1", &event[..]),
        ("POST", "/v1/transient?feed=a", signal),
        ("PUT", "/v1/feeds/untouched/markers/read?version=0", marker),
    ] {
        cases.push(Case::body(
            400,
            "invalid_query",
            method,
            path,
            &[JSON],
            body,
        ));
    }
    refused(&node, cases).await;
}

async fn a_version_ahead_and_one_of_another_store_are_refused_with_the_version_now(bed: &Bed) {
    let node = bed.node().await;
    for path in PAGES {
        for query in [
            "after=V",
            "until=V",
            "before=V",
            "after=0&until=V",
            "after=V&wait=60",
            "until=0&before=V",
        ] {
            let before = node.version("a").await;
            for (version, status, code) in [
                (&*ahead(&before), 400, "version_ahead"),
                (UNKNOWN, 410, "cursor_unknown"),
            ] {
                let path = format!("{path}{}", query.replace('V', version));
                let answer = node.send("GET", &path, &[]).await;
                let problem = answer.problem(status, code).expect(&path);
                let now = text(&problem["version"]);
                assert!(before <= now && now <= node.version("a").await);
            }
        }
    }
}

async fn an_invalid_feed_name_is_refused_however_it_is_encoded(bed: &Bed) {
    let node = bed.node().await;
    let long = "n".repeat(256);
    let mut cases = Vec::new();
    for name in [
        &*long,
        "",
        "%20a",
        "a%20",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%FF",
        "%C3%28",
        "%E4",
        "%00",
        "%0A",
        "%E2%80%A8",
        "%E2%80%AE",
        "%EF%BB%BF",
        "e%CC%81",
        "*",
        "a*",
        "%2A",
    ] {
        for (method, tail) in [
            ("GET", ""),
            ("GET", "/entries"),
            ("GET", "/live"),
            ("PUT", "/markers/read"),
        ] {
            if name.is_empty() && tail.is_empty() {
                continue;
            }
            let path = format!("/v1/feeds/{name}{tail}");
            let body = br#"{"version":"0"}"#;
            cases.push(Case::body(
                400,
                "invalid_feed",
                method,
                &path,
                &[JSON],
                &body[..if method == "GET" { 0 } else { body.len() }],
            ));
        }
    }
    refused(&node, cases).await;
}

async fn names_may_be_percent_encoded(bed: &Bed) {
    let node = bed.node().await;
    let name = "Az09._~:@-";
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let event = serde_json::json!({ "id": "e", "kind": "visit", "feeds": [name] });
    node.append(&event).await;
    for name in [name, &encoded, &encoded.to_uppercase()] {
        for path in [
            format!("/v1/feeds/{name}/entries"),
            format!("/v1/entries?feed={name}"),
        ] {
            let request = raw::request("GET", &path, &[], b"");
            let answer = raw::exchange(node.address, &request).await;
            assert_eq!(
                (answer.status, &answer.json()["entries"][0]["id"]),
                (200, &"e".into()),
                "{path}"
            );
        }
    }
    let longest = "n".repeat(255);
    assert_eq!(
        node.get(&format!("/v1/feeds/{longest}")).await["feed"],
        longest
    );
}

async fn unknown_paths_are_not_found(bed: &Bed) {
    let node = bed.node().await;
    let mut cases = Vec::new();
    for path in [
        "/ui",
        "/ui/",
        "/index.html",
        "/v1",
        "/v1/",
        "/v1/feeds/",
        "/v1/feeds/a/",
        "/v1/feeds/a/b",
        "/v1/feeds/a/entries/",
        "/v1/feeds/a/markers",
        "/v1/events/",
        "/v2/events",
        "//healthz",
        "/healthz/",
        "/openapi.json",
        "/index.html",
        "/%ff",
        "/v1/events%20",
        "/V1/events",
        "/.",
        "/../etc/passwd",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            cases.push(Case::new(404, "not_found", method, path));
        }
    }
    refused(&node, cases).await;
    appends(&node, "after").await;
}

async fn other_methods_are_answered_with_the_allowed_ones(bed: &Bed) {
    let node = bed.node().await;
    let mut methods: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for operation in OPERATIONS {
        let of_path = methods.entry(operation.path).or_default();
        of_path.push(operation.method.to_string());
    }
    for (path, mut allowed) in methods {
        let path = path
            .replace("{feed}", UNTOUCHED)
            .replace("{marker}", "read")
            .replace("{id}", "e");
        if allowed.contains(&"GET".to_owned()) {
            allowed.push("HEAD".to_owned());
        }
        allowed.sort();
        for method in [
            "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND",
        ] {
            if allowed.contains(&method.to_owned()) {
                continue;
            }
            let request = raw::request(method, &path, &[], b"");
            let answer = raw::exchange(node.address, &request).await;
            if method != "HEAD" {
                answer.problem(405, "method_not_allowed").expect(&path);
            }
            assert_eq!(answer.status, 405);
            let mut told: Vec<_> = answer
                .header("allow")
                .expect("Allow")
                .split(',')
                .map(str::trim)
                .collect();
            told.sort();
            assert_eq!(told, allowed, "{method} {path}");
        }
    }
}

async fn head_answers_like_get_without_a_body(bed: &Bed) {
    let node = bed.node().await;
    appends(&node, "e").await;
    let (_, erasure) = node
        .post("/v1/erasures", &serde_json::json!({ "feed": "nobody" }))
        .await;
    let erasure = erasure["id"].as_str().expect("an id");
    for operation in OPERATIONS
        .iter()
        .filter(|operation| operation.method == "GET")
    {
        let path = operation.path.replace("{feed}", "goes-on");
        let path = path.replace("erasures/{id}", &format!("erasures/{erasure}"));
        let path = path.replace("{id}", "e");
        let path = if path == "/v1/events" {
            "/v1/events?id=e".to_owned()
        } else if path == "/v1/feeds" {
            // Its moment moves on.
            continue;
        } else if ["/entries", "/live", "/state", "/readers"]
            .iter()
            .any(|end| path.ends_with(end))
        {
            format!("{path}?feed=goes-on")
        } else {
            path
        };
        let path = if path.contains("goes-on/") {
            path.replace("?feed=goes-on", "")
        } else if path == "/v1/versions" {
            format!("{path}?at=2025-01-01T00:00:00Z")
        } else {
            path
        };
        let head = raw::exchange(node.address, &raw::request("HEAD", &path, &[], b"")).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        if path.contains("live") {
            assert_eq!(head.header("content-type"), Some("text/event-stream"));
            continue;
        }
        let get = raw::exchange(node.address, &raw::request("GET", &path, &[], b"")).await;
        for name in ["content-type", "cache-control", "etag", "content-length"] {
            // The metrics of the second request have the first in them.
            if (path.as_str(), name) != ("/metrics", "content-length") {
                assert_eq!(head.header(name), get.header(name), "{name} of {path}");
            }
        }
    }
    let missing = raw::exchange(node.address, &raw::request("HEAD", "/nothing", &[], b"")).await;
    assert_eq!((missing.status, missing.body.len()), (404, 0));
}
