//! The credentials in a request: where they may stand, and which of several counts.

use std::borrow::Cow;

use axum::http::{HeaderMap, header, request::Parts};

use crate::auth::Denied;

/// The cookie with a token.
pub const COOKIE: &str = "newsfeed_token";
/// The parameter with a ticket.
pub const TICKET: &str = "ticket";

#[derive(Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    Bearer(&'a str),
    Ticket(Cow<'a, str>),
    Cookie(&'a str),
}

impl<'a> Credential<'a> {
    /// The header counts more than a ticket, and a ticket more than the cookie, which browsers send unasked. One that is
    /// there is never passed over because it is bad.
    pub fn of(parts: &'a Parts, takes_tickets: bool) -> Result<Self, Denied> {
        if let Some(token) = bearer(&parts.headers)? {
            return Ok(Self::Bearer(token));
        }
        if takes_tickets && let Some(ticket) = ticket(parts.uri.query().unwrap_or_default())? {
            return Ok(Self::Ticket(ticket));
        }
        match cookie(&parts.headers)? {
            Some(token) => Ok(Self::Cookie(token)),
            None => Err(Denied::Missing),
        }
    }
}

impl Credential<'_> {
    /// The token, if it is one.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Bearer(token) | Self::Cookie(token) => Some(token),
            Self::Ticket(_) => None,
        }
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(Denied::Malformed("there are several Authorization headers"));
    };
    let Some(value) = value else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Denied::Malformed(
            "the Authorization header must be `Bearer` and the token",
        )),
    }
}

fn ticket(query: &str) -> Result<Option<Cow<'_, str>>, Denied> {
    let mut values = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(name, value)| (name == TICKET).then_some(value));
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Denied::TicketInvalid("there are several")),
    }
}

fn cookie(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let pairs = headers.get_all(header::COOKIE).iter();
    let pairs = pairs
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        // A page of a neighbouring site could have set the other.
        _ => Err(Denied::Malformed("there are several cookies with tokens")),
    }
}

/// Whether a page of this site sent it, as browsers tell; what tells nothing is no browser, and has no cookie.
pub fn is_same_origin(parts: &Parts) -> bool {
    let text = |name| parts.headers.get(name)?.to_str().ok();
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    let host = text("host").or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
    let origin = text("origin").and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}
