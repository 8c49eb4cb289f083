//! Live streams as server-sent events.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};

use super::{
    App,
    problem::Result,
    query::{FeedPath, Params, version},
    render,
};
use crate::{
    live::{Follower, Item, Update},
    types::FeedName,
    version::Version,
};

/// What a client waits before it comes back, in ms.
const RETRY_MS: u32 = 2_000;

pub async fn live(
    State(app): State<App>,
    FeedPath(feed): FeedPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["after"])?;
    follow(&app, vec![feed], position(&parts, &params)?)
}

pub async fn merged(State(app): State<App>, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["feed", "after"])?;
    follow(&app, params.feeds()?, position(&parts, &params)?)
}

/// `Last-Event-ID` wins over `after`: a browser that reconnects repeats its first URL.
fn position(parts: &Parts, params: &Params<'_>) -> Result<Option<Version>> {
    let after = params.version("after")?;
    match parts
        .headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap_or("?"))
    {
        None | Some("") => Ok(after),
        Some(id) => version("Last-Event-ID", id).map(Some),
    }
}

fn follow(app: &App, feeds: Vec<FeedName>, after: Option<Version>) -> Result<Response> {
    let subscription = app.hub.subscribe(feeds)?;
    let follower = Follower::new(app.feeds.clone(), subscription, after);
    // With the position asked for: some clients forget it when they connect, and a stream may break off before it has
    // told another.
    let position = after.map_or_else(String::new, |after| format!("id: {after}\n"));
    let hello = Bytes::from(format!("retry: {RETRY_MS}\n{position}\n"));
    let frames = stream::unfold(follower, |mut follower| async move {
        let update = follower.next().await?;
        Some((update, follower))
    });
    let frames = stream::iter([hello]).chain(frames.map(|update| match update {
        Update::Items(items) => join(&items),
        Update::Reset { current, .. } => render::reset_frame(current),
        Update::Bye(bye) => render::bye_frame(bye),
    }));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // nginx: pass frames on as they come.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(frames.map(Ok::<_, Infallible>))).into_response())
}

/// One chunk for what is there; a single frame, the usual case, is shared and not copied.
fn join(items: &[std::sync::Arc<Item>]) -> Bytes {
    if let [item] = items {
        return item.rendered(render::frame);
    }
    let mut joined = BytesMut::new();
    for item in items {
        joined.extend_from_slice(&item.rendered(render::frame));
    }
    joined.freeze()
}
