//! Arrays of events.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::wire::{EventIn, Object, check_event, parse_event};
use crate::{
    http::{
        App,
        access::Granted,
        body::json,
        problem::{Code, Problem, Result},
    },
    types::Event,
};

/// Most events in a JSON array.
pub const ARRAY_EVENTS_MAX: usize = 1000;

/// Parses an array of 1 to `events_max` events, all of which must be valid. In one pass, as in [`parse_one`]. `array` is
/// `body` or a part of it.
pub fn parse_array(
    app: &App,
    granted: &Granted,
    body: &Bytes,
    array: &[u8],
    events_max: usize,
) -> Result<Vec<Event>> {
    let mut checked = Vec::new();
    let mut add = |count: usize, event: Result<Event>| -> Result<()> {
        let index = checked.len();
        checked.reserve_exact(count - index);
        checked.push(event.map_err(|problem| problem.with("index", index))?);
        Ok(())
    };
    if let Ok(events) = serde_json::from_slice::<Vec<Object<EventIn<'_>>>>(array) {
        check_count(events.len(), events_max)?;
        let count = events.len();
        for Object(event) in events {
            add(count, check_event(app, granted, body, event, false))?;
        }
        return Ok(checked);
    }
    let items: Vec<&RawValue> = json(array)?;
    check_count(items.len(), events_max)?;
    for item in &items {
        add(items.len(), parse_event(app, granted, body, item, false))?;
    }
    Ok(checked)
}

fn check_count(events: usize, max: usize) -> Result<()> {
    if events == 0 {
        return Err(Problem::new(
            Code::InvalidBody,
            "the array is empty: send at least one event",
        ));
    }
    if events > max {
        let detail = match max {
            ARRAY_EVENTS_MAX => format!(
                "an array can have at most {max} events, this one has {events}; send NDJSON or several arrays"
            ),
            _ => format!("an atomic append can have at most {max} events, this one has {events}"),
        };
        return Err(Problem::new(Code::TooManyEvents, detail));
    }
    Ok(())
}
