//! Authorization: reads a request's credentials, asks [`crate::auth`] what they grant, and compares that with the right
//! the operation needs. Handlers check the feeds, which only they know, through [`Granted`].

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use super::{
    App, Right,
    caller::Subject,
    credentials::{Credential, is_same_origin},
    limits::Quotas,
    problem::{Code, Problem, Result},
};
use crate::{
    auth::{Auth, Denied, Grant, Patterns, Scope},
    error,
    types::{Actor, Entry, Event, EventId, Expect, FeedName, ReaderName},
};

/// State of the [`guard`] of one operation.
#[derive(Clone)]
pub struct Guard {
    pub auth: Arc<Auth>,
    pub quotas: Arc<Quotas>,
    pub right: Right,
    /// The name of the cookie that holds a token.
    pub cookie: &'static str,
}

/// Lets requests that have the operation's right through, and passes their grant to the handlers.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut counted = false;
    match guard.authorize(&mut parts, &mut counted).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => {
            tracing::debug!(code = problem.code.name(), "credentials refused");
            // Whoever is known by then has been counted at most by address.
            counted &= parts.extensions.get::<Subject>().is_none();
            guard
                .quotas
                .refuse(&parts.extensions, body, problem, counted)
                .into_response()
        }
    }
}

impl Guard {
    /// Checks the request's credentials and adds the grant and its subject to its extensions. Sets `counted` if the request
    /// has been counted against its peer's address.
    async fn authorize(&self, parts: &mut Parts, counted: &mut bool) -> Result<()> {
        let credential = Credential::of(parts, self.right.accepts_tickets(), self.cookie)?;
        let tokens = credential.tokens();
        let known = |token: &&str| self.auth.remembered(token).is_some();
        if tokens.is_empty() || !tokens.iter().all(known) {
            *counted = true;
            self.quotas.take_unverified(&parts.extensions)?;
        }
        let grant = match &credential {
            Credential::Bearer(token) => self.verified(token).await?,
            Credential::Ticket(ticket) => Arc::new(self.auth.ticket(ticket)?),
            Credential::Cookies(tokens) => {
                if !parts.method.is_safe() && !is_same_origin(parts, self.auth.secure_cookies) {
                    return Err(Problem::new(
                        Code::CrossSite,
                        "the cookie authorizes this request only from pages of this site (judged by Sec-Fetch-Site or \
                         Origin); elsewhere, send the token as `Authorization: Bearer …`",
                    ));
                }
                self.of_one_caller(tokens).await?
            }
        };
        parts.extensions.insert(Subject(grant.subject.clone()));
        grant.allows_one_of(self.right.scopes())?;
        parts.extensions.insert(grant);
        Ok(())
    }

    async fn verified(&self, token: &str) -> std::result::Result<Arc<Grant>, Denied> {
        match self.auth.remembered(token) {
            Some(known) => known,
            None => self.auth.token(token).await,
        }
    }

    /// The grant of the first valid one of several tokens. Those that are not valid are ignored, so that a cookie which
    /// somebody else has set locks nobody out. Valid ones of different callers are refused, because nothing tells which of
    /// them the user is.
    async fn of_one_caller(&self, tokens: &[&str]) -> std::result::Result<Arc<Grant>, Denied> {
        let (mut found, mut refused) = (None::<Arc<Grant>>, None);
        for token in tokens {
            match (self.verified(token).await, &found) {
                (Ok(grant), None) => found = Some(grant),
                (Ok(grant), Some(first))
                    if grant.subject.is_some() && grant.subject == first.subject => {}
                (Ok(_), Some(_)) => {
                    return Err(Denied::Malformed(
                        "the request has cookies with tokens of different callers: delete the cookies of this site, then \
                         log in again",
                    ));
                }
                (Err(denied), _) => {
                    refused.get_or_insert(denied);
                }
            }
        }
        found.ok_or(refused.unwrap_or(Denied::Missing))
    }
}

/// What a request's credentials grant: everything, if the service has no keys.
#[derive(Clone)]
pub struct Granted(Option<(Arc<Grant>, Instant)>);

impl FromRequestParts<Arc<App>> for Granted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let Some(auth) = &app.auth else {
            return Ok(Self(None));
        };
        match parts.extensions.get::<Arc<Grant>>() {
            Some(grant) => Ok(Self(Some((
                Arc::clone(grant),
                Instant::now() + auth.rest(grant),
            )))),
            // The request did not pass the guard: deny it.
            None => Err(Denied::Missing.into()),
        }
    }
}

