//! Transients.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::wire::parse_event;
use crate::{
    fairness::parse,
    http::{
        App,
        access::Granted,
        body::{json, read_json},
        limits::Storing,
        problem::Result,
        query,
    },
};

pub async fn transient(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    query::Params::parse(&parts, &[])?;
    let storing = Storing::of(&parts);
    let body = read_json(&parts, body).await?;
    let event = {
        let app = Arc::clone(&app);
        let length = body.len();
        let parsed = parse(length, move || {
            parse_event(&app, &granted, &body, json(&body)?, true)
        });
        parsed.await?
    };
    let charge = storing.charge(std::slice::from_ref(&event))?;
    let id = event.id.clone();
    let permit = app.appender.try_reserve_transient(event);
    permit.inspect_err(|_| charge.give_back())?.append();
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id.as_str() }))).into_response())
}
