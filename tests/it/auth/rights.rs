//! The right that each operation requires.

use std::collections::BTreeSet;

use newsfeed::{
    auth::Scope,
    http::{OPERATIONS, Right},
};
use serde_json::{Value, json};

use super::{Signer, Site, ask, bearer, claims};
use crate::support::bed::{Answer, Served, text};

/// Sends a valid request, with this token or none. `entry` is the version of an entry.
async fn call(
    node: &Served,
    (method, path): (&str, &str),
    entry: &str,
    token: Option<&str>,
) -> Answer {
    let body = match (method, path) {
        ("POST", "/v1/events") => json!({ "kind": "visit", "feeds": ["a"] }),
        ("POST", "/v1/transient") => json!({ "kind": "typing", "feeds": ["a"] }),
        ("POST", "/v1/admin/backup") => json!({}),
        ("POST", "/v1/erasures") => json!({ "feed": "a", "everywhere": false }),
        ("PATCH", _) => json!({ "data": 1 }),
        ("PUT", "/v1/admin/log") => json!({ "filter": "info" }),
        ("PUT", _) if path.ends_with("/state") => json!({ "read": true }),
        ("PUT", _) => json!({ "version": "0" }),
        ("POST", "/v1/tickets" | "/v1/feeds" | "/v1/state/live") => json!({ "feeds": ["a"] }),
        _ => Value::Null,
    };
    let query = match path {
        "/v1/entries" | "/v1/live" | "/v1/state" | "/v1/readers" => "?feed=a",
        "/v1/markers/{marker}" | "/v1/entries/{version}/state" => "?feed=a",
        "/v1/state/live" if method == "GET" => "?feed=a",
        "/v1/versions" => "?at=2025-01-01T00:00:00Z",
        "/v1/feeds" if method == "GET" => "?feed=a",
        "/v1/events" if method == "DELETE" => "?id=e1",
        "/v1/events" if method != "POST" => "?id=e",
        _ => "",
    };
    let url = path
        .replace("{feed}", "a")
        .replace("{marker}", "read")
        .replace("{version}", entry);
    // What is erased is gone for the other requests.
    let id = if method == "DELETE" { "e2" } else { "e" };
    let url = url.replace("{id}", id) + query;
    let token = token.map(bearer);
    let headers: Vec<_> = token
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    // Only the head of a stream is read: a stream does not end.
    if path.ends_with("/live") {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = node.http.request(method, node.url(&url));
        if !body.is_null() {
            request = request.json(&body);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = match status {
            200 => Default::default(),
            _ => response.bytes().await.expect("a body"),
        };
        return Answer {
            status,
            headers,
            body,
        };
    }
    let body = (!body.is_null()).then_some(&body);
    ask(node, method, &url, &headers, body).await
}

#[tokio::test]
async fn every_route_requires_its_scope_and_feed() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = |scope: &str, feeds: &[&str]| Signer::hs256().sign(&claims(scope, feeds));
    let event = ["e", "e1", "e2"].map(|id| json!({ "id": id, "kind": "visit", "feeds": ["a"] }));
    let event = json!(event);
    let (name, value) = bearer(&token("append", &["a"]));
    let appended = ask(&node, "POST", "/v1/events", &[(name, &value)], Some(&event)).await;
    assert_eq!(appended.status, 200);
    let entry = text(&appended.json()[0]["version"]);
    for operation in OPERATIONS {
        let (method, path) = (operation.method.as_str(), operation.path);
        let what = format!("{method} {path}");
        let anonymous = call(&node, (method, path), &entry, None).await;
        if operation.right == Right::Open {
            assert!(
                (200..300).contains(&anonymous.status),
                "{what}: {}",
                anonymous.status
            );
            continue;
        }
        anonymous.problem(401, "credentials_missing").expect(&what);
        for scope in Scope::ALL {
            let answer = call(
                &node,
                (method, path),
                &entry,
                Some(&token(scope.name(), &["a"])),
            )
            .await;
            match operation.right.scopes() {
                [needed, others @ ..] if *needed != scope && !others.contains(&scope) => {
                    let problem = answer.problem(403, "scope_missing").expect(&what);
                    assert_eq!(problem["scope"], needed.name(), "{what}");
                }
                // An erasure of the feed has come first.
                _ if path.ends_with("/{version}/state") => {
                    answer.problem(404, "entry_not_found").expect(&what);
                }
                // It grants asking for an erasure, and there is none.
                _ if path == "/v1/erasures/{id}" => {
                    answer.problem(404, "erasure_not_found").expect(&what);
                }
                _ => assert!(
                    (200..300).contains(&answer.status),
                    "{what}: {}",
                    answer.status
                ),
            }
        }
        let [scope @ (Scope::Read | Scope::Append | Scope::Mark)] = operation.right.scopes() else {
            continue;
        };
        let elsewhere = call(
            &node,
            (method, path),
            &entry,
            Some(&token(scope.name(), &["aa", "b*"])),
        )
        .await;
        if path.starts_with("/v1/events") && method == "GET" {
            // Whether the event exists is not told.
            elsewhere.problem(404, "event_not_found").expect(&what);
            continue;
        }
        let problem = elsewhere.problem(403, "feed_forbidden").expect(&what);
        assert_eq!(problem["feed"], "a", "{what}");
    }
}

