//! Unusable key files are refused at the start, with the reason.

use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::{SECRET, Signer, Site};

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
    let short = json!({ "keys": [{ "kty": "oct", "k": "c2hvcnQ" }] }).to_string();
    let many: Vec<_> = (0..33)
        .map(|index| signer.jwk(&index.to_string()))
        .collect();
    let cases = [
        ("at least 32 bytes", "short"),
        ("at least 32 bytes", ""),
        ("at least 32 bytes", &"x".repeat(31)),
        ("private key", &signer.private),
        ("P-256", &p384.public_key_pem()),
        (
            "CERTIFICATE",
            &signer.public.replace("PUBLIC KEY", "CERTIFICATE"),
        ),
        ("broken", &signer.public.replace("MCow", "!!!!")),
        ("not a JWKS", "{\"keys\": 5}"),
        ("not a JWKS", "{\"kty\": \"oct\"}"),
        ("no key for", "{\"keys\": []}"),
        ("algorithm other than", &with("alg", json!("RS256"))),
        ("not for signatures", &with("use", json!("enc"))),
        ("not for signatures", &with("key_ops", json!(["sign"]))),
        ("type or curve", &with("x", json!("AAAA"))),
        ("type or curve", &with("crv", json!("P-256"))),
        ("2048 bits", &small),
        ("at least 32 bytes", &short),
        ("33 keys", &json!({ "keys": many }).to_string()),
        (
            "looks like a key",
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
    let file = site.file("ticket", "short");
    let keys = site.file("good", SECRET);
    let [file, keys] = [&file, &keys].map(|path| path.to_str().expect("UTF-8"));
    site.auth(&["--auth-keys", keys, "--auth-ticket-key", file])
        .await
        .expect_err("short");
    // Unusable keys in a JWKS are skipped if one is usable.
    let mixed = json!({ "keys": [{ "kty": "new" }, 5, signer.jwk("k")] }).to_string();
    let mixed = site.file("mixed", &mixed);
    let auth = site
        .auth(&["--auth-keys", mixed.to_str().expect("UTF-8")])
        .await;
    assert!(auth.expect("one is good").is_some());
    assert!(site.auth(&[]).await.expect("no keys").is_none());
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
