//! Who may call what: reads a request's credentials, asks [`crate::auth`] what they grant, and compares with what the
//! route needs. Which feeds are granted is asked by the handlers, who know them, through [`Granted`].

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{Method, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use super::{
    App,
    caller::Subject,
    credentials::{Credential, is_same_origin},
    limits::Callers,
    problem::{Code, Problem, Result},
};
use crate::{
    auth::{Auth, Denied, Grant, Scope},
    types::{Event, FeedName},
};

/// What a route needs, where there are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Nothing; credentials are not even looked at.
    Open,
    /// A token that is valid.
    Token,
    Scope(Scope),
}

/// What each of [`super::ROUTES`] needs; a route that is not here needs `admin` (and a test fails).
pub const RIGHTS: &[(&str, &str, Right)] = &[
    ("post", "/v1/events", Right::Scope(Scope::Append)),
    ("post", "/v1/transient", Right::Scope(Scope::Append)),
    ("get", "/v1/entries", Right::Scope(Scope::Read)),
    ("get", "/v1/live", Right::Scope(Scope::Read)),
    ("get", "/v1/feeds/{feed}", Right::Scope(Scope::Read)),
    ("get", "/v1/feeds/{feed}/entries", Right::Scope(Scope::Read)),
    ("get", "/v1/feeds/{feed}/live", Right::Scope(Scope::Read)),
    (
        "put",
        "/v1/feeds/{feed}/markers/{marker}",
        Right::Scope(Scope::Mark),
    ),
    ("post", "/v1/tickets", Right::Scope(Scope::Read)),
    ("post", "/v1/session", Right::Token),
    // Logging out must work with a token that has expired.
    ("delete", "/v1/session", Right::Open),
    ("get", "/v1/admin/log", Right::Scope(Scope::Admin)),
    ("put", "/v1/admin/log", Right::Scope(Scope::Admin)),
    ("get", "/metrics", Right::Scope(Scope::Admin)),
    ("get", "/healthz", Right::Open),
    ("get", "/readyz", Right::Open),
    ("get", "/openapi.yaml", Right::Open),
];

/// Routes where a ticket does.
const TICKET_ROUTES: [&str; 2] = ["/v1/live", "/v1/feeds/{feed}/live"];

/// What a request to a route with this method needs. `None`: the route has no such method, and says so itself.
fn right(path: &str, method: &Method) -> Option<Right> {
    let name = match *method {
        // axum answers HEAD where there is a GET.
        Method::HEAD => "GET",
        _ => method.as_str(),
    };
    let mut of_path = RIGHTS
        .iter()
        .filter(|(_, other, _)| *other == path)
        .peekable();
    if of_path.peek().is_none() {
        return Some(Right::Scope(Scope::Admin));
    }
    let found = of_path.find(|(other, ..)| name.eq_ignore_ascii_case(other));
    found.map(|(.., right)| *right)
}

/// Lets through who may, and tells the handlers who it is.
pub async fn guard(
    State((auth, callers)): State<(Arc<Auth>, Arc<Callers>)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit(&auth, &callers, &mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => {
            tracing::debug!(code = problem.code.name(), "credentials refused");
            problem.into_response()
        }
    }
}

async fn admit(auth: &Auth, callers: &Callers, parts: &mut Parts) -> Result<()> {
    let Some(path) = parts.extensions.get::<MatchedPath>().cloned() else {
        // Of no route: it is told that there is nothing.
        return Ok(());
    };
    let scope = match right(path.as_str(), &parts.method) {
        None | Some(Right::Open) => return Ok(()),
        Some(Right::Token) => None,
        Some(Right::Scope(scope)) => Some(scope),
    };
    let takes_tickets = TICKET_ROUTES.contains(&path.as_str());
    let credential = Credential::of(parts, takes_tickets)?;
    let known = credential.token().and_then(|token| auth.remembered(token));
    if known.is_none() {
        callers.take_unverified(&parts.extensions)?;
    }
    let verified = async |token| match known {
        Some(known) => known,
        None => auth.token(token).await,
    };
    let grant = match credential {
        Credential::Bearer(token) => verified(token).await?,
        Credential::Ticket(ticket) => Arc::new(auth.ticket(&ticket)?),
        Credential::Cookie(token) => {
            if !parts.method.is_safe() && !is_same_origin(parts) {
                return Err(Problem::new(
                    Code::CrossSite,
                    "the cookie opens this only for pages of this site (by Sec-Fetch-Site or Origin): send the token \
                     as `Authorization: Bearer …` from elsewhere",
                ));
            }
            verified(token).await?
        }
    };
    if let Some(scope) = scope {
        grant.allows(scope)?;
    }
    if let Some(subject) = &grant.subject {
        parts.extensions.insert(Subject(Arc::clone(subject)));
    }
    parts.extensions.insert(grant);
    Ok(())
}

/// What a request's credentials grant; everything, where there are no keys.
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
            // Whatever way it came, it did not come through the guard.
            None => Err(Denied::Missing.into()),
        }
    }
}

impl Granted {
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

    /// To append an event, and to ask what it expects.
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

    /// When it is over.
    pub fn ends(&self) -> Option<Instant> {
        self.0.as_ref().map(|(_, ends)| *ends)
    }

    /// Resolves when it is over.
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
