//! Authentication and authorization: tokens (JWT), the keys that verify them, tickets, and what they grant. This module
//! knows nothing of HTTP, except for fetching a JWKS.
//!
//! - Tokens are verified with the current set of keys, a [`token::Ring`], parsed by `keys`, `jwks` and `pem`. When a file
//!   or a JWKS changes, `source` replaces it. The key determines the algorithm, never the token.
//! - The claims of a token (`claims`) become a [`Grant`]: scopes, feeds, and when it is valid.
//! - A ticket (`ticket`) is a grant to begin a live stream, for clients that cannot send headers. It is signed with a key
//!   derived for this purpose only.
//! - `mint` signs tokens, for trying things out.

mod args;
mod cache;
mod claims;
mod denied;
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

use arc_swap::ArcSwap;
use tokio::{sync::Mutex, time::MissedTickBehavior};
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
use self::{claims::Rules, source::Sources, token::Ring};
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
    ring: ArcSwap<Ring>,
    sources: Mutex<Sources>,
    has_jwks: bool,
}

impl Auth {
    /// `None` if no keys are configured: then no token is required.
    pub async fn open(args: &AuthArgs, wall: WallTime) -> Result<Option<Arc<Self>>, String> {
        if !args.has_keys() {
            return Ok(None);
        }
        let opened = Sources::open(args).await;
        let sources = opened.map_err(|error| format!("cannot use the keys for tokens: {error}"))?;
        Ok(Some(Arc::new(Self {
            rules: Rules {
                audience: args.auth_audience.clone(),
                issuer: args.auth_issuer.clone(),
                leeway_us: u64::from(args.auth_leeway_s) * 1_000_000,
            },
            wall,
            ticket_life: Duration::from_secs(args.auth_ticket_s.into()),
            secure_cookies: args.auth_cookie_secure,
            ring: ArcSwap::from_pointee(sources.ring()),
            has_jwks: sources.has_jwks(),
            sources: Mutex::new(sources),
        })))
    }

    /// The cached grant of a token, which is cheap to look up; `None` if the token is not in the cache.
    pub fn remembered(&self, token: &str) -> Option<Result<Arc<Grant>, Denied>> {
        let ring = self.ring.load();
        ring.remembered(token, &self.rules, self.wall.micros())
    }

    pub async fn token(&self, token: &str) -> Result<Arc<Grant>, Denied> {
        let verified = self
            .ring
            .load()
            .verify(token, &self.rules, self.wall.micros());
        match verified {
            Err(Denied::KeyUnknown) if self.has_jwks => {
                // Another request may have fetched the keys while this one waited for the lock.
                let mut sources = self.sources.lock().await;
                if sources.fetch_for_unknown_kid().await {
                    self.ring.store(Arc::new(sources.ring()));
                }
                drop(sources);
                self.ring
                    .load()
                    .verify(token, &self.rules, self.wall.micros())
            }
            verified => verified,
        }
    }

    pub fn ticket(&self, ticket: &str) -> Result<Grant, Denied> {
        let now_us = self.wall.micros();
        let grant = self.ring.load().verify_ticket(ticket, now_us)?;
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
        Ok(self.ring.load().issue_ticket(grant, feeds, begin_us))
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
                let of_files = tokio::select! {
                    _ = files.tick() => true,
                    _ = jwks.tick() => false,
                };
                let mut sources = self.sources.lock().await;
                let new = match of_files {
                    true => sources.read_files().await,
                    false => sources.fetch().await,
                };
                if new {
                    self.ring.store(Arc::new(sources.ring()));
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
