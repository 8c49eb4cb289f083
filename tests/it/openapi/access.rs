//! Answers of a service with authentication, compared with `openapi.yaml`.

use std::collections::BTreeSet;

use newsfeed::http::{OPERATIONS, Right};
use serde_json::{Value, json};

use super::{
    answers::{Witness, filled},
    spec::Spec,
};
use crate::{
    auth::{Signer, Site, bearer, claims, master},
    support::{
        bed::{JSON, text},
        sse::Stream,
    },
};

#[test]
fn the_file_and_the_router_want_the_same_rights() {
    let spec = Spec::read();
    for (path, method, operation) in spec.operations() {
        let found = OPERATIONS.iter().find(|routed| {
            routed.path == path && routed.method.as_str().eq_ignore_ascii_case(method)
        });
        let right = found.expect("a route of the table").right;
        let ways = operation["security"].as_array();
        let ticket = ways.is_some_and(|ways| ways.iter().any(|way| way.get("ticket").is_some()));
        // Each way is an alternative, so one way for each scope of which one is needed.
        let scopes_of = |credential: &str| {
            let ways = ways.into_iter().flatten();
            let lists = ways.filter_map(|way| way.get(credential)?.as_array());
            let scopes = lists.map(|list| list.first().map(text).unwrap_or_default());
            scopes.collect::<Vec<_>>()
        };
        let needed: Vec<_> = match right {
            Right::Open => Vec::new(),
            Right::Token => vec![""],
            _ => right.scopes().iter().map(|scope| scope.name()).collect(),
        };
        assert_eq!(ticket, right.accepts_tickets(), "{method} {path}");
        assert_eq!(scopes_of("bearer"), needed, "{method} {path}");
        if right != Right::Token {
            assert_eq!(scopes_of("cookie"), needed, "{method} {path}");
        }
    }
}

pub async fn access(spec: &Spec, seen: &mut BTreeSet<(String, String, String)>) {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let mut witness = Witness {
        spec,
        node: &node,
        seen: std::mem::take(seen),
    };
    let master = master();
    let weak = Signer::hs256().sign(&claims("", &[]));
    let blind = Signer::hs256().sign(&claims("read append mark change", &["elsewhere"]));
    let (name, value) = bearer(&master);
    let known = r#"{"id":"m","kind":"visit","feeds":["a"]}"#;
    let headers = [JSON, (name, value.as_str())];
    let answer = node.send_body("POST", "/v1/events", &headers, known).await;
    assert_eq!(answer.status, 200);
    for (template, method, operation) in spec.operations() {
        let query = match template {
            "/v1/entries"
            | "/v1/entries/{version}/state"
            | "/v1/live"
            | "/v1/state"
            | "/v1/readers"
            | "/v1/markers/{marker}" => "?feed=a",
            "/v1/feeds" | "/v1/state/live" if method == "get" => "?feed=a",
            "/v1/events" if method != "post" => "?id=m",
            _ => "",
        };
        let path = filled(template) + query;
        let body = match template {
            "/v1/events" | "/v1/events/{id}" if method == "patch" => r#"{"data":1}"#,
            "/v1/events" => r#"{"kind":"visit","feeds":["a"]}"#,
            "/v1/erasures" => r#"{"feed":"a"}"#,
            "/v1/transient" => r#"{"kind":"typing","feeds":["a"]}"#,
            "/v1/tickets" | "/v1/feeds" | "/v1/state/live" => r#"{"feeds":["a"]}"#,
            "/v1/entries/{version}/state" | "/v1/feeds/{feed}/entries/{version}/state" => {
                r#"{"read":true}"#
            }
            _ => r#"{"version":"0"}"#,
        };
        let method = method.to_uppercase();
        // Exactly the operations with security document 401.
        let open = operation["security"]
            .as_array()
            .is_none_or(|ways| ways.is_empty());
        let documented = operation["responses"].get("401").is_some();
        assert_eq!(open, !documented, "{method} {template}");
        if open {
            let answer = witness.ask(&method, template, &path, &[], "").await;
            assert!(answer.status < 300, "{method} {template}");
            continue;
        }
        let answer = witness.ask(&method, template, &path, &[JSON], body).await;
        assert_eq!(answer.status, 401);
        if operation["responses"].get("403").is_none() {
            continue;
        }
        let cookie = format!("newsfeed_token={master}");
        for token in [&weak, &blind] {
            let (name, value) = bearer(token);
            let headers = [JSON, (name, value.as_str())];
            let answer = witness.ask(&method, template, &path, &headers, body).await;
            // Whether an event or an erasure exists is not told.
            let is_lookup = template.starts_with("/v1/events") && method != "POST";
            let is_lookup = is_lookup || template == "/v1/erasures/{id}";
            let status = if is_lookup && token == &blind {
                404
            } else {
                403
            };
            assert_eq!(answer.status, status, "{method} {template}");
        }
        if method != "GET" {
            let headers = [JSON, ("cookie", cookie.as_str())];
            let answer = witness.ask(&method, template, &path, &headers, body).await;
            assert_eq!(answer.status, 403, "{method} {template}");
        }
    }
    sessions_and_tickets(&mut witness, &master).await;
    lines(&mut witness, &blind).await;
    *seen = witness.seen;
    expires(spec).await;
}

