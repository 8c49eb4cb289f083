//! Tickets: valid for seconds, on any node, to open streams and nothing else.

use jsonwebtoken::{Algorithm, EncodingKey};
use newsfeed::clock::WallTime;
use serde_json::{Value, json};

use super::{SECRET_FILE, Signer, Site, ask, bearer, claims, master, now};
use crate::support::{
    bed::{Answer, Served, text},
    sse::Stream,
};

async fn ticket(node: &Served, token: &str, feeds: &Value) -> Answer {
    let (name, value) = bearer(token);
    let body = json!({ "feeds": feeds });
    ask(node, "POST", "/v1/tickets", &[(name, &value)], Some(&body)).await
}

async fn issued(node: &Served, token: &str, feeds: &[&str]) -> String {
    let answer = ticket(node, token, &json!(feeds)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    text(&answer.json()["ticket"])
}

/// Opens a stream with a ticket; expects the problem `code`, or success if that is empty.
async fn opens(node: &Served, path: &str, ticket: &str, code: &str) {
    let sign = if path.contains('?') { '&' } else { '?' };
    let url = node.url(&format!("{path}{sign}ticket={ticket}"));
    if code.is_empty() {
        let mut stream = Stream::open(&node.http, &url, None).await;
        assert_eq!(stream.caught_up().await, []);
        return;
    }
    let response = node.http.get(url).send().await.expect("an answer");
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = response.bytes().await.expect("a body");
    let expected = if code == "feed_forbidden" { 403 } else { 401 };
    Answer {
        status,
        headers,
        body,
    }
    .problem(expected, code)
    .expect(path);
}

#[tokio::test]
async fn a_ticket_opens_streams_of_its_feeds_on_any_node_with_the_same_key() {
    let site = Site::new();
    let shared = [site.node_with_secret().await, site.node_with_secret().await];
    let public = Signer::ed25519();
    let key = site.file(
        "ticket-key",
        "8f0e1a61a1d3a2c95e5d7f7be1c1f2f8a6de07c2b39d34a0b9f4fe61d0c39b57",
    );
    let flags = ["--auth-ticket-key", key.to_str().expect("UTF-8")];
    let with_key = [
        site.node_with_keys(&public.public, &flags).await,
        site.node_with_keys(&public.public, &flags).await,
    ];
    let everything = claims("read", &["*"]);
    for (nodes, token) in [(&shared, master()), (&with_key, public.sign(&everything))] {
        let ticket = issued(&nodes[0], &token, &["a", "b"]).await;
        for node in nodes {
            for (path, code) in [
                ("/v1/feeds/a/live", ""),
                ("/v1/feeds/b/live?after=0", ""),
                ("/v1/live?feed=b&feed=a", ""),
                ("/v1/feeds/c/live", "feed_forbidden"),
                ("/v1/live?feed=a&feed=ab", "feed_forbidden"),
            ] {
                opens(node, path, &ticket, code).await;
            }
        }
    }
    // Without a shared key, a ticket is valid only on its own node.
    let alone = [
        site.node_with_keys(&public.public, &[]).await,
        site.node_with_keys(&public.public, &[]).await,
    ];
    let ticket = issued(&alone[0], &public.sign(&everything), &["a"]).await;
    opens(&alone[0], "/v1/feeds/a/live", &ticket, "").await;
    opens(&alone[1], "/v1/feeds/a/live", &ticket, "ticket_invalid").await;
}

#[tokio::test]
async fn a_ticket_is_not_a_token_and_a_token_is_not_a_ticket() {
    let site = Site::new();
    // The same file for both keys, as an operator may configure it.
    let key = site.file("keys", SECRET_FILE);
    let flags = ["--auth-ticket-key", key.to_str().expect("UTF-8")];
    for flags in [&flags[..], &[]] {
        let node = site.node_with_keys(SECRET_FILE, flags).await;
        let ticket = issued(&node, &master(), &["a"]).await;
        opens(&node, "/v1/feeds/a/live", &ticket, "").await;
        let (name, value) = bearer(&ticket);
        let cookie = format!("newsfeed_token={ticket}");
        for headers in [[(name, value.as_str())], [("cookie", &cookie)]] {
            for path in ["/v1/feeds/a", "/v1/feeds/a/entries", "/v1/feeds/a/live"] {
                let answer = ask(&node, "GET", path, &headers, None).await;
                answer.problem(401, "token_malformed").expect(path);
            }
        }
        // A ticket opens only streams.
        let path = format!("/v1/feeds/a/entries?ticket={ticket}");
        ask(&node, "GET", &path, &[], None)
            .await
            .problem(401, "credentials_missing")
            .expect("no stream");
        let path = format!("/v1/tickets?ticket={ticket}");
        let body = json!({ "feeds": ["a"] });
        let more = ask(&node, "POST", &path, &[], Some(&body)).await;
        more.problem(401, "credentials_missing")
            .expect("no ticket for a ticket");

        let signer = Signer::hs256();
        let mut as_ticket = claims("read", &["a"]);
        as_ticket["begin_us"] = json!((now() + 1000) * 1_000_000);
        as_ticket["end_us"] = json!((now() + 1000) * 1_000_000);
        let typed = json!({ "typ": "newsfeed-ticket+jwt" });
        let none = json!({ "typ": "newsfeed-ticket+jwt", "alg": "none" });
        for forged in [
            master(),
            signer.sign(&as_ticket),
            signer.sign_as(&typed, &as_ticket),
            signer.sign_as(&none, &as_ticket),
            Signer {
                key: EncodingKey::from_secret(b""),
                algorithm: Algorithm::HS256,
                ..Signer::hs256()
            }
            .sign_as(&typed, &as_ticket),
            "nonsense".to_owned(),
            String::new(),
            "x".repeat(25 * 1024),
        ] {
            opens(&node, "/v1/feeds/a/live", &forged, "ticket_invalid").await;
        }
        opens(
            &node,
            &format!("/v1/feeds/a/live?ticket={ticket}"),
            &ticket,
            "ticket_invalid",
        )
        .await;
    }
}

#[tokio::test]
async fn the_header_takes_precedence_over_a_ticket_and_a_ticket_over_the_cookie() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let good = issued(&node, &master(), &["a"]).await;
    let (name, value) = bearer(&master());
    let cookie = format!("newsfeed_token={}", master());
    let with = |ticket: &str| format!("/v1/feeds/a/live?ticket={ticket}");
    let bad = ("authorization", "Bearer nonsense");
    let refused = ask(&node, "GET", &with(&good), &[bad], None).await;
    refused.problem(401, "token_malformed").expect("the header");
    let refused = ask(
        &node,
        "GET",
        &with("nonsense"),
        &[("cookie", &cookie)],
        None,
    )
    .await;
    refused.problem(401, "ticket_invalid").expect("the ticket");
    for (path, header) in [
        (with("nonsense"), (name, value.as_str())),
        (with(&good), ("cookie", "newsfeed_token=nonsense")),
        ("/v1/feeds/a/live".to_owned(), ("cookie", &cookie)),
    ] {
        let request = node.http.get(node.url(&path)).header(header.0, header.1);
        assert_eq!(
            request.send().await.expect("an answer").status(),
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_ticket_expires_after_seconds_or_with_its_token() {
    let second = 1_000_000;
    let begin = 1_800_000_000;
    let wall = WallTime::manual(begin * second);
    let site = Site::at(wall.clone());
    let node = site
        .node_with_keys(
            SECRET_FILE,
            &["--auth-leeway-s", "0", "--auth-ticket-s", "20"],
        )
        .await;
    for (life, good) in [(1000, 20), (15, 15)] {
        wall.set(begin * second);
        let token = json!({ "scope": "read", "feeds": ["a"], "exp": begin + life });
        let ticket = ticket(&node, &Signer::hs256().sign(&token), &json!(["a"]))
            .await
            .json();
        let until = jiff::Timestamp::from_second((begin + good).cast_signed()).expect("a time");
        assert_eq!(ticket["expires_at"], until.to_string());
        let ticket = text(&ticket["ticket"]);
        wall.set((begin + good) * second - 1);
        // A ticket can be used repeatedly until it expires.
        let url = node.url(&format!("/v1/feeds/a/live?ticket={ticket}"));
        for _ in 0..2 {
            let answer = node.http.get(&url).send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
        }
        wall.set((begin + good) * second);
        opens(&node, "/v1/feeds/a/live", &ticket, "ticket_expired").await;
    }
}

#[tokio::test]
async fn a_ticket_needs_the_right_to_read_its_feeds() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = |scope: &str| Signer::hs256().sign(&claims(scope, &["a", "b:*"]));
    let many: Vec<String> = (0..101).map(|index| format!("b:{index}")).collect();
    for (status, code, feeds) in [
        (200, "", json!(["a"])),
        (200, "", json!(["b:1", "b:1"])),
        (200, "", json!(many[1..])),
        (403, "feed_forbidden", json!(["a", "b"])),
        (403, "feed_forbidden", json!(["b:*"].map(|_| "c"))),
        (400, "invalid_feed", json!(["b:*"])),
        (400, "invalid_feed", json!([".."])),
        (400, "invalid_body", json!([])),
        (400, "invalid_body", json!(many)),
        (400, "invalid_body", json!("a")),
    ] {
        let answer = ticket(&node, &token("read"), &feeds).await;
        match status {
            200 => assert_eq!(answer.status, 200, "{feeds}"),
            _ => drop(answer.problem(status, code).expect(code)),
        }
    }
    ticket(&node, &token("append mark"), &json!(["a"]))
        .await
        .problem(403, "scope_missing")
        .expect("read");
    // The longest possible ticket.
    let long: Vec<String> = (0..100).map(|index| format!("{index:0>255}")).collect();
    let path = long
        .iter()
        .map(|feed| format!("feed={feed}"))
        .collect::<Vec<_>>()
        .join("&");
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let longest = issued(&node, &master(), &long).await;
    opens(&node, &format!("/v1/live?{path}"), &longest, "").await;
    // A name that is escaped in JSON needs more room.
    let escaped: Vec<String> = (0..100).map(|index| format!("{index:\"<255}")).collect();
    let problem = ticket(&node, &master(), &json!(escaped)).await;
    let problem = problem.problem(400, "invalid_body").expect("too long");
    assert!(
        text(&problem["detail"]).contains("fewer feeds"),
        "{problem}"
    );
}
