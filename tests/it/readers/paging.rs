//! Paging over HTTP, compared with the model; and the promise that a page at or below a version never changes.

use std::sync::{Arc, atomic::Ordering};

use proptest::prelude::*;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::{
    background::{BackgroundAppends, append},
    bed::{Bed, Served, text},
    entries::{path, walk},
    model::{Model, Shown, feed_name, for_random, fresh_feeds},
    stores::{Aging, troubled},
};

crate::on_every_engine!(
    following_next_to_the_end_gives_exactly_the_feed_both_ways,
    a_page_at_or_below_a_version_is_the_same_on_every_node_while_appends_go_on,
    a_page_of_large_entries_ends_early_and_its_next_goes_on,
    a_page_of_a_rare_kind_ends_early_and_its_next_goes_on,
    a_page_that_outlives_its_snapshot_ends_early_and_its_next_goes_on,
);

#[derive(Debug, Clone)]
struct Draft {
    kind: usize,
    /// A bit for each feed.
    feeds: usize,
    data_bytes: usize,
}

#[derive(Debug, Clone)]
struct Query {
    feeds: usize,
    kind: Option<usize>,
    limit: usize,
    /// The number of the event whose version bounds the page.
    bound: usize,
}

const KINDS: [&str; 3] = ["message", "visit", "a.kind~of:its@own-"];
const FEED_SETS: [&[usize]; 5] = [&[0], &[1], &[2], &[0, 1], &[2, 0, 1]];

fn any_draft() -> impl Strategy<Value = Draft> {
    let data_bytes = prop_oneof![4 => 0..20usize, 1 => 20..3_000usize];
    (0..3usize, 1..8usize, data_bytes).prop_map(|(kind, feeds, data_bytes)| Draft {
        kind,
        feeds,
        data_bytes,
    })
}

fn any_query() -> impl Strategy<Value = Query> {
    let limit = prop_oneof![1..12usize, Just(200)];
    let kind = proptest::option::of(0..3usize);
    (0..FEED_SETS.len(), kind, limit, any::<usize>()).prop_map(|(feeds, kind, limit, bound)| {
        Query {
            feeds,
            kind,
            limit,
            bound,
        }
    })
}

async fn following_next_to_the_end_gives_exactly_the_feed_both_ways(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let keys = bed.keys().await;
    let case = std::cell::Cell::new(0);
    let requests = proptest::collection::vec(proptest::collection::vec(any_draft(), 1..20), 1..5);
    let queries = proptest::collection::vec(any_query(), 1..5);
    for_random(25, (requests, queries), async |(requests, queries)| {
        case.set(case.get() + 1);
        let feeds = fresh_feeds(&keys, &format!("paging.{}", case.get()));
        let mut model = Model::default();
        for (drafts, node) in requests.iter().zip(nodes.iter().cycle()) {
            let events = drafts.iter().enumerate().map(|(index, draft)| {
                let feeds = feeds.iter().enumerate();
                let feeds = feeds.filter(|(feed, _)| draft.feeds & (1 << feed) != 0);
                json!({
                    "id": format!("{}: {} {index}", case.get(), model.0.len()),
                    "kind": KINDS[draft.kind],
                    "feeds": feeds.map(|(_, feed)| feed.as_str()).collect::<Vec<_>>(),
                    "data": "x".repeat(draft.data_bytes),
                })
            });
            let events = events.collect();
            append(node, &mut model, events).await;
        }
        for (query, node) in queries.iter().zip(nodes.iter().cycle()) {
            let set = FEED_SETS[query.feeds].iter();
            let feeds: Vec<_> = set.map(|&feed| feeds[feed].clone()).collect();
            let bound = model.0[query.bound % model.0.len()].version;
            let mut path = format!("{}limit={}&", path(&feeds, "entries"), query.limit);
            let mut expected = model.merged(&feeds);
            if let Some(kind) = query.kind {
                path += &format!("kind={}&", KINDS[kind]);
                expected.retain(|shown| shown.kind == KINDS[kind]);
            }
            let part = |keep: &dyn Fn(&&Shown) -> bool| -> Vec<Shown> {
                expected.iter().filter(keep).cloned().collect()
            };
            let mut down_to_first = part(&|shown| shown.version <= bound);
            down_to_first.reverse();
            let mut all_down = expected.clone();
            all_down.reverse();
            let below = format!("until={bound}&");
            for (extra, from, entries) in [
                ("", "after=0", &expected),
                (
                    "",
                    &format!("after={bound}"),
                    &part(&|shown| shown.version > bound),
                ),
                (&below, "after=0", &part(&|shown| shown.version <= bound)),
                ("", "", &all_down),
                (&below, "", &down_to_first),
            ] {
                let walked = walk(node, &format!("{path}{extra}"), from, &feeds).await;
                assert_eq!(walked, *entries, "{path}{extra}{from}");
            }
        }
    });
}