async fn sessions_and_tickets(witness: &mut Witness<'_>, master: &str) {
    let (name, value) = bearer(master);
    let own = (name, value.as_str());
    let long: Vec<String> = (0..200).map(|index| format!("{index:0>25}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let (_, long) = bearer(&Signer::hs256().sign(&claims("read", &long)));
    for (path, status, headers, body) in [
        ("/v1/session", 200, &[own][..], ""),
        ("/v1/session?x=1", 400, &[own], ""),
        ("/v1/session", 400, &[(name, long.as_str())], ""),
        ("/v1/tickets", 200, &[own, JSON], r#"{"feeds":["a","b"]}"#),
        ("/v1/tickets?x=1", 400, &[own, JSON], r#"{"feeds":["a"]}"#),
        ("/v1/tickets", 400, &[own, JSON], "{"),
        ("/v1/tickets", 400, &[own, JSON], "{}"),
        ("/v1/tickets", 400, &[own, JSON], r#"{"feeds":[" a"]}"#),
        ("/v1/tickets", 415, &[own], "{}"),
        (
            "/v1/tickets",
            413,
            &[own, JSON],
            &" ".repeat(8 * 1024 * 1024 + 1),
        ),
    ] {
        let template = path.split('?').next().expect("a path");
        let answer = witness.ask("POST", template, path, headers, body).await;
        assert_eq!(answer.status, status, "{path}");
    }
    let answer = witness.ask("DELETE", "/v1/session", "/v1/session?x=1", &[], "");
    assert_eq!(answer.await.status, 400);
    let path = "/v1/feeds/a/live?ticket=x";
    let answer = witness.ask("GET", "/v1/feeds/{feed}/live", path, &[], "");
    assert_eq!(text(&answer.await.json()["code"]), "ticket_invalid");
}

async fn lines(witness: &mut Witness<'_>, blind: &str) {
    let (name, value) = bearer(blind);
    let headers = [
        (name, value.as_str()),
        ("content-type", "application/x-ndjson"),
    ];
    let line = r#"{"kind":"visit","feeds":["a"]}"#;
    let answer = witness.ask("POST", "/v1/events", "/v1/events", &headers, line);
    let line: Value = serde_json::from_slice(&answer.await.body).expect("JSON");
    assert_eq!(line["error"]["code"], "feed_forbidden");
}

/// A stream that ends when its token expires.
async fn expires(spec: &Spec) {
    let site = Site::at(newsfeed::clock::WallTime::manual(1_800_000_000_000_000));
    let node = site.node_with_secret().await;
    let claims = json!({ "scope": "read", "feeds": ["a"], "exp": 1_800_000_000 - 28 });
    let request = node.http.get(node.url("/v1/feeds/a/live"));
    let request = request.bearer_auth(Signer::hs256().sign(&claims));
    let answer = request.send().await.expect("an answer");
    let mut stream = Stream::over(answer.bytes_stream());
    let mut heard = String::new();
    while let Some(block) = stream.block().await {
        heard.push_str(&block);
        heard.push_str("\n\n");
    }
    let names = spec.check_stream(&heard).expect("a stream as documented");
    assert_eq!(names.last().map(String::as_str), Some("bye"));
}
