//! Readers: each has a count, markers and states of its own, streams tell them, and what that costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use newsfeed::{
    feed::{Feeds, UNREAD_MAX},
    types::ReaderName,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{column, items, message, visit};
use crate::support::{
    bed::{Answer, Bed, Served, text},
    follower::Live,
    sse::{Event, Stream},
    stores::{Trouble, troubled},
};

crate::on_every_engine!(
    members_of_a_chat_read_for_themselves,
    streams_tell_own_counts_and_others_markers,
    marks_are_told_at_once_and_after_a_break,
    a_stream_of_states_tells_every_change,
    a_merged_page_has_the_states_of_each_feed,
    what_cannot_be_marked_is_refused,
    a_feed_with_many_unread_costs_little_once_it_was_counted,
);

async fn put(node: &Served, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    node.send_body("PUT", path, &headers, body.to_string())
        .await
}

async fn mark(node: &Served, path: &str, body: &Value) -> Value {
    let answer = put(node, path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

fn by(actor: &str, id: &str, feeds: &[&str]) -> Value {
    let mut event = message(id, feeds);
    event["actor"] = json!(actor);
    event
}

/// Appends a message of anna and one of ben, and returns their versions.
async fn two(node: &Served, feeds: &[&str]) -> Vec<String> {
    let events = json!([by("anna", "from-anna", feeds), by("ben", "from-ben", feeds)]);
    column(items(&node.append(&events).await), "version")
}

async fn unread(node: &Served, feed: &str, reader: &str) -> u64 {
    let state = node.get(&format!("/v1/feeds/{feed}?reader={reader}")).await;
    assert_eq!(state["reader"], reader);
    state["unread"]["total"].as_u64().expect("a number")
}

async fn members_of_a_chat_read_for_themselves(bed: &Bed) {
    let (node, other) = (bed.node().await, bed.node().await);
    let versions = two(&node, &["chat"]).await;
    // Nobody has unread messages of their own.
    for (reader, expected) in [("anna", 1), ("ben", 1), ("carl", 2)] {
        assert_eq!(unread(&node, "chat", reader).await, expected);
    }
    let own = node.get("/v1/feeds/chat").await;
    assert_eq!(
        (own["unread"]["total"].as_u64(), own.get("reader")),
        (Some(2), None)
    );
    let path = "/v1/markers/read?feed=chat&reader=anna";
    let state = mark(&node, path, &json!({ "version": versions[1] })).await;
    assert_eq!(
        (&state["reader"], &state["unread"]["total"]),
        (&json!("anna"), &json!(0))
    );
    for node in [&node, &other] {
        for (reader, expected) in [("anna", 0), ("ben", 1), ("carl", 2)] {
            assert_eq!(unread(node, "chat", reader).await, expected);
        }
        let states = node.get("/v1/feeds?feed=chat&feed=empty&reader=ben").await;
        assert_eq!(states["feeds"][0]["unread"]["total"], 1);
        assert_eq!(states["feeds"][1]["reader"], "ben");
    }
    // Everybody sees how far everybody has read, page by page, and nothing else.
    let path = "/v1/feeds/chat/markers/seen?reader=ben";
    mark(&other, path, &json!({ "version": versions[0] })).await;
    mark(
        &other,
        "/v1/feeds/chat/markers/seen",
        &json!({ "version": versions[0] }),
    )
    .await;
    let readers = node.get("/v1/feeds/chat/readers?limit=1").await;
    assert_eq!(
        readers["readers"],
        json!([{ "reader": "anna", "markers": { "read": versions[1], "seen": null } }])
    );
    assert_eq!(readers["next"], "anna");
    let rest = node.get("/v1/readers?feed=chat&from=anna").await;
    assert_eq!(
        rest["readers"],
        json!([{ "reader": "ben", "markers": { "read": null, "seen": versions[0] } }])
    );
    assert_eq!(rest["next"], Value::Null);
}

async fn open(node: &Served, path: &str) -> Stream {
    Stream::open(&node.http, &node.url(path), None).await
}

async fn streams_tell_own_counts_and_others_markers(bed: &Bed) {
    let (node, other) = (bed.node().await, bed.node().await);
    let mut anna = open(&node, "/v1/live?feed=a&feed=b&reader=anna").await;
    anna.caught_up().await;
    let versions = two(&node, &["b", "a"]).await;
    let total = |event: &Event| event.data["unread"]["total"].clone();
    let (own, ben) = (
        anna.next_of(&["notify"]).await,
        anna.next_of(&["notify"]).await,
    );
    assert_eq!([total(&own), total(&ben)], [json!(0), json!(1)]);
    let one = json!({ "total": 1, "kinds": { "message": 1 }, "more": false });
    assert_eq!(ben.data["unreads"], json!([one, one]));

    // Ben moves his marker many times: anna is told where it ends, and not each time.
    let begun = Instant::now();
    for index in 0..30 {
        let event = by("carl", &format!("c{index}"), &["a"]);
        let version = text(&node.append(&event).await["version"]);
        let path = "/v1/feeds/a/markers/read?reader=ben";
        mark(&other, path, &json!({ "version": version })).await;
    }
    let last = mark(
        &other,
        "/v1/feeds/a/markers/read?reader=ben",
        &json!({ "version": versions[1] }),
    )
    .await;
    let mut told = 0;
    let moved = loop {
        let event = anna.next_of(&["marker"]).await;
        assert_eq!(event.data["reader"], "ben");
        assert_eq!(event.data.get("unread"), None);
        told += 1;
        if event.data["markers"]["read"] == last["markers"]["read"] {
            break event;
        }
    };
    assert_eq!(
        moved.data["markers"],
        json!({ "read": last["markers"]["read"], "seen": null })
    );
    let most = 2 + begun.elapsed().as_millis() / 250;
    assert!(told <= most, "{told} of {most}");
    // What others do does not change her count.
    assert_eq!(unread(&node, "a", "anna").await, 31);
    let path = "/v1/feeds/a/markers/read?reader=anna";
    mark(&other, path, &json!({ "version": versions[1] })).await;
    let event = anna.next_of(&["marker"]).await;
    assert_eq!(
        (&event.data["reader"], total(&event)),
        (&json!("anna"), json!(30))
    );
    node.append(&by("ben", "last", &["a"])).await;
    let notified = loop {
        let event = anna.next_of(&["notify"]).await;
        if event.data["id"] == "last" {
            break event;
        }
    };
    assert_eq!(total(&notified), 31);
}

async fn marks_are_told_at_once_and_after_a_break(bed: &Bed) {
    let (node, other) = (bed.node().await, bed.node().await);
    let versions = two(&node, &["a"]).await;
    let state = |entry: &str| format!("/v1/feeds/a/entries/{entry}/state?reader=anna");
    let mut live = open(&node, "/v1/feeds/a/live?reader=anna").await;
    live.caught_up().await;
    let position = live.last_id.clone().expect("a position");
    let set = mark(&other, &state(&versions[1]), &json!({ "archived": true })).await;
    assert_eq!(
        (&set["state"], &set["unread"]["total"]),
        (&json!("archived"), &json!(0))
    );
    // The same again: nothing is written.
    let again = mark(&other, &state(&versions[1]), &json!({ "archived": true })).await;
    assert_eq!(
        (&again["marked"], &again["state"]),
        (&set["marked"], &set["state"])
    );
    let expected = json!({ "feed": "a", "reader": "anna", "entry": versions[1],
                           "state": "archived", "marked": set["marked"] });
    let event = live.next_of(&["marked"]).await;
    assert_eq!((event.data, event.id), (expected.clone(), None));
    let event = live.next_of(&["marker"]).await;
    assert_eq!(event.data["unread"]["total"], 0);
    // Somebody who was away, and somebody else.
    let url = node.url("/v1/feeds/a/live?reader=anna");
    let mut late = Stream::open(&node.http, &url, Some(&position)).await;
    assert_eq!(late.next().await.expect("an event").data, expected);
    assert_eq!(late.next().await.expect("an event").name, "marker");
    let path = format!("/v1/feeds/a/live?reader=ben&after={position}");
    let first = open(&node, &path).await.next().await;
    assert_eq!(first.expect("an event").name, "marker");
    // In lists.
    let list = async |only: &str| {
        let page = node
            .get(&format!("/v1/feeds/a/entries?state={only}&reader=anna"))
            .await;
        column(items(&page["entries"]), "state")
    };
    assert_eq!(list("any").await, ["archived", "read"]);
    assert_eq!(list("archived").await, ["archived"]);
    assert_eq!(list("unread").await, [""; 0]);
    let unread_again = mark(&node, &state(&versions[1]), &json!({ "read": false })).await;
    assert_eq!(unread_again["unread"]["total"], 1);
    assert_eq!(list("unread").await, ["unread"]);
    assert_eq!(live.next_of(&["marked"]).await.data["state"], "unread");
}

async fn a_stream_of_states_tells_every_change(bed: &Bed) {
    let node = bed.node().await;
    let names = (0..1_000).map(|index| format!("f{index}"));
    let feeds: Vec<String> = names.chain(["chat".to_owned()]).skip(1).collect();
    let request = node.http.post(node.url("/v1/state/live?reader=anna"));
    let request = request.json(&json!({ "feeds": feeds }));
    let mut many = Stream::over(request.send().await.expect("an answer").bytes_stream());
    let mut few = open(&node, "/v1/state/live?feed=chat&feed=x&reader=anna").await;
    for (stream, count) in [(&mut many, feeds.len()), (&mut few, 2)] {
        for _ in 0..count {
            let event = stream.next().await.expect("a state");
            assert_eq!((event.name.as_str(), &event.id), ("state", &None));
            assert_eq!(event.data["latest"], Value::Null);
        }
        assert_eq!(stream.next().await.expect("a position").name, "version");
    }
    let versions = two(&node, &["chat"]).await;
    let visited = node.append(&visit("v", &["chat"])).await;
    let path = "/v1/feeds/chat/markers/read?reader=ben";
    mark(&node, path, &json!({ "version": versions[1] })).await;
    for stream in [&mut many, &mut few] {
        loop {
            let event = stream.next_of(&["state"]).await;
            assert_eq!(
                (&event.data["feed"], &event.data["reader"]),
                (&json!("chat"), &json!("anna"))
            );
            if event.data["latest"] == visited["version"] {
                assert_eq!(event.data["unread"]["total"], 1);
                break;
            }
        }
    }
    let path = "/v1/feeds/chat/markers/read?reader=anna";
    mark(&node, path, &json!({ "version": versions[1] })).await;
    for stream in [&mut many, &mut few] {
        let event = stream.next_of(&["state"]).await;
        assert_eq!(event.data["unread"]["total"], 0);
        assert_eq!(event.data["latest"], visited["version"]);
        assert_eq!(event.data["markers"]["read"], versions[1]);
    }
    let erased = node.send("DELETE", "/v1/events/v", &[]).await;
    assert_eq!(erased.status, 200);
    for stream in [&mut many, &mut few] {
        let event = stream.next_of(&["state"]).await;
        assert_eq!(event.data["latest"], versions[1]);
    }
    let refused = node.send("GET", "/v1/state/live", &[]).await;
    assert_eq!(refused.status, 400);
}

async fn a_merged_page_has_the_states_of_each_feed(bed: &Bed) {
    let node = bed.node().await;
    let versions = two(&node, &["a", "b"]).await;
    let path = "/v1/feeds/a/markers/read?reader=carl";
    mark(&node, path, &json!({ "version": versions[1] })).await;
    let list = async |state: &str| {
        let path = format!("/v1/entries?feed=a&feed=b&reader=carl&state={state}");
        let page = node.get(&path).await;
        let entry = &page["entries"][0];
        json!([
            entry["feed"],
            entry["feeds"],
            entry["state"],
            entry["states"]
        ])
    };
    assert_eq!(
        list("any").await,
        json!(["a", ["a", "b"], "read", ["read", "unread"]])
    );
    assert_eq!(list("unread").await, json!(["b", null, "unread", null]));
    assert_eq!(list("read").await, json!(["a", null, "read", null]));
    assert_eq!(list("archived").await, json!([null, null, null, null]));
}

async fn what_cannot_be_marked_is_refused(bed: &Bed) {
    let node = bed.node().await;
    let versions = two(&node, &["a"]).await;
    let visited = text(&node.append(&visit("v", &["a"])).await["version"]);
    let read = json!({ "read": true });
    for (path, body, status, code) in [
        (
            format!("/v1/feeds/b/entries/{}/state", versions[0]),
            &read,
            404,
            "entry_not_found",
        ),
        (
            format!("/v1/feeds/a/entries/{visited}/state"),
            &read,
            409,
            "not_notify",
        ),
        (
            format!("/v1/feeds/a/entries/{}/state?reader=anna", versions[0]),
            &json!({ "read": false }),
            409,
            "own_entry",
        ),
        (
            format!("/v1/feeds/a/entries/{}/state", versions[0]),
            &json!({}),
            400,
            "invalid_body",
        ),
        (
            format!("/v1/feeds/a/entries/{}/state", versions[0]),
            &json!({ "read": false, "archived": true }),
            400,
            "invalid_body",
        ),
        (
            format!("/v1/feeds/a/entries/{}/state?reader=*", versions[0]),
            &read,
            400,
            "invalid_reader",
        ),
        (
            "/v1/feeds/a/entries/x/state".to_owned(),
            &read,
            400,
            "invalid_version",
        ),
        (
            "/v1/feeds/a/markers/done".to_owned(),
            &json!({ "version": "0" }),
            404,
            "not_found",
        ),
    ] {
        let answer = put(&node, &path, body).await;
        answer.problem(status, code).expect(&path);
    }
    let answer = node.send("GET", "/v1/feeds/a/entries?state=new", &[]).await;
    answer.problem(400, "invalid_query").expect("refused");
    assert_eq!(unread(&node, "a", "anna").await, 1);
}

/// Items that reads have found.
#[derive(Default)]
struct Found {
    asked: AtomicUsize,
    items: AtomicUsize,
}

#[async_trait]
impl Trouble for Found {
    fn after_read(&self, asked: usize, found: usize) {
        self.asked.fetch_add(asked, Ordering::SeqCst);
        self.items.fetch_add(found, Ordering::SeqCst);
    }
}

impl Found {
    /// What was asked for, and what was found.
    fn take(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst) + self.items.swap(0, Ordering::SeqCst)
    }
}

async fn a_feed_with_many_unread_costs_little_once_it_was_counted(bed: &Bed) {
    let node = bed.node().await;
    let fill = async |begin: usize, end: usize| {
        for begin in (begin..end).step_by(1_000) {
            let event = |index: usize| by("ben", &format!("m{index}"), &["many"]);
            let events: Value = (begin..end.min(begin + 1_000)).map(event).collect();
            node.append(&events).await;
        }
        // The last entry is judged with the others of its batch.
        let last = by("ben", &format!("last of {end}"), &["many"]);
        text(&node.append(&last).await["version"])
    };
    fill(0, UNREAD_MAX - 1).await;
    let found = Arc::new(Found::default());
    let (store, keys) = (troubled(bed.store(), Arc::clone(&found)), bed.keys().await);
    let feeds = Feeds::new(Arc::clone(&store), keys.clone());
    let anna = ReaderName::named("anna".parse().expect("a name"));
    let head = async |feed: &str| {
        let state = feeds.state(&feed.parse().expect("a name"), &anna).await;
        let unread = state.expect("read").unread;
        (unread.total, unread.more, found.take())
    };
    head("many").await;
    let (_, _, empty) = head("empty").await;
    let (total, more, cost) = head("many").await;
    assert_eq!((total, more), (UNREAD_MAX, false));
    assert!(cost <= 3 * empty, "{cost} of {empty}");
    // What has changed since is found, and nothing else is read.
    let last = node.append(&by("ben", "one more", &["many"])).await;
    let (total, more, _) = head("many").await;
    assert_eq!((total, more), (UNREAD_MAX, true));
    let (.., cost) = head("many").await;
    assert!(cost <= 3 * empty, "{cost} of {empty}");
    let version = text(&last["version"]);
    let set = format!("/v1/feeds/many/entries/{version}/state?reader=anna");
    mark(&node, &set, &json!({ "read": true })).await;
    let (total, more, _) = head("many").await;
    assert_eq!((total, more), (UNREAD_MAX, false));
    let (.., cost) = head("many").await;
    assert!(cost <= 3 * empty, "{cost} of {empty}");

    // Far more than are counted.
    let version = fill(UNREAD_MAX, UNREAD_MAX + 1_000).await;
    head("many").await;
    let (total, more, cost) = head("many").await;
    assert_eq!((total, more), (UNREAD_MAX, true));
    assert!(cost <= 3 * empty, "{cost} of {empty}");

    // The join of a stream.
    let live = Live::start(store, keys);
    let mut costs = Vec::new();
    for feed in ["many", "empty", "many"] {
        // The tailer has rounds of its own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        found.take();
        let feed = feed.parse().expect("a name");
        drop(live.follow_as(&[feed], &anna, None).await);
        costs.push(found.take());
    }
    assert!(
        costs[2] <= 3 * costs[1] && costs[0] > UNREAD_MAX,
        "{costs:?}"
    );

    let path = "/v1/feeds/many/markers/read?reader=anna";
    mark(&node, path, &json!({ "version": version })).await;
    let (total, more, cost) = head("many").await;
    assert_eq!((total, more), (0, false));
    assert!(cost <= 3 * empty, "{cost} of {empty}");
}
