//! `POST /v1/events?atomic=true`: all events or none.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{array::parse_array, charge, reserve, results, reused, wire::parse_expect};
use crate::{
    append::{ATOMIC_BYTES_MAX, Culprit, Refusal},
    error::Error,
    fairness::parse,
    feed::Reader,
    http::{
        App,
        access::Granted,
        body::{json, object},
        limits::{Limited, Storing},
        problem::{Code, Problem, Result},
    },
    types::{Event, Expect},
};

/// Most events of an atomic append.
pub const ATOMIC_EVENTS_MAX: usize = 100;
/// Most conditions of an atomic append besides those of its events.
pub const ATOMIC_EXPECTS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AtomicIn<'a> {
    #[serde(borrow)]
    events: &'a RawValue,
    #[serde(borrow, default)]
    expect: Vec<&'a RawValue>,
}

/// Parses an array of events, or an object with such an array and further conditions.
fn parse_atomic(app: &App, granted: &Granted, body: &Bytes) -> Result<(Vec<Event>, Vec<Expect>)> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        let events = parse_array(app, granted, body, body, ATOMIC_EVENTS_MAX)?;
        return Ok((events, Vec::new()));
    }
    let expected = "the body must be an array of events, or {\"events\": […], \"expect\": […]}";
    let AtomicIn { events, expect } = object(body, json(body)?, Code::InvalidBody, expected)?;
    if !events.get().starts_with('[') {
        let detail = format!("{expected}: `events` must be an array");
        return Err(Problem::new(Code::InvalidBody, detail));
    }
    if expect.len() > ATOMIC_EXPECTS_MAX {
        let detail = format!(
            "`expect` can have at most {ATOMIC_EXPECTS_MAX} conditions, this one has {}",
            expect.len()
        );
        return Err(Problem::new(Code::InvalidBody, detail));
    }
    let events = parse_array(
        app,
        granted,
        body,
        events.get().as_bytes(),
        ATOMIC_EVENTS_MAX,
    )?;
    let conditions = expect.into_iter().enumerate().map(|(index, json)| {
        let path = format!("expect[{index}]");
        let condition = parse_expect(body, json, &path, Code::InvalidBody)?;
        let allowed = granted.expect(&condition);
        allowed.map_err(|problem| problem.with("expect_index", index))?;
        Ok(condition)
    });
    let conditions = conditions.collect::<Result<_>>()?;
    Ok((events, conditions))
}

pub async fn append(
    app: Arc<App>,
    granted: Granted,
    reader: Reader,
    limits: &Limited,
    storing: Storing,
    body: Bytes,
) -> Result<Response> {
    let length = body.len();
    let (events, conditions) = {
        let (app, granted) = (Arc::clone(&app), granted.clone());
        parse(length, move || parse_atomic(&app, &granted, &body)).await?
    };
    let weight: usize = events.iter().map(Event::weight).sum();
    if weight > ATOMIC_BYTES_MAX {
        let detail = format!(
            "an atomic append can write at most {ATOMIC_BYTES_MAX} bytes of keys and values (each feed of an event has a \
             copy), this one might write {weight}"
        );
        return Err(Problem::new(Code::BodyTooLarge, detail));
    }
    let reserved = reserve(limits, &events)?;
    let charge = charge(&app, &storing, &events)?;
    let permit = app.appender.try_reserve(events);
    let permit = permit.inspect_err(|_| charge.give_back())?;
    match permit.append_atomic(conditions).await {
        Ok(outcomes) => {
            charge.settle(&outcomes);
            Ok(results(reserved, outcomes))
        }
        Err(mut refusal) => {
            charge.settle_refused(&refusal.error);
            reused::conceal_error(&app, &granted, reader, &mut refusal.error).await;
            Err(refusal.into())
        }
    }
}

impl From<Refusal> for Problem {
    fn from(Refusal { culprit, error }: Refusal) -> Self {
        let feed = match &error {
            Error::VersionConflict { feed, .. } => format!(" (feed {feed})"),
            _ => String::new(),
        };
        let problem = Self::from(error);
        match culprit {
            None => problem,
            Some(Culprit::Event(index)) => problem
                .because(&format!(
                    "nothing was appended, because of event {index}{feed}"
                ))
                .with("index", index),
            Some(Culprit::Condition(index)) => problem
                .because(&format!(
                    "nothing was appended, because of expect[{index}]{feed}"
                ))
                .with("expect_index", index),
        }
    }
}
