//! `GET /v1/events/{id}` and `GET /v1/events?id=…`.

use serde_json::{Value, json};

use newsfeed::store::{Batch, Versioned};

use super::{message, visit};
use crate::{
    auth::{Signer, Site, ask, bearer, claims},
    support::{
        bed::{Answer, Bed, text},
        model::feed_name,
        raw_commits::{Raw, uncommitted},
    },
};

crate::on_every_engine!(
    an_event_is_found_by_its_id_with_all_its_feeds_in_order,
    an_event_that_is_kept_by_a_client_is_not_sent_again,
    ids_that_do_not_fit_into_a_path_are_found_by_query,
    of_twins_the_first_commit_is_found,
    an_erased_event_is_answered_like_one_that_never_was,
    requests_that_name_no_event_are_refused,
);

fn without_ids(answer: &Answer) -> (u16, Option<&str>, &[u8]) {
    let media = answer.header("content-type");
    (answer.status, media, &answer.body)
}

async fn an_event_is_found_by_its_id_with_all_its_feeds_in_order(bed: &Bed) {
    let node = bed.node().await;
    // In many partitions, and in no order of theirs.
    let feeds: Vec<String> = (0..40).map(|n| format!("f{}", n * 7 % 40)).collect();
    let event = json!({
        "id": "e", "kind": "message", "feeds": feeds, "actor": "user:7", "time": "2004-04-15T16:56:01.5+02:00",
        "data": { "text": "Hello", "n": 1.50 },
    });
    let version = node.append(&event).await["version"].clone();
    let among = json!([
        visit("x", &["f1"]),
        visit("y", &["f2", "f1"]),
        visit("z", &["f1"])
    ]);
    let answers = node.append(&among).await;

    let found = node.get("/v1/events/e").await;
    let mut expected = event.clone();
    expected["version"] = version;
    let entry = &node.all("f3").await[0];
    expected["at"] = entry["at"].clone();
    assert_eq!(found, expected);
    // As in its feeds, besides these.
    let mut same = found.clone();
    same.as_object_mut().expect("an object").remove("feeds");
    assert_eq!(same, *entry);
    assert_eq!(node.get("/v1/events?id=e").await, found);

    let found = node.get("/v1/events/y").await;
    assert_eq!(found["version"], answers[1]["version"]);
    assert_eq!(found["feeds"], json!(["f2", "f1"]));
    assert_eq!(
        (&found["actor"], &found["data"]),
        (&Value::Null, &Value::Null)
    );
    assert!(found.get("time").is_none());
    // A duplicate changes nothing, also with its feeds in another order.
    assert_eq!(
        node.append(&visit("y", &["f1", "f2"])).await["status"],
        "duplicate"
    );
    assert_eq!(node.get("/v1/events/y").await, found);
}

