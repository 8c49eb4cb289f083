//! Edits and erasures of events: what each request answers, and what readers are shown and told.

use serde_json::{Value, json};

use super::{column, items, message, visit};
use crate::support::{
    bed::{Answer, Bed, JSON, LINES, NDJSON, Served, text},
    sse::Stream,
};

crate::on_every_engine!(
    an_edit_shows_in_every_feed_and_is_told_once,
    an_edit_is_made_once,
    a_change_can_depend_on_the_revision,
    an_erased_event_is_gone_and_its_id_stays_taken,
    what_is_not_a_change_is_refused,
    ids_can_be_named_in_the_query,
    streams_and_long_polls_tell_changes,
    pages_of_any_size_tell_entries_and_changes_in_order,
    the_log_tells_changes,
    several_events_are_erased,
    a_feed_is_erased_with_or_without_its_events_elsewhere,
    an_actor_is_erased,
);

async fn send(node: &Served, method: &str, path: &str, body: &Value) -> Answer {
    node.send_body(method, path, &[JSON], body.to_string())
        .await
}

/// Sends a change that succeeds.
async fn change(node: &Served, method: &str, path: &str, body: &Value) -> Value {
    let answer = send(node, method, path, body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

async fn edit(node: &Served, id: &str, data: &Value) -> Value {
    let path = format!("/v1/events/{id}");
    change(node, "PATCH", &path, &json!({ "data": data })).await
}

async fn erase(node: &Served, id: &str) -> Value {
    change(node, "DELETE", &format!("/v1/events/{id}"), &Value::Null).await
}

async fn page(node: &Served, feed: &str, query: &str) -> Value {
    node.get(&format!("/v1/feeds/{feed}/entries?{query}")).await
}

/// Erases what `what` says, and returns how many events that were.
async fn erase_all(node: &Served, what: &Value) -> u64 {
    let answer = send(node, "POST", "/v1/erasures", what).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let done = answer.json();
    assert_eq!(done["status"], "done");
    let path = format!("/v1/erasures/{}", text(&done["id"]));
    assert_eq!(answer.header("location"), Some(&*path));
    assert_eq!(node.get(&path).await, done);
    done["erased"].as_u64().expect("a number")
}

async fn unread(node: &Served, feed: &str) -> Value {
    node.get(&format!("/v1/feeds/{feed}")).await["unread"]["total"].clone()
}

async fn an_edit_shows_in_every_feed_and_is_told_once(bed: &Bed) {
    let node = bed.node().await;
    let event = json!({ "id": "m", "kind": "message", "feeds": ["a", "b"], "actor": "x",
                        "time": "2004-04-15T16:56:01+02:00", "data": { "text": "Hi" } });
    let version = node.append(&event).await["version"].clone();
    node.append(&visit("v", &["a"])).await;
    let path = format!(
        "/v1/feeds/a/entries?until={}",
        text(&node.append(&visit("w", &["b"])).await["version"])
    );
    let etag = node.send("GET", &path, &[]).await;
    let etag = etag.header("etag").expect("an ETag").to_owned();
    let before = node.get("/v1/events/m").await;
    assert_eq!(before.get("edited"), None);

    let edited = edit(&node, "m", &json!({ "text": "Ho" })).await;
    let at = edited["edited"].clone();
    assert!(text(&at) > text(&version));
    assert_eq!(
        edited,
        json!({ "id": "m", "status": "edited", "version": version, "edited": at })
    );

    let mut entry = before;
    entry["edited"] = at.clone();
    entry["data"] = json!({ "text": "Ho" });
    assert_eq!(node.get("/v1/events/m").await, entry);
    entry.as_object_mut().expect("an object").remove("feeds");
    for feed in ["a", "b"] {
        let newest = page(&node, feed, "").await;
        assert_eq!(newest["entries"][1], entry, "{feed}");
        assert_eq!(newest.get("changes"), None);
        let mut news = entry.clone();
        news["change"] = json!("edited");
        let oldest = page(&node, feed, "after=0").await;
        assert_eq!(oldest["entries"][0], entry);
        assert_eq!(oldest["changes"], json!([news]));
        let after = format!("after={}", text(&newest["entries"][0]["version"]));
        let since = page(&node, feed, &after).await;
        assert_eq!(
            (&since["entries"], &since["changes"]),
            (&json!([]), &json!([news]))
        );
        let none = page(&node, feed, &format!("after={}", text(&at))).await;
        assert_eq!((&none["entries"], none.get("changes")), (&json!([]), None));
        // It counts as unread as before.
        assert_eq!(unread(&node, feed).await, 1);
    }
    let merged = node.get("/v1/entries?feed=b&feed=a&after=0").await;
    assert_eq!(merged["changes"][0]["feeds"], json!(["b", "a"]));
    assert_eq!(merged["changes"].as_array().map(Vec::len), Some(1));

    // The page is another one now.
    let headers = [("if-none-match", &*etag)];
    let again = node.send("GET", &path, &headers).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["entries"][1], entry);

    // A later edit replaces the news of the one before.
    let last = edit(&node, "m", &Value::Null).await;
    let told = page(&node, "a", "after=0").await;
    assert_eq!(
        column(items(&told["changes"]), "edited"),
        [text(&last["edited"])]
    );
    assert_eq!(told["changes"][0]["data"], Value::Null);
}

async fn an_edit_is_made_once(bed: &Bed) {
    let node = bed.node().await;
    node.append(&message("m", &["a"])).await;
    let edit = async |change: &str, data: u32| {
        let body = json!({ "data": data, "change": change });
        super::changes::change(&node, "PATCH", "/v1/events/m", &body).await
    };
    let first = edit("c-0", 0).await;
    let mut again = first.clone();
    again["status"] = json!("duplicate");
    assert_eq!(edit("c-0", 0).await, again);
    // Whatever it says: the first use of the id counts.
    assert_eq!(edit("c-0", 9).await, again);
    assert_eq!(node.get("/v1/events/m").await["data"], 0);
    // The ids of the last 16 edits are remembered.
    for number in 1..16 {
        let edited = edit(&format!("c-{number}"), number).await;
        assert_eq!(edited["status"], "edited");
    }
    assert_eq!(edit("c-0", 0).await, again);
    assert_eq!(edit("c-16", 16).await["status"], "edited");
    assert_eq!(edit("c-1", 1).await["status"], "duplicate");
    assert_eq!(node.get("/v1/events/m").await["data"], 16);
    assert_eq!(edit("c-0", 0).await["status"], "edited");
    // Without an id, each is one of its own; and ids are of one event.
    let path = "/v1/events/m";
    for _ in 0..2 {
        let body = json!({ "data": 7 });
        assert_eq!(
            change(&node, "PATCH", path, &body).await["status"],
            "edited"
        );
    }
    node.append(&message("n", &["a"])).await;
    let body = json!({ "data": 7, "change": "c-0" });
    let other = change(&node, "PATCH", "/v1/events/n", &body).await;
    assert_eq!(other["status"], "edited");
}

async fn a_change_can_depend_on_the_revision(bed: &Bed) {
    let node = bed.node().await;
    let version = text(&node.append(&message("m", &["a"])).await["version"]);
    let path = "/v1/events/m";
    let body = |revision: &str| json!({ "data": 1, "revision": revision, "change": revision });
    let refuse = async |answer: Answer, current: &str| {
        let problem = answer
            .problem(409, "revision_conflict")
            .expect("a conflict");
        assert_eq!(
            (&problem["id"], &problem["current"]),
            (&json!("m"), &json!(current))
        );
    };
    for wrong in ["0", &node.version("a").await] {
        refuse(send(&node, "PATCH", path, &body(wrong)).await, &version).await;
        let erasing = format!("{path}?revision={wrong}");
        refuse(
            send(&node, "DELETE", &erasing, &Value::Null).await,
            &version,
        )
        .await;
    }
    let edited = change(&node, "PATCH", path, &body(&version)).await;
    let current = text(&edited["edited"]);
    // A repetition has been made, whatever the revision is now.
    let again = change(&node, "PATCH", path, &body(&version)).await;
    assert_eq!(
        (&again["status"], &again["edited"]),
        (&json!("duplicate"), &json!(current))
    );
    let other = json!({ "data": 2, "revision": version });
    refuse(send(&node, "PATCH", path, &other).await, &current).await;
    let erasing = format!("{path}?revision={version}");
    refuse(
        send(&node, "DELETE", &erasing, &Value::Null).await,
        &current,
    )
    .await;
    // Conditions of appends are about entries: a change adds none.
    let mut next = visit("next", &["b"]);
    next["expect"] = json!({ "feed": "a", "version": version });
    assert_eq!(node.append(&next).await["status"], "appended");
    let erasing = format!("{path}?revision={current}");
    let erased = change(&node, "DELETE", &erasing, &Value::Null).await;
    assert_eq!(erased["status"], "erased");
}

async fn an_erased_event_is_gone_and_its_id_stays_taken(bed: &Bed) {
    let node = bed.node().await;
    let event = message("m", &["a", "b"]);
    let version = text(&node.append(&event).await["version"]);
    node.append(&message("n", &["a"])).await;
    edit(&node, "m", &json!(1)).await;
    assert_eq!(unread(&node, "a").await, 2);
    let erased = erase(&node, "m").await;
    let at = text(&erased["erased"]);
    assert!(at > version);
    assert_eq!(
        erased,
        json!({ "id": "m", "status": "erased", "version": version, "erased": at })
    );
    let again = json!({ "id": "m", "status": "duplicate", "version": version });
    assert_eq!(erase(&node, "m").await, again);

    // It is gone from pages and counts, and whoever continues is told.
    let news = json!({ "change": "erased", "version": version, "erased": at, "id": "m", "kind": "message" });
    for (feed, left) in [("a", &["n"][..]), ("b", &[])] {
        let oldest = page(&node, feed, "after=0").await;
        assert_eq!(column(items(&oldest["entries"]), "id"), left);
        assert_eq!(oldest["changes"], json!([news]));
        assert_eq!(
            column(items(&page(&node, feed, "").await["entries"]), "id"),
            left
        );
        assert_eq!(unread(&node, feed).await, left.len());
    }
    for (method, status, code) in [
        ("GET", 404, "event_not_found"),
        ("PATCH", 410, "event_erased"),
    ] {
        let answer = send(&node, method, "/v1/events/m", &json!({ "data": 1 })).await;
        answer.problem(status, code).expect(method);
    }

    // The id cannot be used again, in whatever form and with whatever content.
    let taken = json!({ "id": "m", "status": "erased", "version": version });
    assert_eq!(node.append(&event).await, taken);
    let other = json!({ "id": "m", "kind": "visit", "feeds": ["c"],
                        "expect": { "feed": "a", "version": null } });
    assert_eq!(node.append(&other).await, taken);
    let several = node
        .append(&json!([event, visit("o", &["c"]), other]))
        .await;
    assert_eq!((&several[0], &several[2]), (&taken, &taken));
    assert_eq!(several[1]["status"], "appended");
    let lines = format!("{event}\n{}\n", visit("p", &["c"]));
    let answer = node.send_body("POST", "/v1/events", &[NDJSON], lines).await;
    let lines = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (&lines[0], &lines[1]["status"]),
        (&taken, &json!("appended"))
    );
    let atomic = json!([other, visit("q", &["c"])]);
    let (status, answer) = node.post("/v1/events?atomic=true", &atomic).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer[0], &answer[1]["status"]),
        (&taken, &json!("appended"))
    );
    assert_eq!(column(&node.all("c").await, "id"), ["o", "p", "q"]);

    for (method, body) in [("PATCH", json!({ "data": 1 })), ("DELETE", Value::Null)] {
        let answer = send(&node, method, "/v1/events/never", &body).await;
        answer.problem(404, "event_not_found").expect(method);
    }
}

