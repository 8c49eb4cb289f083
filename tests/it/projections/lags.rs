//! Filters by kind and actor against the model, in every form of an answer, while indexes are at any lag: with none, with
//! one that is new and builds itself over an old store, and after they have been stopped.

use newsfeed::{projection::Projection, store::Store, types::FeedName, version::Version};
use serde_json::{Value, json};

use super::{kind, projections, step_of};
use crate::{
    on_every_engine,
    support::{
        background::{append, event},
        bed::{Bed, Served, text},
        entries::{assert_same, path, shown_in, walk},
        model::{Model, Shown, feed_name, fresh_feeds},
        patience::in_time,
        sse::Stream,
    },
};

on_every_engine!(filters_are_exact_in_pages_lines_and_streams_at_every_lag);

const KINDS: [&[&str]; 3] = [&["visit"], &["visit", "message"], &["nothing", "other"]];
const ACTORS: [&[&str]; 3] = [&["user:0"], &["user:1", "user:2"], &["nobody"]];

/// Every fourth event has no actor.
fn actor(number: usize) -> Option<String> {
    (number % 4 < 3).then(|| format!("user:{}", number % 4))
}

fn with_actor(number: usize, feeds: &[FeedName]) -> Value {
    let mut event = event(number, feeds);
    event["actor"] = json!(actor(number));
    event
}

/// Whether an event passes; an empty list means all.
fn passes(shown: &Shown, kinds: &[&str], actors: &[&str]) -> bool {
    let number = shown.id.rsplit(' ').next().expect("a number");
    let actor = actor(number.parse().expect("a number"));
    (kinds.is_empty() || kinds.contains(&&*shown.kind))
        && (actors.is_empty() || actor.is_some_and(|actor| actors.contains(&&*actor)))
}

/// An event of the log.
fn of_log(event: &Value) -> Shown {
    let feeds = event["feeds"].as_array().expect("feeds").iter();
    Shown {
        version: text(&event["version"]).parse().expect("a version"),
        id: text(&event["id"]),
        kind: text(&event["kind"]),
        data: event["data"].to_string(),
        feeds: feeds.map(|name| feed_name(&text(name))).collect(),
    }
}

async fn pages(node: &Served, query: &str, direction: &str, from: &str) -> Vec<Shown> {
    let (mut from, mut found) = (from.to_owned(), Vec::new());
    loop {
        let page = node.get(&format!("/v1/log?{query}limit=3{from}")).await;
        let events = page["events"].as_array().expect("events");
        found.extend(events.iter().map(of_log));
        match page["next"].as_str() {
            Some(next) => from = format!("&{direction}={next}"),
            None => return found,
        }
    }
}

async fn lines(node: &Served, query: &str, after: &str) -> Vec<Shown> {
    let lines = node.lines(&format!("/v1/log?{query}after={after}")).await;
    lines.iter().map(of_log).collect()
}

/// What a stream of the log sends until it has caught up.
async fn caught_up(node: &Served, query: &str, after: &str) -> Vec<Shown> {
    let url = node.url(&format!("/v1/log/live?{query}after={after}"));
    let mut stream = Stream::open(&node.http, &url, None).await;
    let mut found = Vec::new();
    loop {
        let event = in_time(stream.next_of(&["event", "version"])).await;
        match &*event.name {
            "event" => found.push(of_log(&event.data)),
            _ => return found,
        }
    }
}

fn query(name: &str, values: &[&str]) -> String {
    values.iter().map(|it| format!("{name}={it}&")).collect()
}

async fn check_log(node: &Served, model: &Model, kinds: &[&str], actors: &[&str]) {
    let query = query("kind", kinds) + &query("actor", actors);
    let mut expected = model.log();
    expected.retain(|shown| passes(shown, kinds, actors));
    let middle = model.0[model.0.len() / 2].version;
    for (after, text) in [
        (Version::ZERO, "0".to_owned()),
        (middle, middle.to_string()),
    ] {
        let above = expected.iter().filter(|it| it.version > after);
        let above: Vec<Shown> = above.cloned().collect();
        let from = format!("&after={text}");
        assert_same(&pages(node, &query, "after", &from).await, &above, &query);
        assert_same(&lines(node, &query, &text).await, &above, &query);
        assert_same(&caught_up(node, &query, &text).await, &above, &query);
    }
    expected.reverse();
    assert_same(&pages(node, &query, "before", "").await, &expected, &query);
}

async fn check_feeds(node: &Served, model: &Model, feeds: &[FeedName], kinds: &[&str]) {
    let query = query("kind", kinds);
    let mut expected = model.merged(feeds);
    expected.retain(|shown| passes(shown, kinds, &[]));
    let middle = model.0[model.0.len() / 2].version;
    for (after, text) in [
        (Version::ZERO, "0".to_owned()),
        (middle, middle.to_string()),
    ] {
        let above = expected.iter().filter(|it| it.version > after);
        let above: Vec<Shown> = above.cloned().collect();
        let pages = format!("{}{query}limit=2&", path(feeds, "entries"));
        let found = walk(node, &pages, &format!("after={text}"), feeds).await;
        assert_same(&found, &above, &pages);
        let live = format!("{}{query}after={text}", path(feeds, "live"));
        let mut stream = Stream::open(&node.http, &node.url(&live), None).await;
        let found = shown_in(&in_time(stream.caught_up()).await, feeds);
        assert_same(&found, &above, &live);
    }
    expected.reverse();
    let pages = format!("{}{query}limit=2&", path(feeds, "entries"));
    assert_same(&walk(node, &pages, "", feeds).await, &expected, &pages);
}

async fn filters_are_exact_in_pages_lines_and_streams_at_every_lag(bed: &Bed) {
    // It works on no index itself, as with `--projections off`.
    let node = bed.node().await;
    let (store, keys) = (bed.store(), bed.keys().await);
    let store: &dyn Store = &*store;
    let feeds = fresh_feeds(&keys, "filtered");
    let by_kind = Projection::of(false, []);
    let mut model = Model::default();
    for round in 0..9 {
        let next = model.0.len();
        let events = (next..next + 4).map(|number| with_actor(number, &feeds));
        append(&node, &mut model, events.collect()).await;
        match round {
            // No index, and then one that is some events behind.
            0 => {}
            1 | 2 => _ = step_of(store, &keys, &by_kind, 3).await,
            // The others are new over an old store: they begin at its first event.
            3..=5 => _ = step_of(store, &keys, &projections(), 5).await,
            // All are complete.
            6 => while !step_of(store, &keys, &projections(), 100).await {},
            // They have been stopped.
            _ => {}
        }
        for (kinds, actors) in KINDS.iter().zip(ACTORS) {
            check_log(&node, &model, kinds, &[]).await;
            check_log(&node, &model, &[], actors).await;
            check_log(&node, &model, kinds, actors).await;
            check_feeds(&node, &model, &feeds[..1], kinds).await;
            check_feeds(&node, &model, &feeds, kinds).await;
        }
    }
    let indexed = super::count(store, keys.log_by_kind(&kind("visit"))).await;
    assert!(indexed > 0, "the index was not used at all");
    node.stop().await;
}
