//! `/v1/admin/log`: reads and changes the log filter of the running service.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    App,
    body::read_object,
    problem::{Code, Problem, Result},
    query::Params,
};
use crate::logging::{Current, FALL_BACK_SECONDS_MAX, Filter, LogControl};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogIn {
    filter: String,
    /// A whole number. It is read as a float because JSON may write it as `60.0`.
    seconds: Option<f64>,
}

pub async fn log(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    Params::parse(&parts, &[])?;
    Ok(answer(control(&app)?.current()))
}

pub async fn set_log(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    Params::parse(&parts, &[])?;
    let expected = "the body must be {\"filter\": \"…\"}, optionally with \"seconds\"";
    let LogIn { filter, seconds } = read_object(&parts, body, expected).await?;
    let control = control(&app)?;
    let filter: Filter = filter.parse().map_err(|error| {
        let detail = format!("{error}; the filter was not changed");
        Problem::new(Code::InvalidFilter, detail)
    })?;
    let range = 1.0..=FALL_BACK_SECONDS_MAX as f64;
    if !seconds.is_none_or(|seconds| range.contains(&seconds) && seconds.fract() == 0.0) {
        let detail =
            format!("seconds must be a whole number between 1 and {FALL_BACK_SECONDS_MAX}");
        return Err(Problem::new(Code::InvalidBody, detail));
    }
    let current = control.set(filter, seconds.map(Duration::from_secs_f64));
    let current = current.map_err(|error| {
        tracing::error!(%error, "cannot set the log filter");
        Problem::new(Code::Internal, "the filter could not be set")
    })?;
    tracing::info!(
        filter = current.filter.as_str(),
        seconds,
        "log filter changed"
    );
    Ok(answer(current))
}

fn control(app: &App) -> Result<&LogControl> {
    app.log.as_ref().ok_or_else(|| {
        Problem::new(
            Code::NotSupported,
            "the log of this process cannot be changed through the API",
        )
    })
}

fn answer(current: Current) -> Response {
    let mut answer = json!({ "filter": current.filter.as_str() });
    if let Some((then, left)) = current.falls_back {
        answer["then"] = then.as_str().into();
        answer["seconds"] = left.as_secs_f64().ceil().into();
    }
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}