async fn what_is_not_a_change_is_refused(bed: &Bed) {
    let node = bed.node().await;
    node.append(&message("m", &["a"])).await;
    let feeds: Vec<String> = (0..20).map(|feed| format!("f{feed}")).collect();
    let many = json!({ "id": "many", "kind": "visit", "feeds": feeds });
    node.append(&many).await;
    let long = "x".repeat(65 * 1024);
    let part = "x".repeat(60 * 1024);
    for (id, body, status, code) in [
        ("m", json!({}), 400, "invalid_body"),
        ("m", json!([{ "data": 1 }]), 400, "invalid_body"),
        (
            "m",
            json!({ "data": 1, "kind": "visit" }),
            400,
            "invalid_body",
        ),
        ("m", json!({ "data": 1, "change": "" }), 400, "invalid_body"),
        (
            "m",
            json!({ "data": 1, "change": "c".repeat(256) }),
            400,
            "invalid_body",
        ),
        ("m", json!({ "data": 1, "change": 7 }), 400, "invalid_body"),
        (
            "m",
            json!({ "data": 1, "revision": "later" }),
            400,
            "invalid_version",
        ),
        ("m", json!({ "data": long }), 400, "invalid_event"),
        ("many", json!({ "data": part }), 400, "invalid_event"),
        (
            "m",
            json!({ "data": "x".repeat(257 * 1024) }),
            413,
            "body_too_large",
        ),
    ] {
        let answer = send(&node, "PATCH", &format!("/v1/events/{id}"), &body).await;
        answer.problem(status, code).expect(code);
    }
    for (body, status, code) in [
        ("", 400, "invalid_json"),
        ("{\"data\":", 400, "invalid_json"),
        ("{\"data\":1,\"data\":2}", 400, "invalid_body"),
        ("{\"data\":\"\\ud83d\"}", 400, "invalid_event"),
    ] {
        let answer = node.send_body("PATCH", "/v1/events/m", &[JSON], body).await;
        answer.problem(status, code).expect(body);
    }
    let answer = node
        .send_body("PATCH", "/v1/events/m", &[], "{\"data\":1}")
        .await;
    answer
        .problem(415, "unsupported_media_type")
        .expect("a type");
    for (method, path, status, code) in [
        ("PATCH", "/v1/events/m?x=1", 400, "invalid_query"),
        ("PATCH", "/v1/events", 400, "invalid_query"),
        ("DELETE", "/v1/events/m?x=1", 400, "invalid_query"),
        (
            "DELETE",
            "/v1/events/m?revision=later",
            400,
            "invalid_version",
        ),
        ("DELETE", "/v1/events", 400, "invalid_query"),
        ("DELETE", "/v1/events?id=%01", 400, "invalid_id"),
        ("GET", "/v1/erasures/later", 404, "erasure_not_found"),
        (
            "GET",
            "/v1/erasures/000000800pgcvgij9uqfvvvvvs",
            404,
            "erasure_not_found",
        ),
        ("POST", "/v1/erasures?x=1", 400, "invalid_query"),
    ] {
        let answer = send(&node, method, path, &json!({ "data": 1 })).await;
        answer.problem(status, code).expect(path);
    }
    let ids = |count: usize| (0..count).map(|id| format!("i-{id}")).collect::<Vec<_>>();
    for (body, status, code) in [
        (json!({}), 400, "invalid_body"),
        (json!([]), 400, "invalid_body"),
        (json!({ "events": [] }), 400, "invalid_body"),
        (json!({ "events": ids(301) }), 400, "invalid_body"),
        (
            json!({ "events": ["m"], "actor": "x" }),
            400,
            "invalid_body",
        ),
        (
            json!({ "events": ["m"], "everywhere": true }),
            400,
            "invalid_body",
        ),
        (
            json!({ "actor": "x", "everywhere": false }),
            400,
            "invalid_body",
        ),
        (json!({ "feed": "a", "actor": "x" }), 400, "invalid_body"),
        (json!({ "feed": "a", "all": true }), 400, "invalid_body"),
        (json!({ "actor": " x" }), 400, "invalid_body"),
        (json!({ "feed": "a*" }), 400, "invalid_feed"),
        (json!({ "events": ["m", "\u{1}"] }), 400, "invalid_id"),
        (
            json!({ "events": ["x".repeat(513 * 1024)] }),
            413,
            "body_too_large",
        ),
    ] {
        let answer = send(&node, "POST", "/v1/erasures", &body).await;
        answer.problem(status, code).expect(code);
    }
    // Nothing of all that was done; and the limits themselves are in them.
    assert_eq!(page(&node, "a", "after=0").await.get("changes"), None);
    let body = json!({ "data": "x".repeat(65_000), "change": "c".repeat(255) });
    change(&node, "PATCH", "/v1/events/m", &body).await;
    let mut ids = ids(299);
    ids.push("m".to_owned());
    assert_eq!(erase_all(&node, &json!({ "events": ids })).await, 1);
}

