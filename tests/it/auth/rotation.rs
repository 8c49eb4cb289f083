//! Keys change while the service runs.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{SECRET, Signer, Site, claims, read};
use crate::support::{bed::Served, patience::until};

fn token(signer: &Signer, kid: &str) -> String {
    signer.sign_as(&json!({ "kid": kid }), &claims("read", &["a"]))
}

async fn comes(node: &Served, what: &str, token: &str, status: u16) {
    until(what, async || {
        (read(node, token).await.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_file_is_loaded_and_an_invalid_one_changes_nothing() {
    let site = Site::new();
    let (old, new) = (Signer::ed25519(), Signer::p256());
    let [with_old, with_new] =
        [("old", &old), ("new", &new)].map(|(kid, signer)| (token(signer, kid), signer.jwk(kid)));
    let keys = |keys: &[&Value]| json!({ "keys": keys }).to_string();
    let node = site.node_with_keys(&keys(&[&with_old.1]), &[]).await;
    assert_eq!(read(&node, &with_old.0).await.status, 200);
    read(&node, &with_new.0)
        .await
        .problem(401, "token_key_unknown")
        .expect("not yet");

    site.file("keys", &keys(&[&with_old.1, &with_new.1]));
    comes(&node, "the new key", &with_new.0, 200).await;
    assert_eq!(read(&node, &with_old.0).await.status, 200);

    // A removed key stops working, although its token is in the cache.
    site.file("keys", &keys(&[&with_new.1]));
    comes(&node, "the end of the old key", &with_old.0, 401).await;
    read(&node, &with_old.0)
        .await
        .problem(401, "token_key_unknown")
        .expect("removed");
    assert_eq!(read(&node, &with_new.0).await.status, 200);

    // With an incomplete or missing file the previous keys stay, also after the service has looked at it.
    for bad in [Some("{\"keys\": ["), None] {
        match bad {
            Some(content) => drop(site.file("keys", content)),
            None => std::fs::remove_file(site.file("keys", "")).expect("removed"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(read(&node, &with_new.0).await.status, 200, "{bad:?}");
    }
    // A valid file is loaded again.
    site.file("keys", &keys(&[&with_old.1]));
    comes(&node, "the old key again", &with_old.0, 200).await;
    comes(&node, "the end of the new key", &with_new.0, 401).await;
}

#[tokio::test]
async fn a_secret_is_rotated_like_any_key() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let old = super::master();
    assert_eq!(read(&node, &old).await.status, 200);
    site.file("keys", "another secret of more than thirty-two bytes\n");
    comes(&node, "the end of the secret", &old, 401).await;
    read(&node, &old)
        .await
        .problem(401, "token_signature")
        .expect("no other code");
    site.file("keys", &format!("{SECRET}\n"));
    comes(&node, "the secret again", &old, 200).await;
}

/// A server of a JWKS that counts its requests.
#[derive(Clone, Default)]
struct Issuer {
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(&self) -> String {
        async fn jwks(State(issuer): State<Issuer>) -> (StatusCode, String) {
            issuer.asked.fetch_add(1, Ordering::SeqCst);
            match &*issuer.keys.lock().expect("no panic") {
                Some(keys) => (StatusCode::OK, json!({ "keys": keys }).to_string()),
                None => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new()
            .route("/jwks", get(jwks))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/jwks")
    }

    fn publish(&self, keys: Option<Value>) {
        *self.keys.lock().expect("no panic") = keys;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn an_unknown_kid_fetches_the_jwks_but_not_every_time() {
    let site = Site::new();
    let issuer = Issuer::default();
    let (old, new) = (Signer::p256(), Signer::rsa());
    let url = issuer.start().await;
    site.auth(&["--auth-jwks-url", &url])
        .await
        .expect_err("the issuer fails");
    // A secret from a URL is not accepted: others could fetch it.
    issuer.publish(Some(json!([Signer::hs256().jwk("shared")])));
    site.auth(&["--auth-jwks-url", &url])
        .await
        .expect_err("a secret at a URL");

    issuer.publish(Some(json!([old.jwk("old")])));
    let node = site.node(&["--auth-jwks-url", &url]).await;
    assert_eq!(read(&node, &token(&old, "old")).await.status, 200);
    let before = issuer.asked();
    for _ in 0..20 {
        let answer = read(&node, &token(&new, "new")).await;
        answer
            .problem(401, "token_key_unknown")
            .expect("not published");
    }
    // Between two fetches there is a pause. 20 requests may take longer than one pause, but not than ten.
    assert!(issuer.asked() - before < 10, "{}", issuer.asked() - before);

    issuer.publish(Some(json!([new.jwk("new")])));
    comes(&node, "the new key", &token(&new, "new"), 200).await;
    let gone = read(&node, &token(&old, "old")).await;
    gone.problem(401, "token_key_unknown").expect("removed");

    // A failing issuer does not remove keys.
    issuer.publish(None);
    let before = issuer.asked();
    until("another request to the issuer", async || {
        let answer = read(&node, &token(&old, "old")).await;
        answer
            .problem(401, "token_key_unknown")
            .expect("still unknown");
        (issuer.asked() > before).then_some(())
    })
    .await;
    assert_eq!(read(&node, &token(&new, "new")).await.status, 200);
}
