//! Feed states and pages, of one feed and merged; health.

use serde_json::{Value, json};

use super::{column, items, message, visit, visits};
use crate::support::{
    bed::{Answer, Bed, Served, text},
    gate::Gate,
    stores::troubled,
};

crate::on_every_engine!(
    a_feed_state_has_version_latest_unread_and_markers,
    the_link_header_leads_through_the_whole_history_newest_first,
    the_link_header_leads_through_everything_oldest_first_and_then_version_continues,
    a_page_lies_between_its_bounds,
    first_pages_and_news_are_those_of_the_feed_as_it_is_now,
    first_pages_and_news_read_while_others_append_lack_nothing,
    only_pages_with_a_bound_are_kept_and_each_use_is_checked,
    a_page_of_one_kind_has_no_other,
    merged_pages_show_an_event_once_and_name_its_feeds,
    a_merged_page_and_its_link_keep_the_feeds_asked_for,
    readiness_depends_on_the_store_and_health_does_not,
);

async fn a_feed_state_has_version_latest_unread_and_markers(bed: &Bed) {
    let node = bed.node().await;
    let empty = node.get("/v1/feeds/user:42").await;
    let version = text(&empty["version"]);
    let expected = json!({ "feed": "user:42", "version": version, "latest": null,
                           "unread": { "total": 0, "kinds": {}, "more": false },
                           "markers": { "read": null, "seen": null, "archived": null } });
    assert_eq!(empty, expected);
    let events = json!([
        message("m1", &["user:42"]),
        message("m2", &["user:42"]),
        visit("v", &["user:42", "x"])
    ]);
    let appended = node.append(&events).await;
    let head = node.send("GET", "/v1/feeds/user%3A42", &[]).await;
    assert_eq!(head.header("cache-control"), Some("no-store"));
    let head = head.json();
    let latest = &appended[2]["version"];
    assert!(text(&head["version"]) > text(latest) && text(latest) > version);
    let expected = json!({ "feed": "user:42", "version": head["version"], "latest": latest,
                           "unread": { "total": 2, "kinds": { "message": 2 }, "more": false },
                           "markers": { "read": null, "seen": null, "archived": null } });
    assert_eq!(head, expected);
    assert_eq!(node.get("/v1/feeds/x").await["unread"]["total"], 0);
}

/// The first page of `feed`, which must have the same entries as the page up to its version, which is read from the store.
async fn first_page(node: &Served, feed: &str, limit: u8) -> Value {
    let path = format!("/v1/feeds/{feed}/entries?limit={limit}");
    let page = node.send("GET", &path, &[]).await;
    let has_link = page.header("link").is_some();
    let page = page.json();
    let same = format!("{path}&until={}", text(&page["version"]));
    assert_eq!(node.get(&same).await, page);
    assert_eq!(page["next"].is_string(), has_link);
    page
}

/// The page of what is new in `feed` above `after`, which must be the page up to its version, which is read from the store.
async fn news(node: &Served, feed: &str, after: &Value) -> Value {
    let path = format!("/v1/feeds/{feed}/entries?after={}", text(after));
    let page = node.get(&path).await;
    let same = format!("{path}&until={}", text(&page["version"]));
    assert_eq!(node.get(&same).await, page);
    page
}