async fn ids_can_be_named_in_the_query(bed: &Bed) {
    let node = bed.node().await;
    for (id, named) in [
        (".", "."),
        (
            "https://a.example/n?1&2",
            "https%3A%2F%2Fa.example%2Fn%3F1%262",
        ),
        ("ä *", "%C3%A4%20*"),
    ] {
        let version = node.append(&message(id, &["a"])).await["version"].clone();
        let path = format!("/v1/events?id={named}");
        let edited = change(&node, "PATCH", &path, &json!({ "data": 1 })).await;
        assert_eq!((&edited["id"], &edited["version"]), (&json!(id), &version));
        let path = format!("{path}&revision={}", text(&edited["edited"]));
        let erased = change(&node, "DELETE", &path, &Value::Null).await;
        assert_eq!(
            (&erased["id"], &erased["status"]),
            (&json!(id), &json!("erased"))
        );
    }
    assert!(node.all("a").await.is_empty());
}

async fn streams_and_long_polls_tell_changes(bed: &Bed) {
    let node = bed.node().await;
    let version = text(&node.append(&message("m", &["a", "b"])).await["version"]);
    node.append(&message("n", &["a"])).await;
    let url = node.url("/v1/live?feed=a&feed=b&kind=message&after=0");
    let mut stream = Stream::open(&node.http, &url, None).await;
    let mut until = async |name: &str| loop {
        let event = stream.next().await.expect("the stream goes on");
        if event.name == name {
            return event;
        }
    };
    until("version").await;
    let edited = text(&edit(&node, "m", &json!(1)).await["edited"]);
    let told = until("edited").await;
    assert_eq!(told.id.as_deref(), Some(&*edited));
    assert_eq!(told.data["feeds"], json!(["a", "b"]));
    assert_eq!(
        (
            &told.data["version"],
            &told.data["data"],
            &told.data["edited"]
        ),
        (&json!(version), &json!(1), &json!(edited))
    );

    // A poll that waits is answered, although there is no new entry.
    let poll = node.url(&format!("/v1/feeds/b/entries?after={edited}&wait=50"));
    let poll = tokio::spawn(node.http.get(poll).send());
    let erased = text(&erase(&node, "m").await["erased"]);
    let poll = poll.await.expect("no panic").expect("an answer");
    let poll: Value = poll.json().await.expect("JSON");
    let news = json!({ "change": "erased", "version": version, "erased": erased, "id": "m", "kind": "message" });
    assert_eq!(
        (&poll["entries"], &poll["changes"]),
        (&json!([]), &json!([news]))
    );
    let told = until("erased").await;
    assert_eq!(told.id.as_deref(), Some(&*erased));
    let mut located = news;
    located["feed"] = json!("a");
    located["feeds"] = json!(["a", "b"]);
    assert_eq!(told.data, located);
    // The unread counts follow.
    let marker = until("marker").await;
    let count = if marker.data["feed"] == "a" { 1 } else { 0 };
    assert_eq!(marker.data["unread"]["total"], count);

    // Who resumes hears what came since; of another kind, nothing.
    for (path, names) in [
        ("/v1/live?feed=a", &["erased", "marker", "version"][..]),
        ("/v1/feeds/a/live?kind=visit", &["marker", "version"]),
    ] {
        let url = node.url(path);
        let mut stream = Stream::open(&node.http, &url, Some(&edited)).await;
        let mut heard = Vec::new();
        while heard.last().is_none_or(|name| name != "version") {
            heard.push(stream.next().await.expect("it goes on").name);
        }
        assert_eq!(heard, names, "{path}");
    }
}

