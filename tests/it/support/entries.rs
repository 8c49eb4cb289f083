//! Entries as clients see them: paths to read them by, where they stand, and how two lists of them compare.

use std::fmt::{Debug, Display};

use newsfeed::{types::FeedName, version::Version};
use serde_json::Value;

use super::{
    bed::{Served, text},
    model::{Shown, feed_name},
    sse::Event,
};

/// A version of an epoch that no store has.
pub const UNKNOWN: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvs";

/// A version an hour above `now`, of the same store.
pub fn ahead(now: &str) -> String {
    let now: Version = now.parse().expect("a version");
    Version::new(now.epoch(), now.time() + 3_600_000_000, 0).to_string()
}

/// Where an entry stands: its version and its event's id.
pub type Place = (String, String);

pub fn place(entry: &Value) -> Place {
    (text(&entry["version"]), text(&entry["id"]))
}

/// Panics with the first difference only: the lists may have thousands of entries.
#[track_caller]
pub fn assert_same<T: PartialEq + Debug>(got: &[T], expected: &[T], what: &str) {
    let differ = got
        .iter()
        .zip(expected)
        .position(|(got, expected)| got != expected);
    let differ = differ.unwrap_or(got.len().min(expected.len()));
    assert!(
        got == expected,
        "{what}: {} entries, expected {}; number {differ} is {:?}, expected {:?}",
        got.len(),
        expected.len(),
        got.get(differ),
        expected.get(differ),
    );
}

/// `/v1/feeds/{feed}/{what}?`, or the merged form for several feeds; parameters can be appended. `what` is `entries` or
/// `live`.
pub fn path<F: Display>(feeds: &[F], what: &str) -> String {
    match feeds {
        [feed] => format!("/v1/feeds/{feed}/{what}?"),
        several => {
            let named: String = several.iter().map(|feed| format!("feed={feed}&")).collect();
            format!("/v1/{what}?{named}")
        }
    }
}

/// The position after a page that was read oldest first.
pub fn position_after(page: &Value) -> String {
    text(match &page["next"] {
        Value::Null => &page["version"],
        next => next,
    })
}

/// The feeds through which an entry reached a reader who asked for `asked`.
pub fn feeds_of<F: Display>(entry: &Value, asked: &[F]) -> Vec<String> {
    match (&entry["feed"], entry.get("feeds")) {
        // A page of one feed does not repeat its name.
        (Value::Null, _) => {
            assert_eq!(asked.len(), 1, "{entry}");
            vec![asked[0].to_string()]
        }
        (feed, None) => vec![text(feed)],
        (feed, Some(feeds)) => {
            let feeds = feeds.as_array().expect("an array");
            assert!(feeds.len() > 1 && feeds[0] == *feed, "{entry}");
            feeds.iter().map(text).collect()
        }
    }
}

/// An entry of a page, a merged page or a stream over `feeds`.
pub fn shown(entry: &Value, feeds: &[FeedName]) -> Shown {
    let feeds = feeds_of(entry, feeds);
    Shown {
        version: text(&entry["version"]).parse().expect("a version"),
        id: text(&entry["id"]),
        kind: text(&entry["kind"]),
        data: entry["data"].to_string(),
        feeds: feeds.iter().map(|name| feed_name(name)).collect(),
    }
}

/// The entries among the events of a stream over `feeds`.
pub fn shown_in(events: &[Event], feeds: &[FeedName]) -> Vec<Shown> {
    let entries = events
        .iter()
        .filter(|event| ["entry", "notify"].contains(&event.name.as_str()));
    entries.map(|event| shown(&event.data, feeds)).collect()
}

/// Follows `next` to the last page. `path` has neither `after` nor `before`; `from` is `after=…`, or empty for newest
/// first.
pub async fn walk(node: &Served, path: &str, from: &str, feeds: &[FeedName]) -> Vec<Shown> {
    let mut entries = Vec::new();
    let mut from = from.to_owned();
    let direction = match from.starts_with("after") {
        true => "after",
        false => "before",
    };
    loop {
        let page = node.get(&format!("{path}{from}")).await;
        let found = page["entries"].as_array().expect("entries");
        entries.extend(found.iter().map(|entry| shown(entry, feeds)));
        match page["next"].as_str() {
            Some(next) => {
                let next = format!("{direction}={next}");
                assert_ne!(next, from, "{path} does not advance");
                from = next;
            }
            None => return entries,
        }
    }
}