async fn first_pages_and_news_are_those_of_the_feed_as_it_is_now(bed: &Bed) {
    let node = bed.node().await;
    node.append(&json!([message("m0", &["f"]), visit("v0", &["f", "g"])]))
        .await;
    let mut before = first_page(&node, "f", 3).await;
    for (method, path, body, changes) in [
        ("POST", "/v1/events", visit("v1", &["g"]), false),
        ("POST", "/v1/events", visit("v1", &["g"]), false),
        ("POST", "/v1/events", visit("v2", &["f"]), true),
        ("POST", "/v1/events", message("m1", &["g", "f"]), true),
        ("PATCH", "/v1/events/v0", json!({ "data": 1 }), true),
        ("PATCH", "/v1/events/v1", json!({ "data": 1 }), false),
        ("DELETE", "/v1/events/m1", Value::Null, true),
        ("DELETE", "/v1/events/v0", Value::Null, true),
        ("DELETE", "/v1/events/v1", Value::Null, false),
        ("POST", "/v1/erasures", json!({ "feed": "g" }), false),
        ("POST", "/v1/erasures", json!({ "feed": "f" }), true),
        ("POST", "/v1/events", message("m2", &["f"]), true),
    ] {
        for feed in ["f", "g"] {
            let now = news(&node, feed, &before["version"]).await;
            assert_eq!((&now["entries"], now.get("changes")), (&json!([]), None));
        }
        // Kept, and asked for again; another limit is another page.
        for limit in [1, 3, 3] {
            first_page(&node, "f", limit).await;
        }
        let json = [("content-type", "application/json")];
        let answer = node.send_body(method, path, &json, body.to_string()).await;
        assert_eq!(answer.status, 200, "{method} {path}: {:?}", answer.body);
        let told = news(&node, "f", &before["version"]).await;
        let is_told = told.get("changes").is_some() || told["entries"] != json!([]);
        assert_eq!(is_told, changes, "{method} {path}");
        news(&node, "g", &before["version"]).await;
        let now = first_page(&node, "f", 3).await;
        assert!(text(&now["version"]) >= text(&before["version"]));
        assert_eq!(
            now["entries"] != before["entries"],
            changes,
            "{method} {path}"
        );
        before = now;
    }
    let metrics = node.send("GET", "/metrics", &[]).await.body;
    let cached = "newsfeed_first_pages_total{result=\"cached\"} 0";
    // Only the embedded engine knows which feeds have not changed.
    let keeps = !String::from_utf8_lossy(&metrics).contains(cached);
    assert_eq!(keeps, bed.prefix().is_empty());
}

async fn first_pages_and_news_read_while_others_append_lack_nothing(bed: &Bed) {
    let node = bed.node().await;
    let append = async |writer: u32| {
        for number in 0..30 {
            let id = format!("{writer}-{number}");
            let event = match number % 2 {
                0 => visit(&id, &["f"]),
                _ => message(&id, &["f", "g"]),
            };
            node.append(&event).await;
        }
    };
    let read = async |limit: u8| {
        for _ in 0..60 {
            first_page(&node, "f", limit).await;
        }
    };
    let follow = async || {
        let (mut position, mut entries) = (json!("0"), 0);
        while entries < 60 {
            let page = news(&node, "f", &position).await;
            entries += items(&page["entries"]).len();
            position = page["version"].clone();
        }
        assert_eq!(news(&node, "f", &position).await["entries"], json!([]));
    };
    tokio::join!(append(0), append(1), read(1), read(5), read(200), follow());
    assert_eq!(
        items(&first_page(&node, "f", 100).await["entries"]).len(),
        60
    );
}

/// The target of a page's `Link: <…>; rel="next"`.
fn next_link(page: &Answer) -> Option<String> {
    let link = page.header("link")?;
    let target = link
        .strip_prefix('<')
        .and_then(|link| link.strip_suffix(r#">; rel="next""#));
    Some(target.expect("a link to the next page").to_owned())
}

/// Follows `Link` verbatim from `path`; returns the pages. `next` must be null exactly if there is no link.
async fn follow_links(node: &Served, path: &str) -> Vec<Value> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let page = node.send("GET", &path, &[]).await;
        assert_eq!(page.status, 200, "{path}");
        next = next_link(&page);
        let page = page.json();
        assert_eq!(page["next"].is_null(), next.is_none());
        pages.push(page);
    }
    pages
}

fn entries(pages: &[Value]) -> Vec<Value> {
    pages
        .iter()
        .flat_map(|page| items(&page["entries"]))
        .cloned()
        .collect()
}