async fn pages_of_any_size_tell_entries_and_changes_in_order(bed: &Bed) {
    let node = bed.node().await;
    let mut told = Vec::new();
    for number in 0..6 {
        let id = format!("m-{number}");
        let version = node.append(&message(&id, &["a"])).await["version"].clone();
        told.push((text(&version), id));
        if let Some(before) = told.get(told.len().saturating_sub(3)).cloned()
            && number % 2 == 1
        {
            let change = edit(&node, &before.1, &json!(number)).await;
            told.retain(|(at, id)| id != &before.1 || *at == text(&change["version"]));
            told.push((text(&change["edited"]), before.1));
        }
    }
    let gone = erase(&node, "m-4").await;
    told.retain(|(_, id)| id != "m-4");
    told.push((text(&gone["erased"]), "m-4".to_owned()));
    assert_eq!(told.len(), 7, "{told:?}");
    for limit in 1..=told.len() + 1 {
        for merged in [false, true] {
            let mut after = "0".to_owned();
            let mut heard = Vec::new();
            loop {
                let path = match merged {
                    false => format!("/v1/feeds/a/entries?after={after}&limit={limit}"),
                    true => format!("/v1/entries?feed=a&feed=b&after={after}&limit={limit}"),
                };
                let page = node.get(&path).await;
                let none = json!([]);
                let changes = items(page.get("changes").unwrap_or(&none));
                let mut of_page: Vec<(String, String)> = Vec::new();
                for entry in items(&page["entries"]) {
                    of_page.push((text(&entry["version"]), text(&entry["id"])));
                }
                for news in changes {
                    let at = &news[text(&news["change"])];
                    of_page.push((text(at), text(&news["id"])));
                }
                of_page.sort();
                assert!(of_page.len() <= limit);
                assert!(of_page.iter().all(|(at, _)| *at > after));
                heard.extend(of_page);
                match page["next"].as_str() {
                    Some(next) => after = next.to_owned(),
                    None => break,
                }
            }
            assert_eq!(heard, told, "{limit}");
        }
    }
}

