//! Authentication: what a token permits, and how each refusal is answered. Nothing here depends on the store, so these
//! tests use the embedded engine.

mod algorithms;
mod append_rights;
mod binary;
mod change_rights;
mod cookie;
mod expiry;
mod ids;
mod key_files;
mod patterns;
mod readers;
mod refusals;
mod reload;
mod rights;
mod rotation;
mod tickets;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use axum::{
    body::Body,
    http::{Request, Response},
};
use clap::{Args, FromArgMatches};
use data_encoding::BASE64URL_NOPAD;
use hyper::body::Incoming;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, jwk::Jwk};
use newsfeed::{
    auth::{Auth, AuthArgs},
    clock::WallTime,
    http::limits::Limits,
    server::Settings,
};
use serde_json::{Value, json};

use crate::support::{
    bed::{Answer, Bed, Served, default_settings, log_control},
    protocol::Protocol,
};

/// The HS256 secret of all services in these tests.
pub const SECRET: &str = "a secret of more than thirty-two bytes";
/// The content of a secret file with [`SECRET`].
pub const SECRET_FILE: &str = "YSBzZWNyZXQgb2YgbW9yZSB0aGFuIHRoaXJ0eS10d28gYnl0ZXM=";

/// A key that signs tokens.
pub struct Signer {
    pub name: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    /// The content of a key file with which a service verifies its tokens.
    pub public: String,
    private: String,
}

impl Signer {
    pub fn hs256() -> Self {
        Self {
            name: "HS256",
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(SECRET.as_bytes()),
            public: SECRET_FILE.to_owned(),
            private: SECRET_FILE.to_owned(),
        }
    }

    pub fn ed25519() -> Self {
        Self::pair(
            "EdDSA",
            Algorithm::EdDSA,
            &rcgen::PKCS_ED25519,
            EncodingKey::from_ed_pem,
        )
    }

    pub fn p256() -> Self {
        let kind = &rcgen::PKCS_ECDSA_P256_SHA256;
        Self::pair("ES256", Algorithm::ES256, kind, EncodingKey::from_ec_pem)
    }

    pub fn rsa() -> Self {
        Self::pair(
            "RS256",
            Algorithm::RS256,
            &rcgen::PKCS_RSA_SHA256,
            EncodingKey::from_rsa_pem,
        )
    }

    pub fn all() -> [Self; 4] {
        [Self::hs256(), Self::ed25519(), Self::p256(), Self::rsa()]
    }

    fn pair(
        name: &'static str,
        algorithm: Algorithm,
        kind: &'static rcgen::SignatureAlgorithm,
        read: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>,
    ) -> Self {
        let pair = rcgen::KeyPair::generate_for(kind).expect("a key");
        let private = pair.serialize_pem();
        let key = read(private.as_bytes()).expect("a key that signs");
        Self {
            name,
            algorithm,
            key,
            public: pair.public_key_pem(),
            private,
        }
    }

    /// The public key as a JWK.
    pub fn jwk(&self, kid: &str) -> Value {
        let public = self.public.as_bytes();
        let key = match self.algorithm {
            Algorithm::EdDSA => DecodingKey::from_ed_pem(public),
            Algorithm::ES256 => DecodingKey::from_ec_pem(public),
            Algorithm::RS256 => DecodingKey::from_rsa_pem(public),
            _ => Ok(DecodingKey::from_secret(SECRET.as_bytes())),
        };
        let key = key.expect("a public key");
        let jwk = Jwk::from_decoding_key(&key, Some(self.algorithm)).expect("a JWK");
        let mut jwk = serde_json::to_value(&jwk).expect("JSON");
        jwk["kid"] = json!(kid);
        jwk
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({ "typ": "JWT" }), claims)
    }

    /// Signs with this header; `alg` is the signer's, unless `header` has one.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let mut header = header.clone();
        if header.get("alg").is_none() {
            header["alg"] = json!(self.name);
        }
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm);
        format!("{message}.{}", signature.expect("a signature"))
    }
}

