//! Authorization: reads a request's credentials, asks [`crate::auth`] what they grant, and compares that with the right
//! the operation needs. Handlers check the feeds, which only they know, through [`Granted`].

use std::sync::Arc;

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
    auth::{Auth, Denied, Grant, Scope},
    types::{Event, FeedName},
};

/// State of the [`guard`] of one operation.
#[derive(Clone)]
pub struct Guard {
    pub auth: Arc<Auth>,
    pub quotas: Arc<Quotas>,
    pub right: Right,
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
    /// Checks the request's credentials and adds the grant, and the subject if it has one, to its extensions. Sets
    /// `counted` if the request has been counted against its peer's address.
    async fn authorize(&self, parts: &mut Parts, counted: &mut bool) -> Result<()> {
        let credential = Credential::of(parts, self.right.accepts_tickets())?;
        let known = credential
            .token()
            .and_then(|token| self.auth.remembered(token));
        if known.is_none() {
            *counted = true;
            self.quotas.take_unverified(&parts.extensions)?;
        }
        let verified = async |token| match known {
            Some(known) => known,
            None => self.auth.token(token).await,
        };
        let grant = match credential {
            Credential::Bearer(token) => verified(token).await?,
            Credential::Ticket(ticket) => Arc::new(self.auth.ticket(&ticket)?),
            Credential::Cookie(token) => {
                if !parts.method.is_safe() && !is_same_origin(parts, self.auth.secure_cookies) {
                    return Err(Problem::new(
                        Code::CrossSite,
                        "the cookie authorizes this request only from pages of this site (judged by Sec-Fetch-Site or \
                         Origin); elsewhere, send the token as `Authorization: Bearer …`",
                    ));
                }
                verified(token).await?
            }
        };
        if let Some(subject) = &grant.subject {
            parts.extensions.insert(Subject(Arc::clone(subject)));
        }
        if let Some(scope) = self.right.scope() {
            grant.allows(scope)?;
        }
        parts.extensions.insert(grant);
        Ok(())
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

    /// Checks that the event may be appended: its actor, its feeds, and the feed of its `expect`.
    pub fn event(&self, event: &Event) -> Result<()> {
        if let Some(grant) = self.grant() {
            grant.speaks_for(event.actor.as_ref())?;
        }
        self.feeds(
            Scope::Append,
            event
                .feeds
                .iter()
                .chain(event.expect.iter().map(|expect| &expect.feed)),
        )
    }

    /// When the grant expires; `None` if it never does.
    pub fn ends(&self) -> Option<Instant> {
        self.0.as_ref().map(|(_, ends)| *ends)
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