async fn the_link_header_leads_through_the_whole_history_newest_first(bed: &Bed) {
    let node = bed.node().await;
    let appended = node.append(&visits("e", 23, &["user:42"])).await;
    let mut expected = column(items(&appended), "version");
    expected.reverse();
    let now = node.version("user:42").await;
    node.append(&visits("later", 3, &["user:42"])).await;
    let pages = follow_links(
        &node,
        &format!("/v1/feeds/user:42/entries?until={now}&limit=5"),
    )
    .await;
    assert_eq!(pages.len(), 5);
    assert_eq!(column(&entries(&pages), "version"), expected);
    for page in &pages {
        assert_eq!(
            (&page["feed"], &page["version"]),
            (&json!("user:42"), &json!(now))
        );
        let last = items(&page["entries"]).last().expect("entries");
        assert!(page["next"].is_null() || page["next"] == last["version"]);
    }
    // Without bounds: all entries as of the first page's vN.
    let pages = follow_links(&node, "/v1/feeds/user:42/entries?limit=10").await;
    assert_eq!(entries(&pages).len(), 26);
    assert!(text(&pages[0]["version"]) > now);
    // A page has 50 entries by default; the page with the last entry has no `next`.
    assert_eq!(
        follow_links(&node, "/v1/feeds/user:42/entries").await.len(),
        1
    );
    assert_eq!(
        follow_links(&node, "/v1/feeds/user:42/entries?limit=26")
            .await
            .len(),
        1
    );
    node.append(&visits("more", 25, &["user:42"])).await;
    let pages = follow_links(&node, "/v1/feeds/user:42/entries").await;
    let sizes: Vec<_> = pages
        .iter()
        .map(|page| items(&page["entries"]).len())
        .collect();
    assert_eq!(sizes, [50, 1]);
}

async fn the_link_header_leads_through_everything_oldest_first_and_then_version_continues(
    bed: &Bed,
) {
    let node = bed.node().await;
    let appended = node.append(&visits("e", 23, &["a"])).await;
    let expected = column(items(&appended), "version");
    let pages = follow_links(&node, "/v1/feeds/a/entries?after=0&limit=7").await;
    assert_eq!(pages.len(), 4);
    assert_eq!(column(&entries(&pages), "version"), expected);
    let last = pages.last().expect("a page");
    let mut after = text(&last["version"]);
    assert!(expected.last() < Some(&after));
    for index in 0..3 {
        let path = format!("/v1/feeds/a/entries?after={after}");
        let page = node.get(&path).await;
        assert_eq!(
            (&page["entries"], &page["next"]),
            (&json!([]), &json!(null))
        );
        let answer = node.append(&visit(&format!("later{index}"), &["a"])).await;
        // Continuing from the empty page or from the one before gives the same.
        for after in [&after, &text(&page["version"])] {
            let page = node
                .get(&format!("/v1/feeds/a/entries?after={after}"))
                .await;
            assert_eq!(
                column(items(&page["entries"]), "version"),
                [text(&answer["version"])]
            );
        }
        after = text(&node.get(&path).await["version"]);
    }
}

