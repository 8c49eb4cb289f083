//! `POST /v1/events` and `POST /v1/transient`.

use std::{borrow::Cow, convert::Infallible, str::FromStr};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{
    App,
    body::{Lines, Media, json, media, object, read_all, read_json},
    problem::{Code, Problem, Result},
    query,
};
use crate::{
    append::{Appender, Outcome, put_transient},
    types::{Actor, Data, Delivery, Draft, Event, EventId, Expect, FeedName, Invalid, Kind},
};

/// Most events of a JSON array.
pub const ARRAY_EVENTS_MAX: usize = 1000;
/// Lines of an NDJSON body that are committed together.
const CHUNK_LINES: usize = 1000;
/// Chunks of answers that wait for an NDJSON client to read them.
const ANSWER_CHUNKS_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventIn<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    feeds: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    actor: Option<Cow<'a, str>>,
    #[serde(borrow)]
    expect: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectIn<'a> {
    #[serde(borrow)]
    feed: Cow<'a, str>,
    // Required, if only as null: leaving it out is no way to say "the feed is empty".
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    version: Option<Cow<'a, str>>,
}

fn field<T: FromStr<Err = Invalid>>(name: &str, text: &str) -> Result<T> {
    text.parse()
        .map_err(|invalid| Problem::invalid_event(name, &invalid))
}

/// Checks one event's JSON. `transient` says which endpoint it came through.
fn parse_event(app: &App, json: &RawValue, transient: bool) -> Result<Event> {
    let event: EventIn<'_> = object(json, Code::InvalidEvent, "the event is not as it must be")?;
    let kind: Kind = field("kind", &event.kind)?;
    let delivery = app.deliveries.of(&kind);
    match (delivery == Delivery::Transient, transient) {
        (true, false) => {
            let detail = format!("events of kind {kind} are live only: POST them to /v1/transient");
            return Err(Problem::new(Code::KindTransient, detail));
        }
        (false, true) => {
            let detail = format!(
                "kind {kind} is not configured as transient: POST it to /v1/events, or start the service with --kind {kind}=transient"
            );
            return Err(Problem::new(Code::KindNotTransient, detail));
        }
        _ => {}
    }
    if transient && event.expect.is_some() {
        return Err(Problem::new(
            Code::InvalidEvent,
            "a transient cannot be conditional: leave expect out",
        )
        .with("field", "expect"));
    }
    let feeds = event
        .feeds
        .iter()
        .enumerate()
        .map(|(index, feed)| field(&format!("feeds[{index}]"), feed));
    let draft = Draft {
        id: event
            .id
            .map_or_else(|| Ok(EventId::generate()), |id| field("id", &id))?,
        kind,
        delivery,
        feeds: feeds.collect::<Result<Vec<FeedName>>>()?,
        actor: event
            .actor
            .map(|actor| field::<Actor>("actor", &actor))
            .transpose()?,
        data: match event.data {
            Some(raw) => {
                Data::from_raw(raw).map_err(|invalid| Problem::invalid_event("data", &invalid))?
            }
            None => Data::null(),
        },
        expect: event.expect.map(parse_expect).transpose()?,
    };
    draft
        .check()
        .map_err(|(name, invalid)| Problem::invalid_event(name, &invalid))
}

fn parse_expect(json: &RawValue) -> Result<Expect> {
    let expected = "expect is not as it must be";
    let expect: ExpectIn<'_> = object(json, Code::InvalidEvent, expected)
        .map_err(|problem| problem.with("field", "expect"))?;
    let version = expect
        .version
        .map(|text| query::version("expect.version", &text))
        .transpose();
    Ok(Expect {
        feed: field("expect.feed", &expect.feed)?,
        version: version.map_err(|_| {
            Problem::new(
                Code::InvalidEvent,
                "expect.version must be a version this service answered, or null",
            )
            .with("field", "expect.version")
        })?,
    })
}

pub async fn append(State(app): State<App>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    query::Params::parse(&parts, &[])?;
    match media(&parts.headers)? {
        Media::Json => append_json(&app, &read_all(body).await?).await,
        Media::Ndjson => Ok(append_ndjson(app, body)),
    }
}

async fn append_json(app: &App, body: &[u8]) -> Result<Response> {
    match body.trim_ascii_start().first() {
        Some(b'[') => {
            let items: Vec<&RawValue> = json(body)?;
            if items.is_empty() {
                return Err(Problem::new(
                    Code::InvalidBody,
                    "the array is empty: send at least one event",
                ));
            }
            if items.len() > ARRAY_EVENTS_MAX {
                let detail = format!(
                    "an array may have {ARRAY_EVENTS_MAX} events, this one has {}; send NDJSON or several arrays",
                    items.len()
                );
                return Err(Problem::new(Code::TooManyEvents, detail));
            }
            // All are checked before the first is appended.
            let events = items.iter().enumerate().map(|(index, item)| {
                parse_event(app, item, false).map_err(|problem| problem.with("index", index))
            });
            let events = events.collect::<Result<Vec<Event>>>()?;
            let admission = app.appender.admit(&events)?;
            let outcomes = app.appender.append(events, admission).await?;
            Ok(Json(outcomes.into_iter().map(result).collect::<Vec<Value>>()).into_response())
        }
        Some(b'{') => {
            let event =
                parse_event(app, json(body)?, false).map_err(|problem| problem.with("index", 0))?;
            let admission = app.appender.admit(std::slice::from_ref(&event))?;
            let mut outcomes = app.appender.append(vec![event], admission).await?;
            match outcomes.pop() {
                Some((_, Outcome::Rejected(error))) => Err(error.into()),
                Some(outcome) => Ok(Json(result(outcome)).into_response()),
                None => Err(Problem::new(Code::Internal, "the event got no answer")),
            }
        }
        _ => {
            let _: &RawValue = json(body)?;
            Err(Problem::new(
                Code::InvalidBody,
                "the body must be an event (an object) or an array of events",
            ))
        }
    }
}

