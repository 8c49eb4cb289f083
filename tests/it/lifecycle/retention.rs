//! Retention over HTTP, as the sweep of a node does it: what readers are told, and that nothing remains. Time passes by
//! itself, because the sweep waits until no twin of what it removes can come.

use std::{cell::Cell, sync::Arc, time::Duration};

use newsfeed::{
    error::Error,
    feed::Feeds,
    lifecycle::{
        Lifecycle, NewData,
        retention::{Outcome, Pass, Retention, Step},
    },
    lineage::Lineage,
    store::{
        self, Plan, Range, Store, Transaction,
        keys::{Keys, TIME_STEP},
        transact,
    },
    types::Data,
    version::Version,
};
use serde_json::{Value, json, value::RawValue};
use tokio::time::sleep;

use crate::{
    http::{column, items, message, visit},
    operate::scrape::Scrape,
    support::{
        bed::{Api, Bed, JSON, LINES, settings_of, text},
        patience::until,
        sse::Stream,
    },
};

crate::on_every_engine!(
    what_is_too_old_goes_and_every_reader_is_told,
    of_what_is_too_much_the_newest_stays,
    who_reads_from_the_beginning_gets_what_is_kept_of_feeds_with_different_rules,
    an_event_that_is_changed_meanwhile_is_not_removed_by_halves,
);

/// Pause between two looks: it takes longer than the least age until something is due.
const LOOK: Duration = Duration::from_millis(300);

fn kept(rules: &[&str]) -> Retention {
    let flags: Vec<_> = rules
        .iter()
        .flat_map(|rule| ["--retention", rule])
        .collect();
    settings_of(&flags).retention
}

/// Whether a key or value of the store has this text in it.
async fn remains(store: &dyn Store, keys: &Keys, text: &str) -> bool {
    // Everything under the prefix.
    let feeds = keys.feeds().0;
    let mut begin = feeds[..feeds.len() - 3].to_vec();
    let end = [&begin[..], &[0xff]].concat();
    begin.push(0);
    let snapshot = store.snapshot().await.expect("a snapshot");
    let everything = Range::all(begin, end);
    let slices = snapshot.ranges(vec![everything]).await.expect("read");
    assert!(!slices[0].items.is_empty());
    let holds = |bytes: &[u8]| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    let mut items = slices[0].items.iter();
    items.any(|item| holds(&item.key) || holds(&item.value))
}

fn said(id: &str, feeds: &[&str], text: &str) -> Value {
    let mut event = message(id, feeds);
    event["data"] = json!(text);
    event["actor"] = json!("actor:of-old-events");
    event
}

async fn ids(api: &Api, path: &str) -> Vec<String> {
    let page = api.get(path).await;
    let entries = page.get("entries").unwrap_or(&page["events"]);
    column(items(entries), "id")
}

/// Waits until a page is refused as expired, and returns the problem.
async fn expired(api: &Api, path: &str) -> Value {
    until("the cursor is expired", async || {
        sleep(LOOK).await;
        let answer = api.send("GET", path, &[]).await;
        (answer.status == 410).then(|| answer.problem(410, "cursor_expired").expect(path))
    })
    .await
}

