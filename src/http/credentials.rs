//! The credentials of a request: where they are looked for, and which one takes precedence.

use std::borrow::Cow;

use axum::http::{HeaderMap, header, request::Parts};

use super::{base_path::BasePath, proxies::Https};
use crate::auth::Denied;

/// Most different tokens in the cookies of one request.
const COOKIE_TOKENS_MAX: usize = 4;

/// The name of the cookie that holds a token. With https, its prefix makes browsers accept it only over https from this host
/// (RFC 6265bis), so that no page of another host or of plain http can set a second one. Under a base path, it cannot be
/// limited to this host.
pub fn cookie_name(secure: bool, base_path: &BasePath) -> &'static str {
    match (secure, base_path.as_str()) {
        (false, _) => "newsfeed_token",
        (true, "") => "__Host-newsfeed_token",
        (true, _) => "__Secure-newsfeed_token",
    }
}

/// The query parameter that holds a ticket.
pub const TICKET: &str = "ticket";

#[derive(Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    Bearer(&'a str),
    Ticket(Cow<'a, str>),
    /// The different tokens of all cookies of the name; at least one.
    Cookies(Vec<&'a str>),
}

impl<'a> Credential<'a> {
    /// The header takes precedence over a ticket, and a ticket over the cookie, which browsers send with every request. An
    /// invalid credential is rejected; there is no fallback to another one.
    pub fn of(parts: &'a Parts, takes_tickets: bool, cookie: &str) -> Result<Self, Denied> {
        if let Some(token) = bearer(&parts.headers)? {
            return Ok(Self::Bearer(token));
        }
        if takes_tickets && let Some(ticket) = ticket(parts.uri.query().unwrap_or_default())? {
            return Ok(Self::Ticket(ticket));
        }
        match cookies(&parts.headers, cookie)? {
            tokens if tokens.is_empty() => Err(Denied::Missing),
            tokens => Ok(Self::Cookies(tokens)),
        }
    }
}

impl Credential<'_> {
    /// The tokens, unless this is a ticket.
    pub fn tokens(&self) -> &[&str] {
        match self {
            Self::Bearer(token) => std::slice::from_ref(token),
            Self::Cookies(tokens) => tokens,
            Self::Ticket(_) => &[],
        }
    }
}

/// The token of `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next(), values.next()) else {
        return Err(Denied::Malformed(
            "the request has more than one Authorization header",
        ));
    };
    let Some(value) = value else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Denied::Malformed(
            "the Authorization header must be `Bearer`, a space and the token",
        )),
    }
}

fn ticket(query: &str) -> Result<Option<Cow<'_, str>>, Denied> {
    let mut values = form_urlencoded::parse(query.as_bytes())
        .filter_map(|(name, value)| (name == TICKET).then_some(value));
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Denied::TicketInvalid("the request has several tickets")),
    }
}

/// The different tokens of the cookies called `name`. A page of another host under the same domain, or at another port, can
/// set a second cookie, unless the prefix of the name forbids it.
fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> Result<Vec<&'a str>, Denied> {
    let pairs = headers.get_all(header::COOKIE).iter();
    let pairs = pairs
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let values = pairs.filter_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
    let mut tokens = Vec::new();
    for value in values {
        if !tokens.contains(&value) {
            tokens.push(value);
        }
    }
    match tokens.len() {
        0..=COOKIE_TOKENS_MAX => Ok(tokens),
        _ => Err(Denied::Malformed(
            "the request has too many cookies with a token: delete the cookies of this site",
        )),
    }
}

/// Whether a page of this origin sent the request, according to the headers that browsers add. False if there are none
/// of these. With `secure_cookies` this origin is an HTTPS one, whatever the connection is.
pub fn is_same_origin(parts: &Parts, secure_cookies: bool) -> bool {
    let text = |name| parts.headers.get(name)?.to_str().ok();
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    let host = text("host").or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
    let origin = text("origin").and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((scheme, origin)), Some(host)) => {
            let https = secure_cookies || parts.extensions.get::<Https>().is_some();
            let own_scheme = if https { "https" } else { "http" };
            scheme.eq_ignore_ascii_case(own_scheme) && origin.eq_ignore_ascii_case(host)
        }
        _ => false,
    }
}
