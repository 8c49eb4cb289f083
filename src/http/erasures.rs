//! `POST /v1/erasures` and `GET /v1/erasures/{id}`: erasures of many events.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    App,
    access::Granted,
    body::read_object,
    problem::{Code, Problem, Result},
    query::{ErasurePath, Params},
};
use crate::{
    lifecycle::JobState,
    store::rows::What,
    types::{Actor, EventId, FeedName},
};

/// Most events that one erasure names.
pub const ERASURE_EVENTS_MAX: usize = 300;

/// An erasure that takes longer is answered before it has ended.
const ANSWER_AFTER: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErasureIn {
    events: Option<Vec<String>>,
    feed: Option<String>,
    everywhere: Option<bool>,
    actor: Option<String>,
}

const EXPECTED: &str = "the body must be {\"events\": [\"…\"]}, {\"feed\": \"…\"} (optionally with \"everywhere\"), or \
                        {\"actor\": \"…\"}";

pub async fn begin(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    Params::parse(&parts, &[])?;
    let what = what(read_object(&parts, body, EXPECTED).await?)?;
    let what = authorized(&app, &granted, what).await?;
    let state = app.lifecycle.erase_all(what, ANSWER_AFTER).await?;
    let mut response = answer(state);
    if !state.is_done {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    let location = format!("{}/v1/erasures/{}", app.base_path.as_str(), state.id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn what(body: ErasureIn) -> Result<What> {
    let wrong = |detail: String| Problem::new(Code::InvalidBody, detail);
    let alone = || wrong("\"everywhere\" belongs to \"feed\"".to_owned());
    match body {
        ErasureIn {
            events: Some(ids),
            feed: None,
            everywhere,
            actor: None,
        } => {
            if everywhere.is_some() {
                return Err(alone());
            }
            if !(1..=ERASURE_EVENTS_MAX).contains(&ids.len()) {
                let count = ids.len();
                let detail = format!("events must list 1 to {ERASURE_EVENTS_MAX} ids, not {count}");
                return Err(wrong(detail));
            }
            let ids = ids.iter().map(|id| {
                let id = id.parse::<EventId>();
                id.map_err(|invalid| Problem::invalid_id(&invalid))
            });
            Ok(What::Events(ids.collect::<Result<_>>()?))
        }
        ErasureIn {
            events: None,
            feed: Some(feed),
            everywhere,
            actor: None,
        } => {
            let feed = feed.parse::<FeedName>();
            Ok(What::Feed {
                feed: feed.map_err(|invalid| Problem::invalid_feed(&invalid))?,
                everywhere: everywhere.unwrap_or(false),
            })
        }
        ErasureIn {
            events: None,
            feed: None,
            everywhere,
            actor: Some(actor),
        } => {
            if everywhere.is_some() {
                return Err(alone());
            }
            let actor = actor.parse::<Actor>();
            let actor = actor.map_err(|invalid| wrong(format!("actor {invalid}")))?;
            Ok(What::Actor(actor))
        }
        _ => Err(wrong(EXPECTED.to_owned())),
    }
}

/// Checks that the caller may erase all that `what` means. Of events, those are left over that exist and that the caller may
/// know of.
async fn authorized(app: &App, granted: &Granted, what: What) -> Result<What> {
    match &what {
        What::Events(ids) => {
            let allow = |entry: &_, feeds: &_| granted.change(entry, feeds);
            let ids = app.lifecycle.changeable(ids, &allow).await?;
            return Ok(What::Events(ids));
        }
        What::Feed {
            feed,
            everywhere: false,
        } => granted.erase_feed(feed)?,
        What::Feed { .. } => granted.erase_everywhere()?,
        What::Actor(actor) => granted.erase_actor(actor)?,
        What::Places(_) | What::Nothing => {}
    }
    Ok(what)
}

pub async fn state(
    State(app): State<Arc<App>>,
    ErasurePath(id): ErasurePath,
    request: Request,
) -> Result<Response> {
    let (parts, _) = request.into_parts();
    Params::parse(&parts, &[])?;
    match app.lifecycle.job(id).await? {
        Some(state) => Ok(answer(state)),
        None => Err(Problem::new(
            Code::ErasureNotFound,
            "no erasure has this id, or it ended long ago",
        )),
    }
}

fn answer(state: JobState) -> Response {
    let JobState {
        id,
        is_done,
        erased,
    } = state;
    let status = if is_done { "done" } else { "running" };
    let body = json!({ "id": id.to_string(), "status": status, "erased": erased });
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
