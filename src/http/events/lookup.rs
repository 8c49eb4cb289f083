//! `GET /v1/events/{id}` and `GET /v1/events?id=…`: one event, found by its id.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::request::Parts,
    response::Response,
};

use crate::{
    http::{
        App,
        access::Granted,
        caller::Caller,
        feeds::revalidated,
        limits::Limited,
        problem::{Code, Problem, Result},
        query::{EventIdPath, Params},
        render,
    },
    types::{DATA_BYTES_MAX, EventId},
};

pub async fn by_path(
    State(app): State<Arc<App>>,
    granted: Granted,
    EventIdPath(id): EventIdPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    Params::parse(&parts, &[])?;
    answer(&app, &granted, &parts, &id).await
}

pub async fn by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let id = Params::parse(&parts, &["id"])?.id()?;
    answer(&app, &granted, &parts, &id).await
}

/// An event of feeds that the caller may not read is answered like one that does not exist, so that nobody can find out which
/// ids are taken.
async fn answer(app: &App, granted: &Granted, parts: &Parts, id: &EventId) -> Result<Response> {
    let mut reserved = Limited::of(parts)?.answer();
    let feeds = app.feeds.of(Caller::reader(&parts.extensions));
    let turn = feeds.turn().await?;
    reserved.grow(DATA_BYTES_MAX)?;
    let found = turn.event(id, |feed| granted.reads(feed)).await?;
    let Some(event) = found else {
        return Err(Problem::new(
            Code::EventNotFound,
            "no event has this id, or you may read none of its feeds",
        ));
    };
    let body = render::event(&event);
    reserved.grow(body.len())?;
    Ok(revalidated(parts, reserved, body))
}
