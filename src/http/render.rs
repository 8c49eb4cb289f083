//! The JSON of responses and the SSE frames of live streams. Entries are written by hand, because their `data` is JSON
//! already and is copied without being parsed.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::fmt::temporal::DateTimePrinter;
use rand::RngExt;
use serde_json::{Value, json};

use super::problem::{Code, Problem};
use crate::{
    fairness::WorkBudget,
    feed::{EntryState, FeedState, FoundEvent, Page, PageEntry, ReaderMarkers, Readers, Unread},
    live::{Bye, Located, News, Reset},
    log::{LogEvent, LogPage},
    types::{Actor, Change, Delivery, Entry, EventId, FeedName},
    version::{Cursor, Version},
};

/// How long a client waits before it reconnects, in ms.
pub const RETRY_MS: std::ops::RangeInclusive<u32> = 500..=5_000;

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

/// Writes a member with a version, and a comma.
fn version_member(out: &mut Vec<u8>, name: &str, version: Version) {
    plain(out, name);
    out.push(b':');
    plain(out, version.to_text().as_str());
    out.push(b',');
}

/// The members of an entry, or of the news of a change: what was changed, with the version of the entry itself.
fn fields(out: &mut Vec<u8>, entry: &Entry, with_version: bool) {
    match entry.change {
        Some(Change::Erasure(of)) => {
            out.extend_from_slice(b"\"change\":\"erased\",");
            version_member(out, "version", of);
            version_member(out, "erased", entry.version);
            out.extend_from_slice(b"\"id\":");
            name(out, entry.id.as_str());
            out.extend_from_slice(b",\"kind\":");
            name(out, entry.kind.as_str());
            return;
        }
        Some(Change::Edit(of)) => {
            out.extend_from_slice(b"\"change\":\"edited\",");
            version_member(out, "version", of);
            version_member(out, "edited", entry.version);
        }
        Some(Change::EditedAt(at)) => {
            version_member(out, "version", entry.version);
            version_member(out, "edited", at);
        }
        Some(Change::Erased) | None if with_version => {
            version_member(out, "version", entry.version);
        }
        Some(Change::Erased) | None => {}
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
    out.push(b'"');
    if let Some(time) = &entry.time {
        out.extend_from_slice(b",\"time\":");
        plain(out, time.as_str());
    }
    out.extend_from_slice(b",\"data\":");
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

/// The result of a change of the event at `version`, with the version of the change under its name.
pub fn changed(
    event: &EventId,
    status: &str,
    version: Version,
    change: Option<(&str, Version)>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + event.as_str().len());
    appended(&mut out, event, version, status);
    if let Some((name, version)) = change {
        out.pop();
        out.push(b',');
        version_member(&mut out, name, version);
        out.pop();
        out.push(b'}');
    }
    out
}

/// An event with all its feeds that the caller may read.
pub fn event(event: &FoundEvent) -> Vec<u8> {
    let FoundEvent { entry, feeds } = event;
    let mut out = Vec::with_capacity(entry.data.len() + 256 + 64 * feeds.len());
    out.extend_from_slice(b"{\"feeds\":");
    names(&mut out, feeds.iter());
    out.push(b',');
    fields(&mut out, entry, true);
    out.push(b'}');
    out
}

/// A page that has been rendered.
#[derive(Debug, Clone)]
pub struct Rendered {
    pub body: Vec<u8>,
    /// Where the text of the page's version begins.
    version_at: usize,
}

impl Rendered {
    /// The same page, with another version.
    pub fn at(&self, version: Version) -> Vec<u8> {
        let (mut body, text) = (self.body.clone(), version.to_text());
        let text = text.as_str().as_bytes();
        body[self.version_at..][..text.len()].copy_from_slice(text);
        body
    }
}

/// A page of one feed or, if `merged`, of several.
pub fn page(page: &Page, feeds: &[FeedName], merged: bool) -> Rendered {
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
    out.extend_from_slice(b",\"version\":\"");
    let version_at = out.len();
    out.extend_from_slice(page.version.to_text().as_str().as_bytes());
    out.extend_from_slice(b"\",\"entries\":[");
    let is_change = |found: &&PageEntry| found.entry.changed().is_some();
    let list = |out: &mut Vec<u8>, found: &PageEntry, is_first: bool| {
        out.extend_from_slice(if is_first { b"{" } else { b",{" });
        if let (true, Some(&first)) = (merged, found.feeds.first()) {
            held_by(
                out,
                &feeds[first],
                found.feeds.iter().map(|&feed| &feeds[feed]),
            );
        }
        states(out, found);
        fields(out, &found.entry, true);
        out.push(b'}');
    };
    let entries = page.entries.iter().filter(|found| !is_change(found));
    for (index, found) in entries.enumerate() {
        list(&mut out, found, index == 0);
    }
    out.push(b']');
    let mut changes = page.entries.iter().filter(is_change).peekable();
    if changes.peek().is_some() {
        out.extend_from_slice(b",\"changes\":[");
        for (index, found) in changes.enumerate() {
            list(&mut out, found, index == 0);
        }
        out.push(b']');
    }
    out.extend_from_slice(b",\"next\":");
    match page.next {
        Some(next) => plain(&mut out, next.to_text().as_str()),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Rendered {
        body: out,
        version_at,
    }
}

/// The state of an entry in its first feed; if it is in several, in each of them, too.
fn states(out: &mut Vec<u8>, found: &PageEntry) {
    let name = |state: &Option<EntryState>| state.as_ref().map(|state| state.state.name());
    if let Some(Some(first)) = found.states.first() {
        out.extend_from_slice(b"\"state\":");
        plain(out, first.state.name());
        out.push(b',');
        if let Some(marked) = first.marked {
            version_member(out, "marked", marked);
        }
    }
    if found.states.len() > 1 && found.states.iter().any(Option::is_some) {
        let all: Vec<_> = found.states.iter().map(name).collect();
        out.extend_from_slice(format!("\"states\":{},", json!(all)).as_bytes());
    }
}

/// A page of the log.
pub fn log_page(page: &LogPage) -> Vec<u8> {
    let bytes = page.events.iter().map(LogEvent::bytes);
    let mut out = Vec::with_capacity(bytes.sum::<usize>() + 256);
    out.extend_from_slice(format!("{{\"version\":\"{}\",\"events\":[", page.version).as_bytes());
    for (index, event) in page.events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        log_event(&mut out, event);
    }
    out.extend_from_slice(b"],\"next\":");
    match page.next {
        Some(next) => plain(&mut out, next.to_text().as_str()),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
}

fn log_event(out: &mut Vec<u8>, event: &LogEvent) {
    out.extend_from_slice(b"{\"feeds\":");
    names(out, event.feeds.iter());
    out.push(b',');
    fields(out, &event.entry, true);
    out.push(b'}');
}

/// The line of an event in an answer of lines.
pub fn event_line(out: &mut Vec<u8>, event: &LogEvent) {
    let begin = out.len();
    log_event(out, event);
    if let Cow::Owned(escaped) = one_line(&out[begin..]) {
        out.truncate(begin);
        out.extend_from_slice(&escaped);
    }
    out.push(b'\n');
}

/// The line that tells the position: all events up to it that pass the filter stand before it.
pub fn cursor_line(out: &mut Vec<u8>, cursor: Version) {
    out.extend_from_slice(format!("{{\"cursor\":\"{cursor}\"}}\n").as_bytes());
}

/// The last line of an answer that is complete.
pub fn end_line(out: &mut Vec<u8>, cursor: Version) {
    out.extend_from_slice(format!("{{\"cursor\":\"{cursor}\",\"end\":true}}\n").as_bytes());
}

/// The last line of an answer that ends before it is complete.
pub fn error_line(out: &mut Vec<u8>, cursor: Version, problem: &Problem) {
    let line = json!({ "cursor": cursor.to_string(), "error": problem.to_error() });
    out.extend_from_slice(line.to_string().as_bytes());
    out.push(b'\n');
}

/// The state of a feed: the whole state if `whole`, else only the part that a moved marker changes.
pub fn state(state: &FeedState, whole: bool) -> Value {
    let version = |version: Option<Version>| version.map(|version| version.to_string());
    let markers = &state.markers;
    let mut out = json!({
        "feed": state.feed.as_str(),
        "version": state.version.to_string(),
        "unread": unread(&state.unread),
        "markers": {
            "read": version(markers.read),
            "seen": version(markers.seen),
            "archived": version(markers.archived),
        },
    });
    if let Some(reader) = state.reader.name() {
        out["reader"] = json!(reader.as_str());
    }
    if whole {
        out["latest"] = json!(version(state.latest));
    }
    out
}

fn unread(unread: &Unread) -> Value {
    json!({ "total": unread.total, "kinds": unread.kinds, "more": unread.more })
}

/// What others may see of a reader's markers.
fn seen_by_others(markers: &ReaderMarkers) -> Value {
    let version = |version: Option<Version>| version.map(|version| version.to_string());
    json!({
        "reader": markers.reader.as_str(),
        "markers": { "read": version(markers.read), "seen": version(markers.seen) },
    })
}

/// Readers of a feed and their markers.
pub fn readers(feed: &FeedName, found: &Readers) -> Vec<u8> {
    let next = found.readers.last().filter(|_| found.more);
    let answer = json!({
        "feed": feed.as_str(),
        "version": found.version.to_string(),
        "readers": found.readers.iter().map(seen_by_others).collect::<Vec<_>>(),
        "next": next.map(|next| next.reader.as_str()),
    });
    answer.to_string().into_bytes()
}

/// The states of feeds, all as of one moment.
pub async fn feed_states(states: &[FeedState]) -> Vec<u8> {
    let mut budget = WorkBudget::default();
    let mut out = Vec::with_capacity(states.len() * 400 + 64);
    let moment = states.first().map(|state| state.version);
    let moment = moment.map_or_else(String::new, |version| version.to_string());
    out.extend_from_slice(format!("{{\"version\":\"{moment}\",\"feeds\":[").as_bytes());
    for (index, one) in states.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(state(one, true).to_string().as_bytes());
        budget.spend(10 + one.unread.kinds.len()).await;
    }
    out.extend_from_slice(b"]}");
    out
}

/// The SSE frame of a piece of news.
pub fn frame(news: &News) -> Bytes {
    match news {
        News::Entry(located) => {
            let event = match (located.entry.change, located.entry.delivery) {
                (Some(Change::Edit(_)), _) => "edited",
                (Some(Change::Erasure(_)), _) => "erased",
                (_, Delivery::Notify) => "notify",
                (_, Delivery::Entry | Delivery::Transient) => "entry",
            };
            event_frame(
                event,
                Some(located.entry.version),
                &located_json(located, true),
            )
        }
        News::Transient(located) => event_frame("transient", None, &located_json(located, false)),
        News::Event(event) => {
            let mut data = Vec::with_capacity(event.bytes());
            log_event(&mut data, event);
            let name = match event.entry.change {
                Some(Change::Edit(_)) => "edited",
                Some(Change::Erasure(_)) => "erased",
                _ => "event",
            };
            event_frame(name, Some(event.entry.version), &data)
        }
        News::Notify(located, counts) => {
            let version = Some(located.entry.version);
            event_frame("notify", version, &counted_json(located, counts))
        }
        News::State(feed) => event_frame("marker", None, state(feed, false).to_string().as_bytes()),
        News::Whole(feed) => event_frame("state", None, state(feed, true).to_string().as_bytes()),
        News::Moved {
            feed,
            markers,
            version,
        } => {
            let mut data = seen_by_others(markers);
            data["feed"] = json!(feed.as_str());
            data["version"] = json!(version.to_string());
            event_frame("marker", None, data.to_string().as_bytes())
        }
        News::Marked {
            feed, reader, mark, ..
        } => {
            let mut data = json!({
                "feed": feed.as_str(),
                "entry": mark.map(|(entry, _)| entry.to_string()),
            });
            if let Some(reader) = reader.name() {
                data["reader"] = json!(reader.as_str());
            }
            if let Some((_, mark)) = mark {
                data["state"] = json!(mark.state.name());
                data["marked"] = json!(mark.marked.to_string());
            }
            event_frame("marked", None, data.to_string().as_bytes())
        }
        News::Moment(version) => event_frame(
            "version",
            Some(*version),
            json!({ "version": version.to_string() })
                .to_string()
                .as_bytes(),
        ),
    }
}

/// An entry with the unread counts of its feeds.
fn counted_json(located: &Located, counts: &[Unread]) -> Vec<u8> {
    let mut out = located_json(located, true);
    out.pop();
    if let Some(first) = counts.first() {
        out.extend_from_slice(format!(",\"unread\":{}", unread(first)).as_bytes());
    }
    if counts.len() > 1 {
        let counts = Value::Array(counts.iter().map(unread).collect());
        out.extend_from_slice(format!(",\"unreads\":{counts}").as_bytes());
    }
    out.push(b'}');
    out
}

fn located_json(located: &Located, with_version: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(located.entry.data.len() + 256);
    out.push(b'{');
    held_by(&mut out, &located.feed, located.feeds.iter());
    fields(&mut out, &located.entry, with_version);
    out.push(b'}');
    out
}

pub fn reset_frame(why: Reset, current: Version) -> Bytes {
    let (code, detail) = match why {
        Reset::CursorUnknown => (
            Code::CursorUnknown,
            "the requested version is not of this store, which was restored or replaced since: forget what was read before, \
             and read the history again; the stream continues from `version`",
        ),
        Reset::CursorExpired => (
            Code::CursorExpired,
            "something after the requested version has been removed meanwhile: forget what was read before, and read the \
             history again; the stream continues from `version`",
        ),
        Reset::VersionAhead => (
            Code::VersionAhead,
            "the requested version is above the current one: read the history again; the stream continues from `version`",
        ),
    };
    let data = json!({
        "code": code.name(),
        "detail": detail,
        "version": current.to_string(),
    });
    event_frame("reset", Some(current), data.to_string().as_bytes())
}

/// A random `retry` for each stream, because all streams of a node end at once, whether it stops or crashes, and must not
/// all reconnect at once.
fn retry() -> u32 {
    rand::rng().random_range(RETRY_MS)
}

/// The first frame of a stream. It repeats the requested position: some clients forget it when they connect, and the stream
/// may end before it has sent them another one.
pub fn opening_frame(after: Option<Cursor>) -> Bytes {
    let id = after.map_or_else(String::new, |after| format!("id: {after}\n"));
    format!("retry: {}\n{id}\n", retry()).into()
}

pub fn bye_frame(bye: Bye) -> Bytes {
    let data = json!({ "reason": bye.reason() });
    format!("retry: {}\nevent: bye\ndata: {data}\n\n", retry()).into()
}

/// `data` is JSON without line feeds.
fn event_frame(event: &str, id: Option<Version>, data: &[u8]) -> Bytes {
    let data = &*one_line(data);
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

/// Escapes the characters that some clients take for the end of a line, besides CR and LF: U+0085, U+2028 and U+2029. In
/// JSON they stand in strings only, so the value stays the same.
fn one_line(json: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut copied = 0;
    for at in memchr::memchr2_iter(0xc2, 0xe2, json) {
        let (escape, bytes) = match json[at..] {
            [0xc2, 0x85, ..] => (b"\\u0085", 2),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            _ => continue,
        };
        out.extend_from_slice(&json[copied..at]);
        out.extend_from_slice(escape);
        copied = at + bytes;
    }
    if copied == 0 {
        return json.into();
    }
    out.extend_from_slice(&json[copied..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_separators_are_escaped_and_the_value_stays() {
        for same in ["{}", "\"\u{80}\u{86}\u{2027}\u{202a}–“é🦀\""] {
            assert!(
                matches!(one_line(same.as_bytes()), Cow::Borrowed(_)),
                "{same}"
            );
        }
        let json = "{\"\u{2028}k\":[\"\u{85}\",\"\\\\\u{2029}\u{2029}é\"]}";
        let escaped = one_line(json.as_bytes());
        assert_eq!(
            std::str::from_utf8(&escaped),
            Ok("{\"\\u2028k\":[\"\\u0085\",\"\\\\\\u2029\\u2029é\"]}")
        );
        let value = |json: &[u8]| serde_json::from_slice::<Value>(json).expect("JSON");
        assert_eq!(value(&escaped), value(json.as_bytes()));
    }
}
