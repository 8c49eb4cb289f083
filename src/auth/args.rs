//! The settings of `newsfeed serve` for authentication.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Args, builder::BoolishValueParser};

use super::secret::Secret;
use crate::outbound::is_local;

/// The environment variable with the secret for HS256. There is no flag for the secret itself, because other users can see
/// command lines.
pub const SECRET_VARIABLE: &str = "NEWSFEED_AUTH_SECRET";

#[derive(Debug, Clone, Args)]
pub struct AuthArgs {
    /// File with the public keys that verify tokens: a JWKS, or PEM (RSA, EC P-256, Ed25519). Reloaded when it changes.
    #[arg(long, env = "NEWSFEED_AUTH_KEYS", value_name = "FILE")]
    pub auth_keys: Option<PathBuf>,

    /// URL of a JWKS: https, or http on this machine. Fetched every 5 minutes, and when a token names an unknown key.
    #[arg(long, env = "NEWSFEED_AUTH_JWKS_URL", value_name = "URL")]
    pub auth_jwks_url: Option<JwksUrl>,

    /// File with the secret for HS256: at least 32 random bytes in hex or base64. Several, one a line, all verify tokens,
    /// and the first one signs tickets. Reloaded when it changes.
    #[arg(long, env = "NEWSFEED_AUTH_SECRET_FILE", value_name = "FILE")]
    pub auth_secret_file: Option<PathBuf>,

    /// Read from the environment only, in the form of `auth_secret_file`.
    #[arg(skip = Secret::from_environment(SECRET_VARIABLE))]
    pub secrets: Option<Result<Vec<Secret>, String>>,

    /// Audience that a token's `aud` must include.
    #[arg(long, env = "NEWSFEED_AUTH_AUDIENCE", value_name = "TEXT")]
    pub auth_audience: Option<String>,

    /// Issuer that a token's `iss` must equal.
    #[arg(long, env = "NEWSFEED_AUTH_ISSUER", value_name = "TEXT")]
    pub auth_issuer: Option<String>,

    /// Accepted difference to the clocks of issuers, in seconds.
    #[arg(long, env = "NEWSFEED_AUTH_LEEWAY_S", default_value_t = 30, value_parser = clap::value_parser!(u16).range(0..=300))]
    pub auth_leeway_s: u16,

    /// File with the secret that signs tickets, in the form of --auth-secret-file; must be the same on all nodes [default:
    /// derived from the secret for HS256; without one, random, so that tickets work only on the node that issued them]
    #[arg(long, env = "NEWSFEED_AUTH_TICKET_KEY", value_name = "FILE")]
    pub auth_ticket_key: Option<PathBuf>,

    /// Lifetime of a ticket, in seconds. A stream must begin within it.
    #[arg(long, env = "NEWSFEED_AUTH_TICKET_S", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub auth_ticket_s: u16,

    /// Mark the cookie of POST /v1/session as `Secure`. Use this behind a proxy that terminates TLS.
    #[arg(long, env = "NEWSFEED_AUTH_COOKIE_SECURE", value_parser = BoolishValueParser::new())]
    pub auth_cookie_secure: bool,

    /// Accept connections from other machines although no keys are configured: anyone can read and write everything.
    #[arg(long, env = "NEWSFEED_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
}

impl AuthArgs {
    pub fn has_keys(&self) -> bool {
        let files = [&self.auth_keys, &self.auth_secret_file];
        files.into_iter().any(Option::is_some)
            || self.auth_jwks_url.is_some()
            || self.secrets.is_some()
    }

    /// Checks that a service without keys cannot be reached from other machines, unless `--insecure` is set. `addresses` are
    /// all that it listens on; `remote` is one of them that other machines can reach.
    pub fn may_listen(&self, addresses: &str, remote: Option<&str>) -> Result<(), String> {
        if self.has_keys() {
            return Ok(());
        }
        if let (Some(remote), false) = (remote, self.insecure) {
            return Err(format!(
                "no keys are configured, so anyone who can reach {remote} could read and write everything: configure \
                 keys (--auth-keys, --auth-jwks-url or --auth-secret-file), listen on 127.0.0.1, or set --insecure"
            ));
        }
        tracing::warn!(
            addresses,
            "NO AUTHENTICATION: no keys are configured, so anyone who can reach these addresses can read and write everything; \
             set --auth-keys, --auth-jwks-url or --auth-secret-file"
        );
        Ok(())
    }
}

/// The URL of a JWKS. Printed without user, password and query.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl(reqwest::Url);

impl JwksUrl {
    pub fn url(&self) -> reqwest::Url {
        self.0.clone()
    }
}

impl FromStr for JwksUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_local(&url) => Ok(Self(url)),
            "http" => Err("keys fetched over http could be forged: use https".into()),
            _ => {
                Err("expected a URL such as https://login.example.com/.well-known/jwks.json".into())
            }
        }
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(url) = self;
        write!(
            f,
            "{}://{}",
            url.scheme(),
            url.host_str().unwrap_or_default()
        )?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(url.path())
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
