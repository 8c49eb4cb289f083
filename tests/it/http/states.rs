//! `GET` and `POST /v1/feeds`: the states of several feeds as of one moment.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::{
    feed::Feeds,
    store::Result,
    types::{FeedName, ReaderName},
};
use serde_json::{Value, json};

use super::{column, items, message, visit};
use crate::{
    auth::{Signer, Site, ask, bearer, claims},
    support::{
        bed::{Bed, JSON, Served, text},
        stores::{Aging, Trouble, troubled},
    },
};

crate::on_every_engine!(
    the_states_of_several_feeds_are_those_of_each,
    states_are_of_one_moment_while_others_append,
    a_thousand_feeds_with_the_longest_names_are_read_by_one_request,
    states_begin_again_on_a_fresh_snapshot_and_are_never_of_two_moments,
    counts_of_many_feeds_stop_earlier_and_say_so,
    requests_for_no_feed_or_too_many_are_refused,
    the_states_that_a_stream_of_many_feeds_begins_with_are_read_together,
);

async fn states(node: &Served, feeds: &[&str]) -> Value {
    let (status, answer) = node.post("/v1/feeds", &json!({ "feeds": feeds })).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The moments in an answer: there must be one.
fn moments(answer: &Value) -> BTreeSet<String> {
    let of_feeds = column(items(&answer["feeds"]), "version");
    of_feeds
        .into_iter()
        .chain([text(&answer["version"])])
        .collect()
}

async fn the_states_of_several_feeds_are_those_of_each(bed: &Bed) {
    let node = bed.node().await;
    for n in 0..5 {
        node.append(&message(&format!("m{n}"), &["a", "b"])).await;
    }
    let last = node.append(&visit("v", &["b"])).await;
    let marker = json!({ "version": node.all("a").await[1]["version"] }).to_string();
    let moved = node
        .send_body("PUT", "/v1/feeds/a/markers/read", &[JSON], marker)
        .await;
    assert_eq!(moved.status, 200);
    let answer = node.get("/v1/feeds?feed=b&feed=never&feed=a&feed=b").await;
    assert_eq!(moments(&answer).len(), 1);
    assert_eq!(column(items(&answer["feeds"]), "feed"), ["b", "never", "a"]);
    let by_body = states(&node, &["b", "never", "a", "b"]).await;
    for answer in [answer, by_body] {
        for state in items(&answer["feeds"]) {
            let mut alone = node
                .get(&format!("/v1/feeds/{}", text(&state["feed"])))
                .await;
            alone["version"] = state["version"].clone();
            assert_eq!(*state, alone);
        }
        assert_eq!(answer["feeds"][0]["latest"], last["version"]);
        assert_eq!(answer["feeds"][2]["unread"]["total"], 3);
    }
    let answer = node.send("GET", "/v1/feeds?feed=a", &[]).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// Each event is in all feeds: as of one moment, all have the same latest entry and the same count.
async fn states_are_of_one_moment_while_others_append(bed: &Bed) {
    const READS: usize = 30;
    let node = bed.node().await;
    let names: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut latest = BTreeSet::new();
    let appending = async {
        for n in 0.. {
            node.append(&message(&format!("m{n}"), &names)).await;
        }
    };
    let reading = async {
        while latest.len() < READS {
            let answer = states(&node, &names).await;
            assert_eq!(moments(&answer).len(), 1);
            let first = &answer["feeds"][0];
            for state in items(&answer["feeds"]) {
                assert_eq!(state["latest"], first["latest"]);
                assert_eq!(state["unread"], first["unread"]);
            }
            latest.insert(first["latest"].to_string());
        }
    };
    tokio::select! {
        () = appending => {}
        () = reading => {}
    }
}

async fn a_thousand_feeds_with_the_longest_names_are_read_by_one_request(bed: &Bed) {
    let node = bed.node().await;
    let names: Vec<String> = (0..1_000)
        .map(|n| format!("{n:04}{}", "\"".repeat(251)))
        .collect();
    node.append(&message("m", &[names[999].as_str()])).await;
    // Every character that can be is escaped.
    let escaped = names.iter().map(|name| {
        let units = name
            .chars()
            .map(|char| format!("\\u{:04x}", u32::from(char)));
        format!("\"{}\"", units.collect::<String>())
    });
    let body = format!("{{\"feeds\":[{}]}}", escaped.collect::<Vec<_>>().join(","));
    let answer = node.send_body("POST", "/v1/feeds", &[JSON], body).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(column(items(&answer["feeds"]), "feed"), names);
    assert_eq!(moments(&answer).len(), 1);
    assert_eq!(answer["feeds"][999]["unread"]["total"], 1);
}

async fn states_begin_again_on_a_fresh_snapshot_and_are_never_of_two_moments(bed: &Bed) {
    let aging = Arc::new(Aging::default());
    let node = bed.node_on(troubled(bed.store(), Arc::clone(&aging))).await;
    let names: Vec<String> = (0..100).map(|n| format!("f{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node.append(&message("m", &names[50..])).await;
    let mut all_read = false;
    for reads in (1..).step_by(40) {
        aging.0.store(reads, Ordering::SeqCst);
        let answer = states(&node, &names).await;
        assert_eq!(moments(&answer).len(), 1);
        let unread = items(&answer["feeds"])
            .iter()
            .map(|state| state["unread"]["total"].clone());
        let expected: Vec<_> = (0..100).map(|n| json!(u32::from(n >= 50))).collect();
        assert_eq!(unread.collect::<Vec<_>>(), expected);
        // The read that fails came after all others.
        all_read = aging.0.swap(0, Ordering::SeqCst) > 0;
        if all_read {
            break;
        }
    }
    assert!(all_read);
}

async fn counts_of_many_feeds_stop_earlier_and_say_so(bed: &Bed) {
    let node = bed.node().await;
    let events = |prefix: &str, count: usize| -> Value {
        let event = |n| message(&format!("{prefix}{n}"), &["busy"]);
        (0..count).map(event).collect()
    };
    node.append(&events("a", 100)).await;
    let names: Vec<String> = (0..999)
        .map(|n| format!("f{n}"))
        .chain(["busy".to_owned()])
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let unread = |answer: &Value| {
        let states = items(&answer["feeds"]);
        states[states.len() - 1]["unread"].clone()
    };
    let exact = json!({ "total": 100, "kinds": { "message": 100 }, "more": false });
    assert_eq!(unread(&states(&node, &names).await), exact);
    node.append(&events("b", 1)).await;
    let more = json!({ "total": 100, "kinds": { "message": 100 }, "more": true });
    assert_eq!(unread(&states(&node, &names).await), more);
    let exact = json!({ "total": 101, "kinds": { "message": 101 }, "more": false });
    assert_eq!(unread(&states(&node, &names[900..]).await), exact);
}

async fn requests_for_no_feed_or_too_many_are_refused(bed: &Bed) {
    let node = bed.node().await;
    let many: String = (0..1_001).map(|n| format!("&feed=f{n}")).collect();
    for (path, code) in [
        ("/v1/feeds", "invalid_query"),
        ("/v1/feeds?feed=a&after=0", "invalid_query"),
        ("/v1/feeds?feed=a%20", "invalid_feed"),
        (&*format!("/v1/feeds?feed=x{many}"), "invalid_query"),
    ] {
        let answer = node.send("GET", path, &[]).await;
        answer.problem(400, code).expect(code);
    }
    let many: Vec<String> = (0..1_001).map(|n| format!("f{n}")).collect();
    for (body, code) in [
        (json!({ "feeds": [] }), "invalid_body"),
        (json!({ "feeds": many }), "invalid_body"),
        (json!({ "feeds": "a" }), "invalid_body"),
        (json!(["a"]), "invalid_body"),
        (json!({ "feeds": ["a "] }), "invalid_feed"),
    ] {
        let answer = node
            .send_body("POST", "/v1/feeds", &[JSON], body.to_string())
            .await;
        answer.problem(400, code).expect(code);
    }
}

#[tokio::test]
async fn all_feeds_whose_states_are_read_must_be_granted() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let (name, token) = bearer(&Signer::hs256().sign(&claims("read", &["chat:*"])));
    let headers = [(name, token.as_str())];
    let body = |feeds: &[&str]| json!({ "feeds": feeds });
    for (feeds, forbidden) in [
        (&["chat:1", "chat:2"][..], None),
        (&["chat:1", "user:1"], Some("user:1")),
    ] {
        let query = feeds.iter().map(|feed| format!("feed={feed}"));
        let path = format!("/v1/feeds?{}", query.collect::<Vec<_>>().join("&"));
        let by_query = ask(&node, "GET", &path, &headers, None).await;
        let by_body = ask(&node, "POST", "/v1/feeds", &headers, Some(&body(feeds))).await;
        for answer in [by_query, by_body] {
            match forbidden {
                None => assert_eq!(answer.status, 200),
                Some(feed) => {
                    let problem = answer.problem(403, "feed_forbidden").expect("a problem");
                    assert_eq!(problem["feed"], feed);
                }
            }
        }
    }
}

#[derive(Default)]
struct CountedReads(AtomicUsize);

#[async_trait]
impl Trouble for CountedReads {
    async fn before_read(&self) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

async fn the_states_that_a_stream_of_many_feeds_begins_with_are_read_together(bed: &Bed) {
    let node = bed.node().await;
    let names: Vec<String> = (0..100).map(|n| format!("joined:{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let events = json!([
        message("m-1", &all),
        visit("v-1", &all),
        message("m-2", &all[..7])
    ]);
    node.append(&events).await;

    let counted = Arc::new(CountedReads::default());
    let store = troubled(bed.store(), Arc::clone(&counted));
    let feeds = Feeds::new(store, bed.keys().await);
    let asked: Vec<FeedName> = all
        .iter()
        .map(|name| name.parse().expect("a name"))
        .collect();
    let states = async |asked: &[FeedName]| {
        let states = feeds.states(asked, &ReaderName::OWN).await.expect("read");
        (states, counted.0.swap(0, Ordering::SeqCst))
    };
    let (one, reads_of_one) = states(&asked[..1]).await;
    let (many, reads_of_many) = states(&asked).await;
    // Of 64 feeds, and of the others.
    assert!(
        reads_of_many <= 2 * reads_of_one,
        "{reads_of_many} {reads_of_one}"
    );
    assert_eq!((one[0].unread.total, &one[0].feed), (2, &asked[0]));
    for (state, (index, feed)) in many.iter().zip(asked.iter().enumerate()) {
        let unread = if index < 7 { 2 } else { 1 };
        assert_eq!((&state.feed, state.unread.total), (feed, unread));
    }
    assert_eq!(many.len(), asked.len());
}
