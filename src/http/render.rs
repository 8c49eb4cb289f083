//! The JSON of responses and the SSE frames of live streams. Entries are written by hand, because their `data` is JSON
//! already and is copied without being parsed.

use bytes::Bytes;
use jiff::fmt::temporal::DateTimePrinter;
use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    feed::{FeedState, Page},
    live::{Bye, Located, News},
    types::{Actor, Delivery, Entry, EventId, FeedName},
    version::Version,
};

/// How long a client waits after `bye` before it reconnects, in ms.
pub const BYE_RETRY_MS: std::ops::RangeInclusive<u32> = 500..=5_000;

/// Writes text that needs no escapes: a version or a word.
fn plain(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Writes a name or an id. They contain no control characters, so most need no escapes.
fn name(out: &mut Vec<u8>, name: &str) {
    match memchr::memchr2(b'"', b'\\', name.as_bytes()) {
        None => plain(out, name),
        Some(_) => serde_json::to_writer(out, name)
            .expect("a string serializes and writing to a Vec cannot fail"),
    }
}

fn fields(out: &mut Vec<u8>, entry: &Entry, with_version: bool) {
    if with_version {
        out.extend_from_slice(b"\"version\":");
        plain(out, entry.version.to_text().as_str());
        out.push(b',');
    }
    out.extend_from_slice(b"\"id\":");
    name(out, entry.id.as_str());
    out.extend_from_slice(b",\"kind\":");
    name(out, entry.kind.as_str());
    out.extend_from_slice(b",\"actor\":");
    match entry.actor.as_ref().map(Actor::as_str) {
        Some(actor) => name(out, actor),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"at\":\"");
    rfc3339(out, entry.at);
    out.extend_from_slice(b"\",\"data\":");
    out.extend_from_slice(&entry.data);
}

fn rfc3339(out: &mut Vec<u8>, micros: i64) {
    const MICROS: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    let at = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    MICROS
        .print_timestamp(&at, out)
        .expect("writing to a Vec cannot fail");
}

fn held_by<'a>(
    out: &mut Vec<u8>,
    feed: &FeedName,
    feeds: impl ExactSizeIterator<Item = &'a FeedName>,
) {
    out.extend_from_slice(b"\"feed\":");
    name(out, feed.as_str());
    if feeds.len() > 1 {
        out.extend_from_slice(b",\"feeds\":");
        names(out, feeds);
    }
    out.push(b',');
}

fn names<'a>(out: &mut Vec<u8>, feeds: impl Iterator<Item = &'a FeedName>) {
    out.push(b'[');
    for (index, feed) in feeds.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        name(out, feed.as_str());
    }
    out.push(b']');
}

/// Writes the result for an event that is stored.
pub fn appended(out: &mut Vec<u8>, event: &EventId, version: Version, status: &str) {
    out.extend_from_slice(b"{\"id\":");
    name(out, event.as_str());
    out.extend_from_slice(b",\"status\":");
    plain(out, status);
    out.extend_from_slice(b",\"version\":");
    plain(out, version.to_text().as_str());
    out.push(b'}');
}

/// A page of one feed or, if `merged`, of several.
pub fn page(page: &Page, feeds: &[FeedName], merged: bool) -> Vec<u8> {
    let data: usize = page
        .entries
        .iter()
        .map(|found| found.entry.data.len() + 256)
        .sum();
    let mut out = Vec::with_capacity(data + 256);
    out.push(b'{');
    match feeds.first() {
        Some(feed) if !merged => {
            out.extend_from_slice(b"\"feed\":");
            name(&mut out, feed.as_str());
        }
        _ => {
            out.extend_from_slice(b"\"feeds\":");
            names(&mut out, feeds.iter());
        }
    }
    out.extend_from_slice(format!(",\"version\":\"{}\",\"entries\":[", page.version).as_bytes());
    for (index, found) in page.entries.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
        if let (true, Some(&first)) = (merged, found.feeds.first()) {
            held_by(
                &mut out,
                &feeds[first],
                found.feeds.iter().map(|&feed| &feeds[feed]),
            );
        }
        fields(&mut out, &found.entry, true);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"next\":");
    match page.next {
        Some(next) => plain(&mut out, next.to_text().as_str()),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
}

/// The state of a feed: the whole state if `whole`, else only the part that a moved marker changes.
pub fn state(state: &FeedState, whole: bool) -> Value {
    let version = |version: Option<Version>| version.map(|version| version.to_string());
    let mut out = json!({
        "feed": state.feed.as_str(),
        "version": state.version.to_string(),
        "unread": { "total": state.unread.total, "kinds": state.unread.kinds, "more": state.unread.more },
        "markers": { "read": version(state.markers.read), "seen": version(state.markers.seen) },
    });
    if whole {
        out["latest"] = json!(version(state.latest));
    }
    out
}

/// The SSE frame of a piece of news.
pub fn frame(news: &News) -> Bytes {
    match news {
        News::Entry(located) => {
            let event = match located.entry.delivery {
                Delivery::Notify => "notify",
                Delivery::Entry | Delivery::Transient => "entry",
            };
            event_frame(
                event,
                Some(located.entry.version),
                &located_json(located, true),
            )
        }
        News::Transient(located) => event_frame("transient", None, &located_json(located, false)),
        News::State(feed) => event_frame("marker", None, state(feed, false).to_string().as_bytes()),
        News::Moment(version) => event_frame(
            "version",
            Some(*version),
            json!({ "version": version.to_string() })
                .to_string()
                .as_bytes(),
        ),
    }
}

fn located_json(located: &Located, with_version: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(located.entry.data.len() + 256);
    out.push(b'{');
    held_by(&mut out, &located.feed, located.feeds.iter());
    fields(&mut out, &located.entry, with_version);
    out.push(b'}');
    out
}

pub fn reset_frame(current: Version) -> Bytes {
    let data = json!({
        "code": "version_ahead",
        "detail": "the requested version is above the current one: read the history again; the stream continues from `version`",
        "version": current.to_string(),
    });
    event_frame("reset", Some(current), data.to_string().as_bytes())
}

/// Each stream gets a random `retry`, because all streams of a node end at once and must not all reconnect at once.
pub fn bye_frame(bye: Bye) -> Bytes {
    let retry = rand::rng().random_range(BYE_RETRY_MS);
    let data = json!({ "reason": bye.reason() });
    format!("retry: {retry}\nevent: bye\ndata: {data}\n\n").into()
}

/// `data` must be one line.
fn event_frame(event: &str, id: Option<Version>, data: &[u8]) -> Bytes {
    let id = id.map(|id| id.to_text());
    let id = id.as_ref().map(|id| id.as_str().as_bytes());
    let id_line: &[&[u8]] = match &id {
        Some(id) => &[b"\nid: ", id],
        None => &[],
    };
    let begin: &[&[u8]] = &[b"event: ", event.as_bytes()];
    let end: &[&[u8]] = &[b"\ndata: ", data, b"\n\n"];
    [begin, id_line, end].concat().concat().into()
}
