//! `POST` and `DELETE /v1/session`, which keep a token in a cookie, and `POST /v1/tickets`. Both are for browsers, whose
//! `EventSource` cannot send an `Authorization` header.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{
    App,
    access::Granted,
    body::read_object,
    credentials::{bearer, cookie_name},
    feeds::not_kept,
    limits::Limited,
    problem::{Code, Problem, Result},
    query::{MERGED_FEEDS_MAX, Params},
};
use crate::{
    auth::{Auth, Denied, Grant, TICKET_BYTES_MAX},
    types::FeedName,
};

/// Longest token for a cookie, in bytes. Browsers drop cookies of more than 4 KiB, including name and attributes.
pub const COOKIE_TOKEN_BYTES_MAX: usize = 3800;

/// Makes a browser remove the pages that it has kept of this origin.
const CLEAR_CACHE: (HeaderName, &str) = (HeaderName::from_static("clear-site-data"), "\"cache\"");

/// The authenticator and the caller's grant, or a problem if this service does not use tokens.
fn guarded<'a>(app: &'a App, granted: &'a Granted) -> Result<(&'a Auth, &'a Grant)> {
    match (&app.auth, granted.grant()) {
        (Some(auth), Some(grant)) => Ok((auth, grant)),
        _ => Err(Problem::new(
            Code::NotFound,
            "this service does not use tokens: all requests are allowed without one",
        )),
    }
}

pub async fn log_in(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    Params::parse(&parts, &[])?;
    let (auth, grant) = guarded(&app, &granted)?;
    let token = bearer(&parts.headers)?.ok_or(Denied::Missing)?;
    if token.len() > COOKIE_TOKEN_BYTES_MAX {
        return Err(Problem::new(
            Code::TokenTooLong,
            format!(
                "a token for a cookie may have at most {COOKIE_TOKEN_BYTES_MAX} bytes: use one with fewer claims"
            ),
        ));
    }
    let seconds = auth.life(grant).as_secs();
    Ok((
        [
            (header::SET_COOKIE, cookie(token, seconds, &app, auth)),
            (header::CACHE_CONTROL, "no-store".to_owned()),
        ],
        Json(json!({ "expires_at": time(grant.expires_us) })),
    )
        .into_response())
}

pub async fn log_out(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    Params::parse(&parts, &[])?;
    let clear = [CLEAR_CACHE];
    let Some(auth) = &app.auth else {
        return Ok((StatusCode::NO_CONTENT, clear).into_response());
    };
    let cookie = [(header::SET_COOKIE, cookie("", 0, &app, auth))];
    Ok((StatusCode::NO_CONTENT, clear, cookie).into_response())
}

/// Scripts cannot read the cookie, and browsers do not send it with requests from pages of other sites.
fn cookie(token: &str, seconds: u64, app: &App, auth: &Auth) -> String {
    let path = match app.base_path.as_str() {
        "" => "/",
        base => base,
    };
    let secure = if auth.secure_cookies { "; Secure" } else { "" };
    let name = cookie_name(auth.secure_cookies, &app.base_path);
    format!("{name}={token}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn time(micros: u64) -> String {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketIn {
    feeds: Vec<String>,
}

pub async fn ticket(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    Params::parse(&parts, &[])?;
    let (auth, grant) = guarded(&app, &granted)?;
    let expected = "the body must be {\"feeds\": [\"…\"]}";
    let TicketIn { feeds } = read_object(&parts, body, expected).await?;
    if !(1..=MERGED_FEEDS_MAX).contains(&feeds.len()) {
        let detail = format!(
            "feeds must list 1 to {MERGED_FEEDS_MAX} feeds, not {}",
            feeds.len()
        );
        return Err(Problem::new(Code::InvalidBody, detail));
    }
    let feeds = feeds
        .iter()
        .map(|feed| feed.parse())
        .collect::<std::result::Result<_, _>>();
    let feeds: Vec<FeedName> = feeds.map_err(|invalid| Problem::invalid_feed(&invalid))?;
    let ticket = auth.issue_ticket(grant, &feeds)?;
    if ticket.text.len() > TICKET_BYTES_MAX {
        return Err(Problem::new(
            Code::InvalidBody,
            "the names of these feeds, with the readers of the token, are too long for one ticket, which is part of a URL: get tickets for fewer feeds",
        ));
    }
    let answer = json!({ "ticket": ticket.text, "expires_at": time(ticket.expires_us) });
    let answer = answer.to_string().into_bytes();
    let mut reserved = Limited::of(&parts)?.answer();
    reserved.grow(answer.len())?;
    Ok(not_kept(reserved.hold(answer)))
}
