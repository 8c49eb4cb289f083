//! Who may edit and erase what, and what a refusal gives away.

use serde_json::{Value, json};

use super::{Signer, Site, ask, bearer, claims, master};
use crate::support::bed::{Answer, Served};

/// A token with these claims besides those it must have.
fn token(scope: &str, more: &Value) -> String {
    let mut claims = claims(scope, &[]);
    for (name, value) in more.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    Signer::hs256().sign(&claims)
}

async fn send(node: &Served, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let (name, value) = bearer(token);
    ask(node, method, path, &[(name, &value)], Some(body)).await
}

/// Events of x and y in the feeds a and b.
async fn fill(node: &Served, ids: &[&str]) {
    let events: Vec<Value> = ids
        .iter()
        .map(|id| {
            let actor = id.split('/').next().filter(|actor| *actor != "nobody");
            json!({ "id": id, "kind": "message", "feeds": ["a", "b"], "actor": actor })
        })
        .collect();
    let answer = send(node, &master(), "POST", "/v1/events", &json!(events)).await;
    assert_eq!(answer.status, 200);
}

/// What a token may do with the event `x/1`, which is in the feeds a and b: the same for every kind of change.
#[tokio::test]
async fn a_change_takes_all_feeds_of_the_event_or_its_actor() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    fill(&node, &["x/1", "nobody/1"]).await;
    let by_scope =
        |change: &[&str], read: &[&str]| json!({ "feeds": { "change": change, "read": read } });
    for (scope, more, expected) in [
        ("change", json!({ "feeds": ["a", "b"] }), Ok(())),
        ("change", json!({ "feeds": ["*"] }), Ok(())),
        ("change", by_scope(&["a", "b"], &[]), Ok(())),
        // Other scopes grant nothing here, not even that of an operator.
        (
            "read append mark export admin",
            json!({ "feeds": ["*"] }),
            Err((403, "scope_missing")),
        ),
        (
            "change read",
            by_scope(&[], &["*"]),
            Err((403, "feed_forbidden")),
        ),
        (
            "change read",
            by_scope(&["a"], &["b"]),
            Err((403, "feed_forbidden")),
        ),
        (
            "change read",
            json!({ "feeds": ["a"] }),
            Err((403, "feed_forbidden")),
        ),
        // Who may read none of the feeds is not told that there is an event.
        (
            "change",
            json!({ "feeds": ["a"] }),
            Err((404, "event_not_found")),
        ),
        (
            "change read",
            json!({ "feeds": ["c"] }),
            Err((404, "event_not_found")),
        ),
        (
            "change read",
            by_scope(&["a"], &["c"]),
            Err((404, "event_not_found")),
        ),
        // With actors, the feeds do not matter.
        ("change", json!({ "feeds": ["c"], "actors": ["x"] }), Ok(())),
        ("change", json!({ "actors": ["x*"] }), Ok(())),
        (
            "change read",
            json!({ "feeds": ["*"], "actors": ["y"] }),
            Err((403, "actor_forbidden")),
        ),
        (
            "change",
            json!({ "feeds": ["*"], "actors": ["y"] }),
            Err((404, "event_not_found")),
        ),
        (
            "change read",
            json!({ "feeds": ["*"], "actors": [] }),
            Err((403, "actor_forbidden")),
        ),
        // Neither kinds nor ids restrict a change: they are about what is appended.
        (
            "change",
            json!({ "feeds": ["*"], "kinds": [], "ids": [] }),
            Ok(()),
        ),
    ] {
        let token = token(scope, &more);
        for (method, path) in [
            ("PATCH", "/v1/events/x%2F1"),
            ("PATCH", "/v1/events?id=x/1"),
        ] {
            let answer = send(&node, &token, method, path, &json!({ "data": 1 })).await;
            match expected {
                Ok(()) => assert_eq!(answer.status, 200, "{more}"),
                Err((status, code)) => drop(answer.problem(status, code).expect(code)),
            }
        }
        if let Err((status, code)) = expected {
            let erasing = "/v1/events?id=x/1";
            let answer = send(&node, &token, "DELETE", erasing, &Value::Null).await;
            answer.problem(status, code).expect(code);
            // Of several events, those that nobody may know of are passed over.
            let answer = send(
                &node,
                &token,
                "POST",
                "/v1/erasures",
                &json!({ "events": ["x/1"] }),
            )
            .await;
            match status {
                404 => assert_eq!((answer.status, &answer.json()["erased"]), (200, &json!(0))),
                _ => drop(answer.problem(status, code).expect(code)),
            }
        }
    }
    // An event without an actor is nobody's.
    let own = token("change read", &json!({ "feeds": ["*"], "actors": ["*"] }));
    let path = "/v1/events/nobody%2F1";
    let answer = send(&node, &own, "PATCH", path, &json!({ "data": 1 })).await;
    answer.problem(403, "actor_forbidden").expect("no actor");
    // Everything is still there.
    let whole = token("read", &json!({ "feeds": ["*"] }));
    for id in ["x/1", "nobody/1"] {
        let path = format!("/v1/events?id={id}");
        assert_eq!(
            send(&node, &whole, "GET", &path, &Value::Null).await.status,
            200
        );
    }
}

