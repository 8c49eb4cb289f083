//! `GET /v1/versions`: the version that was current at a time. And positions that are given as a time.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    App,
    caller::Caller,
    problem::{Code, Problem, Result},
    query::{Params, Start},
};
use crate::{
    types::EventTime,
    version::{Cursor, Version},
};

pub async fn at(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let at = Params::parse(&parts, &["at"])?.time("at")?;
    let version = version_at(&app, &parts, &at).await?;
    let answer = json!({ "at": at.as_str(), "version": version.to_string() });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// The position that a client has given as a version or as a time.
pub async fn position(app: &App, parts: &Parts, start: Option<Start>) -> Result<Option<Cursor>> {
    Ok(match start {
        None => None,
        Some(Start::Cursor(cursor)) => Some(cursor),
        Some(Start::Time(at)) => Some(version_at(app, parts, &at).await?.into()),
    })
}

async fn version_at(app: &App, parts: &Parts, at: &EventTime) -> Result<Version> {
    let micros = at.micros();
    if micros > app.wall.micros() {
        return Err(Problem::new(
            Code::TimeAhead,
            "this time is in the future: ask for a time that has passed",
        ));
    }
    let feeds = app.feeds.of(Caller::reader(&parts.extensions));
    Ok(feeds.turn().await?.version_at(micros).await?)
}
