//! The session cookie: how it is set and cleared, and that pages of other sites cannot use it.

use serde_json::{Value, json};

use super::{SECRET, Signer, Site, ask, bearer, claims, master, now};

#[tokio::test]
async fn a_session_cookie_lasts_as_long_as_its_token() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = master();
    let (name, value) = bearer(&token);
    let answer = ask(&node, "POST", "/v1/session", &[(name, &value)], None).await;
    assert_eq!(answer.status, 200);
    let expires = answer.json()["expires_at"]
        .as_str()
        .expect("a time")
        .to_owned();
    let expires: jiff::Timestamp = expires.parse().expect("RFC 3339");
    let rest = expires.as_second() - now().cast_signed();
    assert!((3300..=3600).contains(&rest), "{rest}");
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    assert_eq!(pair, format!("newsfeed_token={token}"));
    let age: i64 = attributes
        .strip_prefix("Path=/; Max-Age=")
        .and_then(|rest| rest.strip_suffix("; HttpOnly; SameSite=Strict"))
        .expect(attributes)
        .parse()
        .expect("seconds");
    assert!((3300..=3600).contains(&age), "{age}");

    let answer = ask(&node, "GET", "/v1/feeds/a", &[("cookie", pair)], None).await;
    assert_eq!(answer.status, 200);
    // A cookie is not accepted for a new session.
    let headers = [("cookie", pair), ("sec-fetch-site", "same-origin")];
    let again = ask(&node, "POST", "/v1/session", &headers, None).await;
    again.problem(401, "credentials_missing").expect("a bearer");

    let answer = ask(
        &node,
        "DELETE",
        "/v1/session",
        &[("cookie", "newsfeed_token=expired")],
        None,
    )
    .await;
    assert_eq!(answer.status, 204);
    let cleared = "newsfeed_token=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict";
    assert_eq!(answer.header("set-cookie"), Some(cleared));
    assert_eq!(answer.header("clear-site-data"), Some("\"cache\""));

    let secure = site.node_with_keys(SECRET, &["--auth-cookie-secure"]).await;
    for method in ["POST", "DELETE"] {
        let answer = ask(&secure, method, "/v1/session", &[(name, &value)], None).await;
        let cookie = answer.header("set-cookie").expect("a cookie");
        assert!(cookie.ends_with("; Secure"), "{cookie}");
    }
}

#[tokio::test]
async fn a_token_too_long_for_a_cookie_is_refused() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let feeds: Vec<String> = (0..200)
        .map(|index| format!("a-feed-of-a-long-name:{index}"))
        .collect();
    let feeds: Vec<&str> = feeds.iter().map(String::as_str).collect();
    let (name, value) = bearer(&Signer::hs256().sign(&claims("read", &feeds)));
    let answer = ask(&node, "POST", "/v1/session", &[(name, &value)], None).await;
    answer.problem(400, "token_too_long").expect("too long");
    assert_eq!(answer.header("set-cookie"), None);
}

#[tokio::test]
async fn without_keys_there_is_no_session() {
    let node = super::Bed::embedded().node().await;
    let (name, value) = bearer(&master());
    for (path, body) in [
        ("/v1/session", Value::Null),
        ("/v1/tickets", json!({ "feeds": ["a"] })),
    ] {
        let body = (!body.is_null()).then_some(&body);
        let answer = ask(&node, "POST", path, &[(name, &value)], body).await;
        answer.problem(404, "not_found").expect(path);
    }
    let answer = ask(&node, "DELETE", "/v1/session", &[], None).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (204, None));
    assert_eq!(answer.header("clear-site-data"), Some("\"cache\""));
    // Credentials are ignored.
    let nonsense = [("authorization", "Bearer nonsense")];
    assert_eq!(
        ask(&node, "GET", "/v1/feeds/a", &nonsense, None)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_cookie_permits_writes_only_from_pages_of_the_same_origin() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let cookie = format!("newsfeed_token={}", master());
    let host = node.address.to_string();
    let own = format!("http://{host}");
    let cases: [(bool, &[(&str, &str)]); 12] = [
        (true, &[("sec-fetch-site", "same-origin")]),
        (true, &[("sec-fetch-site", "none")]),
        (false, &[("sec-fetch-site", "same-site")]),
        (false, &[("sec-fetch-site", "cross-site")]),
        (false, &[("sec-fetch-site", "cross-site"), ("origin", &own)]),
        (
            true,
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "http://evil.example"),
            ],
        ),
        (true, &[("origin", &own)]),
        (false, &[("origin", "null")]),
        (false, &[("origin", "http://evil.example")]),
        (false, &[("origin", "http://127.0.0.1")]),
        (false, &[("origin", &own[..own.len() - 1])]),
        (false, &[]),
    ];
    let writes = [
        (
            "POST",
            "/v1/events",
            json!({ "kind": "visit", "feeds": ["a"] }),
            200,
        ),
        (
            "POST",
            "/v1/transient",
            json!({ "kind": "typing", "feeds": ["a"] }),
            202,
        ),
        (
            "PUT",
            "/v1/feeds/a/markers/read",
            json!({ "version": "0" }),
            200,
        ),
        ("POST", "/v1/tickets", json!({ "feeds": ["a"] }), 200),
    ];
    for (same, headers) in cases {
        let headers = [headers, &[("cookie", cookie.as_str())]].concat();
        for (method, path, body, status) in &writes {
            let answer = ask(&node, method, path, &headers, Some(body)).await;
            match same {
                true => assert_eq!(answer.status, *status, "{path} {headers:?}"),
                false => drop(answer.problem(403, "cross_site").expect(path)),
            }
        }
        // Reading is permitted: CORS decides who sees the answer.
        assert_eq!(
            ask(&node, "GET", "/v1/feeds/a", &headers, None)
                .await
                .status,
            200
        );
        // A browser never adds the `Authorization` header by itself.
        let (name, value) = bearer(&master());
        let headers = [&headers[..], &[(name, value.as_str())]].concat();
        let (method, path, body, status) = &writes[0];
        assert_eq!(
            ask(&node, method, path, &headers, Some(body)).await.status,
            *status
        );
    }
}

/// The next user of a browser gets a page that it has kept only if that user may read it.
#[tokio::test]
async fn a_kept_page_is_confirmed_only_to_those_who_may_read_it() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = |feed| Signer::hs256().sign(&claims("read append", &[feed]));
    let cookie = |token: &str| format!("newsfeed_token={token}");
    let (name, value) = bearer(&token("a"));
    let event = json!({ "kind": "visit", "feeds": ["a"] });
    let appended = ask(&node, "POST", "/v1/events", &[(name, &value)], Some(&event)).await;
    let version = appended.json()["version"]
        .as_str()
        .expect("a version")
        .to_owned();
    let path = format!("/v1/feeds/a/entries?until={version}");
    let get = async |cookie: &str, known: &str| {
        let headers = [("cookie", cookie), ("if-none-match", known)];
        ask(&node, "GET", &path, &headers, None).await
    };
    let ann = cookie(&token("a"));
    let page = get(&ann, "\"none\"").await;
    assert_eq!(page.status, 200);
    let etag = page.header("etag").expect("an ETag").to_owned();
    assert_eq!(get(&ann, &etag).await.status, 304);
    let other = get(&cookie(&token("b")), &etag).await;
    other.problem(403, "feed_forbidden").expect("not Ben's");
    let nobody = get("", &etag).await;
    nobody.problem(401, "credentials_missing").expect("nobody");
}
