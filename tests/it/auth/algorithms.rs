//! Each algorithm is accepted with its own kind of key, and with no other.

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use super::{Signer, Site, claims, read};

#[tokio::test]
async fn each_algorithm_is_accepted_only_with_its_own_kind_of_key() {
    let site = Site::new();
    let signers = Signer::all();
    let tokens = Vec::from_iter(
        signers
            .iter()
            .map(|signer| (signer.name, signer.sign(&claims("read", &["a"])))),
    );
    for signer in &signers {
        let jwks = json!({ "keys": [signer.jwk("k")] }).to_string();
        // A JWKS has public keys only.
        let jwks = (signer.name != "HS256").then_some(jwks);
        for keys in [Some(signer.public.clone()), jwks].iter().flatten() {
            let node = site.node_with_keys(keys, &[]).await;
            for (name, token) in &tokens {
                let answer = read(&node, token).await;
                if *name == signer.name {
                    assert_eq!(answer.status, 200, "{name}");
                } else {
                    let problem = answer.problem(401, "token_algorithm");
                    problem.unwrap_or_else(|error| panic!("{name}, {}: {error}", signer.name));
                }
            }
        }
    }
    // All public keys in one file, and a secret in another.
    let keys: Vec<_> = signers
        .iter()
        .map(|signer| signer.jwk(signer.name))
        .collect();
    let secret = site.file("secret", &signers[0].public);
    let flags = ["--auth-secret-file", secret.to_str().expect("UTF-8")];
    let node = site
        .node_with_keys(&json!({ "keys": keys }).to_string(), &flags)
        .await;
    for (name, token) in &tokens {
        assert_eq!(read(&node, token).await.status, 200, "{name}");
    }
    // Several public keys in one file, as during a key rotation.
    let pem: String = signers[1..]
        .iter()
        .map(|signer| signer.public.as_str())
        .collect();
    let node = site.node_with_keys(&pem, &[]).await;
    for (name, token) in &tokens[1..] {
        assert_eq!(read(&node, token).await.status, 200, "{name}");
    }
}

/// An attacker uses the public key as an HS256 secret.
#[tokio::test]
async fn a_public_key_is_not_accepted_as_a_secret() {
    let site = Site::new();
    for signer in &Signer::all()[1..] {
        let jwk = signer.jwk("k");
        let jwks = json!({ "keys": [jwk] }).to_string();
        for keys in [&signer.public, &jwks] {
            let node = site.node_with_keys(keys, &[]).await;
            let der = pem_body(&signer.public);
            let texts = [
                signer.public.as_bytes(),
                signer.public.trim_end().as_bytes(),
                &der,
                keys.as_bytes(),
                jwk["n"]
                    .as_str()
                    .or(jwk["x"].as_str())
                    .expect("a number")
                    .as_bytes(),
            ];
            for text in texts {
                let forger = Signer {
                    name: "HS256",
                    algorithm: Algorithm::HS256,
                    key: EncodingKey::from_secret(text),
                    public: String::new(),
                    private: String::new(),
                };
                for header in [json!({}), json!({ "kid": "k" })] {
                    let token = forger.sign_as(&header, &claims("read", &["a"]));
                    let answer = read(&node, &token).await;
                    answer.problem(401, "token_algorithm").expect(signer.name);
                }
            }
        }
    }
}

fn pem_body(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    let base64: String = lines.collect();
    data_encoding::BASE64
        .decode(base64.as_bytes())
        .expect("base64")
}
