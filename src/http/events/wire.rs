//! Events as JSON: parsing and validation.

use std::{borrow::Cow, fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use crate::{
    http::{
        App,
        access::Granted,
        body::{json, lone_surrogate, object},
        problem::{Code, Problem, Result},
        query,
    },
    types::{Actor, Data, Delivery, Draft, Event, EventId, Expect, FeedName, Invalid, Kind},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventIn<'a> {
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
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    expect: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectIn<'a> {
    #[serde(borrow)]
    feed: Cow<'a, str>,
    // Required, but may be null: leaving it out does not mean "the feed is empty".
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    version: Option<Cow<'a, str>>,
}

/// A `T` from a JSON object only: a derived `Deserialize` would also accept an array of the field values.
pub struct Object<T>(pub T);

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

/// A name or id. It shares the memory of `body`, unless it was written with escapes.
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

/// Parses and checks one event. `transient`: whether it was sent to `/v1/transient`.
pub fn parse_event(
    app: &App,
    granted: &Granted,
    body: &Bytes,
    json: &RawValue,
    transient: bool,
) -> Result<Event> {
    let event = object(body, json, Code::InvalidEvent, "invalid event")?;
    check_event(app, granted, body, event, transient)
}

/// Validates an event that was parsed from `body`, and checks that it may be appended.
pub fn check_event(
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
            let detail = format!("events of kind {kind} are transient: POST them to /v1/transient");
            return Err(Problem::new(Code::KindTransient, detail));
        }
        (false, true) => {
            let detail = format!(
                "events of kind {kind} are stored: POST them to /v1/events, or use a kind that is transient"
            );
            return Err(Problem::new(Code::KindNotTransient, detail));
        }
        _ => {}
    }
    if transient && event.expect.is_some() {
        return Err(
            Problem::new(Code::InvalidEvent, "a transient cannot have expect")
                .with("field", "expect"),
        );
    }
    let feeds = event.feeds.into_iter().enumerate().map(|(index, feed)| {
        text(body, feed).map_err(|error| invalid(&format!("feeds[{index}]"))(error))
    });
    let id = event.id.map(|id| text::<EventId>(body, id)).transpose();
    let id = id.map_err(|error| invalid("id")(error))?;
    let own_id = id.is_some();
    let feeds = feeds.collect::<Result<Vec<FeedName>>>()?;
    let actor = event.actor.map(|actor| text::<Actor>(body, actor));
    let actor = actor.transpose().map_err(|error| invalid("actor")(error))?;
    let draft = Draft {
        id: id.unwrap_or_else(|| granted.new_id(actor.as_ref())),
        kind,
        delivery,
        feeds,
        actor,
        time: event
            .time
            .map(|time| text(body, time))
            .transpose()
            .map_err(|error| invalid("time")(error))?,
        data: match event.data {
            Some(raw) => Data::from_raw(raw).map_err(|error| {
                let lone = match error {
                    Invalid::DataText => lone_surrogate(body, raw, "data", Code::InvalidEvent),
                    _ => None,
                };
                lone.unwrap_or_else(|| invalid("data")(error))
            })?,
            None => Data::null(),
        },
        expect: event
            .expect
            .map(|json| parse_expect(body, json, "expect", Code::InvalidEvent))
            .transpose()?,
    };
    let event = draft
        .check()
        .map_err(|(name, invalid)| Problem::invalid_event(name, &invalid))?;
    granted.event(&event, own_id)?;
    Ok(event)
}

/// Parses a condition, which stands at `path` of an event or a body. A problem has the code `wrong`.
pub fn parse_expect(body: &Bytes, json: &RawValue, path: &str, wrong: Code) -> Result<Expect> {
    let invalid = |field: &str, what: &dyn fmt::Display| {
        let field = format!("{path}.{field}");
        Problem::new(wrong, format!("{field} {what}")).with("field", field)
    };
    let expected = format!("invalid {path}");
    let expect: ExpectIn<'_> = object(body, json, wrong, &expected).map_err(|problem| {
        lone_surrogate(body, json, path, wrong).unwrap_or_else(|| problem.with("field", path))
    })?;
    let version = expect
        .version
        .map(|text| query::cursor("version", &text))
        .transpose();
    Ok(Expect {
        feed: expect
            .feed
            .parse()
            .map_err(|error: Invalid| invalid("feed", &error))?,
        version: version
            .map_err(|_| invalid("version", &"must be a version from this service, or null"))?,
    })
}

/// Parses one event. Most events are valid and take one pass; for the others, a second pass finds out what is wrong.
pub fn parse_one(app: &App, granted: &Granted, body: &Bytes) -> Result<Event> {
    match serde_json::from_slice::<Object<EventIn<'_>>>(body) {
        Ok(Object(event)) => check_event(app, granted, body, event, false),
        Err(_) => parse_event(app, granted, body, json(body)?, false),
    }
}
