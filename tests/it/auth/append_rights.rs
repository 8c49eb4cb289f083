//! Appending: every feed of every event must be granted.

use std::num::NonZeroU32;

use newsfeed::http::limits::Limits;
use serde_json::{Value, json};

use super::{Signer, Site, ask, bearer, claims, master};
use crate::support::bed::Served;

async fn nothing_in(node: &Served, feeds: &[&str]) {
    let (name, value) = bearer(&master());
    for feed in feeds {
        let path = format!("/v1/feeds/{feed}");
        let head = ask(node, "GET", &path, &[(name, &value)], None)
            .await
            .json();
        assert_eq!(head["latest"], Value::Null, "{feed}");
    }
}

#[tokio::test]
async fn one_forbidden_feed_refuses_an_event_and_its_whole_array() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = Signer::hs256().sign(&claims("read append", &["a", "chat:*"]));
    let (name, value) = bearer(&token);
    let headers = [(name, value.as_str())];
    let good = json!({ "kind": "visit", "feeds": ["a", "chat:1"] });
    let bad = json!({ "kind": "visit", "feeds": ["a", "b"] });
    let expects =
        json!({ "kind": "visit", "feeds": ["a"], "expect": { "feed": "b", "version": null } });
    let invalid = json!({ "kind": "visit", "feeds": [] });
    for (body, index) in [
        (bad.clone(), 0),
        (expects.clone(), 0),
        (json!([good, bad]), 1),
        (json!([good, good, expects, invalid]), 2),
    ] {
        let answer = ask(&node, "POST", "/v1/events", &headers, Some(&body)).await;
        let problem = answer.problem(403, "feed_forbidden").expect("forbidden");
        assert_eq!(
            (&problem["feed"], &problem["index"]),
            (&json!("b"), &json!(index)),
            "{body}"
        );
    }
    let typing = json!({ "kind": "typing", "feeds": ["a", "b"] });
    let answer = ask(&node, "POST", "/v1/transient", &headers, Some(&typing)).await;
    answer.problem(403, "feed_forbidden").expect("forbidden");
    nothing_in(&node, &["a", "b", "chat:1"]).await;
    for body in [
        good.clone(),
        json!([good, { "kind": "visit", "feeds": ["a"], "expect": { "feed": "chat:2", "version": null } }]),
    ] {
        let answer = ask(&node, "POST", "/v1/events", &headers, Some(&body)).await;
        assert_eq!(answer.status, 200, "{body}");
    }
}

#[tokio::test]
async fn of_ndjson_lines_only_the_forbidden_ones_are_rejected() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = Signer::hs256().sign(&claims("append", &["a"]));
    let (name, value) = bearer(&token);
    let lines = [
        json!({ "id": "0", "kind": "visit", "feeds": ["a"] }),
        json!({ "id": "1", "kind": "visit", "feeds": ["a", "b"] }),
        json!({ "id": "2", "kind": "visit", "feeds": ["a"], "expect": { "feed": "b", "version": "0" } }),
        json!({ "id": "3", "kind": "visit", "feeds": ["a"] }),
    ];
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let headers = [
        (name, value.as_str()),
        ("content-type", "application/x-ndjson"),
    ];
    let answer = node.send_body("POST", "/v1/events", &headers, body).await;
    let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let results: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let rejected = |index: usize| {
        let result = &results[index];
        let error = &result["error"];
        assert_eq!(error["detail"].as_str().map(str::is_empty), Some(false));
        json!([
            result["index"],
            result["status"],
            error["code"],
            error["feed"]
        ])
    };
    assert_eq!(results.len(), 4, "{text}");
    assert_eq!(
        (&results[0]["status"], &results[3]["status"]),
        (&json!("appended"), &json!("appended"))
    );
    for index in [1, 2] {
        assert_eq!(
            rejected(index),
            json!([index, "rejected", "feed_forbidden", "b"])
        );
    }
    nothing_in(&node, &["b"]).await;
}