async fn what_is_too_old_goes_and_every_reader_is_told(bed: &Bed) {
    let node = bed
        .node_with(None, |settings| {
            let flags = [
                "--retention",
                "feeds=chat:*,age=10s",
                "--retention-log-age",
                "10s",
            ];
            let of_flags = settings_of(&flags);
            settings.retention = of_flags.retention;
        })
        .await;
    let (store, keys) = (bed.store(), bed.keys().await);
    // The first row of times, before which no time is known.
    until("a time is recorded", async || {
        sleep(LOOK).await;
        let number = bed.wall.micros() / TIME_STEP.as_micros() as u64;
        let snapshot = store.snapshot().await.expect("a snapshot");
        let rows = snapshot.ranges(keys.times_around(number).into()).await;
        rows.expect("read")
            .iter()
            .any(|slice| !slice.items.is_empty())
            .then_some(())
    })
    .await;
    let old = json!([
        said("m1", &["chat:1", "user:1"], "first text"),
        said("m2", &["chat:1"], "second text"),
        said("m3", &["chat:1"], "third text"),
        visit("v1", &["chat:1"]),
    ]);
    let answer = node.append(&old).await;
    let first = column(items(&answer), "version").remove(0);
    let edit = json!({ "data": "edited text" }).to_string();
    let answer = node
        .send_body("PATCH", "/v1/events/m2", &[JSON], edit)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = node.send("DELETE", "/v1/events/m3", &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let chat = format!("/v1/feeds/chat:1/entries?after={first}");
    assert_eq!(node.send("GET", &chat, &[]).await.status, 200);

    let problem = expired(&node, &chat).await;
    let (oldest, current) = (text(&problem["oldest"]), text(&problem["version"]));
    assert!(first < oldest && oldest < current);
    expired(&node, &format!("/v1/log?after={first}")).await;
    // Later steps may have to remove what came later, such as the erasure.
    let newest = until("everything is removed", async || {
        sleep(LOOK).await;
        let page = node.get("/v1/log?after=0").await;
        let is_clear =
            !remains(&*store, &keys, "edited text").await && items(&page["events"]).is_empty();
        is_clear.then(|| text(&page["version"]))
    })
    .await;

    for path in [
        format!("{chat}&wait=60"),
        format!("/v1/entries?feed=user:1&feed=chat:1&after={first}"),
        format!("/v1/entries?feed=chat:1&kind=message&after={first}"),
        format!("/v1/log?after={first}&wait=60"),
        format!("/v1/log?after={first}&kind=message"),
    ] {
        let answer = node.send("GET", &path, &[]).await;
        let problem = answer.problem(410, "cursor_expired").expect(&path);
        assert!(text(&problem["oldest"]) > first, "{problem}");
    }
    for follow in ["", "&follow=true"] {
        let path = format!("/v1/log?after={first}{follow}");
        let answer = node.send("GET", &path, &[("accept", LINES)]).await;
        answer.problem(410, "cursor_expired").expect("lines");
    }
    for path in [&chat, &format!("/v1/log?after={first}")] {
        assert_eq!(ids(&node, &format!("{path}&kept=true")).await, [""; 0]);
    }
    for path in [
        "/v1/feeds/chat:1/live",
        "/v1/live?feed=user:1&feed=chat:1",
        "/v1/log/live",
    ] {
        let joint = if path.contains('?') { '&' } else { '?' };
        let url = node.url(&format!("{path}{joint}after={first}"));
        let mut stream = Stream::open(&node.http, &url, None).await;
        let reset = stream.next().await.expect("an event");
        assert_eq!(
            (&*reset.name, &reset.data["code"]),
            ("reset", &json!("cursor_expired"))
        );
        assert!(text(&reset.data["version"]) >= newest, "{:?}", reset.data);
        stream.caught_up().await;
    }
    // From the beginning, from what is kept, and in feeds that are kept.
    for path in [
        "/v1/feeds/chat:1/entries".to_owned(),
        "/v1/feeds/chat:1/entries?after=0".to_owned(),
        format!("/v1/feeds/chat:1/entries?after={newest}"),
        "/v1/feeds/chat:1/entries?kind=message".to_owned(),
        "/v1/log".to_owned(),
        "/v1/log?kind=message".to_owned(),
        "/v1/log?actor=actor:of-old-events&after=0".to_owned(),
    ] {
        assert_eq!(ids(&node, &path).await, [""; 0], "{path}");
    }
    assert_eq!(
        ids(&node, &format!("/v1/feeds/user:1/entries?after={}", "0")).await,
        ["m1"]
    );
    let state = node.get("/v1/feeds/chat:1").await;
    assert_eq!(
        (&state["unread"]["total"], &state["latest"]),
        (&json!(0), &Value::Null),
        "{state}"
    );
    let state = node.get("/v1/feeds/user:1").await;
    assert_eq!(state["unread"]["total"], json!(1), "{state}");

    let event = node.get("/v1/events/m1").await;
    assert_eq!(event["feeds"], json!(["user:1"]), "{event}");
    for gone in ["m2", "v1"] {
        let path = format!("/v1/events/{gone}");
        let answer = node.send("GET", &path, &[]).await;
        answer.problem(404, "event_not_found").expect(gone);
    }
    for text in ["second text", "edited text", "third text"] {
        assert!(!remains(&*store, &keys, text).await, "{text}");
    }
    assert!(remains(&*store, &keys, "first text").await);
    // Its claim went with the last copy, and stays with one; what was erased stays erased.
    let again = json!([
        said("m1", &["chat:1", "user:1"], "first text"),
        said("m2", &["chat:1"], "again")
    ]);
    let results = node.append(&again).await;
    assert_eq!(
        column(items(&results), "status"),
        ["duplicate", "appended"],
        "{results}"
    );
    let (_, erased) = node
        .post("/v1/events", &said("m3", &["chat:1"], "third text"))
        .await;
    assert!(erased.to_string().contains("erased"), "{erased}");
    assert_eq!(
        ids(&node, &format!("/v1/feeds/chat:1/entries?after={newest}")).await,
        ["m2"]
    );
    assert_eq!(ids(&node, &format!("/v1/log?after={newest}")).await, ["m2"]);

    let scrape = Scrape::of(&node).await;
    assert!(scrape.get("newsfeed_retention_entries_removed_total") >= 3.0);
    assert!(scrape.get("newsfeed_retention_events_removed_total") >= 3.0);
    assert!(scrape.get("newsfeed_retention_backlog_seconds") < 60.0);
    node.stop().await;
}

/// What a pass removes in the end by rules that count entries.
async fn removed_by(rules: &str, bed: &Bed, node: &Api) -> u64 {
    let (store, keys) = (bed.store(), bed.keys().await);
    let retention = kept(&[rules]);
    let lineage = Lineage::new(keys.clone());
    // Later and later, until no twin can come.
    let now = Cell::new(bed.wall.micros());
    until("entries are removed", async || {
        sleep(LOOK).await;
        let (mut removed, mut pass) = (0, None);
        now.set(now.get() + 3_600_000_000);
        loop {
            let mut step = Step::new(&keys, &lineage, &retention, &mut pass, now.get());
            step.limits.removed = 3;
            let progress = transact(&*store, &mut step).await.expect("a step");
            removed += progress.entries;
            if progress.outcome == Outcome::IsComplete {
                break;
            }
        }
        if removed == 0 {
            // On one machine, the moment of a snapshot moves with commits.
            node.append(&json!([message(&now.get().to_string(), &["tick"])]))
                .await;
        }
        (removed > 0).then_some(removed)
    })
    .await
}

/// The ids of all pages, as their links lead from one to the next, and the path of the last page.
async fn through_links(api: &Api, path: &str) -> (Vec<String>, String) {
    let (mut found, mut path) = (Vec::new(), path.to_owned());
    loop {
        let page = api.send("GET", &path, &[]).await;
        assert_eq!(page.status, 200, "{path}: {page:?}");
        found.extend(column(items(&page.json()["entries"]), "id"));
        let next = page
            .header("link")
            .and_then(|link| link.split(['<', '>']).nth(1));
        match next {
            Some(next) => path = next.to_owned(),
            None => return (found, path),
        }
    }
}

async fn who_reads_from_the_beginning_gets_what_is_kept_of_feeds_with_different_rules(bed: &Bed) {
    let node = bed.node().await;
    let of = |count: usize, feed: &'static str| {
        let one = move |index| message(&format!("{feed}{index}"), &[feed]);
        (0..count).map(one).collect::<Vec<Value>>()
    };
    // More than the page of a stream that catches up, and all of it below what is removed from the other feed.
    node.append(&json!(of(250, "long"))).await;
    node.append(&json!(of(8, "short"))).await;
    assert_eq!(removed_by("feeds=short,entries=2", bed, &node).await, 6);
    let left: Vec<String> = column(items(&json!(of(250, "long"))), "id")
        .into_iter()
        .chain(["short6".to_owned(), "short7".to_owned()])
        .collect();

    let both = "/v1/entries?feed=long&feed=short";
    let (found, last) = through_links(&node, &format!("{both}&after=0&limit=9")).await;
    assert_eq!(found, left);
    assert!(last.ends_with("&kept=true"), "{last}");
    let first = node.get(&format!("{both}&after=0&limit=2")).await;
    let next = format!("{both}&limit=2&after={}", text(&first["next"]));
    for refused in ["", "&kept=false", "&wait=9"] {
        let answer = node.send("GET", &format!("{next}{refused}"), &[]).await;
        answer.problem(410, "cursor_expired").expect("a problem");
    }
    for goes_on in ["&kept=true", "&kept=true&wait=9"] {
        let (found, _) = through_links(&node, &format!("{next}{goes_on}")).await;
        assert_eq!(found, left[2..], "{goes_on}");
    }
    for wrong in ["&kept=true", "&kept=true&before=0", "&after=0&kept=1"] {
        let answer = node.send("GET", &format!("{both}{wrong}"), &[]).await;
        answer.problem(400, "invalid_query").expect(wrong);
    }

    let live = node.url("/v1/live?feed=long&feed=short&after=");
    let mut ids = Vec::new();
    let mut stream = Stream::open(&node.http, &format!("{live}0"), None).await;
    loop {
        let event = stream.next().await.expect("the stream goes on");
        match &*event.name {
            "version" => break,
            "reset" => panic!("{event:?}"),
            "notify" | "entry" => ids.push(text(&event.data["id"])),
            _ => {}
        }
    }
    assert_eq!(ids, left);
    // One that continues is refused, whatever the other has read.
    let next = text(&first["next"]);
    let mut stream = Stream::open(&node.http, &format!("{live}{next}"), None).await;
    let reset = stream.next_of(&["reset", "notify", "entry"]).await;
    assert_eq!(reset.data["code"], json!("cursor_expired"), "{reset:?}");
    node.stop().await;
}

