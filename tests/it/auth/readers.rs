//! Which readers a token may act as, and the tickets that it gets.

use serde_json::{Value, json};

use super::{Signer, Site, ask, bearer, claims};
use crate::support::{
    bed::{Answer, Bed, Served, text},
    names::encoded,
};

/// The claims of `user:42`, with these instead of theirs. Null removes one.
fn with(replaced: Value) -> Value {
    let mut claims = claims("read", &["*"]);
    let all = claims.as_object_mut().expect("claims");
    for (name, value) in replaced.as_object().expect("claims") {
        match value {
            Value::Null => drop(all.remove(name)),
            _ => drop(all.insert(name.clone(), value.clone())),
        }
    }
    claims
}

async fn send(node: &Served, claims: &Value, method: &str, path: &str, body: &Value) -> Answer {
    let (name, value) = bearer(&Signer::hs256().sign(claims));
    let body = (!body.is_null()).then_some(body);
    ask(node, method, path, &[(name, &value)], body).await
}

async fn get(node: &Served, claims: &Value, path: &str) -> Answer {
    send(node, claims, "GET", path, &Value::Null).await
}

async fn ticket(node: &Served, claims: &Value, feeds: &[String]) -> Answer {
    send(
        node,
        claims,
        "POST",
        "/v1/tickets",
        &json!({ "feeds": feeds }),
    )
    .await
}

/// Opens a stream of feed `a` with a ticket. Of a stream, only the head is read.
async fn open(node: &Served, ticket: &str, reader: &str) -> Answer {
    let url = node.url(&format!("/v1/feeds/a/live?ticket={ticket}{reader}"));
    let answer = node.http.get(url).send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = match status {
        200 => Default::default(),
        _ => answer.bytes().await.expect("a body"),
    };
    Answer {
        status,
        headers,
        body,
    }
}

#[tokio::test]
async fn a_token_acts_as_its_readers_else_its_actors_else_its_subject() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let names = [
        "user:42", "user:4", "user:421", "user:ben", "bot:1", "bot", "Zoë",
    ];
    for (replaced, allowed) in [
        (json!({}), &["user:42"][..]),
        (json!({ "sub": "Zoë" }), &["Zoë"]),
        // A subject that is no name matches no reader: it is no pattern, and is not normalized.
        (json!({ "sub": "user:*" }), &[]),
        (json!({ "sub": "*" }), &[]),
        (json!({ "sub": "Zoe\u{308}" }), &[]),
        (json!({ "sub": "user:42 " }), &[]),
        (json!({ "sub": null }), &[]),
        (json!({ "actors": ["user:ben"] }), &["user:ben"]),
        (
            json!({ "actors": ["user:ben", "bot:*"], "sub": null }),
            &["user:ben", "bot:1"],
        ),
        (json!({ "actors": [] }), &[]),
        (json!({ "readers": ["bot"] }), &["bot"]),
        (
            json!({ "readers": ["user:4*", "Zoë"], "actors": ["bot:*"] }),
            &["user:42", "user:4", "user:421", "Zoë"],
        ),
        (json!({ "readers": [], "actors": ["user:ben"] }), &[]),
        (json!({ "readers": ["*"], "actors": [] }), &names),
    ] {
        let claims = with(replaced.clone());
        let ticket = ticket(&node, &claims, &["a".to_owned()]).await.json();
        let ticket = text(&ticket["ticket"]);
        for path in ["/v1/feeds/a", "/v1/state?feed=a"] {
            let own = get(&node, &claims, path).await;
            assert_eq!(own.status, 200, "the feed's own reader, {replaced}");
        }
        assert_eq!(open(&node, &ticket, "").await.status, 200, "{replaced}");
        for name in names {
            let reader = encoded(name);
            for answer in [
                get(&node, &claims, &format!("/v1/feeds/a?reader={reader}")).await,
                get(&node, &claims, &format!("/v1/state?feed=a&reader={reader}")).await,
                open(&node, &ticket, &format!("&reader={reader}")).await,
            ] {
                if allowed.contains(&name) {
                    assert_eq!(answer.status, 200, "{name} {replaced}");
                    continue;
                }
                let problem = answer.problem(403, "reader_forbidden");
                let problem = problem.unwrap_or_else(|why| panic!("{name} {replaced}: {why}"));
                assert_eq!(problem["reader"], name);
                let detail = text(&problem["detail"]);
                for said in [name, "`readers`", "`actors`", "`sub`"] {
                    assert!(detail.contains(said), "{detail}");
                }
            }
        }
    }
    // The reader does not replace the right to read the feed.
    let elsewhere = with(json!({ "feeds": ["b"], "readers": ["*"] }));
    let refused = get(&node, &elsewhere, "/v1/feeds/a?reader=bot").await;
    refused.problem(403, "feed_forbidden").expect("refused");
}

