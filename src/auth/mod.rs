//! Authentication and authorization: tokens (JWT), the keys that verify them, tickets, and what they grant. This module
//! knows nothing of HTTP, except for fetching a JWKS.
//!
//! - Tokens are verified with the current set of keys, a [`token::Ring`], parsed by `keys`, `jwks`, `pem` and `secret`.
//!   When a file changes, `source` replaces it, and `fetch` when a JWKS at a URL does. The key determines the algorithm,
//!   never the token.
//! - The claims of a token (`claims`) become a [`Grant`]: scopes, feeds, and when it is valid.
//! - A ticket (`ticket`) is a grant to begin a live stream, for clients that cannot send headers. It is signed with a key
//!   derived for this purpose only.
//! - `mint` signs tokens, for trying things out.

mod args;
mod cache;
mod claims;
mod denied;
mod fetch;
mod grant;
mod jwks;
mod jws;
mod keys;
pub mod mint;
mod pem;
mod secret;
mod source;
mod ticket;
mod token;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    args::{AuthArgs, SECRET_VARIABLE},
    cache::CACHED_TOKENS_MAX,
    denied::Denied,
    grant::{AppendLimits, Feeds, Grant, PATTERNS_MAX, Patterns, SUBJECT_BYTES_MAX, Scope, Scopes},
    secret::Secret,
    ticket::{TICKET_BYTES_MAX, Ticket},
    token::TOKEN_BYTES_MAX,
};
use self::{
    claims::Rules,
    fetch::{Fetches, Jwks, UNKNOWN_KID_PAUSE, ended},
    source::{Files, Known},
    token::Ring,
};
use crate::{clock::WallTime, types::FeedName};

/// How often key files are checked for changes.
const FILES_EVERY: Duration = Duration::from_secs(2);
/// How often a JWKS is fetched.
const JWKS_EVERY: Duration = Duration::from_secs(300);
/// Longest timer: the stream of a token that lives longer ends after this.
const TIMER_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Verifies tokens and tickets with the current keys.
pub struct Auth {
    rules: Rules,
    wall: WallTime,
    ticket_life: Duration,
    pub secure_cookies: bool,
    known: Arc<Known>,
    /// Used by [`Self::watch`] only.
    files: Mutex<Files>,
    jwks: Option<(Jwks, Arc<Fetches>)>,
}

impl Auth {
    /// `None` if no keys are configured: then no token is required.
    pub async fn open(args: &AuthArgs, wall: WallTime) -> Result<Option<Arc<Self>>, String> {
        if !args.has_keys() {
            return Ok(None);
        }
        let opened = Self::with_keys(args, wall).await;
        let opened = opened.map_err(|error| format!("cannot use the keys for tokens: {error}"))?;
        Ok(Some(Arc::new(opened)))
    }

    async fn with_keys(args: &AuthArgs, wall: WallTime) -> Result<Self, String> {
        let known = Known::new(args.secrets.clone().transpose()?.unwrap_or_default());
        let files = Files::open(args).await?;
        files.tell(&known);
        let jwks = match args.auth_jwks_url.clone() {
            Some(url) => {
                let jwks = Jwks::new(url)?;
                known.fetched(jwks.fetch().await?);
                Some((jwks, Fetches::after_one()))
            }
            None => None,
        };
        if !known.shares_tickets() {
            tracing::warn!(
                "tickets work on this node only, because no key is shared between nodes: set --auth-ticket-key if there \
                 are several nodes"
            );
        }
        Ok(Self {
            rules: Rules {
                audience: args.auth_audience.clone(),
                issuer: args.auth_issuer.clone(),
                leeway_us: u64::from(args.auth_leeway_s) * 1_000_000,
            },
            wall,
            ticket_life: Duration::from_secs(args.auth_ticket_s.into()),
            secure_cookies: args.auth_cookie_secure,
            known: Arc::new(known),
            files: Mutex::new(files),
            jwks,
        })
    }

    /// The cached grant of a token, which is cheap to look up; `None` if the token is not in the cache.
    pub fn remembered(&self, token: &str) -> Option<Result<Arc<Grant>, Denied>> {
        let ring = self.known.ring();
        ring.remembered(token, &self.rules, self.wall.micros())
    }

    /// Verifies a token. If none of the keys is the one that it names, a JWKS at a URL may have that key meanwhile: this
    /// waits for it to be fetched.
    pub async fn token(&self, token: &str) -> Result<Arc<Grant>, Denied> {
        let verify = |ring: &Ring| ring.verify(token, &self.rules, self.wall.micros());
        let ring = self.known.ring();
        let verified = verify(&ring);
        let unknown_key =
            verified.as_ref().is_err_and(Denied::is_of_key) && !ring.names_key_of(token);
        drop(ring);
        if unknown_key && let Some(fetch) = self.fetch(UNKNOWN_KID_PAUSE) {
            ended(fetch).await;
            return verify(&self.known.ring());
        }
        verified
    }

    /// Fetches the JWKS, if there is one and the last fetch ended at least `pause` ago, and returns a channel that closes
    /// at the end of the fetch that is under way now.
    fn fetch(&self, pause: Duration) -> Option<watch::Receiver<()>> {
        let (jwks, fetches) = self.jwks.as_ref()?;
        let (jwks, known) = (jwks.clone(), Arc::clone(&self.known));
        fetches.begin(pause, async move {
            match jwks.fetch().await {
                Ok(keys) => known.fetched(keys),
                Err(error) => {
                    tracing::error!("CANNOT FETCH KEYS; the previous ones stay in use: {error}")
                }
            }
        })
    }

    pub fn ticket(&self, ticket: &str) -> Result<Grant, Denied> {
        let now_us = self.wall.micros();
        let grant = self.known.ring().verify_ticket(ticket, now_us)?;
        self.rules.in_time(&grant, now_us)?;
        Ok(grant)
    }

    /// Issues a ticket for reading `feeds`, all of which `grant` must cover.
    pub fn issue_ticket(&self, grant: &Grant, feeds: &[FeedName]) -> Result<Ticket, Denied> {
        grant.allows(Scope::Read)?;
        grant.covers(Scope::Read, feeds)?;
        let life_us = self.ticket_life.as_micros() as u64;
        let end_us = grant.expires_us.saturating_add(self.rules.leeway_us);
        let begin_us = (self.wall.micros() + life_us).min(end_us);
        Ok(self.known.ring().issue_ticket(grant, feeds, begin_us))
    }

    /// How long a grant remains valid, leeway included.
    pub fn rest(&self, grant: &Grant) -> Duration {
        let end_us = grant.expires_us.saturating_add(self.rules.leeway_us);
        Duration::from_micros(end_us.saturating_sub(self.wall.micros())).min(TIMER_MAX)
    }

    /// How long until a grant expires, without leeway.
    pub fn life(&self, grant: &Grant) -> Duration {
        Duration::from_micros(grant.expires_us.saturating_sub(self.wall.micros()))
    }

    /// Reloads the sources of keys periodically, until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut files = tokio::time::interval(FILES_EVERY);
        let mut jwks = tokio::time::interval(JWKS_EVERY);
        for interval in [&mut files, &mut jwks] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick is immediate, and the sources were just read.
            interval.reset();
        }
        let watch = async {
            loop {
                tokio::select! {
                    _ = files.tick() => {
                        let mut files = self.files.lock().await;
                        if files.read().await {
                            files.tell(&self.known);
                        }
                    }
                    // Nothing waits for it, so that a slow URL does not delay the files.
                    _ = jwks.tick() => drop(self.fetch(Duration::ZERO)),
                }
            }
        };
        stop.run_until_cancelled(watch).await;
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}
