//! Every refusal, with real requests.

use newsfeed::{clock::WallTime, http::limits::Limits};
use serde_json::{Value, json};

use super::{SECRET_FILE, Signer, Site, ask, bearer, claims, encode, master, now, read};
use crate::support::bed::Answer;

fn refused(answer: &Answer, status: u16, code: &str, what: &str) -> Value {
    let problem = answer.problem(status, code);
    let problem = problem.unwrap_or_else(|error| panic!("{what}: {error}"));
    if let Some(challenge) = answer.header("www-authenticate") {
        let error = match code {
            "credentials_missing" => "",
            "scope_missing" => ", error=\"insufficient_scope\"",
            _ => ", error=\"invalid_token\"",
        };
        let start = format!("Bearer realm=\"newsfeed\"{error}");
        assert!(challenge.starts_with(&start), "{what}: {challenge}");
        assert_eq!(
            challenge.contains(code),
            code != "credentials_missing",
            "{challenge}"
        );
    }
    problem
}

#[tokio::test]
async fn every_defect_of_a_token_has_its_own_code() {
    let site = Site::new();
    let node = site
        .node_with_keys(
            SECRET_FILE,
            &["--auth-audience", "newsfeed", "--auth-issuer", "us"],
        )
        .await;
    let signer = Signer::hs256();
    let good = || {
        let mut claims = claims("read", &["a"]);
        claims["aud"] = json!(["others", "newsfeed"]);
        claims["iss"] = json!("us");
        claims
    };
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        signer.sign(&claims)
    };
    let without = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().expect("an object").remove(name);
        signer.sign(&claims)
    };
    assert_eq!(read(&node, &signer.sign(&good())).await.status, 200);
    assert_eq!(
        read(&node, &with("aud", json!("newsfeed"))).await.status,
        200
    );
    assert_eq!(
        read(&node, &with("exp", json!(now() as f64 + 1000.5)))
            .await
            .status,
        200
    );

    let none = format!("{}.{}.", encode(&json!({ "alg": "none" })), encode(&good()));
    let unsigned = format!(
        "{}.{}.",
        encode(&json!({ "alg": "HS256" })),
        encode(&good())
    );
    let mut tampered = signer.sign(&good());
    // The claims are replaced by others, which are well-formed.
    let wider = encode(&claims("read append mark admin", &["*"]));
    let start = tampered.find('.').expect("a dot") + 1;
    let end = tampered.rfind('.').expect("a dot");
    tampered.replace_range(start..end, &wider);
    let header = |header: Value| signer.sign_as(&header, &good());
    let cases = [
        ("token_malformed", "nonsense".to_owned()),
        ("token_malformed", String::new()),
        ("token_malformed", "a.b".to_owned()),
        ("token_malformed", "a.b.c.d".to_owned()),
        ("token_malformed", format!("{}=", signer.sign(&good()))),
        ("token_malformed", with("sub", json!("x".repeat(9000)))),
        ("token_malformed", header(json!({ "crit": ["exp"] }))),
        (
            "token_malformed",
            header(json!({ "typ": "newsfeed-ticket+jwt" })),
        ),
        ("token_malformed", header(json!({ "typ": "logout+jwt" }))),
        ("token_algorithm", none),
        ("token_algorithm", header(json!({ "alg": "nOnE" }))),
        ("token_algorithm", header(json!({ "alg": "HS512" }))),
        ("token_algorithm", header(json!({ "alg": "RS256" }))),
        ("token_signature", unsigned),
        ("token_signature", tampered),
        (
            "token_signature",
            Signer {
                key: jsonwebtoken::EncodingKey::from_secret(&[7; 32]),
                ..Signer::hs256()
            }
            .sign(&good()),
        ),
        ("token_expired", with("exp", json!(now() - 31))),
        ("token_expired", with("exp", json!(0))),
        ("token_not_yet_valid", with("nbf", json!(now() + 300))),
        ("token_not_yet_valid", with("iat", json!(now() + 300))),
        ("token_audience", without("aud")),
        ("token_audience", with("aud", json!("others"))),
        ("token_audience", with("aud", json!([]))),
        ("token_issuer", without("iss")),
        ("token_issuer", with("iss", json!("them"))),
        ("token_claims", without("exp")),
        ("token_claims", with("exp", json!("tomorrow"))),
        ("token_claims", with("exp", json!(-1))),
        ("token_claims", with("exp", Value::Null)),
        ("token_claims", with("nbf", json!([]))),
        ("token_claims", with("nbf", Value::Null)),
        ("token_claims", with("iat", Value::Null)),
        ("token_claims", with("aud", Value::Null)),
        ("token_claims", with("sub", Value::Null)),
        ("token_claims", with("scope", Value::Null)),
        ("token_claims", with("feeds", Value::Null)),
        (
            "token_claims",
            with("feeds", json!({ "read": ["a"], "append": null })),
        ),
        ("token_claims", with("feeds", json!(["a", null]))),
        ("token_claims", with("actors", Value::Null)),
        ("token_claims", with("kinds", Value::Null)),
        ("token_claims", with("ids", Value::Null)),
        ("token_claims", with("scope", json!(["read"]))),
        ("token_claims", with("feeds", json!("a"))),
        ("token_claims", with("feeds", json!([" a"]))),
        ("token_claims", with("feeds", json!(["*a"]))),
        ("token_claims", with("feeds", json!(["a**"]))),
        ("token_claims", with("feeds", json!(vec!["a"; 257]))),
        ("token_claims", with("sub", json!(42))),
        ("token_claims", with("sub", json!(""))),
        ("token_claims", with("sub", json!("x".repeat(257)))),
        ("token_claims", signer.sign(&json!([]))),
    ];
    for (code, token) in cases {
        refused(&read(&node, &token).await, 401, code, &token);
    }
    // Claims of others may be null.
    let foreign = with("email", Value::Null);
    assert_eq!(read(&node, &foreign).await.status, 200);
    // A token without `feeds` permits no feed.
    refused(
        &read(&node, &without("feeds")).await,
        403,
        "feed_forbidden",
        "no feeds",
    );
    refused(
        &read(&node, &without("scope")).await,
        403,
        "scope_missing",
        "no scope",
    );
    let forbidden = refused(
        &read(&node, &with("feeds", json!(["b", "aa*"]))).await,
        403,
        "feed_forbidden",
        "others",
    );
    assert_eq!(forbidden["feed"], "a");
    let missing = refused(
        &read(&node, &with("scope", json!("append openid"))).await,
        403,
        "scope_missing",
        "append",
    );
    assert_eq!(missing["scope"], "read");
}

