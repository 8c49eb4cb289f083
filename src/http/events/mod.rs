//! Events: `POST /v1/events` and `POST /v1/transient`; one event, found, edited and erased by its id.

mod array;
mod atomic;
mod change;
mod lookup;
mod ndjson;
mod reused;
mod transient;
mod wire;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};

use self::{
    array::{ARRAY_EVENTS_MAX, parse_array},
    wire::parse_one,
};
pub use self::{
    change::{edit_by_path, edit_by_query, erase_by_path, erase_by_query},
    lookup::{by_path, by_query},
    transient::transient,
};
use super::{
    App,
    access::Granted,
    body::{Media, json, media, read_all},
    caller::Caller,
    limits::{Charge, Limited, Reserved, Storing},
    problem::{Code, Problem, Result},
    query, render,
};
use crate::{
    append::Outcome,
    fairness::parse,
    feed::Reader,
    types::{Event, EventId},
};

pub async fn append(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let is_atomic = query::Params::parse(&parts, &["atomic"])?.switch("atomic")?;
    // Who may read everything is told everything, without a read.
    let reader = match granted.reads_all() {
        true => Reader::default(),
        false => Caller::reader(&parts.extensions),
    };
    let storing = Storing::of(&parts);
    match media(&parts.headers)? {
        Media::Json => {
            // Before the body is read, so that refusing requests under overload costs little.
            app.appender.check(is_atomic)?;
            let body = read_all(&parts, body).await?;
            let limits = Limited::of(&parts)?;
            match is_atomic {
                true => atomic::append(app, granted, reader, limits, storing, body).await,
                false => append_json(app, granted, reader, limits, storing, body).await,
            }
        }
        Media::Ndjson if is_atomic => Err(Problem::new(
            Code::UnsupportedMediaType,
            "an atomic append is JSON: an array of events, or an object with `events` and `expect`",
        )),
        Media::Ndjson => {
            let limits = Limited::of(&parts)?.clone();
            Ok(ndjson::append(app, granted, reader, limits, storing, body))
        }
    }
}

/// An answer to this many events or fewer takes no memory from the budget.
const UNCOUNTED_EVENTS_MAX: usize = 32;
/// Memory that the result of an event is expected to need, until it is known, in bytes.
const RESULT_BYTES: usize = 160;

async fn append_json(
    app: Arc<App>,
    granted: Granted,
    reader: Reader,
    limits: &Limited,
    storing: Storing,
    body: Bytes,
) -> Result<Response> {
    let length = body.len();
    match body.trim_ascii_start().first() {
        Some(b'[') => {
            let events = {
                let (app, granted) = (Arc::clone(&app), granted.clone());
                parse(length, move || {
                    parse_array(&app, &granted, &body, &body, ARRAY_EVENTS_MAX)
                })
                .await?
            };
            let reserved = reserve(limits, &events)?;
            let mut outcomes = append_charged(&app, &storing, events).await?;
            reused::conceal(&app, &granted, reader, &mut outcomes).await;
            Ok(results(reserved, outcomes))
        }
        Some(b'{') => {
            let event = {
                let (app, granted) = (Arc::clone(&app), granted.clone());
                parse(length, move || {
                    parse_one(&app, &granted, &body)
                        .map_err(|problem| unless_meant_atomic(&body, problem))
                })
                .await
            };
            let event = event.map_err(|problem| problem.with("index", 0))?;
            let mut outcomes = append_charged(&app, &storing, vec![event]).await?;
            reused::conceal(&app, &granted, reader, &mut outcomes).await;
            match outcomes.pop() {
                Some((_, Outcome::Rejected(error))) => Err(error.into()),
                Some(outcome) => {
                    let mut answer = Vec::with_capacity(128);
                    result(&mut answer, outcome);
                    Ok(json_response(answer))
                }
                None => Err(Problem::new(
                    Code::Internal,
                    "the outcome of the event is unknown",
                )),
            }
        }
        _ => {
            parse(length, move || json::<&RawValue>(&body).map(drop)).await?;
            Err(Problem::new(
                Code::InvalidBody,
                "the body must be an event (an object) or an array of events",
            ))
        }
    }
}

/// The problem of a body that is no event, or what is missing if it is the body of an atomic append.
fn unless_meant_atomic(body: &[u8], problem: Problem) -> Problem {
    #[derive(Deserialize)]
    struct Atomic {
        #[serde(rename = "events")]
        _events: IgnoredAny,
    }
    match serde_json::from_slice::<Atomic>(body) {
        Ok(_) => Problem::new(
            Code::InvalidBody,
            "an object with `events` is the body of an atomic append, which needs atomic=true in the URL",
        ),
        Err(_) => problem,
    }
}

/// Charges `events` to the caller, or refuses them, and appends them. If the client disconnects meanwhile, everything
/// stays charged.
async fn append_charged(
    app: &App,
    storing: &Storing,
    events: Vec<Event>,
) -> Result<Vec<(EventId, Outcome)>> {
    let charge = charge(app, storing, &events)?;
    let permit = app.appender.try_reserve(events);
    let permit = permit.inspect_err(|_| charge.give_back())?;
    let outcomes = permit.append().await?;
    charge.settle(&outcomes);
    Ok(outcomes)
}

/// Charges `events` to the caller, or refuses them.
fn charge<'a>(app: &App, storing: &'a Storing, events: &[Event]) -> Result<Charge<'a>> {
    storing.charge(events).inspect_err(|problem| {
        let count = events.len() as u64;
        app.metrics
            .appends
            .note_rejected(problem.code.name(), count);
    })
}

/// Memory for the results of `events`.
fn reserve(limits: &Limited, events: &[Event]) -> Result<Reserved> {
    let mut reserved = limits.answer();
    if events.len() > UNCOUNTED_EVENTS_MAX {
        reserved.grow(events.len() * RESULT_BYTES)?;
    }
    Ok(reserved)
}

/// The results of an array.
fn results(reserved: Reserved, outcomes: Vec<(EventId, Outcome)>) -> Response {
    let mut answer = Vec::with_capacity(outcomes.len() * 100 + 2);
    for outcome in outcomes {
        answer.push(if answer.is_empty() { b'[' } else { b',' });
        result(&mut answer, outcome);
    }
    answer.push(b']');
    match reserved.bytes() {
        0 => json_response(answer),
        _ => json_response(reserved.hold(answer)),
    }
}

fn json_response(body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Writes the result of one event.
fn result(out: &mut Vec<u8>, (id, outcome): (EventId, Outcome)) {
    match outcome {
        Outcome::Appended(version) => render::appended(out, &id, version, "appended"),
        Outcome::Duplicate(version) => render::appended(out, &id, version, "duplicate"),
        Outcome::Erased(version) => render::appended(out, &id, version, "erased"),
        Outcome::Rejected(error) => {
            let error = Problem::from(error).to_error();
            let answer = json!({ "id": id.as_str(), "status": "rejected", "error": error });
            out.extend_from_slice(answer.to_string().as_bytes());
        }
    }
}