async fn of_what_is_too_much_the_newest_stays(bed: &Bed) {
    let (store, keys) = (bed.store(), bed.keys().await);
    let node = bed.node().await;
    let events: Vec<Value> = (0..12)
        .map(|index| {
            let (id, feeds) = (format!("e{index}"), ["news", "other"]);
            match index % 2 {
                0 => message(&id, &feeds),
                _ => visit(&id, &feeds),
            }
        })
        .collect();
    node.append(&json!(events)).await;
    let edit = json!({ "data": "edited text" }).to_string();
    let answer = node
        .send_body("PATCH", "/v1/events/e0", &[JSON], edit)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let rules = "feeds=news,kinds=visit,entries=2;feeds=news,entries=5";
    assert_eq!(removed_by(rules, bed, &node).await, 5);
    let left = ["e11", "e10", "e9", "e8", "e6", "e4", "e2"];
    assert_eq!(ids(&node, "/v1/feeds/news/entries").await, left);
    assert_eq!(ids(&node, "/v1/feeds/other/entries").await.len(), 12);
    let state = node.get("/v1/feeds/news").await;
    assert_eq!(state["unread"]["total"], json!(5), "{state}");
    // The news of the edit went with the entry.
    let news = keys.change(&"news".parse().expect("a name"));
    let (begin, end) = store::keys::after_until(&news, None, Version::MAX);
    let snapshot = store.snapshot().await.expect("a snapshot");
    let slices = snapshot.ranges(vec![Range::all(begin, end)]).await;
    assert_eq!(slices.expect("read")[0].items, []);
    node.stop().await;
}