/// A page as received.
#[derive(Debug, PartialEq)]
struct Kept {
    status: StatusCode,
    etag: String,
    body: bytes::Bytes,
}

async fn fetch(node: &Served, path: &str, known: Option<&str>) -> Kept {
    let mut request = node.http.get(node.url(path));
    if let Some(etag) = known {
        request = request.header(header::IF_NONE_MATCH, etag);
    }
    let response = request.send().await.expect("an answer");
    let etag = response.headers()[header::ETAG].to_str();
    Kept {
        status: response.status(),
        etag: etag.expect("ASCII").to_owned(),
        body: response.bytes().await.expect("a body"),
    }
}

async fn a_page_at_or_below_a_version_is_the_same_on_every_node_while_appends_go_on(bed: &Bed) {
    let nodes = [bed.node().await, bed.node().await];
    let feeds = fresh_feeds(&bed.keys().await, "kept");
    // The same events through both nodes: twins must not change a page either.
    let mut loads = nodes
        .each_ref()
        .map(|node| BackgroundAppends::start(node, &feeds, 600));
    let mut kept: Vec<(String, Kept)> = Vec::new();
    let mut moments = vec!["0".to_owned()];
    for round in 1..=12 {
        for load in &mut loads {
            load.reaches(round * 50).await;
        }
        let now = nodes[round % 2].version(feeds[0].as_str()).await;
        let then = moments[round / 2].clone();
        moments.push(now.clone());
        for feeds in [&feeds[..1], &feeds[..]] {
            let path = path(feeds, "entries");
            for query in [
                format!("limit=200&until={now}"),
                format!("limit=7&before={now}"),
                format!("limit=3&kind=visit&until={now}"),
                format!("limit=200&after={then}&until={now}"),
            ] {
                let path = format!("{path}{query}");
                let page = fetch(&nodes[0], &path, None).await;
                assert_eq!(page.status, StatusCode::OK, "{path}");
                kept.push((path, page));
            }
        }
        check_kept(&nodes[round % 2], &kept).await;
    }
    for load in loads {
        load.end().await;
    }
    for node in &nodes {
        check_kept(node, &kept).await;
    }
    let (path, page) = &kept[0];
    let known = fetch(&nodes[1], path, Some(&page.etag)).await;
    assert_eq!(
        (known.status, known.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    assert_eq!(known.etag, page.etag);
}

async fn check_kept(node: &Served, kept: &[(String, Kept)]) {
    for (path, page) in kept {
        assert_eq!(fetch(node, path, None).await, *page, "{path}");
    }
}

async fn a_page_of_large_entries_ends_early_and_its_next_goes_on(bed: &Bed) {
    let node = bed.node().await;
    let feed = [feed_name("large")];
    let mut model = Model::default();
    for request in 0..2 {
        let events = (0..60).map(|number| {
            json!({
                "id": format!("{request} {number}"),
                "kind": "visit",
                "feeds": feed.each_ref().map(|feed| feed.as_str()),
                "data": "x".repeat(60_000),
            })
        });
        append(&node, &mut model, events.collect()).await;
    }
    let all = model.merged(&feed);
    for from in ["after=0", ""] {
        let path = "/v1/feeds/large/entries?limit=200&";
        let page = node.get(&format!("{path}{from}")).await;
        let on_first = page["entries"].as_array().expect("entries").len();
        // The page ends with the entry that reaches 4 MiB.
        assert_eq!(on_first, (4 * 1024 * 1024usize).div_ceil(60_002), "{from}");
        assert!(page["next"].is_string());
        let mut walked = walk(&node, path, from, &feed).await;
        if from.is_empty() {
            walked.reverse();
        }
        assert!(walked == all, "walked {} of {}", walked.len(), all.len());
    }
}

async fn a_page_of_a_rare_kind_ends_early_and_its_next_goes_on(bed: &Bed) {
    let node = bed.node().await;
    let feed = [feed_name("rare")];
    let mut model = Model::default();
    let rare = [3, 2_100, 2_101, 2_400];
    let events: Vec<Value> = (0..4_300)
        .map(|number| {
            json!({
                "id": format!("{number}"),
                "kind": if rare.contains(&number) { "rare" } else { "usual" },
                "feeds": feed.each_ref().map(|feed| feed.as_str()),
            })
        })
        .collect();
    for events in events.chunks(1_000) {
        append(&node, &mut model, events.to_vec()).await;
    }
    let mut expected = model.merged(&feed);
    expected.retain(|shown| shown.kind == "rare");
    for limit in [1, 2, 200] {
        let path = format!("/v1/feeds/rare/entries?kind=rare&limit={limit}&");
        let newest = node.get(&path).await;
        // The newest 1,899 entries are of another kind, and a page examines 2,000 entries at most.
        assert!(newest["next"].is_string(), "{newest}");
        assert_eq!(walk(&node, &path, "after=0", &feed).await, expected);
        let mut down = walk(&node, &path, "", &feed).await;
        down.reverse();
        assert_eq!(down, expected);
    }
}

async fn a_page_that_outlives_its_snapshot_ends_early_and_its_next_goes_on(bed: &Bed) {
    let aging = Arc::new(Aging::default());
    let node = bed.node_on(troubled(bed.store(), aging.clone())).await;
    let mut ids: Vec<String> = (0..60).map(|number| format!("e{number:02}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let feed = if number < 30 { "a" } else { "b" };
        let event = json!({ "id": id, "kind": "visit", "feeds": [feed] });
        node.append(&event).await;
    }
    let now = node.version("a").await;
    // The lineage of the store is read with the first page, and not again.
    node.get("/v1/feeds/a/entries?limit=1").await;
    for (mut bounds, next_is, reads) in [
        // The first read comes with the snapshot: what was changed or removed last.
        (format!("until={now}&after=0"), "after", 3),
        (format!("until={now}"), "before", 2),
    ] {
        // A page reads from both feeds, then again from the one that ends first; that read fails.
        aging.0.store(reads, Ordering::SeqCst);
        let mut found: Vec<String> = Vec::new();
        loop {
            let path = format!("/v1/entries?feed=a&feed=b&limit=40&{bounds}");
            let answer = node.send("GET", &path, &[]).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let page = answer.json();
            let entries = page["entries"].as_array().expect("entries");
            if found.is_empty() {
                // The page was cut short, and is longer the next time: whoever has kept it gets the whole one.
                let etag = answer.header("etag").expect("an ETag");
                let again = node.send("GET", &path, &[("if-none-match", etag)]).await;
                assert_eq!(again.status, 200, "{again:?}");
                let whole = again.json()["entries"].as_array().expect("entries").len();
                assert!(whole > entries.len(), "{whole}");
            }
            found.extend(entries.iter().map(|entry| text(&entry["id"])));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            bounds = format!("until={now}&{next_is}={next}");
        }
        assert_eq!(found, ids);
        ids.reverse();
    }
}
