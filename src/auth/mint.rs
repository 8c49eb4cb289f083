//! `newsfeed admin token`: signs tokens with a key file, to try things out with. Real ones come from whoever logs users
//! in.

use std::path::PathBuf;

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{Patterns, Scope, keys, pem};
use crate::clock::WallTime;

#[derive(Debug, Clone, Args)]
pub struct MintArgs {
    /// A private key (PEM: RSA, EC P-256 or Ed25519) or a secret for HS256
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Name of the key, if the service has several
    #[arg(long, value_name = "TEXT")]
    pub kid: Option<String>,
    /// Whom it is for
    #[arg(long, value_name = "TEXT")]
    pub sub: Option<String>,
    /// What it is for: read, append, mark, admin; repeat it, or separate by commas
    #[arg(
        long,
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = "read"
    )]
    pub scope: Vec<Scope>,
    /// A feed, or a beginning of feeds' names followed by *; repeat it for several
    #[arg(long, value_name = "PATTERN")]
    pub feed: Vec<String>,
    /// An actor in whose name it may append, or a beginning of actors' names followed by *; repeat it for several
    /// [default: anybody's]
    #[arg(long, value_name = "PATTERN")]
    pub actor: Vec<String>,
    /// How long it is good
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=525_600))]
    pub minutes: u32,
    /// The `aud` it has
    #[arg(long, value_name = "TEXT")]
    pub audience: Option<String>,
    /// The `iss` it has
    #[arg(long, value_name = "TEXT")]
    pub issuer: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    scope: String,
    feeds: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    actors: &'a [String],
    iat: u64,
    exp: u64,
}

/// A token for `args`.
pub fn token(args: &MintArgs, wall: &WallTime) -> Result<String, String> {
    Patterns::parse(&args.feed)?;
    Patterns::of_claim("actors", &args.actor)?;
    let in_file = |error: String| format!("{}: {error}", args.key.display());
    let bytes = std::fs::read(&args.key).map_err(|error| in_file(error.to_string()))?;
    let (algorithm, key) = match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains("-----BEGIN") => pem::private_key(text).map_err(in_file)?,
        _ => {
            let secret = keys::secret(&bytes).map_err(in_file)?;
            (Algorithm::HS256, EncodingKey::from_secret(secret.bytes()))
        }
    };
    let scopes: Vec<&str> = args.scope.iter().map(|scope| scope.name()).collect();
    let now = wall.micros() / 1_000_000;
    let claims = Claims {
        sub: args.sub.as_deref(),
        aud: args.audience.as_deref(),
        iss: args.issuer.as_deref(),
        scope: scopes.join(" "),
        feeds: &args.feed,
        actors: &args.actor,
        iat: now,
        exp: now + u64::from(args.minutes) * 60,
    };
    let header = Header {
        kid: args.kid.clone(),
        ..Header::new(algorithm)
    };
    jsonwebtoken::encode(&header, &claims, &key)
        .map_err(|_| in_file("it does not sign: is the key whole?".to_owned()))
}
