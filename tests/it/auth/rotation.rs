//! Keys change while the service runs.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{SECRET_FILE, Signer, Site, claims, read};
use crate::support::{
    bed::Served,
    patience::{self, until},
};

/// After this long, a JWKS is fetched again because of an unknown key.
const PAUSE: Duration = Duration::from_secs(10);

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
    let another = data_encoding::BASE64.encode(b"another secret of more than thirty-two bytes");
    site.file("keys", &format!("{another}\n"));
    comes(&node, "the end of the secret", &old, 401).await;
    read(&node, &old)
        .await
        .problem(401, "token_signature")
        .expect("no other code");
    // While tokens of the old secret are in use, both are in the file.
    site.file("keys", &format!("{another}\n{SECRET_FILE}\n"));
    comes(&node, "the secret again", &old, 200).await;
}

/// A server of a JWKS that counts its requests.
#[derive(Clone, Default)]
struct Issuer {
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
    /// While set, requests are not answered.
    stuck: Arc<AtomicBool>,
}

impl Issuer {
    async fn start(&self) -> String {
        async fn jwks(State(issuer): State<Issuer>) -> (StatusCode, String) {
            issuer.asked.fetch_add(1, Ordering::SeqCst);
            if issuer.stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
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

/// A fetch takes 10 s at most. When each request fetched for itself and held a lock meanwhile, the file below waited for
/// all of them: 80 s and more.
#[tokio::test]
async fn a_url_that_does_not_answer_delays_only_those_who_need_it() {
    const WAITING: usize = 8;
    let site = Site::new();
    let issuer = Issuer::default();
    let (of_url, of_file, next) = (Signer::p256(), Signer::ed25519(), Signer::rsa());
    issuer.publish(Some(json!([of_url.jwk("url")])));
    let url = issuer.start().await;
    let keys = json!({ "keys": [of_file.jwk("file")] }).to_string();
    let node = site.node_with_keys(&keys, &["--auth-jwks-url", &url]).await;
    let node = Arc::new(node);
    let unknown = token(&next, "next");
    issuer.stuck.store(true, Ordering::SeqCst);
    // The pause from the fetch at the start.
    until("a fetch that does not end", async || {
        let asking = tokio::time::timeout(Duration::from_millis(100), read(&node, &unknown));
        drop(asking.await);
        (issuer.asked() > 1).then_some(())
    })
    .await;
    let before = issuer.asked();
    let began = Instant::now();
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let (node, unknown) = (Arc::clone(&node), unknown.clone());
            tokio::spawn(async move { read(&node, &unknown).await.status })
        })
        .collect();
    site.file("keys", &json!({ "keys": [next.jwk("other")] }).to_string());
    comes(
        &node,
        "the end of the key in the file",
        &token(&of_file, "file"),
        401,
    )
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(read(&node, &token(&of_url, "url")).await.status, 200);
    for waiting in waiting {
        assert_eq!(waiting.await.expect("no panic"), 401);
    }
    // They shared the fetch that was under way, and perhaps one more.
    assert!(issuer.asked() - before <= 1, "{}", issuer.asked() - before);
    issuer.stuck.store(false, Ordering::SeqCst);
    issuer.publish(Some(json!([of_url.jwk("url"), next.jwk("next")])));
    comes(&node, "the new key", &unknown, 200).await;
}

/// A key without `kid` may be meant by any token, but a token that it does not verify may need a key of tomorrow.
#[tokio::test]
async fn an_unnamed_key_does_not_hide_that_another_one_is_unknown() {
    let site = Site::new();
    let issuer = Issuer::default();
    let (unnamed, next, last) = (Signer::p256(), Signer::p256(), Signer::p256());
    let without_name = |signer: &Signer| {
        let mut jwk = signer.jwk("");
        jwk.as_object_mut().expect("an object").remove("kid");
        jwk
    };
    issuer.publish(Some(json!([without_name(&unnamed)])));
    let url = issuer.start().await;
    let node = site.node(&["--auth-jwks-url", &url]).await;
    let of_unnamed = token(&unnamed, "any");
    assert_eq!(read(&node, &of_unnamed).await.status, 200);
    let of_next = token(&next, "next");
    let refused = read(&node, &of_next).await;
    refused.problem(401, "token_signature").expect("not yet");
    issuer.publish(Some(json!([without_name(&unnamed), next.jwk("next")])));
    // The request waits for the fetch, so nothing is under way when time jumps again.
    patience::jump(PAUSE).await;
    assert_eq!(read(&node, &of_next).await.status, 200);

    // Without names, any refused token may be of a new key.
    let of_last = last.sign(&claims("read", &["a"]));
    let refused = read(&node, &of_last).await;
    refused.problem(401, "token_signature").expect("not yet");
    issuer.publish(Some(json!([without_name(&last)])));
    patience::jump(PAUSE).await;
    assert_eq!(read(&node, &of_last).await.status, 200);
    for (removed, code) in [
        (&of_unnamed, "token_signature"),
        (&of_next, "token_signature"),
    ] {
        read(&node, removed)
            .await
            .problem(401, code)
            .expect("removed");
    }
}