/// A token for Prometheus must not be able to change what is logged, or to read feeds.
#[tokio::test]
async fn the_scope_metrics_grants_the_metrics_and_nothing_else() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = Signer::hs256().sign(&claims("metrics", &["*"]));
    let allowed: Vec<_> = OPERATIONS
        .iter()
        .filter(|operation| operation.right.scopes().contains(&Scope::Metrics))
        .map(|operation| (operation.method.as_str(), operation.path))
        .collect();
    assert_eq!(allowed, [("GET", "/metrics")]);
    for operation in OPERATIONS {
        let (method, path) = (operation.method.as_str(), operation.path);
        let refused = !operation.right.scopes().is_empty() && path != "/metrics";
        let answer = call(&node, (method, path), "0", Some(&token)).await;
        assert_eq!(answer.status == 403, refused, "{method} {path}");
    }
}

/// axum answers HEAD with the handler of GET; no other method may reach a handler without being in the table.
#[tokio::test]
async fn no_method_bypasses_the_table() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let paths: BTreeSet<_> = OPERATIONS.iter().map(|operation| operation.path).collect();
    for path in paths {
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY",
        ] {
            let name = if method == "HEAD" { "GET" } else { method };
            let decided = OPERATIONS
                .iter()
                .find(|operation| operation.path == path && operation.method == name);
            let url = path
                .replace("{feed}", "a")
                .replace("{marker}", "read")
                .replace("{version}", "0");
            let url = url.replace("{id}", "e");
            let status = ask(&node, method, &url, &[], None).await.status;
            match decided.map(|operation| operation.right) {
                None => assert_eq!(status, 405, "{method} {path}"),
                Some(Right::Open) => assert!(status < 300, "{method} {path}"),
                Some(_) => assert_eq!(status, 401, "{method} {path}"),
            }
        }
    }
    assert_eq!(
        ask(&node, "GET", "/v1/nothing", &[], None).await.status,
        404
    );
}

#[tokio::test]
async fn all_feeds_of_a_merged_request_must_be_granted() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = Signer::hs256().sign(&claims("read", &["chat:*", "user:42"]));
    let (name, value) = bearer(&token);
    for (path, forbidden) in [
        ("/v1/entries?feed=chat:1&feed=user:42", None),
        (
            "/v1/entries?feed=chat:1&feed=user:43&feed=user:44",
            Some("user:43"),
        ),
        ("/v1/entries?feed=user:421", Some("user:421")),
        ("/v1/entries?feed=chat", Some("chat")),
        ("/v1/live?feed=user:42&feed=x", Some("x")),
        ("/v1/feeds/user:4%32", None),
        ("/v1/feeds/user:4%33", Some("user:43")),
        ("/v1/entries?feed=chat:1&feed=user:4%33", Some("user:43")),
    ] {
        let answer = ask(&node, "GET", path, &[(name, &value)], None).await;
        match forbidden {
            None => assert_eq!(answer.status, 200, "{path}"),
            Some(feed) => {
                let problem = answer.problem(403, "feed_forbidden").expect(path);
                assert_eq!(problem["feed"], feed, "{path}");
            }
        }
    }
}

