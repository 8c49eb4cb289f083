//! A running service reads a changed key file: what it says, and what it never does.

use std::{fs::File, path::PathBuf, process::Stdio};

use jsonwebtoken::EncodingKey;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{SECRET_FILE, Signer, Site, bearer, claims};
use crate::support::{
    bed::Api,
    patience::{PATIENCE, until},
};

/// `newsfeed serve` that logs to a file.
struct Service {
    _child: Child,
    api: Api,
    log: PathBuf,
}

impl Service {
    async fn start(site: &Site, flag: &str, keys: &str) -> Self {
        let file = site.file("keys", keys);
        let log = site.file("log", "");
        let data = site.file("data", "");
        std::fs::remove_file(&data).expect("removed");
        let mut child = Command::new(env!("CARGO_BIN_EXE_newsfeed"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg(flag)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("a file"))
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.expect("text").expect("a line before the end");
        let base = line.strip_prefix("newsfeed is listening on ");
        Self {
            api: Api::at(base.expect("the promised line").to_owned()),
            _child: child,
            log,
        }
    }

    /// Waits until the log has `count` lines with `text`; returns the last one.
    async fn says(&self, text: &str, count: usize) -> String {
        until(text, async || {
            let log = std::fs::read_to_string(&self.log).expect("text");
            let mut said = log.lines().filter(|line| line.contains(text));
            said.nth(count - 1).map(str::to_owned)
        })
        .await
    }

    async fn status(&self, token: &str) -> u16 {
        let (name, value) = bearer(token);
        let headers = [(name, value.as_str())];
        self.api.send("GET", "/v1/feeds/a", &headers).await.status
    }
}

const REFUSED: &str = "CANNOT USE THE CHANGED FILE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_never_changes_the_kind_of_keys() {
    let site = Site::new();
    let (signer, other) = (Signer::ed25519(), Signer::p256());
    let jwks = json!({ "keys": [signer.jwk("k")] }).to_string();
    let service = Service::start(&site, "--auth-keys", &jwks).await;
    let good = signer.sign(&claims("read", &["a"]));
    assert_eq!(service.status(&good).await, 200);
    let page = format!("<html>404 Not Found: {}</html>", "x".repeat(32));
    let shared = json!({ "keys": [Signer::hs256().jwk("k")] }).to_string();
    let array = format!("[{}]", signer.jwk("k"));
    let files = [
        ("perhaps an error page", page.as_str()),
        ("a JSON array", &array),
        ("perhaps a secret", SECRET_FILE),
        ("shared secret", &shared),
        (
            "it was a JWKS when the service started and is PEM now",
            &other.public,
        ),
    ];
    for (index, (reason, content)) in files.into_iter().enumerate() {
        site.file("keys", content);
        let said = service.says(REFUSED, index + 1).await;
        assert!(said.contains(reason) && said.contains("ERROR"), "{said}");
        let forger = Signer {
            key: EncodingKey::from_secret(content.as_bytes()),
            ..Signer::hs256()
        };
        for forger in [&forger, &Signer::hs256(), &other] {
            let forged = forger.sign(&claims("read append mark admin", &["*"]));
            assert_eq!(service.status(&forged).await, 401, "{content}");
        }
        assert_eq!(service.status(&good).await, 200, "{content}");
    }
    // Another algorithm in the same form is a rotation.
    site.file("keys", &json!({ "keys": [other.jwk("k")] }).to_string());
    service.says("file changed and was reloaded", 1).await;
    assert_eq!(service.status(&good).await, 401);
    assert_eq!(
        service.status(&other.sign(&claims("read", &["a"]))).await,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_file_never_becomes_a_file_of_public_keys() {
    let site = Site::new();
    let service = Service::start(&site, "--auth-secret-file", SECRET_FILE).await;
    let good = super::master();
    let other = Signer::ed25519();
    for (index, content) in [&other.public, super::SECRET].into_iter().enumerate() {
        site.file("keys", content);
        service.says(REFUSED, index + 1).await;
        for key in [content.as_bytes(), content.trim_ascii().as_bytes()] {
            let forger = Signer {
                key: EncodingKey::from_secret(key),
                ..Signer::hs256()
            };
            let forged = forger.sign(&claims("read", &["a"]));
            // The text of the second file is the secret in use.
            let is_it = content == super::SECRET;
            assert_eq!(service.status(&forged).await == 200, is_it);
        }
        assert_eq!(
            service.status(&other.sign(&claims("read", &["a"]))).await,
            401
        );
        assert_eq!(service.status(&good).await, 200);
    }
}