async fn the_log_tells_changes(bed: &Bed) {
    let node = bed.node().await;
    let by = |id: &str, actor: &str| json!({ "id": id, "kind": "message", "feeds": ["a", "b"], "actor": actor });
    node.append(&json!([by("m", "x"), by("n", "y"), visit("v", &["c"])]))
        .await;
    edit(&node, "m", &json!(1)).await;
    edit(&node, "n", &json!(2)).await;
    erase(&node, "n").await;
    let ids = async |query: &str| {
        let page = node.get(&format!("/v1/log?{query}")).await;
        let name = |event: &Value| {
            let change = event["change"].as_str().unwrap_or("entry");
            format!("{} {change}", text(&event["id"]))
        };
        items(&page["events"]).iter().map(name).collect::<Vec<_>>()
    };
    let all = ["m entry", "v entry", "m edited", "n erased"];
    assert_eq!(ids("after=0").await, all);
    assert_eq!(ids("after=0&kind=visit").await, ["v entry"]);
    assert_eq!(
        ids("after=0&kind=message").await,
        ["m entry", "m edited", "n erased"]
    );
    assert_eq!(
        ids("after=0&feed=b").await,
        ["m entry", "m edited", "n erased"]
    );
    // Whose event was erased is not known any more, so everybody is told.
    for actor in ["x", "nobody"] {
        let mut told = ids(&format!("after=0&actor={actor}")).await;
        assert_eq!(told.pop().as_deref(), Some("n erased"));
        assert_eq!(told.len(), if actor == "x" { 2 } else { 0 });
    }
    // Newest first, there are entries only, as they are now.
    assert_eq!(ids("").await, ["v entry", "m entry"]);
    let newest = node.get("/v1/log").await;
    assert_eq!(newest["events"][1]["data"], 1);

    let answer = node
        .send("GET", "/v1/log?after=0", &[("accept", LINES)])
        .await;
    let lines = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let page = node.get("/v1/log?after=0").await;
    assert_eq!(&lines[..4], items(&page["events"]));
    assert_eq!(lines[3]["feeds"], json!(["a", "b"]));

    let url = node.url("/v1/log/live?after=0&feed=a");
    let mut stream = Stream::open(&node.http, &url, None).await;
    for name in ["event", "edited", "erased"] {
        let event = stream.next().await.expect("it goes on");
        let at = event.data.get(name).unwrap_or(&event.data["version"]);
        assert_eq!((&*event.name, event.id), (name, Some(text(at))));
    }
}