/// Nothing is told about an id by a difference between one that is free and one that is not the caller's.
#[tokio::test]
async fn a_free_id_and_one_of_others_are_answered_alike() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    fill(&node, &["x/1", "y/1"]).await;
    let blind = token("change read", &json!({ "feeds": ["c"], "actors": ["y"] }));
    for (method, body) in [("PATCH", json!({ "data": 1 })), ("DELETE", Value::Null)] {
        let answers = ["x/1", "x/2"].map(|id| format!("/v1/events?id={id}"));
        let taken = send(&node, &blind, method, &answers[0], &body).await;
        let free = send(&node, &blind, method, &answers[1], &body).await;
        assert_eq!((taken.status, &taken.body), (404, &free.body), "{method}");
    }
    let count = async |ids: &[&str]| {
        let answer = send(
            &node,
            &blind,
            "POST",
            "/v1/erasures",
            &json!({ "events": ids }),
        )
        .await;
        answer.json()["erased"].clone()
    };
    assert_eq!(count(&["x/1"]).await, 0);
    assert_eq!(count(&["x/2"]).await, 0);
    assert_eq!(count(&["x/1", "y/1", "x/2"]).await, 1);
    let whole = token("read", &json!({ "feeds": ["*"] }));
    for (id, status) in [("x/1", 200), ("y/1", 404)] {
        let path = format!("/v1/events?id={id}");
        let answer = send(&node, &whole, "GET", &path, &Value::Null).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn erasures_of_feeds_and_actors_take_more() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let all = json!({ "feeds": ["*"] });
    let some = json!({ "feeds": ["a", "b"] });
    let own = json!({ "feeds": ["*"], "actors": ["x"] });
    for (what, more, expected) in [
        (json!({ "feed": "a" }), &all, None),
        (json!({ "feed": "a" }), &some, None),
        (json!({ "feed": "c" }), &some, Some("feed_forbidden")),
        (json!({ "feed": "a" }), &own, Some("actor_forbidden")),
        (json!({ "feed": "a", "everywhere": false }), &some, None),
        (json!({ "feed": "a", "everywhere": true }), &all, None),
        (
            json!({ "feed": "a", "everywhere": true }),
            &some,
            Some("feed_forbidden"),
        ),
        (
            json!({ "feed": "a", "everywhere": true }),
            &own,
            Some("actor_forbidden"),
        ),
        (json!({ "actor": "x" }), &all, None),
        (json!({ "actor": "x" }), &own, None),
        (json!({ "actor": "y" }), &own, Some("actor_forbidden")),
        (json!({ "actor": "x" }), &some, Some("feed_forbidden")),
    ] {
        for scope in ["change", "read append mark export admin"] {
            let token = token(scope, more);
            let answer = send(&node, &token, "POST", "/v1/erasures", &what).await;
            match (scope, expected) {
                ("change", None) => assert_eq!(answer.status, 200, "{what} {more}"),
                ("change", Some(code)) => drop(answer.problem(403, code).expect(code)),
                _ => drop(answer.problem(403, "scope_missing").expect("no scope")),
            }
        }
    }
    // Of several events, one that may be read but not changed stops all.
    fill(&node, &["x/1", "y/1"]).await;
    let own = token("change read", &json!({ "feeds": ["*"], "actors": ["x"] }));
    let both = json!({ "events": ["x/1", "y/1"] });
    let answer = send(&node, &own, "POST", "/v1/erasures", &both).await;
    answer
        .problem(403, "actor_forbidden")
        .expect("not one's own");
    let whole = token("read", &json!({ "feeds": ["*"] }));
    let found = send(&node, &whole, "GET", "/v1/events?id=x/1", &Value::Null).await;
    assert_eq!(found.status, 200);
}