/// The answer for one event among several.
fn result((id, outcome): (EventId, Outcome)) -> Value {
    match outcome {
        Outcome::Appended(version) => {
            json!({ "id": id.as_str(), "version": version.to_string(), "status": "appended" })
        }
        Outcome::Duplicate(version) => {
            json!({ "id": id.as_str(), "version": version.to_string(), "status": "duplicate" })
        }
        Outcome::Rejected(error) => {
            json!({ "id": id.as_str(), "status": "rejected", "error": Problem::from(error).to_error() })
        }
    }
}

/// Commits lines in order, as they arrive, and answers each as it commits.
fn append_ndjson(app: App, body: Body) -> Response {
    let (answers, receiver) = mpsc::channel(ANSWER_CHUNKS_MAX);
    let tracker: TaskTracker = app.tracker.clone();
    tracker.spawn(async move {
        let mut lines = Lines::new(body);
        let mut index = 0;
        loop {
            let chunk = tokio::select! {
                // What is here is still answered.
                biased;
                chunk = lines.next_chunk(CHUNK_LINES) => chunk,
                // The answer ends here; lines without an answer are to be sent again.
                () = app.stopping.cancelled() => return,
            };
            let (chunk, failed) = match chunk {
                Ok(chunk) if chunk.is_empty() => return,
                Ok(chunk) => (chunk, None),
                Err(problem) => (Vec::new(), Some(problem)),
            };
            let answer = match failed {
                None => append_lines(&app, &app.appender, &chunk, index).await,
                Some(ref problem) => bad_line(index, problem),
            };
            index += chunk.len();
            // With the client gone nobody is there to send more either.
            if answers.send(Bytes::from(answer)).await.is_err() || failed.is_some() {
                return;
            }
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let answer = receiver.recv().await?;
        Some((Ok::<_, Infallible>(answer), receiver))
    });
    (
        [
            (header::CONTENT_TYPE, "application/x-ndjson"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        Body::from_stream(stream.boxed()),
    )
        .into_response()
}

fn bad_line(index: usize, problem: &Problem) -> Vec<u8> {
    let mut line = json!({ "index": index, "status": "rejected", "error": problem.to_error() })
        .to_string()
        .into_bytes();
    line.push(b'\n');
    line
}

/// Answers `lines`, of which the first is number `first`.
async fn append_lines(app: &App, appender: &Appender, lines: &[Bytes], first: usize) -> Vec<u8> {
    let mut events = Vec::with_capacity(lines.len());
    let parsed: Vec<Result<()>> = lines
        .iter()
        .map(|line| {
            events.push(parse_event(app, json(line)?, false)?);
            Ok(())
        })
        .collect();
    let appended = match appender.admit_waiting(&events).await {
        Ok(admission) => appender.append(events, admission).await,
        Err(error) => Err(error),
    };
    let (mut outcomes, failure) = match appended {
        Ok(outcomes) => (outcomes.into_iter(), None),
        Err(error) => (Vec::new().into_iter(), Some(Problem::from(error))),
    };
    let mut answer = Vec::with_capacity(lines.len() * 100);
    for (index, parsed) in (first..).zip(parsed) {
        let problem = parsed.err().or_else(|| failure.clone());
        match (problem, &mut outcomes) {
            (Some(problem), _) => answer.extend(bad_line(index, &problem)),
            (None, outcomes) => {
                let Some(outcome) = outcomes.next() else {
                    continue;
                };
                answer.extend_from_slice(result(outcome).to_string().as_bytes());
                answer.push(b'\n');
            }
        }
    }
    answer
}

pub async fn transient(State(app): State<App>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    query::Params::parse(&parts, &[])?;
    let body = read_json(&parts.headers, body).await?;
    let event = parse_event(&app, json(&body)?, true)?;
    let id = event.id.clone();
    let permit = app
        .transients
        .clone()
        .try_acquire_owned()
        .map_err(|_| crate::error::Error::Busy)?;
    let tracker = app.tracker.clone();
    tracker.spawn(async move {
        if let Err(error) = put_transient(&*app.store, &app.keys, &app.clock, event).await {
            tracing::warn!(%error, "a transient was lost");
        }
        drop(permit);
    });
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id.as_str() }))).into_response())
}
