//! `newsfeed admin token`: signs tokens with a key file, for trying things out. In production, an identity provider issues
//! them.

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{AppendLimits, Patterns, Scope, Secret, pem};
use crate::clock::WallTime;

#[derive(Debug, Clone, Args)]
pub struct MintArgs {
    /// File with a private key (PEM: RSA, EC P-256 or Ed25519), or with a secret for HS256 (hex or base64)
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// `kid` of the key, if the service has several
    #[arg(long, value_name = "TEXT")]
    pub kid: Option<String>,
    /// Subject of the token
    #[arg(long, value_name = "TEXT")]
    pub sub: Option<String>,
    /// Scope: read, append, mark, change, export, metrics or admin; repeat the flag or separate several with commas
    #[arg(
        long,
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = "read"
    )]
    pub scope: Vec<Scope>,
    /// Feed, or a prefix of feed names followed by *; repeat the flag for several [default: none, but with scope export
    /// all]
    #[arg(long, value_name = "PATTERN")]
    pub feed: Vec<String>,
    /// Actor that events may name, or a prefix of actors followed by *; repeat the flag for several [default: any actor]
    #[arg(long, value_name = "PATTERN")]
    pub actor: Vec<String>,
    /// Reader that the token may act as, or a prefix of readers followed by *; repeat the flag for several [default: what
    /// --actor allows; without it, the reader that has the name of --sub]
    #[arg(long, value_name = "PATTERN")]
    pub reader: Vec<String>,
    /// Kind of event that may be appended, or a prefix of kinds followed by *; repeat the flag for several [default: any
    /// kind]
    #[arg(long, value_name = "PATTERN")]
    pub kind: Vec<String>,
    /// Id that events may have, or a prefix of ids followed by *; repeat the flag for several [default: with --actor, ids
    /// that begin with the event's actor and a slash; without, any id]
    #[arg(long, value_name = "PATTERN")]
    pub id: Vec<String>,
    /// Events per second that may be appended, if that is less than the service allows
    #[arg(long, value_name = "EVENTS")]
    pub events_per_s: Option<NonZeroU32>,
    /// Bytes of keys and values per second that appends may write, if that is less than the service allows; each feed of an
    /// event has a copy
    #[arg(long, value_name = "BYTES")]
    pub bytes_per_s: Option<NonZeroU32>,
    /// Lifetime of the token
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=525_600))]
    pub minutes: u32,
    /// `aud` of the token
    #[arg(long, value_name = "TEXT")]
    pub audience: Option<String>,
    /// `iss` of the token
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    feeds: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    actors: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    readers: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    kinds: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ids: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<AppendLimits>,
    iat: u64,
    exp: u64,
}

/// Signs a token as `args` says.
pub fn token(args: &MintArgs, wall: &WallTime) -> Result<String, String> {
    Patterns::parse(&args.feed)?;
    Patterns::of_claim("actors", &args.actor)?;
    Patterns::of_claim("readers", &args.reader)?;
    Patterns::of_claim("kinds", &args.kind)?;
    Patterns::of_ids("ids", &args.id)?;
    let in_file = |error: String| format!("{}: {error}", args.key.display());
    let bytes = std::fs::read(&args.key).map_err(|error| in_file(error.to_string()))?;
    let (algorithm, key) = match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains("-----BEGIN") => pem::private_key(text).map_err(in_file)?,
        _ => {
            // Several secrets verify; the first one signs.
            let secrets = Secret::list(&bytes).map_err(in_file)?;
            (
                Algorithm::HS256,
                EncodingKey::from_secret(secrets[0].bytes()),
            )
        }
    };
    let scopes: Vec<&str> = args.scope.iter().map(|scope| scope.name()).collect();
    let limits = AppendLimits {
        events_per_s: args.events_per_s,
        bytes_per_s: args.bytes_per_s,
    };
    let now = wall.micros() / 1_000_000;
    let claims = Claims {
        sub: args.sub.as_deref(),
        aud: args.audience.as_deref(),
        iss: args.issuer.as_deref(),
        scope: scopes.join(" "),
        feeds: &args.feed,
        actors: &args.actor,
        readers: &args.reader,
        kinds: &args.kind,
        ids: &args.id,
        limits: Some(limits).filter(|limits| *limits != AppendLimits::default()),
        iat: now,
        exp: now + u64::from(args.minutes) * 60,
    };
    let header = Header {
        kid: args.kid.clone(),
        ..Header::new(algorithm)
    };
    jsonwebtoken::encode(&header, &claims, &key)
        .map_err(|_| in_file("the key cannot sign: is it complete?".to_owned()))
}
