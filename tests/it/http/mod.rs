//! What each endpoint promises, over real sockets.

mod append;
mod atomic;
mod base_path;
mod changes;
mod conditions;
mod connection;
mod content;
mod links;
mod log;
mod lookup;
mod markers;
mod names;
mod ndjson;
mod read;
mod readers;
mod shutdown;
mod states;
mod streams;
mod transients;
mod versions;
mod waiting;
mod web_files;

use serde_json::{Value, json};

/// A visit: an event that does not count as unread.
pub fn visit(id: &str, feeds: &[&str]) -> Value {
    json!({ "id": id, "kind": "visit", "feeds": feeds })
}

/// A message: an event that counts as unread.
pub fn message(id: &str, feeds: &[&str]) -> Value {
    json!({ "id": id, "kind": "message", "feeds": feeds })
}

/// An array of visits with ids `{prefix}0` to `{prefix}{count - 1}`.
pub fn visits(prefix: &str, count: usize, feeds: &[&str]) -> Value {
    let visit = |index| visit(&format!("{prefix}{index}"), feeds);
    (0..count).map(visit).collect()
}

/// The text in `field` of each item.
pub fn column<'a>(items: impl IntoIterator<Item = &'a Value>, field: &str) -> Vec<String> {
    let text = |item: &Value| crate::support::bed::text(&item[field]);
    items.into_iter().map(text).collect()
}

pub fn items(value: &Value) -> &Vec<Value> {
    value.as_array().expect("an array")
}