fn encode(json: &Value) -> String {
    BASE64URL_NOPAD.encode(json.to_string().as_bytes())
}

pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// Claims that are valid for an hour.
pub fn claims(scope: &str, feeds: &[&str]) -> Value {
    json!({ "sub": "user:42", "scope": scope, "feeds": feeds, "exp": now() + 3600 })
}

/// A token with every right on services with [`SECRET`].
pub fn master() -> String {
    Signer::hs256().sign(&claims("read append mark change admin", &["*"]))
}

/// The header with bearer credentials.
pub fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

/// A store, and nodes on it that require tokens.
pub struct Site {
    pub bed: Bed,
    folder: tempfile::TempDir,
    /// The clock by which tokens expire.
    pub wall: WallTime,
}

impl Site {
    pub fn new() -> Self {
        Self::at(WallTime::system(0))
    }

    pub fn at(wall: WallTime) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            bed: Bed::embedded(),
            folder,
            wall,
        }
    }

    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        // Renamed into place, so that nobody reads an incomplete file.
        let fresh = self.folder.path().join(format!("{name}.new"));
        std::fs::write(&fresh, content).expect("written");
        std::fs::rename(&fresh, &path).expect("moved");
        path
    }

    /// Authentication as `newsfeed serve` configures it with these flags.
    pub async fn auth(&self, flags: &[&str]) -> Result<Option<Arc<Auth>>, String> {
        let command = AuthArgs::augment_args(clap::Command::new("serve"));
        let matches = command.try_get_matches_from([&["serve"], flags].concat());
        let matches = matches.map_err(|error| error.to_string())?;
        let args = AuthArgs::from_arg_matches(&matches).expect("arguments");
        Auth::open(&args, self.wall.clone()).await
    }

    pub async fn node(&self, flags: &[&str]) -> Served {
        self.node_limited(flags, Limits::default()).await
    }

    /// A node with quotas.
    pub async fn node_limited(&self, flags: &[&str], limits: Limits) -> Served {
        let auth = self.auth(flags).await.expect("keys");
        assert!(auth.is_some());
        let settings = Settings {
            auth,
            limits,
            log: Some(log_control()),
            ..default_settings()
        };
        self.bed.node_as(self.bed.store(), settings).await
    }

    /// A node with a file of this content: public keys, or a secret.
    pub async fn node_with_keys(&self, keys: &str, flags: &[&str]) -> Served {
        let file = self.file("keys", keys);
        let file = file.to_str().expect("a UTF-8 path");
        let flag = match keys.starts_with(['{', '-']) {
            true => "--auth-keys",
            false => "--auth-secret-file",
        };
        self.node(&[&[flag, file], flags].concat()).await
    }

    /// The flags of a service with [`SECRET`].
    pub fn secret_flags(&self) -> [String; 2] {
        let file = self.file("secret", SECRET_FILE);
        let file = file.to_str().expect("a UTF-8 path");
        ["--auth-secret-file".to_owned(), file.to_owned()]
    }

    /// A node with [`SECRET`].
    pub async fn node_with_secret(&self) -> Served {
        self.node_with_keys(SECRET_FILE, &[]).await
    }
}

/// Sends a request with JSON or without a body.
pub async fn ask(
    node: &Served,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    let mut headers = headers.to_vec();
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let body = body.map_or_else(String::new, Value::to_string);
    node.send_body(method, path, &headers, body).await
}

/// Sends a request over `protocol`; returns the answer before its body has arrived.
pub async fn speak(
    protocol: Protocol,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Response<Incoming> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).expect("a request");
    let answer = protocol.client().request(request).await.expect("an answer");
    assert_eq!(answer.version(), protocol.version());
    answer
}

/// Reads the state of feed `a` with a token.
pub async fn read(node: &Served, token: &str) -> Answer {
    let (name, value) = bearer(token);
    ask(node, "GET", "/v1/feeds/a", &[(name, &value)], None).await
}