#[tokio::test]
async fn a_token_with_actors_appends_only_as_those_actors() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let with_actors = |actors: Value| {
        let mut claims = claims("append", &["a"]);
        // Null stands for a token without the claim. The claim itself must not be null.
        if !actors.is_null() {
            claims["actors"] = actors;
        }
        Signer::hs256().sign(&claims)
    };
    let visit = |actor: Option<&str>| {
        let mut event = json!({ "kind": "visit", "feeds": ["a"] });
        if let Some(actor) = actor {
            event["actor"] = json!(actor);
        }
        event
    };
    for (actors, actor, allowed) in [
        (Value::Null, Some("user:7"), true),
        (Value::Null, None, true),
        (json!(["user:42"]), Some("user:42"), true),
        (json!(["user:42"]), Some("user:4"), false),
        (json!(["user:42"]), Some("user:421"), false),
        (json!(["user:*"]), Some("user:7"), true),
        (json!(["user:*"]), Some("bot"), false),
        // An absent actor needs a token without `actors`: pages show such entries as the site's own.
        (json!(["*"]), None, false),
        (json!([]), Some("user:42"), false),
    ] {
        let (name, value) = bearer(&with_actors(actors.clone()));
        let headers = [(name, value.as_str())];
        for (path, kind) in [("/v1/events", "visit"), ("/v1/transient", "typing")] {
            let mut event = visit(actor);
            event["kind"] = json!(kind);
            let answer = ask(&node, "POST", path, &headers, Some(&event)).await;
            if allowed {
                assert!(answer.status < 300, "{actors} {actor:?}");
                continue;
            }
            let problem = answer.problem(403, "actor_forbidden").expect(path);
            assert_eq!(problem["actor"].as_str(), actor, "{actors}");
        }
    }
    let (name, value) = bearer(&with_actors(json!(["user:42"])));
    let headers = [(name, value.as_str())];
    let array = json!([visit(Some("user:42")), visit(Some("user:43"))]);
    let answer = ask(&node, "POST", "/v1/events", &headers, Some(&array)).await;
    let problem = answer.problem(403, "actor_forbidden").expect("forbidden");
    assert_eq!(problem["index"], 1);
    let wrong = with_actors(json!(["no name "]));
    let (name, value) = bearer(&wrong);
    let answer = ask(
        &node,
        "POST",
        "/v1/events",
        &[(name, value.as_str())],
        Some(&array),
    )
    .await;
    let problem = answer.problem(401, "token_claims").expect("refused");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("actors[0]"),
        "{problem}"
    );
}

/// The service of this test has no limits; a token brings its own.
#[tokio::test]
async fn a_token_may_lower_what_its_subject_appends_per_second() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let limited = |subject: &str, limits: Value| {
        let mut claims = claims("append", &["a"]);
        claims["sub"] = json!(subject);
        claims["limits"] = limits;
        bearer(&Signer::hs256().sign(&claims))
    };
    let post = async |(name, value): (&'static str, String), count: usize| {
        let visit = json!({ "kind": "visit", "feeds": ["a"] });
        let array = Value::from(vec![visit; count]);
        ask(&node, "POST", "/v1/events", &[(name, &value)], Some(&array)).await
    };
    for (subject, limits) in [
        ("events", json!({ "events_per_s": 1 })),
        (
            "bytes",
            json!({ "bytes_per_s": 100, "events_per_s": 1_000_000 }),
        ),
    ] {
        let first = post(limited(subject, limits.clone()), 10).await;
        assert_eq!(first.status, 200, "{subject}");
        let refused = post(limited(subject, limits), 1).await;
        refused.problem(429, "too_many_appends").expect(subject);
        let unlimited = post(limited("other", json!({})), 10).await;
        assert_eq!(unlimited.status, 200);
    }
    for invalid in [
        Value::Null,
        json!({ "events_per_s": null }),
        json!({ "events_per_s": 0 }),
        json!({ "events_per_second": 1 }),
        json!(5),
    ] {
        let refused = post(limited("events", invalid.clone()), 1).await;
        assert_eq!(refused.status, 401, "{invalid}");
    }
}

/// Requests from this machine without a token are not limited; those with a token are, also if it has no `sub`. They then
/// count by address.
#[tokio::test]
async fn a_token_without_sub_does_not_escape_the_limits() {
    let site = Site::new();
    let flags = site.secret_flags();
    let flags = flags.each_ref().map(String::as_str);
    let mut nobody = claims("append", &["a"]);
    nobody.as_object_mut().expect("an object").remove("sub");
    let mut limited = nobody.clone();
    limited["limits"] = json!({ "events_per_s": 1 });
    let one = || NonZeroU32::new(1);
    let of_events = Limits {
        events_per_s: one(),
        ..Limits::default()
    };
    for (limits, claims) in [(of_events, &nobody), (Limits::default(), &limited)] {
        let node = site.node_limited(&flags, limits).await;
        let (name, value) = bearer(&Signer::hs256().sign(claims));
        let post = async |count: usize| {
            let visit = json!({ "kind": "visit", "feeds": ["a"] });
            let array = Value::from(vec![visit; count]);
            ask(&node, "POST", "/v1/events", &[(name, &value)], Some(&array)).await
        };
        assert_eq!(post(600).await.status, 200);
        let refused = post(1).await;
        refused.problem(429, "too_many_appends").expect("a limit");
        node.stop().await;
        site.bed.close().await;
    }

    let of_requests = Limits {
        requests_per_s: one(),
        ..Limits::default()
    };
    let node = site.node_limited(&flags, of_requests).await;
    let (name, value) = bearer(&Signer::hs256().sign(&nobody));
    // Refused ones count, too.
    for (method, path) in [("POST", "/v1/tickets"), ("POST", "/v1/events")] {
        let mut sent = 0;
        let last = loop {
            let answer = ask(&node, method, path, &[(name, &value)], Some(&json!({}))).await;
            sent += 1;
            if answer.status == 429 || sent == 1_000 {
                break answer;
            }
        };
        last.problem(429, "too_many_requests").expect(path);
    }
    for _ in 0..10 {
        let answer = ask(&node, "GET", "/healthz", &[], None).await;
        assert_eq!(answer.status, 200, "without a token");
    }
    node.stop().await;
}
