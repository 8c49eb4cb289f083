//! The session cookie: how it is set and cleared, and that pages of other sites cannot use it.

use serde_json::{Value, json};

use super::{SECRET_FILE, Signer, Site, ask, bearer, claims, master, now};

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

    let secure = site
        .node_with_keys(SECRET_FILE, &["--auth-cookie-secure"])
        .await;
    for method in ["POST", "DELETE"] {
        let answer = ask(&secure, method, "/v1/session", &[(name, &value)], None).await;
        let cookie = answer.header("set-cookie").expect("a cookie");
        // What browsers demand of this prefix.
        assert!(
            cookie.starts_with("__Host-newsfeed_token=")
                && cookie.contains("; Path=/; ")
                && cookie.ends_with("; Secure")
                && !cookie.contains("Domain"),
            "{cookie}"
        );
    }
}

/// Below a base path, the other prefix: `__Host-` is for the path `/` only.
#[tokio::test]
async fn the_prefix_of_a_secure_cookie_fits_its_path() {
    let site = Site::new();
    let flags = site.secret_flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.push("--auth-cookie-secure");
    let auth = site.auth(&flags).await.expect("keys");
    let node = site.bed.node_with(None, |settings| {
        settings.auth = auth;
        settings.base_path = "/apps/feeds".parse().expect("a base path");
    });
    let node = node.await;
    let token = master();
    let (name, value) = bearer(&token);
    let answer = ask(&node, "POST", "/v1/session", &[(name, &value)], None).await;
    let cookie = answer.header("set-cookie").expect("a cookie");
    let pair = format!("__Secure-newsfeed_token={token}");
    assert!(
        cookie.starts_with(&format!("{pair}; Path=/apps/feeds; ")) && cookie.ends_with("; Secure"),
        "{cookie}"
    );
    let answer = ask(&node, "GET", "/v1/feeds/a", &[("cookie", &pair)], None).await;
    assert_eq!(answer.status, 200);
}

/// Over https, browsers accept the cookie from this host only, so that a cookie of any other name means nothing.
#[tokio::test]
async fn over_https_a_cookie_of_another_host_neither_locks_out_nor_logs_in() {
    let site = Site::new();
    let node = site
        .node_with_keys(SECRET_FILE, &["--auth-cookie-secure"])
        .await;
    let own = token_of("user:42", &["a"]);
    let other = token_of("user:666", &["a", "b"]);
    let planted = [
        format!("newsfeed_token={other}"),
        "newsfeed_token=nonsense".to_owned(),
        format!("__Secure-newsfeed_token={other}"),
        format!("__host-newsfeed_token={other}"),
        format!("x__Host-newsfeed_token={other}"),
    ];
    for planted in planted {
        let alone = ask(&node, "GET", "/v1/feeds/a", &[("cookie", &planted)], None).await;
        alone.problem(401, "credentials_missing").expect(&planted);
        for cookie in [
            format!("{planted}; __Host-newsfeed_token={own}"),
            format!("__Host-newsfeed_token={own}; {planted}"),
        ] {
            let headers = [("cookie", cookie.as_str())];
            let answer = ask(&node, "GET", "/v1/feeds/a", &headers, None).await;
            assert_eq!(answer.status, 200, "{cookie}");
            let answer = ask(&node, "GET", "/v1/feeds/b", &headers, None).await;
            answer.problem(403, "feed_forbidden").expect(&cookie);
        }
    }
}