async fn several_events_are_erased(bed: &Bed) {
    let node = bed.node().await;
    let events: Vec<Value> = (0..120)
        .map(|id| message(&format!("m-{id}"), &["a", "b"]))
        .collect();
    node.append(&json!(events)).await;
    erase(&node, "m-0").await;
    let ids: Vec<String> = (0..110).map(|id| format!("m-{id}")).collect();
    let ids = [&ids[..], &["never".to_owned(), "m-5".to_owned()]].concat();
    let what = json!({ "events": ids });
    assert_eq!(erase_all(&node, &what).await, 109);
    assert_eq!(erase_all(&node, &what).await, 0);
    for feed in ["a", "b"] {
        assert_eq!(node.all(feed).await.len(), 10);
        assert_eq!(unread(&node, feed).await, 10);
        let changes = page(&node, feed, "after=0&limit=200").await;
        assert_eq!(items(&changes["changes"]).len(), 110);
    }
    // What is appended to an id that was free stays.
    node.append(&message("never", &["a"])).await;
    assert_eq!(node.get("/v1/events/never").await["id"], "never");
}

async fn a_feed_is_erased_with_or_without_its_events_elsewhere(bed: &Bed) {
    let node = bed.node().await;
    node.append(&json!([
        message("both", &["a", "b"]),
        message("only", &["a"]),
        message("other", &["b"])
    ]))
    .await;
    assert_eq!(erase_all(&node, &json!({ "feed": "a" })).await, 2);
    assert!(node.all("a").await.is_empty());
    assert_eq!(unread(&node, "a").await, 0);
    let told = page(&node, "a", "after=0").await;
    assert_eq!(column(items(&told["changes"]), "id"), ["both", "only"]);
    // In the other feed nothing has changed, and nobody is told anything.
    let other = page(&node, "b", "after=0").await;
    assert_eq!(column(items(&other["entries"]), "id"), ["both", "other"]);
    assert_eq!(other.get("changes"), None);
    assert_eq!(node.get("/v1/events/both").await["feeds"], json!(["b"]));
    let gone = node.send("GET", "/v1/events/only", &[]).await;
    gone.problem(404, "event_not_found").expect("gone");
    let again = node.append(&message("both", &["a", "b"])).await;
    assert_eq!(again["status"], "duplicate");

    node.append(&message("more", &["c", "b"])).await;
    let everywhere = json!({ "feed": "b", "everywhere": true });
    assert_eq!(erase_all(&node, &everywhere).await, 3);
    for feed in ["b", "c"] {
        assert!(node.all(feed).await.is_empty());
    }
    let told = page(&node, "c", "after=0").await;
    assert_eq!(column(items(&told["changes"]), "id"), ["more"]);
    assert_eq!(erase_all(&node, &json!({ "feed": "empty" })).await, 0);
}

async fn an_actor_is_erased(bed: &Bed) {
    let node = bed.node().await;
    let by = |id: u32, actor: &str| {
        let feeds = [format!("f{}", id % 7), "all".to_owned()];
        json!({ "id": format!("{actor}-{id}"), "kind": "message", "feeds": feeds, "actor": actor })
    };
    let events: Vec<Value> = (0..60).flat_map(|id| [by(id, "x"), by(id, "y")]).collect();
    node.append(&json!(events)).await;
    node.append(&message("nobody's", &["all"])).await;
    assert_eq!(erase_all(&node, &json!({ "actor": "x" })).await, 60);
    let left = node.all("all").await;
    assert_eq!(left.len(), 61);
    assert!(left.iter().all(|entry| entry["actor"] != "x"));
    let first = node.all("f0").await;
    assert_eq!(first.len(), 9);
    let log = node.get("/v1/log?after=0&limit=200").await;
    assert!(
        items(&log["events"])
            .iter()
            .all(|event| event["actor"] != "x")
    );
    // A new event of the actor is an event as any other.
    let again = node.append(&by(60, "x")).await;
    assert_eq!(again["status"], "appended");
}