#[tokio::test]
async fn invalid_readers_are_refused_in_tokens_and_in_requests() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let claims = with(json!({ "readers": ["*"] }));
    let many = vec!["a"; newsfeed::auth::PATTERNS_MAX + 1];
    for (readers, named) in [
        (Value::Null, "`readers` must not be null"),
        (json!("user:ben"), "string"),
        (json!(["a", "b "]), "readers[1]"),
        (json!(["a*b"]), "readers[0]"),
        (json!(many), "at most"),
    ] {
        let mut claims = claims.clone();
        claims["readers"] = readers;
        let problem = get(&node, &claims, "/v1/feeds/a").await;
        let problem = problem.problem(401, "token_claims").expect(named);
        assert!(text(&problem["detail"]).contains(named), "{problem}");
    }
    // Without keys, everybody may be any reader, of a valid name.
    let open = Bed::embedded();
    let open = open.node().await;
    for (query, code) in [
        ("reader=user:42", ""),
        ("reader=", "invalid_reader"),
        ("reader", "invalid_reader"),
        ("reader=a%20", "invalid_reader"),
        ("reader=user:*", "invalid_reader"),
        ("reader=Zoe%CC%88", "invalid_reader"),
        ("reader=%FF", "invalid_reader"),
        ("reader=a&reader=a", "invalid_query"),
    ] {
        for path in [
            format!("/v1/feeds/a?{query}"),
            format!("/v1/state?feed=a&{query}"),
        ] {
            for answer in [
                get(&node, &claims, &path).await,
                open.send("GET", &path, &[]).await,
            ] {
                match code {
                    "" => assert_eq!(answer.status, 200, "{path}"),
                    _ => drop(answer.problem(400, code).expect(query)),
                }
            }
        }
    }
}

/// A ticket is part of a URL, however many readers the token has.
#[tokio::test]
async fn a_ticket_has_room_for_many_feeds_or_for_many_readers() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let feeds = |count: usize| -> Vec<String> {
        let long = (1..count).map(|index| format!("{index:0>255}"));
        long.chain(["a".to_owned()]).collect()
    };
    let readers = |count: usize| {
        let long = (0..count).map(|index| format!("{index:r>254}*"));
        with(json!({ "readers": long.collect::<Vec<_>>() }))
    };
    for (feeds_count, readers_count, fits) in [(100, 5, true), (100, 20, false), (80, 20, true)] {
        let answer = ticket(&node, &readers(readers_count), &feeds(feeds_count)).await;
        if !fits {
            let problem = answer.problem(400, "invalid_body").expect("too long");
            let detail = text(&problem["detail"]);
            assert!(
                detail.contains("fewer feeds") && detail.contains("readers of the token"),
                "{detail}"
            );
            continue;
        }
        assert_eq!(answer.status, 200, "{feeds_count} {readers_count}");
        let ticket = text(&answer.json()["ticket"]);
        let reader = format!("&reader={:r>254}x", readers_count - 1);
        assert_eq!(open(&node, &ticket, &reader).await.status, 200);
    }
}