/// Over http, anybody can plant a second cookie of the name.
#[tokio::test]
async fn of_two_cookies_an_invalid_one_is_ignored_and_two_callers_are_refused() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let own = token_of("user:42", &["a"]);
    let renewed = token_of("user:42", &["a", "b"]);
    let other = token_of("user:666", &["a", "b"]);
    let nobody = {
        let mut claims = claims("read", &["a"]);
        claims.as_object_mut().expect("an object").remove("sub");
        Signer::hs256().sign(&claims)
    };
    let expired = {
        let mut claims = claims("read", &["a"]);
        claims["exp"] = json!(now() - 1000);
        Signer::hs256().sign(&claims)
    };
    let status = async |tokens: &[&str], feed: &str| {
        let pairs: Vec<_> = tokens
            .iter()
            .map(|token| format!("newsfeed_token={token}"))
            .collect();
        let cookie = pairs.join("; ");
        let path = format!("/v1/feeds/{feed}");
        // The second time, all tokens that can be are in the cache.
        let mut answers = Vec::new();
        for _ in 0..2 {
            let answer = ask(&node, "GET", &path, &[("cookie", &cookie)], None).await;
            let code = match answer.status {
                200 => String::new(),
                _ => answer.json()["code"].as_str().expect("a code").to_owned(),
            };
            answers.push((answer.status, code));
        }
        assert_eq!(answers[0], answers[1], "{tokens:?}");
        answers.remove(0)
    };
    let fine = (200, String::new());
    let refused = |code: &str| (401, code.to_owned());
    for ignored in ["nonsense", "", &expired, &format!("{other}x")] {
        assert_eq!(status(&[&own, ignored], "a").await, fine, "{ignored}");
        assert_eq!(status(&[ignored, &own], "a").await, fine, "{ignored}");
    }
    assert_eq!(status(&[&own, &own], "a").await, fine);
    // The first one of the same caller counts: browsers send that of the longest path first.
    assert_eq!(
        status(&[&own, &renewed], "b").await,
        (403, "feed_forbidden".to_owned())
    );
    assert_eq!(status(&[&renewed, &own], "b").await, fine);
    for tokens in [
        [&own, &other],
        [&other, &own],
        [&nobody, &own],
        [&own, &nobody],
    ] {
        assert_eq!(
            status(&tokens.map(String::as_str), "a").await,
            refused("token_malformed")
        );
    }
    assert_eq!(
        status(&[&expired, "nonsense"], "a").await,
        refused("token_expired")
    );
    assert_eq!(status(&["1", "2", "3", &own], "a").await, fine);
    assert_eq!(
        status(&["1", "2", "3", "4", &own], "a").await,
        refused("token_malformed")
    );
}

fn token_of(subject: &str, feeds: &[&str]) -> String {
    let mut claims = claims("read", feeds);
    claims["sub"] = json!(subject);
    Signer::hs256().sign(&claims)
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

#[tokio::test]
async fn a_page_of_another_scheme_is_of_another_origin() {
    use newsfeed::http::proxies::Proxies;

    let site = Site::new();
    let token = master();
    let event = json!({ "kind": "visit", "feeds": ["a"] });
    // The settings of the service, the name of its cookie, what its proxy says, and the scheme of its own pages.
    let plain = site.node_with_secret().await;
    let secure = site
        .node_with_keys(SECRET_FILE, &["--auth-cookie-secure"])
        .await;
    let flags = site.secret_flags();
    let auth = site.auth(&flags.each_ref().map(String::as_str)).await;
    let auth = auth.expect("good keys");
    let proxied = site
        .bed
        .node_with(None, |settings| {
            settings.auth = auth;
            settings.proxies = Proxies(vec!["127.0.0.0/8".parse().expect("a network")]);
        })
        .await;
    let (name, prefixed) = ("newsfeed_token", "__Host-newsfeed_token");
    for (node, name, forwarded, own) in [
        (&plain, name, "http", "http"),
        // Anybody can send this header; only that of a proxy counts.
        (&plain, name, "https", "http"),
        (&secure, prefixed, "http", "https"),
        (&proxied, name, "https", "https"),
        (&proxied, name, "http", "http"),
        (&proxied, name, "https, http", "http"),
    ] {
        let cookie = format!("{name}={token}");
        for scheme in ["http", "https"] {
            let origin = format!("{scheme}://{}", node.address);
            let headers = [
                ("cookie", cookie.as_str()),
                ("origin", &origin),
                ("x-forwarded-proto", forwarded),
            ];
            let answer = ask(node, "POST", "/v1/events", &headers, Some(&event)).await;
            match scheme == own {
                true => assert_eq!(answer.status, 200, "{forwarded} {own}"),
                false => drop(answer.problem(403, "cross_site").expect(own)),
            }
        }
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
