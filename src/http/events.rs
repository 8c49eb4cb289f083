//! `POST /v1/events` and `POST /v1/transient`.

use std::{borrow::Cow, convert::Infallible, fmt, marker::PhantomData, pin::pin, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{
    App,
    access::Granted,
    body::{Lines, Media, json, media, object, read_all, read_json},
    problem::{Code, Problem, Result},
    query, render,
};
use crate::{
    append::Outcome,
    auth::Denied,
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

/// `EventIn` from an object only: a derived reader would take an array of the fields' values, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A name or id, which shares the memory of `body` if it stands there as it is.
fn text<T: TryFrom<Bytes, Error = Invalid>>(
    body: &Bytes,
    text: Cow<'_, str>,
) -> std::result::Result<T, Invalid> {
    match text {
        Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
        Cow::Owned(text) => text.into(),
    }
    .try_into()
}

/// Checks one event's JSON, and that it may be appended. `transient` says which endpoint it came through.
fn parse_event(
    app: &App,
    granted: &Granted,
    body: &Bytes,
    json: &RawValue,
    transient: bool,
) -> Result<Event> {
    let event = object(json, Code::InvalidEvent, "the event is not as it must be")?;
    check_event(app, granted, body, event, transient)
}

/// Checks an event that was read from `body`.
fn check_event(
    app: &App,
    granted: &Granted,
    body: &Bytes,
    event: EventIn<'_>,
    transient: bool,
) -> Result<Event> {
    let invalid = |field: &str| {
        let field = field.to_owned();
        move |invalid: Invalid| Problem::invalid_event(field, &invalid)
    };
    let kind: Kind = text(body, event.kind).map_err(|e| invalid("kind")(e))?;
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
    let feeds = event.feeds.into_iter().enumerate().map(|(index, feed)| {
        text(body, feed).map_err(|error| invalid(&format!("feeds[{index}]"))(error))
    });
    let draft = Draft {
        id: event
            .id
            .map_or_else(|| Ok(EventId::generate()), |id| text(body, id))
            .map_err(|error| invalid("id")(error))?,
        kind,
        delivery,
        feeds: feeds.collect::<Result<Vec<FeedName>>>()?,
        actor: event
            .actor
            .map(|actor| text::<Actor>(body, actor))
            .transpose()
            .map_err(|error| invalid("actor")(error))?,
        data: match event.data {
            Some(raw) => Data::from_raw(raw).map_err(|error| invalid("data")(error))?,
            None => Data::null(),
        },
        expect: event.expect.map(parse_expect).transpose()?,
    };
    let event = draft
        .check()
        .map_err(|(name, invalid)| Problem::invalid_event(name, &invalid))?;
    granted.event(&event)?;
    Ok(event)
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
        feed: expect
            .feed
            .parse()
            .map_err(|invalid| Problem::invalid_event("expect.feed", &invalid))?,
        version: version.map_err(|_| {
            Problem::new(
                Code::InvalidEvent,
                "expect.version must be a version this service answered, or null",
            )
            .with("field", "expect.version")
        })?,
    })
}

pub async fn append(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    query::Params::parse(&parts, &[])?;
    match media(&parts.headers)? {
        Media::Json => {
            // Before the body is read: under overload most are refused, which must cost next to nothing.
            app.appender.check()?;
            append_json(&app, &granted, &read_all(body).await?).await
        }
        Media::Ndjson => Ok(append_ndjson(app, granted, body)),
    }
}

