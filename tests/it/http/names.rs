//! Names of real systems, through every operation that names a feed, in the path and in the query.

use serde_json::{Value, json};

use super::{column, items};
use crate::support::{
    bed::{Bed, JSON, Served, text},
    names::{NAMES, encoded},
    raw,
    sse::Stream,
};

crate::on_every_engine!(
    any_name_can_be_a_feed_a_kind_an_actor_and_an_id,
    the_forms_that_name_the_feed_in_the_query_answer_like_the_others,
    the_query_forms_take_exactly_one_feed,
    a_name_that_is_not_normalized_is_refused_with_the_reason,
    names_of_bytes_that_are_not_utf_8_are_refused,
    the_longest_names_can_be_used_together,
    a_slash_that_is_not_encoded_is_explained,
);

/// An event with `name` wherever a name can stand.
fn event(name: &str, id: &str) -> Value {
    json!({ "id": id, "kind": name, "feeds": [name, "all"], "actor": name, "data": name })
}

/// Checks that an entry or stream event has `name` everywhere.
fn has_name(entry: &Value, name: &str) {
    for field in ["kind", "actor", "data"] {
        assert_eq!(entry[field], name, "{entry}");
    }
}

async fn any_name_can_be_a_feed_a_kind_an_actor_and_an_id(bed: &Bed) {
    let node = bed.node().await;
    let every = NAMES
        .map(|name| format!("feed={}", encoded(name)))
        .join("&");
    let start = node.version("all").await;
    let mut live = Stream::open(&node.http, &node.url(&format!("/v1/live?{every}")), None).await;
    assert_eq!(live.caught_up().await, []);
    for name in NAMES {
        let waiting = tokio::spawn({
            let (api, name) = (node.clone(), encoded(name));
            let path = format!("/v1/feeds/{name}/entries?after={start}&wait=60");
            async move { api.get(&path).await }
        });
        let appended = node.append(&event(name, name)).await;
        assert_eq!(
            (&appended["id"], &appended["status"]),
            (&json!(name), &json!("appended"))
        );
        assert_eq!(node.append(&event(name, name)).await["status"], "duplicate");
        let waited = waiting.await.expect("an answer");
        assert_eq!(waited["feed"], name);
        has_name(&waited["entries"][0], name);

        let entry = live.next_of(&["entry"]).await.data;
        assert_eq!((&entry["feed"], &entry["id"]), (&json!(name), &json!(name)));
        has_name(&entry, name);
        read_one(&node, name).await;
    }
    let merged = node.get(&format!("/v1/entries?{every}")).await;
    assert_eq!(merged["feeds"], json!(NAMES));
    let mut ids = column(items(&merged["entries"]), "id");
    ids.reverse();
    assert_eq!(ids, NAMES);
}

/// Reads the only entry of the feed `name` in all ways.
async fn read_one(node: &Served, name: &str) {
    let in_url = encoded(name);
    for page in [
        node.get(&format!("/v1/feeds/{in_url}/entries")).await,
        node.get(&format!("/v1/feeds/{in_url}/entries?kind={in_url}"))
            .await,
        node.get(&format!("/v1/entries?feed={in_url}")).await,
        // As forms encode: spaces as `+`.
        node.get(&format!("/v1/entries?feed={}", in_url.replace("%20", "+")))
            .await,
    ] {
        let [entry] = &items(&page["entries"])[..] else {
            panic!("one entry: {page}");
        };
        assert_eq!(entry["id"], name);
        has_name(entry, name);
    }
    for path in [
        format!("/v1/feeds/{in_url}/live?after=0"),
        format!("/v1/live?feed={in_url}&after=0"),
    ] {
        let mut stream = Stream::open(&node.http, &node.url(&path), None).await;
        let [entry] = &stream.caught_up().await[..] else {
            panic!("one entry: {path}");
        };
        assert_eq!(entry.data["feed"], name);
        has_name(&entry.data, name);
    }
}

async fn the_forms_that_name_the_feed_in_the_query_answer_like_the_others(bed: &Bed) {
    let node = bed.node().await;
    for name in NAMES {
        let in_url = encoded(name);
        let message = json!({ "kind": "message", "feeds": [name] });
        let version = text(&node.append(&message).await["version"]);
        let same = |mut a: Value, mut b: Value| {
            assert!(text(&a["version"]) <= text(&b["version"]));
            (a["version"], b["version"]) = (json!(null), json!(null));
            assert_eq!(a, b);
            a
        };
        let state = same(
            node.get(&format!("/v1/feeds/{in_url}")).await,
            node.get(&format!("/v1/state?feed={in_url}")).await,
        );
        assert_eq!(
            (&state["feed"], &state["unread"]["total"]),
            (&json!(name), &json!(1))
        );
        let body = json!({ "version": version }).to_string();
        let moved = async |path: String| {
            let answer = node.send_body("PUT", &path, &[JSON], body.clone()).await;
            assert_eq!(
                (answer.status, answer.header("cache-control")),
                (200, Some("no-store"))
            );
            answer.json()
        };
        for marker in ["seen", "read"] {
            let state = same(
                moved(format!("/v1/markers/{marker}?feed={in_url}")).await,
                moved(format!("/v1/feeds/{in_url}/markers/{marker}")).await,
            );
            assert_eq!(state["markers"][marker], version);
        }
        let state = node.get(&format!("/v1/state?feed={in_url}")).await;
        assert_eq!(state["unread"]["total"], 0);
    }
}

