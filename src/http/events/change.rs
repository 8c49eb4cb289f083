//! `PATCH` and `DELETE /v1/events/{id}`, or with the id as a query parameter: edits and erases one event.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    http::request::Parts,
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    fairness::parse,
    http::{
        App,
        access::Granted,
        body::{json, lone_surrogate, object, read_json},
        feeds::not_kept,
        limits::Storing,
        problem::{Code, Problem, Result},
        query::{EventIdPath, Params, cursor},
        render,
    },
    lifecycle::{CHANGE_ID_BYTES_MAX, Edited, Erased, NewData},
    types::{Data, EventId, Invalid},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditIn<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    change: Option<Cow<'a, str>>,
    #[serde(borrow)]
    revision: Option<Cow<'a, str>>,
}

/// Bytes of keys and values that an edit writes besides the data, about.
const EDIT_BYTES: usize = 1024;

pub async fn edit_by_path(
    State(app): State<Arc<App>>,
    granted: Granted,
    EventIdPath(id): EventIdPath,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    Params::parse(&parts, &[])?;
    let body = read_json(&parts, body).await?;
    edit(&app, granted, &parts, &id, body).await
}

pub async fn edit_by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let id = Params::parse(&parts, &["id"])?.id()?;
    let body = read_json(&parts, body).await?;
    edit(&app, granted, &parts, &id, body).await
}

async fn edit(
    app: &App,
    granted: Granted,
    parts: &Parts,
    id: &EventId,
    body: Bytes,
) -> Result<Response> {
    let new = parse(body.len(), move || parse_edit(&body)).await?;
    let storing = Storing::of(parts);
    let weight = EDIT_BYTES + 2 * new.data.text().len();
    // Stays charged: whether and how much it wrote depends on the event.
    let _charge = storing.charge_weights(vec![weight])?;
    let allow = |entry: &_, feeds: &_| granted.change(entry, feeds);
    let Edited {
        version,
        edited,
        is_duplicate,
    } = app.lifecycle.edit(id, &new, &allow).await?;
    let status = if is_duplicate { "duplicate" } else { "edited" };
    Ok(not_kept(render::changed(
        id,
        status,
        version,
        Some(("edited", edited)),
    )))
}

fn parse_edit(body: &Bytes) -> Result<NewData> {
    let expected = "the body must be {\"data\": …}, optionally with \"change\" and \"revision\"";
    let edit: EditIn<'_> = object(body, json(body)?, Code::InvalidBody, expected)?;
    let data = Data::from_raw(edit.data).map_err(|error| {
        let lone = match error {
            Invalid::DataText => lone_surrogate(body, edit.data, "data", Code::InvalidEvent),
            _ => None,
        };
        lone.unwrap_or_else(|| Problem::invalid_event("data", &error))
    })?;
    let change_id = edit.change.map(Cow::into_owned);
    if let Some(id) = &change_id
        && !(1..=CHANGE_ID_BYTES_MAX).contains(&id.len())
    {
        let detail = format!("change must have 1 to {CHANGE_ID_BYTES_MAX} bytes");
        return Err(Problem::new(Code::InvalidBody, detail).with("field", "change"));
    }
    let revision = edit.revision.map(|text| cursor("revision", &text));
    Ok(NewData {
        data,
        change_id,
        revision: revision.transpose()?,
    })
}

pub async fn erase_by_path(
    State(app): State<Arc<App>>,
    granted: Granted,
    EventIdPath(id): EventIdPath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["revision"])?;
    erase(&app, granted, &params, &id).await
}

pub async fn erase_by_query(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(&parts, &["id", "revision"])?;
    let id = params.id()?;
    erase(&app, granted, &params, &id).await
}

async fn erase(app: &App, granted: Granted, params: &Params<'_>, id: &EventId) -> Result<Response> {
    let revision = params.cursor("revision")?;
    let allow = |entry: &_, feeds: &_| granted.change(entry, feeds);
    let Erased { version, erased } = app.lifecycle.erase(id, revision, &allow).await?;
    let status = if erased.is_some() {
        "erased"
    } else {
        "duplicate"
    };
    let erased = erased.map(|erased| ("erased", erased));
    Ok(not_kept(render::changed(id, status, version, erased)))
}
