//! What to ask: everything, from every side.

use newsfeed::{store::epoch::Row, version::Version};

use super::{ERASED, FEEDS, TRIMMED};
use crate::support::bed::Api;

/// Paths, with the status of their answer. `lives` and `lost` are of the store, and `changes` says whether it has changes.
pub async fn all(api: &Api, lives: &[Row], lost: &[Version], changes: bool) -> Vec<(String, u16)> {
    let log = api.get("/v1/log?after=0&limit=100").await;
    let mut events = log["events"].as_array().expect("events").clone();
    // News of changes.
    events.retain(|event| event.get("change").is_none());
    let version = |index: usize| events[index]["version"].as_str().expect("text").to_owned();
    let (some, last) = (version(3), version(events.len() - 1));
    let mut paths = vec![
        "/v1/log?after=0&limit=100".to_owned(),
        "/v1/log?limit=3".into(),
        format!("/v1/log?after={some}&limit=4"),
        "/v1/log?after=0&kind=message".into(),
        "/v1/log?after=0&kind=visit&kind=other".into(),
        "/v1/log?after=0&actor=user:2".into(),
        "/v1/log?after=0&feed=chat:*".into(),
        "/v1/log?after=0&shard=0/2".into(),
        "/v1/log?after=0&shard=1/2&limit=3".into(),
        "/v1/entries?feed=user:1&feed=chat:1&after=0".into(),
        "/v1/entries?feed=user:2&feed=chat:2&limit=3".into(),
        "/v1/feeds?feed=user:1&feed=user:2&feed=chat:1&feed=chat:2&feed=none".into(),
    ];
    for feed in FEEDS {
        paths.push(format!("/v1/feeds/{feed}"));
        for query in [
            "after=0".to_owned(),
            "limit=2".into(),
            "kind=message".into(),
            "kind=visit&after=0".into(),
            format!("until={last}&limit=3"),
        ] {
            paths.push(format!("/v1/feeds/{feed}/entries?{query}"));
        }
    }
    for event in &events {
        let id = event["id"].as_str().expect("an id").replace(' ', "%20");
        paths.push(format!("/v1/events/{id}"));
    }
    paths.extend(times());
    let cursors = cursors(lives, lost);
    let with = |status| move |path: String| (path, status);
    let mut all: Vec<_> = paths.into_iter().map(with(200)).collect();
    let continued = FEEDS.map(|feed| {
        let is_expired = changes && feed == TRIMMED;
        let status = if is_expired { 410 } else { 200 };
        (
            format!("/v1/feeds/{feed}/entries?after={some}&limit=2"),
            status,
        )
    });
    all.extend(continued);
    let erased: &[&str] = if changes { &ERASED } else { &[] };
    let missing = ["erased", "none", "lost-1"].iter().chain(erased);
    all.extend(missing.map(|id| (format!("/v1/events/{id}"), 404)));
    all.extend(cursors.known.into_iter().flat_map(by).map(with(200)));
    all.extend(cursors.unknown.into_iter().flat_map(by).map(with(410)));
    all
}

/// Around the rows of times, see [`super::add`], and the lives. None after the last row: there, engines differ.
fn times() -> Vec<String> {
    let times = [
        "08:59:59",
        "09:00:09.999999",
        "09:00:10",
        "09:00:14.5",
        "09:00:19",
        "09:00:20",
        "09:00:21",
        "09:30:00",
        "10:00:00",
        "10:00:03.25",
        "10:30:00.2",
        "11:00:09",
        "11:00:10",
    ];
    let at = |time| format!("/v1/versions?at=2025-06-02T{time}Z");
    let mut paths: Vec<String> = times.into_iter().map(at).collect();
    for time in ["09:00:10", "10:00:00"] {
        paths.push(format!("/v1/log?after=2025-06-02T{time}Z&limit=2"));
        paths.push(format!(
            "/v1/log?after=2025-06-02T{time}Z&kind=message&limit=1"
        ));
    }
    paths
}

struct Cursors {
    known: Vec<Version>,
    unknown: Vec<Version>,
}

/// Cursors that clients may have kept: what the lineage says of them must not change.
fn cursors(lives: &[Row], lost: &[Version]) -> Cursors {
    let mut known: Vec<Version> = lives.iter().map(|life| life.began).collect();
    let ends = lives[1..].iter().map(|life| life.previous_end);
    known.extend(ends.clone());
    let mut unknown = lost.to_vec();
    unknown.extend(lives.iter().map(|life| life.began.before()));
    unknown.extend(ends.map(|end| Version::new(end.epoch(), end.time() + 1, 0)));
    let last = lives[lives.len() - 1].epoch;
    unknown.push(Version::moment(last, u64::MAX));
    Cursors { known, unknown }
}

fn by(cursor: Version) -> [String; 2] {
    [
        format!("/v1/feeds/chat:2/entries?after={cursor}&limit=1"),
        format!("/v1/log?before={cursor}&limit=1"),
    ]
}
