//! Unusable key files are refused at the start, with the reason.

use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::{SECRET, SECRET_FILE, Signer, Site, claims, read};

#[tokio::test]
async fn unusable_key_files_are_refused_with_the_reason() {
    let site = Site::new();
    let signer = Signer::ed25519();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let with = |name: &str, value: serde_json::Value| {
        let mut jwk = signer.jwk("k");
        jwk[name] = value;
        json!({ "keys": [jwk] }).to_string()
    };
    let small = BASE64URL_NOPAD.encode(&[0xff; 128]);
    let small = json!({ "keys": [{ "kty": "RSA", "n": small, "e": "AQAB" }] }).to_string();
    let shared = json!({ "keys": [Signer::hs256().jwk("k")] }).to_string();
    let bare = signer.jwk("k").to_string();
    let many: Vec<_> = (0..33)
        .map(|index| signer.jwk(&index.to_string()))
        .collect();
    let cases = [
        ("empty", ""),
        ("perhaps a secret", "short"),
        ("perhaps a secret", SECRET_FILE),
        ("text of another kind", SECRET),
        (
            "error page",
            "<html>404 Not Found: this is not a key file</html>",
        ),
        ("JSON array", "[{\"kty\": \"OKP\"}, {\"kty\": \"OKP\"}]"),
        ("not a JWKS", &bare),
        ("private key", &signer.private),
        ("P-256", &p384.public_key_pem()),
        (
            "CERTIFICATE",
            &signer.public.replace("PUBLIC KEY", "CERTIFICATE"),
        ),
        ("broken", &signer.public.replace("MCow", "!!!!")),
        ("not a JWKS", "{\"keys\": 5}"),
        ("not a JWKS", "{\"kty\": \"oct\"}"),
        ("no public key for", "{\"keys\": []}"),
        ("algorithm other than", &with("alg", json!("RS256"))),
        ("not for signatures", &with("use", json!("enc"))),
        ("not for signatures", &with("key_ops", json!(["sign"]))),
        ("type or curve", &with("x", json!("AAAA"))),
        ("type or curve", &with("crv", json!("P-256"))),
        ("2048 bits", &small),
        ("shared secret", &shared),
        ("33 keys", &json!({ "keys": many }).to_string()),
        (
            "SSH key",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJPZxxxxxxxxx me@here",
        ),
        ("larger than", &"x".repeat(300 * 1024)),
    ];
    for (reason, content) in cases {
        let file = site.file("bad", content);
        let refused = site
            .auth(&["--auth-keys", file.to_str().expect("UTF-8")])
            .await;
        let error = refused.expect_err(reason);
        assert!(
            error.contains(reason) && error.contains("bad"),
            "{reason}: {error}"
        );
        assert!(
            !error.contains(SECRET) && !error.contains("PRIVATE KEY-----"),
            "{error}"
        );
    }
    let missing = site
        .auth(&["--auth-keys", "/nowhere/at/all"])
        .await
        .expect_err("missing");
    assert!(missing.contains("/nowhere/at/all"), "{missing}");
    // Secrets have one form, whatever they are for.
    let good = site.file("good", SECRET_FILE);
    let good = good.to_str().expect("UTF-8");
    for (reason, content) in [
        ("at least 32 bytes", "c2hvcnQ="),
        ("neither hex nor base64", SECRET),
        ("public keys belong in", signer.public.as_str()),
        ("public keys belong in", &shared),
        ("too easy to guess", &"7".repeat(64)),
    ] {
        let file = site.file("bad", content);
        let file = file.to_str().expect("UTF-8");
        for flags in [
            &["--auth-secret-file", file][..],
            &["--auth-secret-file", good, "--auth-ticket-key", file],
        ] {
            let error = site.auth(flags).await.expect_err(reason);
            assert!(
                error.contains(reason) && error.contains("bad") && !error.contains(content),
                "{reason}: {error}"
            );
        }
    }
    // Unusable keys in a JWKS are skipped if one is usable.
    let mixed = json!({ "keys": [{ "kty": "new" }, 5, signer.jwk("k")] }).to_string();
    let mixed = site.file("mixed", &mixed);
    let auth = site
        .auth(&["--auth-keys", mixed.to_str().expect("UTF-8")])
        .await;
    assert!(auth.expect("one is good").is_some());
    assert!(site.auth(&[]).await.expect("no keys").is_none());
}

/// Editors on Windows write it.
#[tokio::test]
async fn a_byte_order_mark_is_skipped() {
    let site = Site::new();
    let signer = Signer::ed25519();
    let jwks = json!({ "keys": [signer.jwk("k")] }).to_string();
    for keys in [&signer.public, &jwks] {
        let file = site.file("keys", &format!("\u{feff}{keys}"));
        let node = site
            .node(&["--auth-keys", file.to_str().expect("UTF-8")])
            .await;
        let token = signer.sign(&claims("read", &["a"]));
        assert_eq!(read(&node, &token).await.status, 200);
        // The bytes of the file are public: they are no secret.
        let forger = Signer {
            key: jsonwebtoken::EncodingKey::from_secret(format!("\u{feff}{keys}").as_bytes()),
            ..Signer::hs256()
        };
        let forged = forger.sign(&claims("read", &["a"]));
        let answer = read(&node, &forged).await;
        answer.problem(401, "token_algorithm").expect("no secret");
    }
}

#[tokio::test]
async fn keys_are_fetched_only_over_https_or_from_loopback() {
    let site = Site::new();
    for (url, reason) in [
        ("http://example.com/jwks", "use https"),
        ("http://10.0.0.1/jwks", "use https"),
        ("http://localhost.example.com/jwks", "use https"),
        ("ftp://example.com/jwks", "expected a URL such as https://"),
        ("jwks", "relative URL"),
        // Nothing listens on port 1. The error must not contain the password.
        (
            "http://user:hidden@127.0.0.1:1/jwks?key=hidden",
            "http://127.0.0.1:1/jwks",
        ),
        ("http://[::1]:1/jwks", "[::1]:1"),
        ("https://localhost:1/jwks", "https://localhost:1/jwks"),
    ] {
        let error = site.auth(&["--auth-jwks-url", url]).await.expect_err(url);
        assert!(error.contains(reason), "{url}: {error}");
        assert!(
            reason.starts_with("use") || !error.contains("hidden"),
            "{error}"
        );
    }
}