impl Granted {
    /// Checks that `scope` is granted for all of `feeds`.
    pub fn feeds<'a>(
        &self,
        scope: Scope,
        feeds: impl IntoIterator<Item = &'a FeedName>,
    ) -> Result<()> {
        match &self.0 {
            None => Ok(()),
            Some((grant, _)) => Ok(grant.covers(scope, feeds)?),
        }
    }

    /// Checks that the caller may act as `reader`.
    pub fn reader(&self, reader: &ReaderName) -> Result<()> {
        match self.grant() {
            None => Ok(()),
            Some(grant) => Ok(grant.reads_as(reader)?),
        }
    }

    /// Checks that the event may be appended: its actor, kind, id and feeds, and the feed of its `expect`. `own_id` says
    /// that the client chose the id.
    pub fn event(&self, event: &Event, own_id: bool) -> Result<()> {
        let Some(grant) = self.grant() else {
            return Ok(());
        };
        let actor = event.actor.as_ref();
        grant.speaks_for(actor)?;
        grant.sends(&event.kind)?;
        if own_id {
            grant.claims(&event.id, actor)?;
        }
        grant.covers(Scope::Append, &event.feeds)?;
        event
            .expect
            .iter()
            .try_for_each(|expect| self.expect(expect))
    }

    /// Checks that an event with this entry in these feeds may be changed. A token with `actors` may change what they have
    /// written, in whatever feeds it is; others may change what is in their feeds only. If the caller may not even know of the
    /// event, there is none.
    pub fn change(&self, entry: &Entry, feeds: &[FeedName]) -> error::Result<()> {
        let Some(grant) = self.grant() else {
            return Ok(());
        };
        let allowed = match grant.actors {
            Some(_) => grant.speaks_for(entry.actor.as_ref()),
            None => grant.covers(Scope::Change, feeds),
        };
        allowed.map_err(|denied| match self.reads_one_of(feeds) {
            true => error::Error::Denied(denied),
            false => error::Error::EventNotFound(entry.id.clone()),
        })
    }

    /// Checks that all entries of `feed` may be erased from it.
    pub fn erase_feed(&self, feed: &FeedName) -> Result<()> {
        let Some(grant) = self.grant() else {
            return Ok(());
        };
        if grant.actors.is_some() {
            return Err(Denied::Actor(None).into());
        }
        Ok(grant.covers(Scope::Change, [feed])?)
    }

    /// Checks that any event may be erased.
    pub fn erase_everywhere(&self) -> Result<()> {
        match self.grant() {
            None => Ok(()),
            Some(grant) if grant.actors.is_some() => Err(Denied::Actor(None).into()),
            Some(grant) => Ok(grant.covers_every_feed(Scope::Change)?),
        }
    }

    /// Checks that all events of `actor` may be erased.
    pub fn erase_actor(&self, actor: &Actor) -> Result<()> {
        match self.grant() {
            None => Ok(()),
            Some(grant) if grant.actors.is_some() => Ok(grant.speaks_for(Some(actor))?),
            Some(grant) => Ok(grant.covers_every_feed(Scope::Change)?),
        }
    }

    /// Checks that an append may depend on this condition.
    pub fn expect(&self, expect: &Expect) -> Result<()> {
        let Some(grant) = self.grant() else {
            return Ok(());
        };
        grant.covers(Scope::Append, [&expect.feed])?;
        // Whether a condition holds tells when the feed got its latest entry, so it takes the right to read the feed.
        grant.allows(Scope::Read)?;
        grant.covers(Scope::Read, [&expect.feed])?;
        Ok(())
    }

    /// An id for an event of `actor` that was sent without one.
    pub fn new_id(&self, actor: Option<&Actor>) -> EventId {
        match self.grant() {
            Some(grant) => grant.new_id(actor),
            None => EventId::generate(),
        }
    }

    /// Whether all feeds may be read.
    pub fn reads_all(&self) -> bool {
        self.grant()
            .is_none_or(|grant| grant.covers_all(Scope::Read))
    }

    /// The feeds that the log may be read with; `None`: all.
    pub fn exports(&self) -> Option<Patterns> {
        self.grant().and_then(|grant| grant.feeds.export.clone())
    }

    /// Whether any feed may be read.
    pub fn reads_some(&self) -> bool {
        self.grant()
            .is_none_or(|grant| grant.allows(Scope::Read).is_ok())
    }

    /// Whether `feed` may be read.
    pub fn reads(&self, feed: &FeedName) -> bool {
        self.grant().is_none_or(|grant| {
            grant.allows(Scope::Read).is_ok() && grant.covers(Scope::Read, [feed]).is_ok()
        })
    }

    /// Whether one of `feeds` may be read.
    pub fn reads_one_of(&self, feeds: &[FeedName]) -> bool {
        self.grant().is_none() || feeds.iter().any(|feed| self.reads(feed))
    }

    /// When the grant expires; `None` if it never does.
    pub fn ends(&self) -> Option<Instant> {
        self.0.as_ref().map(|(_, ends)| *ends)
    }

    /// When a request that waits for up to `wait` gives up: at the latest when the grant expires.
    pub fn deadline(&self, wait: Duration) -> Instant {
        let deadline = Instant::now() + wait;
        self.ends().map_or(deadline, |ends| ends.min(deadline))
    }

    /// Resolves when the grant expires.
    pub async fn over(&self) {
        match self.ends() {
            Some(ends) => tokio::time::sleep_until(ends).await,
            None => std::future::pending().await,
        }
    }

    pub fn grant(&self) -> Option<&Grant> {
        self.0.as_ref().map(|(grant, _)| &**grant)
    }
}
