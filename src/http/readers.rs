//! Readers: moving markers, marking entries one by one, and how far others have read.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    App,
    access::Granted,
    body::read_object,
    caller::Caller,
    feeds::not_kept,
    limits::Limited,
    problem::{Code, Problem, Result},
    query::{EntryPath, FeedPath, MarkerPath, Params, cursor},
    render,
};
use crate::{
    auth::Scope,
    feed::NewState,
    types::{FeedName, Marker, ReaderName},
    version::Cursor,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkerIn {
    version: String,
}

pub async fn move_marker(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    MarkerPath(marker): MarkerPath,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let reader = Params::parse(&parts, &["reader"])?.reader()?;
    answer_move(&app, &granted, (&feed, &reader), marker, &parts, body).await
}

pub async fn move_marker_by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    MarkerPath(marker): MarkerPath,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "reader"])?;
    let (feed, reader) = (params.feed()?, params.reader()?);
    answer_move(&app, &granted, (&feed, &reader), marker, &parts, body).await
}

async fn answer_move(
    app: &App,
    granted: &Granted,
    (feed, reader): (&FeedName, &ReaderName),
    marker: Marker,
    parts: &Parts,
    body: Body,
) -> Result<Response> {
    granted.feeds(Scope::Mark, [feed])?;
    granted.reader(reader)?;
    let expected = "the body must be {\"version\": \"…\"}";
    let MarkerIn { version: text } = read_object(parts, body, expected).await?;
    let to = cursor("version", &text)?;
    app.feeds.move_marker(feed, reader, marker, to).await?;
    let answer = state_after(app, granted, (feed, reader), parts).await?;
    Ok(answered(&answer))
}

/// The state of the feed after a change of it. The unread count tells what is in the feed, which changing it does not require
/// the right to know.
async fn state_after(
    app: &App,
    granted: &Granted,
    (feed, reader): (&FeedName, &ReaderName),
    parts: &Parts,
) -> Result<Value> {
    let feeds = app.feeds.of(Caller::reader(&parts.extensions));
    let state = feeds.turn().await?.state(feed, reader).await?;
    let mut answer = render::state(&state, false);
    if let (false, Some(fields)) = (granted.reads(feed), answer.as_object_mut()) {
        fields.remove("unread");
    }
    Ok(answer)
}

fn answered(answer: &Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateIn {
    read: Option<bool>,
    archived: Option<bool>,
}

pub async fn set_state(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    EntryPath(entry): EntryPath,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let reader = Params::parse(&parts, &["reader"])?.reader()?;
    answer_set(&app, &granted, (&feed, &reader), entry, &parts, body).await
}

pub async fn set_state_by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    EntryPath(entry): EntryPath,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "reader"])?;
    let (feed, reader) = (params.feed()?, params.reader()?);
    answer_set(&app, &granted, (&feed, &reader), entry, &parts, body).await
}

async fn answer_set(
    app: &App,
    granted: &Granted,
    (feed, reader): (&FeedName, &ReaderName),
    entry: Cursor,
    parts: &Parts,
    body: Body,
) -> Result<Response> {
    granted.feeds(Scope::Mark, [feed])?;
    granted.reader(reader)?;
    let expected = "the body must be {\"read\": …, \"archived\": …}, with true or false for one of them or both";
    let StateIn { read, archived } = read_object(parts, body, expected).await?;
    let wrong = match (read, archived) {
        (None, None) => Some(expected),
        (Some(false), Some(true)) => {
            Some("an archived entry is read: `read` cannot be false if `archived` is true")
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        return Err(Problem::new(Code::InvalidBody, wrong));
    }
    let new = NewState { read, archived };
    let set = app.feeds.set_state(feed, reader, entry, new).await?;
    let mut answer = state_after(app, granted, (feed, reader), parts).await?;
    answer["entry"] = json!(entry.to_string());
    answer["state"] = json!(set.state.name());
    answer["marked"] = json!(set.marked.map(|marked| marked.to_string()));
    Ok(answered(&answer))
}

/// Most readers that one answer has.
pub const READERS_MAX: u64 = 1_000;
const READERS_DEFAULT: u64 = 100;
/// Memory that the markers of a reader may need besides its name, in bytes.
const READER_BYTES: usize = 160;

pub async fn readers(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["from", "limit"])?;
    answer_readers(&app, &granted, &feed, &params, &parts).await
}

pub async fn readers_by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "from", "limit"])?;
    let feed = params.feed()?;
    answer_readers(&app, &granted, &feed, &params, &parts).await
}

async fn answer_readers(
    app: &App,
    granted: &Granted,
    feed: &FeedName,
    params: &Params<'_>,
    parts: &Parts,
) -> Result<Response> {
    granted.feeds(Scope::Read, [feed])?;
    let from = params.reader_named("from")?;
    let limit = params.number("limit", 1..=READERS_MAX)?;
    let limit = limit.unwrap_or(READERS_DEFAULT) as usize;
    let mut reserved = Limited::of(parts)?.answer();
    let turn = app.feeds.of(Caller::reader(&parts.extensions));
    let turn = turn.turn().await?;
    reserved.grow(limit * READER_BYTES)?;
    let found = turn.readers(feed, &from, limit).await?;
    let body = render::readers(feed, &found);
    reserved.grow(body.len())?;
    Ok(not_kept(reserved.hold(body)))
}
