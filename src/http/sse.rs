//! `GET /v1/live`, `GET /v1/feeds/{feed}/live` and `GET /v1/log/live`: live streams as server-sent events.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    App,
    access::Granted,
    caller::Caller,
    credentials::TICKET,
    event_stream::{EventStream, Handover},
    feeds::{STATES_FEEDS_MAX, feeds_of_body},
    limits::{self, Permit},
    problem::Result,
    query::{FeedPath, LAST_EVENT_ID, Params, cursor},
    render,
    updates::Updates,
    versions,
};
use crate::{
    auth::Scope,
    live::Follower,
    metrics::StreamEnd,
    types::{FeedName, Kind, ReaderName},
    version::Cursor,
};

pub async fn live(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let known = ["after", "kind", "reader", LAST_EVENT_ID, TICKET];
    let params = Params::parse(&parts, &known)?;
    let after = position(&app, &parts, &params).await?;
    let of = (vec![feed], params.reader()?, params.kinds()?);
    follow(&app, &granted, &parts, of, after)
}

pub async fn merged(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let known = ["feed", "after", "kind", "reader", LAST_EVENT_ID, TICKET];
    let params = Params::parse(&parts, &known)?;
    let after = position(&app, &parts, &params).await?;
    let of = (params.feeds()?, params.reader()?, params.kinds()?);
    follow(&app, &granted, &parts, of, after)
}

/// A browser that reconnects repeats its first URL, so the header `Last-Event-ID` overrides `after`. Clients that may not
/// send this header to another origin, such as event-source-polyfill, add the parameter `lastEventId` to the URL instead.
async fn position(app: &App, parts: &Parts, params: &Params<'_>) -> Result<Option<Cursor>> {
    let after = params.start("after", true)?;
    let last = params.position(LAST_EVENT_ID)?;
    let header = parts
        .headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or("?"));
    match header {
        None | Some("") if last.is_some() => Ok(last),
        None | Some("") => versions::position(app, parts, after).await,
        Some(id) => cursor("Last-Event-ID", id).map(Some),
    }
}

fn follow(
    app: &App,
    granted: &Granted,
    request: &Parts,
    (feeds, reader, kinds): (Vec<FeedName>, ReaderName, Vec<Kind>),
    after: Option<Cursor>,
) -> Result<Response> {
    granted.feeds(Scope::Read, &feeds)?;
    granted.reader(&reader)?;
    let permit = limits::stream_permit(request)?;
    let subscription = app.hub.subscribe_to(feeds, reader, kinds)?;
    let feeds_of_stream = app.feeds.of(Caller::stream_reader(&request.extensions));
    let follower = Follower::new(feeds_of_stream, subscription, after);
    Ok(stream(app, granted, follower, after, permit))
}

/// The states of feeds: for a list of chats with badges.
pub async fn states(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "reader", LAST_EVENT_ID, TICKET])?;
    let (feeds, reader) = (params.feeds_up_to(STATES_FEEDS_MAX)?, params.reader()?);
    follow_states(&app, &granted, &parts, feeds, reader)
}

/// For more names than fit into a URL.
pub async fn states_by_body(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let reader = Params::parse(&parts, &["reader"])?.reader()?;
    let feeds = feeds_of_body(&parts, body).await?;
    follow_states(&app, &granted, &parts, feeds, reader)
}

fn follow_states(
    app: &App,
    granted: &Granted,
    request: &Parts,
    feeds: Vec<FeedName>,
    reader: ReaderName,
) -> Result<Response> {
    granted.feeds(Scope::Read, &feeds)?;
    granted.reader(&reader)?;
    let permit = limits::stream_permit(request)?;
    let subscription = app.hub.subscribe_to(feeds, reader, Vec::new())?;
    let feeds = app.feeds.of(Caller::stream_reader(&request.extensions));
    let follower = Follower::of_states(feeds, subscription);
    Ok(stream(app, granted, follower, None, permit))
}

pub async fn log(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let known = ["after", LAST_EVENT_ID, "kind", "actor", "feed", "shard"];
    let params = Params::parse(&parts, &known)?;
    let after = position(&app, &parts, &params).await?;
    let filter = params.filter(granted.exports())?;
    let permit = limits::stream_permit(&parts)?;
    let subscription = app.hub.subscribe_to_log(Arc::clone(&filter))?;
    let feeds = app.feeds.of(Caller::stream_reader(&parts.extensions));
    let follower = Follower::of_log(feeds, subscription, filter, after);
    Ok(stream(&app, &granted, follower, after, permit))
}

fn stream(
    app: &App,
    granted: &Granted,
    follower: Follower,
    after: Option<Cursor>,
    permit: Permit<Caller>,
) -> Response {
    tracing::debug!(stream = follower.id(), "stream started");
    let handover = Handover::new(EventStream {
        opening: render::opening_frame(after),
        end: StreamEnd::of(&app.metrics, follower.id()),
        updates: Updates::new(follower, granted),
        _permit: permit,
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Tells nginx not to buffer the frames.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let mut response = (headers, handover.clone().body()).into_response();
    response.extensions_mut().insert(handover);
    response
}