/// The events of an edit and of a step of the sweep exclude each other.
async fn an_event_that_is_changed_meanwhile_is_not_removed_by_halves(bed: &Bed) {
    let (store, keys) = (bed.store(), bed.keys().await);
    let node = bed.node().await;
    node.append(&json!([message("e1", &["news"]), message("e2", &["news"])]))
        .await;
    let retention = kept(&["feeds=news,entries=1"]);
    let lineage = Lineage::new(keys.clone());
    let lifecycle = Lifecycle::new(Arc::clone(&store), keys.clone(), Arc::default());
    let now = Cell::new(bed.wall.micros());
    let (snapshot, batch) = until("something is due", async || {
        sleep(LOOK).await;
        now.set(now.get() + 3_600_000_000);
        node.append(&json!([message(&now.get().to_string(), &["tick"])]))
            .await;
        let mut pass: Option<Pass> = None;
        let mut step = Step::new(&keys, &lineage, &retention, &mut pass, now.get());
        let (snapshot, first) = store.begin(step.first_reads()).await.expect("a snapshot");
        match step.plan(&*snapshot, first, false).await.expect("a plan") {
            Plan::Commit(batch) if !batch.clears.is_empty() => Some((snapshot, batch)),
            _ => None,
        }
    })
    .await;
    let raw = RawValue::from_string("\"new text\"".to_owned()).expect("JSON");
    let new = NewData {
        data: Data::from_raw(&raw).expect("valid"),
        change_id: None,
        revision: None,
    };
    let id = "e1".parse().expect("an id");
    lifecycle
        .edit(&id, &new, &|_, _| Ok(()))
        .await
        .expect("edited");
    let refused = snapshot
        .commit(batch)
        .await
        .expect_err("the event was changed");
    assert!(
        matches!(
            refused,
            store::Error::ConditionFailed(_) | store::Error::Conflict
        ),
        "{refused}"
    );
    let mut pass = None;
    let mut step = Step::new(&keys, &lineage, &retention, &mut pass, now.get());
    let progress = transact(&*store, &mut step).await.expect("a step");
    assert_eq!(progress.entries, 1);
    // The log keeps it, with its claim.
    assert_eq!(ids(&node, "/v1/feeds/news/entries").await, ["e2"]);
    let feeds = Feeds::new(Arc::clone(&store), keys.clone());
    let found: Result<_, Error> = feeds.event(&id, |_| true).await;
    assert_eq!(found.expect("read"), None);
    let again = node.append(&json!([message("e1", &["news"])])).await;
    assert_eq!(items(&again)[0]["status"], "duplicate", "{again}");
    node.stop().await;
}