#[tokio::test]
async fn an_unknown_key_and_a_bad_signature_have_different_codes() {
    let (one, other) = (Signer::ed25519(), Signer::ed25519());
    let site = Site::new();
    let node = site
        .node_with_keys(&json!({ "keys": [one.jwk("one")] }).to_string(), &[])
        .await;
    let token = |signer: &Signer, header: Value| signer.sign_as(&header, &claims("read", &["a"]));
    assert_eq!(
        read(&node, &token(&one, json!({ "kid": "one" })))
            .await
            .status,
        200
    );
    assert_eq!(read(&node, &token(&one, json!({}))).await.status, 200);
    for (code, token) in [
        ("token_key_unknown", token(&one, json!({ "kid": "other" }))),
        ("token_signature", token(&other, json!({ "kid": "one" }))),
        ("token_signature", token(&other, json!({}))),
    ] {
        refused(&read(&node, &token).await, 401, code, &token);
    }
}

#[tokio::test]
async fn invalid_credentials_are_rejected_without_a_fallback() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token = master();
    let good = bearer(&token).1;
    let cookie = format!("x=1; newsfeed_token={token}; y=2");
    let bad_cookie = "newsfeed_token=nonsense".to_owned();
    let two = format!("{bad_cookie}; newsfeed_token=other");
    let authorization = |value: &str| ("authorization", value.to_owned());
    let basic = authorization("Basic dXNlcjpwYXNz");
    let bare = authorization(&token);
    let bad = authorization("Bearer nonsense");
    let good = authorization(&good);
    let lower = authorization(&format!("bearer {token}"));
    let cookie = ("cookie", cookie);
    let bad_cookie = ("cookie", bad_cookie);
    let two = ("cookie", two);
    let cases = [
        (401, "credentials_missing", vec![]),
        (
            401,
            "credentials_missing",
            vec![&("cookie", "other=1".to_owned())]
                .into_iter()
                .cloned()
                .collect(),
        ),
        (401, "token_malformed", vec![basic.clone()]),
        (401, "token_malformed", vec![bare]),
        (401, "token_malformed", vec![authorization("Bearer")]),
        (401, "token_malformed", vec![bad.clone()]),
        (401, "token_malformed", vec![bad.clone(), good.clone()]),
        (401, "token_malformed", vec![bad, cookie.clone()]),
        (401, "token_malformed", vec![basic, cookie.clone()]),
        (401, "token_malformed", vec![bad_cookie.clone()]),
        (401, "token_malformed", vec![two]),
        (200, "", vec![good.clone()]),
        (200, "", vec![lower]),
        (200, "", vec![cookie]),
        (200, "", vec![good, bad_cookie]),
    ];
    for (status, code, headers) in cases {
        let borrowed: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = ask(&node, "GET", "/v1/feeds/a", &borrowed, None).await;
        match status {
            200 => assert_eq!(answer.status, 200, "{headers:?}"),
            _ => drop(refused(&answer, status, code, &format!("{headers:?}"))),
        }
    }
    // Open routes ignore invalid credentials, so that the page loads and can report them.
    for path in ["/healthz", "/readyz", "/openapi.yaml"] {
        let answer = ask(
            &node,
            "GET",
            path,
            &[("authorization", "Bearer nonsense")],
            None,
        )
        .await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_token_is_valid_from_nbf_to_exp_and_leeway_extends_both() {
    let second = 1_000_000;
    let begin = 1_800_000_000;
    let wall = WallTime::manual(begin * second);
    let site = Site::at(wall.clone());
    let token = |from: u64, to: u64| {
        let claims = json!({ "scope": "read", "feeds": ["a"], "nbf": from, "exp": to });
        Signer::hs256().sign(&claims)
    };
    for leeway in [0, 30, 300] {
        let flag = leeway.to_string();
        let node = site
            .node_with_keys(SECRET_FILE, &["--auth-leeway-s", &flag])
            .await;
        let token = token(begin + 1000, begin + 2000);
        let cases = [
            (1000 - leeway - 1, 401, "token_not_yet_valid"),
            (1000 - leeway, 200, ""),
            (2000 + leeway - 1, 200, ""),
            (2000 + leeway, 401, "token_expired"),
            // Now the token is in the cache.
            (2000 + leeway - 1, 200, ""),
            (2000 + leeway, 401, "token_expired"),
            (1000 - leeway - 1, 401, "token_not_yet_valid"),
        ];
        for (offset, status, code) in cases {
            wall.set((begin + offset) * second);
            let answer = read(&node, &token).await;
            match status {
                200 => assert_eq!(answer.status, 200, "{leeway} {offset}"),
                _ => drop(refused(
                    &answer,
                    status,
                    code,
                    &format!("{leeway} {offset}"),
                )),
            }
        }
    }
}

#[tokio::test]
async fn many_forged_tokens_are_limited_and_valid_ones_are_not() {
    let site = Site::new();
    let keys = site.file("keys", SECRET_FILE);
    let limits = Limits {
        requests_per_s: std::num::NonZeroU32::new(1),
        loopback: true,
        ..Limits::default()
    };
    let flags = ["--auth-secret-file", keys.to_str().expect("UTF-8")];
    let node = site.node_limited(&flags, limits).await;
    let good = master();
    assert_eq!(read(&node, &good).await.status, 200);
    let forged = |n: usize| Signer::hs256().sign(&claims("read", &["a"])) + &n.to_string();
    let mut last = 0;
    for n in 0..2_000 {
        last = read(&node, &forged(n)).await.status;
        if last != 401 {
            break;
        }
    }
    assert_eq!(last, 429, "forged tokens count");
    assert_eq!(
        read(&node, &good).await.status,
        200,
        "a token seen before has its own quota"
    );
    node.stop().await;
}

/// A service with a limit of one request per second, and two at once.
async fn limited(site: &Site) -> crate::support::bed::Served {
    let flags = site.secret_flags();
    let limits = Limits {
        requests_per_s: std::num::NonZeroU32::new(1),
        loopback: true,
        ..Limits::default()
    };
    site.node_limited(&flags.each_ref().map(String::as_str), limits)
        .await
}

#[tokio::test]
async fn refused_requests_count_against_their_caller() {
    let site = Site::new();
    let node = limited(&site).await;
    let reader = Signer::hs256().sign(&claims("read", &["a"]));
    let (name, weak) = bearer(&reader);
    let weak = [(name, weak.as_str())];
    let cookie = format!("newsfeed_token={reader}");
    let foreign = [
        ("cookie", cookie.as_str()),
        ("sec-fetch-site", "cross-site"),
    ];
    // The token is remembered from here on.
    assert_eq!(read(&node, &reader).await.status, 200);
    for (headers, status, code) in [
        (&weak[..], 403, "scope_missing"),
        (&foreign[..], 403, "cross_site"),
        (&[][..], 401, "credentials_missing"),
        (&[("authorization", "Basic x")][..], 401, "token_malformed"),
    ] {
        let mut refused = 0;
        let limit = loop {
            let answer = ask(&node, "POST", "/v1/events", headers, Some(&json!({}))).await;
            if answer.status == 429 {
                break answer;
            }
            answer.problem(status, code).expect("a refusal");
            refused += 1;
            assert!(refused < 1_000, "{code} does not count");
        };
        limit.problem(429, "too_many_requests").expect("a limit");
    }
    // Whoever was refused by subject has used up that subject's requests, and others have not.
    assert_eq!(read(&node, &reader).await.status, 429);
    let mut other = claims("read", &["a"]);
    other["sub"] = json!("user:43");
    let other = Signer::hs256().sign(&other);
    assert_eq!(read_until_verified(&node, &other).await, 200);
    node.stop().await;
}

/// Verifying an unknown token counts against the address, which may have to wait.
async fn read_until_verified(node: &crate::support::bed::Served, token: &str) -> u16 {
    loop {
        let status = read(node, token).await.status;
        if status != 429 {
            return status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_refused_body_is_read_up_to_a_limit() {
    use tokio::io::AsyncWriteExt;

    use crate::support::{bed::JSON, raw};

    let site = Site::new();
    let node = site.node_with_secret().await;
    for path in ["/v1/events", "/v1/session", "/nowhere"] {
        let mut socket = raw::connect(node.address).await;
        let headers = [JSON, ("transfer-encoding", "chunked")];
        let head = raw::head("POST", path, &headers);
        socket.write_all(&head).await.expect("sent");
        let (mut reader, mut writer) = socket.into_split();
        let piece = raw::chunk(&[b' '; 64 * 1024]);
        let mut sent = 0;
        while sent < 200 && writer.write_all(&piece).await.is_ok() {
            sent += 1;
        }
        // An early answer is seen, because a client that goes on for a while is not cut off at once.
        assert!(sent >= 64, "{path}: {sent}");
        // The server reads 16 MiB, and the kernel may hold some more.
        while sent < 10_000 && writer.write_all(&piece).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 640, "{path}: {} MiB were read", sent / 16);
        raw::drain(&mut reader).await;
    }
    node.stop().await;
}