async fn an_event_that_is_kept_by_a_client_is_not_sent_again(bed: &Bed) {
    let node = bed.node().await;
    node.append(&message("m", &["a"])).await;
    for path in ["/v1/events/m", "/v1/events?id=m"] {
        let whole = node.send("GET", path, &[]).await;
        assert_eq!(whole.header("cache-control"), Some("private, no-cache"));
        let etag = whole.header("etag").expect("an ETag").to_owned();
        let head = node.send("HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("etag"), Some(&*etag));
        let length = whole.body.len().to_string();
        assert_eq!(head.header("content-length"), Some(&*length));
        let known = node.send("GET", path, &[("if-none-match", &etag)]).await;
        assert_eq!((known.status, known.body.len()), (304, 0));
        let other = node.send("GET", path, &[("if-none-match", "\"x\"")]).await;
        assert_eq!(other.status, 200);
    }
    let missing = node.send("HEAD", "/v1/events/missing", &[]).await;
    assert_eq!(missing.status, 404);
}

async fn ids_that_do_not_fit_into_a_path_are_found_by_query(bed: &Bed) {
    let node = bed.node().await;
    for id in [
        ".",
        "..",
        " a ",
        "a*",
        "https://example.social/notes/1?a=b&c#d",
        "ü%2F+",
        &"日".repeat(85),
    ] {
        node.append(&visit(id, &["a"])).await;
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("id", id)
            .finish();
        let found = node.get(&format!("/v1/events?{query}")).await;
        assert_eq!(found["id"], json!(id));
        if !id.starts_with('.') {
            let path: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
            let path = path.replace('+', "%20");
            assert_eq!(node.get(&format!("/v1/events/{path}")).await, found);
        }
    }
}

async fn of_twins_the_first_commit_is_found(bed: &Bed) {
    let node = bed.node().await;
    let raw = Raw::new(bed).await;
    let now = raw.now().await;
    let (a, b) = (feed_name("a"), feed_name("b"));
    let mut first = [uncommitted("t", "visit", &[b.clone(), a.clone()], now)];
    let mut twin = [uncommitted("t", "visit", &[a, b], now)];
    raw.commit(now + 1, &mut first).await;
    raw.commit(now + 2, &mut twin).await;
    let found = node.get("/v1/events/t").await;
    assert_eq!(found["version"], first[0].version.to_string());
    assert_eq!(found["feeds"], json!(["b", "a"]));
}

async fn an_erased_event_is_answered_like_one_that_never_was(bed: &Bed) {
    let node = bed.node().await;
    let raw = Raw::new(bed).await;
    let claim = Versioned {
        prefix: raw.keys.claim(&"erased".parse().expect("an id")),
        index: 0,
        value: Vec::new(),
    };
    let batch = Batch {
        versioned: vec![claim],
        ..Batch::default()
    };
    let snapshot = raw.store.snapshot().await.expect("a snapshot");
    snapshot.commit(batch).await.expect("committed");
    let erased = node.send("GET", "/v1/events/erased", &[]).await;
    erased.problem(404, "event_not_found").expect("a problem");
    let missing = node.send("GET", "/v1/events/missing", &[]).await;
    assert_eq!(without_ids(&erased), without_ids(&missing));
}

async fn requests_that_name_no_event_are_refused(bed: &Bed) {
    let node = bed.node().await;
    let long = format!("/v1/events/{}", "x".repeat(256));
    for (path, code) in [
        ("/v1/events", "invalid_query"),
        ("/v1/events?id=a&id=b", "invalid_query"),
        ("/v1/events?id=a&feed=b", "invalid_query"),
        ("/v1/events/a?feed=b", "invalid_query"),
        ("/v1/events?id=", "invalid_id"),
        ("/v1/events?id=%ff", "invalid_id"),
        ("/v1/events/%ff", "invalid_id"),
        ("/v1/events/e%CC%88", "invalid_id"),
        (&long, "invalid_id"),
    ] {
        let answer = node.send("GET", path, &[]).await;
        answer.problem(400, code).expect(path);
    }
}

/// Only those of its feeds that the token may read are told; without any, nothing tells that the id is taken.
#[tokio::test]
async fn a_token_sees_an_event_through_the_feeds_it_may_read() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let token =
        |scope: &str, feeds: &[&str]| bearer(&Signer::hs256().sign(&claims(scope, feeds))).1;
    let event = json!({ "id": "e", "kind": "visit", "feeds": ["user:1", "chat:7", "user:2"] });
    let writer = token("append", &["*"]);
    let headers = [("authorization", &*writer)];
    let appended = ask(&node, "POST", "/v1/events", &headers, Some(&event)).await;
    let version = text(&appended.json()["version"]);
    for (scope, feeds, seen) in [
        ("read", &["*"][..], &["user:1", "chat:7", "user:2"][..]),
        ("read", &["user:*"], &["user:1", "user:2"]),
        ("read", &["user:2", "chat:7"], &["chat:7", "user:2"]),
        ("read", &["chat:*"], &["chat:7"]),
        ("read", &["chat:70"], &[]),
        ("read", &[], &[]),
    ] {
        let token = token(scope, feeds);
        let headers = [("authorization", &*token)];
        for form in ["/v1/events/", "/v1/events?id="] {
            let found = ask(&node, "GET", &format!("{form}e"), &headers, None).await;
            if seen.is_empty() {
                let missing = ask(&node, "GET", &format!("{form}missing"), &headers, None).await;
                found.problem(404, "event_not_found").expect("a problem");
                assert_eq!(without_ids(&found), without_ids(&missing));
            } else {
                let found = found.json();
                assert_eq!(found["feeds"], json!(seen), "{feeds:?}");
                assert_eq!(found["version"], json!(version));
            }
        }
    }
    let by_feed = json!({ "read": ["chat:7"], "append": ["user:1"] });
    let mut both = claims("read append", &[]);
    both["feeds"] = by_feed;
    let token = bearer(&Signer::hs256().sign(&both)).1;
    let headers = [("authorization", &*token)];
    let found = ask(&node, "GET", "/v1/events/e", &headers, None).await;
    assert_eq!(found.json()["feeds"], json!(["chat:7"]));
    let headers = [("authorization", &*writer)];
    let refused = ask(&node, "GET", "/v1/events/e", &headers, None).await;
    refused.problem(403, "scope_missing").expect("a problem");
}