async fn a_page_lies_between_its_bounds(bed: &Bed) {
    let node = bed.node().await;
    let appended = node.append(&visits("e", 10, &["a"])).await;
    let v = column(items(&appended), "version");
    let now = node.version("a").await;
    // A stream from a page's version continues the page, so it is below an exclusive bound.
    let bound: newsfeed::version::Version = v[3].parse().expect("a version");
    let below = bound.before().to_string();
    // The query, the numbers of its entries and the version of its page.
    let cases: Vec<(String, Vec<usize>, Option<&String>)> = vec![
        (format!("until={}", v[3]), vec![3, 2, 1, 0], Some(&v[3])),
        (format!("before={}", v[3]), vec![2, 1, 0], Some(&below)),
        (
            format!("until={now}&before={}", v[2]),
            vec![1, 0],
            Some(&now),
        ),
        (
            format!("until={}&before={}", v[1], v[4]),
            vec![1, 0],
            Some(&v[1]),
        ),
        (format!("after={}", v[7]), vec![8, 9], None),
        (
            format!("after={}&until={}", v[6], v[8]),
            vec![7, 8],
            Some(&v[8]),
        ),
        (
            format!("after={}&until={}", v[6], v[6]),
            vec![],
            Some(&v[6]),
        ),
        (
            format!("after={}&until={}", v[6], v[2]),
            vec![],
            Some(&v[2]),
        ),
        (format!("until={now}&limit=2"), vec![9, 8], Some(&now)),
        ("after=0&limit=1".into(), vec![0], None),
        ("until=0".into(), vec![], None),
        ("before=0".into(), vec![], None),
    ];
    for (query, expected, version) in cases {
        let page = node.get(&format!("/v1/feeds/a/entries?{query}")).await;
        let found = column(items(&page["entries"]), "version");
        let expected: Vec<_> = expected.into_iter().map(|index| v[index].clone()).collect();
        assert_eq!(found, expected, "{query}");
        if let Some(version) = version {
            assert_eq!(page["version"], json!(version), "{query}");
        }
    }
}

async fn only_pages_with_a_bound_are_kept_and_each_use_is_checked(bed: &Bed) {
    let node = bed.node().await;
    let appended = node.append(&visits("e", 5, &["a", "b"])).await;
    let third = text(&appended[2]["version"]);
    let now = node.version("a").await;
    for pages in [
        "/v1/feeds/a/entries?limit=2",
        "/v1/entries?feed=b&feed=a&limit=2",
    ] {
        for bound in [
            format!("until={now}"),
            format!("before={third}"),
            format!("after=0&until={third}"),
        ] {
            let path = format!("{pages}&{bound}");
            let page = node.send("GET", &path, &[]).await;
            let etag = page.header("etag").expect("an ETag").to_owned();
            assert!(
                etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2,
                "{etag}"
            );
            let cached = Some("private, no-cache");
            assert_eq!(page.header("cache-control"), cached, "{path}");
            // Later events do not change it.
            node.append(&json!({ "kind": "visit", "feeds": ["a", "b"] }))
                .await;
            let again = node.send("GET", &path, &[]).await;
            assert_eq!(
                (&again.body, again.header("etag")),
                (&page.body, Some(&*etag))
            );
            for known in [
                etag.clone(),
                format!("\"other\", {etag}"),
                format!("W/{etag}"),
                "*".into(),
            ] {
                for method in ["GET", "HEAD"] {
                    let answer = node.send(method, &path, &[("if-none-match", &known)]).await;
                    assert_eq!(
                        (answer.status, &answer.body[..]),
                        (304, &b""[..]),
                        "{method} {known}"
                    );
                    assert_eq!(answer.header("etag"), Some(&*etag));
                    assert_eq!(answer.header("cache-control"), cached);
                }
            }
            let answer = node
                .send("GET", &path, &[("if-none-match", "\"other\"")])
                .await;
            assert_eq!((answer.status, answer.body), (200, page.body));
        }
        for path in [
            pages.to_owned(),
            format!("{pages}&after=0"),
            format!("{pages}&after={now}&wait=0"),
        ] {
            let page = node.send("GET", &path, &[("if-none-match", "*")]).await;
            assert_eq!((page.status, page.header("etag")), (200, None), "{path}");
            assert_eq!(page.header("cache-control"), Some("no-store"), "{path}");
        }
    }
}

async fn a_page_of_one_kind_has_no_other(bed: &Bed) {
    let node = bed.node().await;
    let event = |index: usize| match index % 3 {
        0 => message(&format!("e{index}"), &["a"]),
        _ => visit(&format!("e{index}"), &["a"]),
    };
    let events: Value = (0..30).map(event).collect();
    node.append(&events).await;
    let pages = follow_links(&node, "/v1/feeds/a/entries?kind=message&limit=4").await;
    let expected: Vec<_> = (0..30)
        .rev()
        .filter(|i| i % 3 == 0)
        .map(|i| format!("e{i}"))
        .collect();
    assert_eq!(column(&entries(&pages), "id"), expected);
    assert!(
        entries(&pages)
            .iter()
            .all(|entry| entry["kind"] == "message")
    );
    let none = follow_links(&node, "/v1/feeds/a/entries?kind=other").await;
    assert!(entries(&none).is_empty());
}

