//! Tokens, tickets and key files.

use std::str;

use serde_json::json;

use super::hammer;
use crate::auth::{SECRET_FILE, Signer, Site, claims, master};

fn jwks(signers: &[Signer]) -> String {
    let keys: Vec<_> = signers
        .iter()
        .map(|signer| signer.jwk(signer.name))
        .collect();
    json!({ "keys": keys }).to_string()
}

/// A token with any change is refused; nothing panics.
#[tokio::test]
async fn token() {
    let site = Site::new();
    let signers = Signer::all();
    let secret = site.file("secret", SECRET_FILE);
    let keys = site.file("keys", &jwks(&signers));
    let [keys, secret] = [&keys, &secret].map(|file| file.to_str().expect("UTF-8"));
    let flags = ["--auth-keys", keys, "--auth-secret-file", secret];
    let auth = site.auth(&flags).await.expect("keys").expect("some");
    let good: Vec<Vec<u8>> = signers
        .iter()
        .map(|signer| signer.sign(&claims("read", &["a", "b*"])).into_bytes())
        .collect();
    for token in &good {
        let token = str::from_utf8(token).expect("text");
        auth.token(token).await.expect("a good token");
    }
    hammer("token", &good, async |input| {
        let Ok(text) = str::from_utf8(input) else {
            return Ok(());
        };
        if auth.ticket(text).is_ok() {
            return Err("a token was accepted as a ticket".to_owned());
        }
        match auth.token(text).await {
            Ok(_) if !good.iter().any(|good| good == input) => {
                Err("accepted, but never signed".to_owned())
            }
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn ticket() {
    let site = Site::new();
    let keys = site.file("keys", SECRET_FILE);
    let flags = ["--auth-secret-file", keys.to_str().expect("UTF-8")];
    let auth = site.auth(&flags).await.expect("keys").expect("some");
    let grant = auth.token(&master()).await.expect("a good token");
    let feeds = ["a".parse().expect("a name")];
    let ticket = auth.issue_ticket(&grant, &feeds).expect("a ticket");
    let good = vec![ticket.text.into_bytes()];
    hammer("ticket", &good, async |input| {
        let Ok(text) = str::from_utf8(input) else {
            return Ok(());
        };
        match auth.ticket(text) {
            Ok(_) if good[0] != input => Err("accepted, but never issued".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

/// A key file is loaded or refused; nothing panics.
#[tokio::test]
async fn keys() {
    let site = Site::new();
    let signers = Signer::all();
    let corpus = [
        jwks(&signers).into_bytes(),
        SECRET_FILE.as_bytes().to_vec(),
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n".to_vec(),
    ];
    let path = site.file("keys", "");
    let path = path.to_str().expect("UTF-8");
    hammer("keys", &corpus, async |input| {
        std::fs::write(path, input).expect("written");
        let loaded = [
            site.auth(&["--auth-keys", path]).await,
            site.auth(&["--auth-secret-file", path]).await,
        ];
        match loaded.iter().all(Result::is_ok) {
            true => Err("the same bytes are public keys and a secret".to_owned()),
            false => Ok(()),
        }
    })
    .await;
}