async fn append_json(app: &App, granted: &Granted, body: &Bytes) -> Result<Response> {
    match body.trim_ascii_start().first() {
        Some(b'[') => {
            let events = parse_array(app, granted, body)?;
            let outcomes = app.appender.try_reserve(events)?.append().await?;
            let mut answer = Vec::with_capacity(outcomes.len() * 100 + 2);
            for outcome in outcomes {
                answer.push(if answer.is_empty() { b'[' } else { b',' });
                result(&mut answer, outcome);
            }
            answer.push(b']');
            Ok(json_response(answer))
        }
        Some(b'{') => {
            let event =
                parse_one(app, granted, body).map_err(|problem| problem.with("index", 0))?;
            let permit = app.appender.try_reserve(vec![event])?;
            let mut outcomes = permit.append().await?;
            match outcomes.pop() {
                Some((_, Outcome::Rejected(error))) => Err(error.into()),
                Some(outcome) => {
                    let mut answer = Vec::with_capacity(128);
                    result(&mut answer, outcome);
                    Ok(json_response(answer))
                }
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

fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Most events are as they must be and are read in one pass; of what is not, a second one finds out what is wrong.
fn parse_one(app: &App, granted: &Granted, body: &Bytes) -> Result<Event> {
    match serde_json::from_slice::<Object<EventIn<'_>>>(body) {
        Ok(Object(event)) => check_event(app, granted, body, event, false),
        Err(_) => parse_event(app, granted, body, json(body)?, false),
    }
}

/// All events are checked before the first is appended. In one pass, as in [`parse_one`].
fn parse_array(app: &App, granted: &Granted, body: &Bytes) -> Result<Vec<Event>> {
    let mut checked = Vec::new();
    let mut add = |count: usize, event: Result<Event>| -> Result<()> {
        let index = checked.len();
        checked.reserve_exact(count - index);
        checked.push(event.map_err(|problem| problem.with("index", index))?);
        Ok(())
    };
    if let Ok(events) = serde_json::from_slice::<Vec<Object<EventIn<'_>>>>(body) {
        check_count(events.len())?;
        let count = events.len();
        for Object(event) in events {
            add(count, check_event(app, granted, body, event, false))?;
        }
        return Ok(checked);
    }
    let items: Vec<&RawValue> = json(body)?;
    check_count(items.len())?;
    for item in &items {
        add(items.len(), parse_event(app, granted, body, item, false))?;
    }
    Ok(checked)
}

fn check_count(events: usize) -> Result<()> {
    if events == 0 {
        return Err(Problem::new(
            Code::InvalidBody,
            "the array is empty: send at least one event",
        ));
    }
    if events > ARRAY_EVENTS_MAX {
        let detail = format!(
            "an array may have {ARRAY_EVENTS_MAX} events, this one has {events}; send NDJSON or several arrays"
        );
        return Err(Problem::new(Code::TooManyEvents, detail));
    }
    Ok(())
}

/// Writes the answer for one event among several.
fn result(out: &mut Vec<u8>, (id, outcome): (EventId, Outcome)) {
    match outcome {
        Outcome::Appended(version) => render::appended(out, &id, version, "appended"),
        Outcome::Duplicate(version) => render::appended(out, &id, version, "duplicate"),
        Outcome::Rejected(error) => {
            let error = Problem::from(error).to_error();
            let answer = json!({ "id": id.as_str(), "status": "rejected", "error": error });
            out.extend_from_slice(answer.to_string().as_bytes());
        }
    }
}

/// Commits lines in order, as they arrive, and answers each as it commits.
fn append_ndjson(app: Arc<App>, granted: Granted, body: Body) -> Response {
    let (answers, receiver) = mpsc::channel(ANSWER_CHUNKS_MAX);
    let tracker: TaskTracker = app.tracker.clone();
    tracker.spawn(async move {
        let mut lines = Lines::new(body);
        let mut index = 0;
        let mut over = pin!(granted.over());
        loop {
            let chunk = tokio::select! {
                // What is here is still answered, while the token is good.
                biased;
                () = &mut over => Err(Denied::Expired.into()),
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
                None => append_lines(&app, &granted, &chunk, index).await,
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
async fn append_lines(app: &App, granted: &Granted, lines: &[Bytes], first: usize) -> Vec<u8> {
    let mut events = Vec::with_capacity(lines.len());
    let parsed: Vec<Result<()>> = lines
        .iter()
        .map(|line| {
            events.push(parse_one(app, granted, line)?);
            Ok(())
        })
        .collect();
    let appended = match app.appender.reserve(events).await {
        Ok(permit) => permit.append().await,
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
                result(&mut answer, outcome);
                answer.push(b'\n');
            }
        }
    }
    answer
}

pub async fn transient(
    State(app): State<Arc<App>>,
    granted: Granted,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    query::Params::parse(&parts, &[])?;
    let body = read_json(&parts.headers, body).await?;
    let event = parse_event(&app, &granted, &body, json(&body)?, true)?;
    let id = event.id.clone();
    app.appender.try_reserve_transient(event)?.append();
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id.as_str() }))).into_response())
}