async fn merged_pages_show_an_event_once_and_name_its_feeds(bed: &Bed) {
    let node = bed.node().await;
    let places: [&[&str]; 6] = [
        &["a"],
        &["b", "a"],
        &["c"],
        &["c", "x"],
        &["a", "b", "c", "x"],
        &["x"],
    ];
    let events: Value = (0..6).map(|i| visit(&format!("e{i}"), places[i])).collect();
    let appended = node.append(&events).await;
    let pages = follow_links(
        &node,
        "/v1/entries?feed=b&feed=c&feed=a&feed=never&after=0&limit=2",
    )
    .await;
    let entries = entries(&pages);
    // Feeds are named in the order of the request.
    let expected = [
        ("e0", "a", json!(null)),
        ("e1", "b", json!(["b", "a"])),
        ("e2", "c", json!(null)),
        ("e3", "c", json!(null)),
        ("e4", "b", json!(["b", "c", "a"])),
    ];
    assert_eq!(entries.len(), expected.len());
    for (index, (id, feed, feeds)) in expected.into_iter().enumerate() {
        let entry = &entries[index];
        assert_eq!((&entry["id"], &entry["feed"]), (&json!(id), &json!(feed)));
        assert_eq!(
            (&entry["feeds"], entry.get("feeds").is_some()),
            (&feeds, !feeds.is_null())
        );
        assert_eq!(entry["version"], appended[index]["version"]);
    }
    let newest = follow_links(&node, "/v1/entries?feed=b&feed=c&feed=a&limit=2").await;
    let mut reversed = self::entries(&newest);
    reversed.reverse();
    assert_eq!(reversed, entries);
}

async fn a_merged_page_and_its_link_keep_the_feeds_asked_for(bed: &Bed) {
    let node = bed.node().await;
    node.append(&visits("e", 4, &["user:1", "chat~2"])).await;
    // A repeated feed counts once; one to a hundred feeds are allowed.
    let page = node
        .get("/v1/entries?feed=user:1&feed=chat~2&feed=user%3A1")
        .await;
    assert_eq!(page["feeds"], json!(["user:1", "chat~2"]));
    assert_eq!(items(&page["entries"]).len(), 4);
    let one = follow_links(&node, "/v1/entries?limit=1&feed=chat~2&kind=visit").await;
    assert_eq!(one.len(), 4);
    assert!(one.iter().all(|page| page["feeds"] == json!(["chat~2"])));
    let many: String = (0..99).map(|index| format!("feed=f{index}&")).collect();
    let pages = follow_links(
        &node,
        &format!("/v1/entries?{many}feed=user:1&after=0&limit=3"),
    )
    .await;
    assert_eq!(column(&entries(&pages), "id"), ["e0", "e1", "e2", "e3"]);
    assert!(pages.iter().all(|page| items(&page["feeds"]).len() == 100));
}

async fn readiness_depends_on_the_store_and_health_does_not(bed: &Bed) {
    let gate = Gate::open();
    let node = bed.node_on(troubled(bed.store(), gate.clone())).await;
    for down in [false, true, false] {
        gate.fail(down);
        assert_eq!(node.get("/healthz").await["status"], "ok");
        let ready = node.send("GET", "/readyz", &[]).await;
        let head = node.send("GET", "/v1/feeds/a", &[]).await;
        if down {
            ready.problem(503, "store_unavailable").expect("not ready");
            head.problem(503, "store_unavailable").expect("no answer");
        } else {
            assert_eq!(ready.status, 200);
            assert_eq!(ready.json()["status"], "ready");
            assert_eq!(head.status, 200);
        }
    }
}