/// A back end may append to all feeds without the right to read them.
#[tokio::test]
async fn feeds_can_be_granted_for_each_scope() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let mut claims = claims("read append mark", &[]);
    claims["feeds"] = json!({ "read": ["r", "all:*"], "append": ["p", "all:*"] });
    let (name, value) = bearer(&Signer::hs256().sign(&claims));
    let headers = [(name, value.as_str())];
    let mark = json!({ "version": "0" });
    for (feed, read, append, marked) in [
        ("r", 200, 403, 403),
        ("p", 403, 200, 403),
        ("all:1", 200, 200, 403),
        ("other", 403, 403, 403),
    ] {
        let event = json!({ "kind": "visit", "feeds": [feed] });
        for (method, path, body, status) in [
            ("GET", format!("/v1/feeds/{feed}"), None, read),
            ("GET", format!("/v1/entries?feed={feed}"), None, read),
            ("GET", format!("/v1/state?feed={feed}"), None, read),
            (
                "POST",
                "/v1/tickets".to_owned(),
                Some(&json!({ "feeds": [feed] })),
                read,
            ),
            ("POST", "/v1/events".to_owned(), Some(&event), append),
            (
                "PUT",
                format!("/v1/feeds/{feed}/markers/read"),
                Some(&mark),
                marked,
            ),
            (
                "PUT",
                format!("/v1/markers/read?feed={feed}"),
                Some(&mark),
                marked,
            ),
        ] {
            let answer = ask(&node, method, &path, &headers, body).await;
            assert_eq!(answer.status, status, "{method} {path} {body:?}");
        }
    }
    claims["feeds"] = json!({ "reed": ["r"] });
    let (name, value) = bearer(&Signer::hs256().sign(&claims));
    let answer = ask(&node, "GET", "/v1/feeds/r", &[(name, value.as_str())], None).await;
    answer
        .problem(401, "token_malformed")
        .or_else(|_| answer.problem(401, "token_claims"))
        .expect("refused");
}

/// An exporter sees of the log what its token's feeds are about: no other events, and no other feeds of an event.
#[tokio::test]
async fn the_log_shows_only_the_feeds_that_the_token_may_read() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let append = Signer::hs256().sign(&claims("append", &["*"]));
    let headers = [("authorization", bearer(&append).1)];
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let events = json!([
        { "id": "both", "kind": "visit", "feeds": ["user:1", "chat:1", "chat:2"] },
        { "id": "user", "kind": "visit", "feeds": ["user:1"] },
        { "id": "chat", "kind": "visit", "feeds": ["chat:1"] },
    ]);
    let appended = ask(&node, "POST", "/v1/events", &headers, Some(&events)).await;
    assert_eq!(appended.status, 200);
    let mut by_scope = claims("export", &[]);
    by_scope["feeds"] = json!({ "read": ["user:*"], "append": ["*"] });
    let mut without = claims("export", &[]);
    without.as_object_mut().expect("claims").remove("feeds");
    for (claims, expected) in [
        (
            claims("export", &["chat:*"]),
            json!([["both", ["chat:1", "chat:2"]], ["chat", ["chat:1"]]]),
        ),
        (
            by_scope,
            json!([["both", ["user:1"]], ["user", ["user:1"]]]),
        ),
        (claims("export", &[]), json!([])),
        (
            without,
            json!([
                ["both", ["user:1", "chat:1", "chat:2"]],
                ["user", ["user:1"]],
                ["chat", ["chat:1"]]
            ]),
        ),
    ] {
        let token = bearer(&Signer::hs256().sign(&claims)).1;
        let headers = [("authorization", token.as_str())];
        let page = ask(&node, "GET", "/v1/log?after=0", &headers, None)
            .await
            .json();
        let shown = page["events"].as_array().expect("events").iter();
        let shown: Value = shown.map(|it| json!([it["id"], it["feeds"]])).collect();
        assert_eq!(shown, expected, "{claims}");
        // What the token may not read finds nothing either.
        let found = ask(&node, "GET", "/v1/log?after=0&feed=chat:*", &headers, None)
            .await
            .json();
        let may = expected.to_string().contains("chat:");
        assert_eq!(
            !found["events"].as_array().expect("events").is_empty(),
            may,
            "{claims}"
        );
    }
}