async fn the_query_forms_take_exactly_one_feed(bed: &Bed) {
    let node = bed.node().await;
    let body = json!({ "version": "0" }).to_string();
    for (query, code) in [
        ("", "invalid_query"),
        ("?", "invalid_query"),
        ("?feed=a&feed=b", "invalid_query"),
        ("?feed=a&feed=a", "invalid_query"),
        ("?feed=a&after=0", "invalid_query"),
        ("?feed=", "invalid_feed"),
        ("?feed=*", "invalid_feed"),
        ("?feed=%FF", "invalid_feed"),
    ] {
        let answer = node.send("GET", &format!("/v1/state{query}"), &[]).await;
        answer.problem(400, code).expect(query);
        let path = format!("/v1/markers/read{query}");
        let answer = node.send_body("PUT", &path, &[JSON], body.clone()).await;
        answer.problem(400, code).expect(query);
    }
    let path = "/v1/markers/other?feed=a";
    let answer = node.send_body("PUT", path, &[JSON], body).await;
    answer.problem(404, "not_found").expect(path);
}

async fn a_name_that_is_not_normalized_is_refused_with_the_reason(bed: &Bed) {
    let node = bed.node().await;
    // "Zoë" with a combining diaeresis.
    let in_url = encoded("Zoe\u{308}");
    for path in [
        format!("/v1/feeds/{in_url}"),
        format!("/v1/state?feed={in_url}"),
        format!("/v1/entries?feed=a&feed={in_url}"),
        format!("/v1/live?feed={in_url}"),
    ] {
        let problem = node
            .send("GET", &path, &[])
            .await
            .problem(400, "invalid_feed")
            .expect(&path);
        assert!(
            text(&problem["detail"]).contains("normalize it to NFC"),
            "{problem}"
        );
    }
    for field in ["kind", "actor", "id", "feeds"] {
        let mut event = json!({ "kind": "visit", "feeds": ["a"] });
        event[field] = match field {
            "feeds" => json!(["a", "Zoe\u{308}"]),
            _ => json!("Zoe\u{308}"),
        };
        let (status, problem) = node.post("/v1/events", &event).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_event")));
        assert!(text(&problem["field"]).starts_with(field));
        assert!(
            text(&problem["detail"]).contains("normalize it to NFC"),
            "{problem}"
        );
    }
}

/// A lenient decoder would replace the bytes by U+FFFD, and the answer would be about another feed.
async fn names_of_bytes_that_are_not_utf_8_are_refused(bed: &Bed) {
    let node = bed.node().await;
    node.append(&json!({ "kind": "visit", "feeds": ["Zo\u{fffd}"] }))
        .await;
    let state = node.get("/v1/state?feed=Zo%EF%BF%BD").await;
    assert!(state["latest"].is_string());
    for path in [
        "/v1/feeds/Zo%EB",
        "/v1/state?feed=Zo%EB",
        "/v1/entries?feed=Zo%EB",
        "/v1/live?feed=Zo%EB",
    ] {
        let problem = node
            .send("GET", path, &[])
            .await
            .problem(400, "invalid_feed")
            .expect(path);
        assert!(text(&problem["detail"]).contains("UTF-8"), "{problem}");
    }
    let path = "/v1/entries?feed=a&kind=Zo%EB";
    node.send("GET", path, &[])
        .await
        .problem(400, "invalid_query")
        .expect(path);
}

async fn the_longest_names_can_be_used_together(bed: &Bed) {
    let node = bed.node().await;
    // 255 bytes each, all of them percent-encoded in URLs.
    let longest = |index: usize| format!("{index:02}{}é", "日".repeat(83)) + "!!";
    let feeds: Vec<String> = (0..100).map(longest).collect();
    assert!(feeds.iter().all(|feed| feed.len() == 255));
    let event = json!({ "id": feeds[0], "kind": feeds[1], "actor": feeds[2], "feeds": feeds });
    assert_eq!(node.append(&event).await["status"], "appended");
    let query = |count: usize| {
        let feeds = feeds[..count]
            .iter()
            .map(|feed| format!("feed={}", encoded(feed)));
        feeds.collect::<Vec<_>>().join("&")
    };
    // All 100 are too long for one URL; 80 are not.
    let page = node.get(&format!("/v1/entries?{}", query(80))).await;
    assert_eq!(
        page["entries"][0]["feeds"].as_array().map(Vec::len),
        Some(80)
    );
    let request = raw::request("GET", &format!("/v1/entries?{}", query(100)), &[], b"");
    assert_eq!(raw::exchange(node.address, &request).await.status, 431);
    let name = encoded(&feeds[99]);
    let mut stream = Stream::open(
        &node.http,
        &node.url(&format!("/v1/feeds/{name}/live?after=0")),
        None,
    )
    .await;
    assert_eq!(stream.caught_up().await.len(), 1);
    let version = text(&node.get(&format!("/v1/feeds/{name}")).await["version"]);
    let body = json!({ "version": version }).to_string();
    let path = format!("/v1/feeds/{name}/markers/read");
    let moved = node.send_body("PUT", &path, &[JSON], body);
    assert_eq!(moved.await.status, 200);
}

async fn a_slash_that_is_not_encoded_is_explained(bed: &Bed) {
    let node = bed.node().await;
    let path = "/v1/feeds/repo:owner/name";
    let problem = node
        .send("GET", path, &[])
        .await
        .problem(404, "not_found")
        .expect(path);
    let detail = text(&problem["detail"]);
    assert!(
        detail.contains("%2F") && detail.contains("/v1/state?feed="),
        "{detail}"
    );
    for (path, meant) in [
        ("/v1/events/", "/v1/events"),
        ("/v1/feeds/a/entries/?limit=1", "/v1/feeds/a/entries"),
    ] {
        for method in ["GET", "POST"] {
            let problem = node
                .send(method, path, &[])
                .await
                .problem(404, "not_found")
                .expect(path);
            let detail = text(&problem["detail"]);
            assert!(
                detail.contains(&format!("use {meant}, without a slash at the end")),
                "{detail}"
            );
        }
    }
}
