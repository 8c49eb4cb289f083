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
    types::{FeedName, Kind},
    version::Cursor,
};

pub async fn live(
    State(app): State<Arc<App>>,
    granted: Granted,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["after", "kind", "reader", LAST_EVENT_ID, TICKET])?;
    granted.reader(&params.reader()?)?;
    let after = position(&app, &parts, &params).await?;
    let kinds = params.kinds()?;
    follow(&app, &granted, &parts, (vec![feed], kinds), after)
}

pub async fn merged(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "after", "kind", LAST_EVENT_ID, TICKET])?;
    let after = position(&app, &parts, &params).await?;
    let of = (params.feeds()?, params.kinds()?);
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
    (feeds, kinds): (Vec<FeedName>, Vec<Kind>),
    after: Option<Cursor>,
) -> Result<Response> {
    granted.feeds(Scope::Read, &feeds)?;
    let permit = limits::stream_permit(request)?;
    let subscription = app.hub.subscribe_to(feeds, kinds)?;
    let feeds_of_stream = app.feeds.of(Caller::stream_reader(&request.extensions));
    let follower = Follower::new(feeds_of_stream, subscription, after);
    Ok(stream(app, granted, follower, after, permit))
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
