//! Copies of a store, from each engine to each: the target is the same store, and only a finished copy is one.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::{
    store::{self, Batch, Error, KeyValue, Range, Snapshot, Store, audit::audit, copy, keys::Keys},
    version::Version,
};
use serde_json::{Value, json};

use crate::{
    http::visit,
    support::{
        bed::{Api, Bed, Served, text},
        cursors::check_cursor,
        patience::in_time,
        raw_commits::{Raw, uncommitted},
        sse::Stream,
        stores::{Trouble, troubled},
    },
};

/// Makes a test of each function, an `async fn(&Bed, &Bed)`, for each pair of engines.
macro_rules! on_every_pair {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::Bed::embedded(), &super::Bed::embedded()).await;
                }
            )+
        }

        #[cfg(feature = "fdb")]
        mod embedded_to_fdb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::Bed::embedded(), &super::Bed::fdb()).await;
                }
            )+
        }

        #[cfg(feature = "fdb")]
        mod fdb_to_embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::Bed::fdb(), &super::Bed::embedded()).await;
                }
            )+
        }

        #[cfg(feature = "fdb")]
        mod fdb_to_fdb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&super::Bed::fdb(), &super::Bed::fdb()).await;
                }
            )+
        }
    };
}

on_every_pair!(
    a_copy_continues_the_life_of_its_source,
    a_copy_that_was_cut_anywhere_is_no_store_and_goes_on_where_it_stopped,
    what_is_not_the_same_is_found_at_the_end,
    a_target_that_is_not_empty_or_has_two_writers_is_refused,
);

/// Stops a node of `bed`, whose store can be opened again then.
async fn stop(bed: &Bed, node: Served) {
    node.stop().await;
    bed.close().await;
}

async fn copied(from: &Bed, to: &Bed) -> store::Result<copy::Report> {
    copied_by(from, to, to.store_to_copy()).await
}

/// `store` is that of `to`, or a wrapper around it.
async fn copied_by(from: &Bed, to: &Bed, store: Arc<dyn Store>) -> store::Result<copy::Report> {
    let (from, to) = (
        copy::Side::new(from.store(), from.prefix()),
        copy::Side::new(store, to.prefix()),
    );
    in_time(copy::copy(&from, &to, "the source", &clock(), |_| {})).await
}

fn clock() -> newsfeed::clock::WallTime {
    newsfeed::clock::WallTime::system(0)
}

async fn refused(from: &Bed, to: &Bed, why: &str) {
    match copied(from, to).await {
        Err(Error::Open(said)) => assert!(said.contains(why), "{said}"),
        other => panic!("expected {why:?}: {other:?}"),
    }
}

/// All items of a store, without the prefix and without what an engine or a copy decides: the keys 1, 2, 3, 5 and, as they
/// are asked for, the lineage.
async fn items(bed: &Bed, store: &dyn Store, with_lineage: bool) -> Vec<KeyValue> {
    let prefix = bed.prefix();
    let (begin, end) = ([prefix, b"\x15"].concat(), [prefix, b"\x16"].concat());
    let snapshot = store.snapshot().await.expect("a snapshot");
    let found = snapshot.ranges(vec![Range::all(begin, end)]).await;
    let found = found.expect("read").remove(0).items.into_iter();
    let bare = found.map(|item| KeyValue {
        key: item.key.slice(prefix.len()..),
        value: item.value,
    });
    let is_same = |item: &KeyValue| match item.key[1] {
        1 | 2 | 3 | 5 => false,
        6 => with_lineage,
        _ => true,
    };
    bare.filter(is_same).collect()
}

fn event(number: usize, bytes: usize) -> Value {
    json!({
        "id": format!("event-{number}"),
        "kind": if number.is_multiple_of(3) { "visit" } else { "message" },
        "feeds": ["a", "b", format!("chat:{}", number % 20)],
        "actor": format!("user:{}", number % 5),
        "data": { "number": number, "text": "x".repeat(bytes) },
    })
}

/// What clients see of the feeds and of the log, without the version of the moment.
async fn seen(api: &Api) -> Vec<Value> {
    let mut seen = Vec::new();
    for feed in ["a", "b", "chat:7", "twins"] {
        seen.push(api.all(feed).await.into());
        let mut state = api.get(&format!("/v1/feeds/{feed}")).await;
        state["version"] = Value::Null;
        seen.push(state);
    }
    seen.push(api.lines("/v1/log?after=0").await.into());
    seen.push(api.get("/v1/events/event-7").await);
    seen
}

async fn a_copy_continues_the_life_of_its_source(from: &Bed, to: &Bed) {
    let node = from.node().await;
    let events: Vec<Value> = (0..800).map(|number| event(number, 9)).collect();
    let mut versions = Vec::new();
    let mut cursors = vec!["0".to_owned(), node.version("a").await];
    for part in events.chunks(200) {
        let answers = node.append(&json!(part)).await;
        versions.extend(answers.as_array().expect("answers").iter().map(version));
        cursors.push(node.version("a").await);
    }
    // Twins, and keys of kinds that this program does not know.
    let raw = Raw::new(from).await;
    let feeds = ["twins".parse().expect("a name")];
    for id in ["t-1", "t-2", "t-1"] {
        let now = raw.now().await;
        raw.commit(now, &mut [uncommitted(id, "message", &feeds, now)])
            .await;
    }
    let unknown = [from.prefix(), b"\x15\x7fof a later program"].concat();
    let batch = Batch {
        puts: vec![(unknown, vec![0, 255])],
        ..Batch::default()
    };
    let snapshot = raw.store.snapshot().await.expect("a snapshot");
    snapshot.commit(batch).await.expect("committed");
    for (feed, position) in [("a", 300), ("chat:7", 700)] {
        let marker = format!("/v1/feeds/{feed}/markers/read");
        let body = json!({ "version": versions[position] }).to_string();
        let json = [crate::support::bed::JSON];
        assert_eq!(
            node.send_body("PUT", &marker, &json, body).await.status,
            200
        );
    }
    let before = seen(&node).await;
    // A reader that reads in a quiet moment holds a position above everything that is stored.
    cursors.push(node.version("a").await);
    cursors.push(versions[250].clone());
    stop(from, node).await;

    let report = copied(from, to).await.expect("copied");
    to.close().await;
    let (there, here) = (from.store(), to.store());
    let source = items(from, &*there, true).await;
    assert_eq!(report.keys as usize, source.len());
    let target = items(to, &*here, true).await;
    let new: Vec<_> = target
        .iter()
        .filter(|item| !source.contains(item))
        .collect();
    assert!(source.iter().all(|item| target.contains(item)));
    assert!(new.len() == 1 && new[0].key[1] == 6, "{new:?}: one epoch");
    // The last commit belongs to the embedded engine, whose keys have no prefix.
    let last = [to.prefix(), b"\x15\x03"].concat();
    let snapshot = here.snapshot().await.expect("a snapshot");
    let last = snapshot.get(vec![last]).await.expect("read").remove(0);
    assert_eq!(last.is_some(), to.prefix().is_empty());
    drop(snapshot);
    let counts = |bed: &Bed, store: Arc<dyn Store>| {
        let prefix = bed.prefix().to_vec();
        async move {
            let keys = Keys::open_existing(&*store, &prefix).await.expect("opens");
            let keys = keys.expect("a store");
            let counts = audit(&*store, &keys).await.expect("undamaged");
            (keys.partitions(), counts)
        }
    };
    assert_eq!(counts(from, there.clone()).await, counts(to, here).await);

    // The source goes on: nothing of that is known in the target.
    let lost = from.node().await;
    let later = version(&lost.append(&visit("later", &["a"])).await);
    let later = [later, lost.version("a").await];
    stop(from, lost).await;

    let node = to.node().await;
    assert_eq!(seen(&node).await, before);
    let again = node.append(&json!(events[..200])).await;
    for (answer, stored) in again.as_array().expect("answers").iter().zip(&versions) {
        assert_eq!(
            (&answer["status"], &version(answer)),
            (&"duplicate".into(), stored)
        );
    }
    // Readers that resume where they were get the rest of the history, and what comes.
    let url = node.url(&format!("/v1/feeds/a/live?after={}", versions[700]));
    let mut stream = Stream::open(&node.http, &url, None).await;
    let mut ids: Vec<String> = Vec::new();
    ids.extend(entries(&in_time(stream.caught_up()).await));
    let new = node.append(&json!([event(800, 9), event(801, 9)])).await;
    let new: Vec<String> = new
        .as_array()
        .expect("answers")
        .iter()
        .map(version)
        .collect();
    while ids.len() < 101 {
        let event = in_time(stream.next()).await.expect("it goes on");
        ids.extend(entries(&[event]));
    }
    let expected: Vec<String> = (701..802).map(|number| format!("event-{number}")).collect();
    assert_eq!(ids, expected);
    assert!(new.iter().all(|new| *new > later[0] && *new > later[1]));
    for cursor in &later {
        check_cursor(&node, cursor, false).await;
    }
    for cursor in cursors.iter().chain([&new[0]]) {
        check_cursor(&node, cursor, true).await;
    }
    stop(to, node).await;
}

fn version(answer: &Value) -> String {
    text(&answer["version"])
}

/// The ids of the entries in events of a stream.
fn entries(events: &[crate::support::sse::Event]) -> Vec<String> {
    let is_entry =
        |event: &&crate::support::sse::Event| ["entry", "notify"].contains(&&*event.name);
    let entries = events.iter().filter(is_entry);
    entries.map(|event| text(&event.data["id"])).collect()
}

/// Lets some commits through and then cuts the copy: before the next commit happens, or after it.
struct Cut {
    commits: AtomicUsize,
    after: bool,
}

#[async_trait]
impl Trouble for Cut {
    async fn commit(&self, snapshot: Box<dyn Snapshot>, batch: Batch) -> store::Result<Version> {
        let left = self.commits.load(Ordering::SeqCst);
        if left > 0 {
            self.commits.store(left - 1, Ordering::SeqCst);
            return snapshot.commit(batch).await;
        }
        if self.after {
            snapshot.commit(batch).await?;
        }
        Err(Error::Refused("cut".into()))
    }
}

/// Four pages.
async fn some_pages(bed: &Bed) {
    let node = bed.node().await;
    let events: Vec<Value> = (0..16).map(|number| event(number, 60_000)).collect();
    for part in events.chunks(4) {
        node.append(&json!(part)).await;
    }
    stop(bed, node).await;
}

async fn a_copy_that_was_cut_anywhere_is_no_store_and_goes_on_where_it_stopped(
    from: &Bed,
    to: &Bed,
) {
    some_pages(from).await;
    let cut = |after: bool| {
        Arc::new(Cut {
            commits: AtomicUsize::new(usize::from(!after)),
            after,
        })
    };
    let mut cuts = 0;
    let report = loop {
        // Each run commits one more step. The last step makes it a store, so that a cut after it is none.
        let cut = cut(cuts % 2 == 0);
        let store = troubled(to.store_to_copy(), cut);
        let run = copied_by(from, to, store).await;
        to.close().await;
        let report = match run {
            Err(Error::Refused(_)) => None,
            Err(Error::Open(said)) => {
                assert!(said.contains("not empty"), "{said}");
                break None;
            }
            other => Some(other.expect("cut or copied")),
        };
        if report.is_some() {
            break report;
        }
        cuts += 1;
        assert!(cuts < 20);
        let existing = to.try_open().await;
        match existing {
            Err(Error::Open(said)) => {
                for part in ["an unfinished copy of the source", "run the same"] {
                    assert!(said.contains(part), "{said}");
                }
            }
            Err(other) => panic!("{other}"),
            Ok(()) => assert!(cuts > 5, "a store after {cuts} steps"),
        }
        from.close().await;
        to.close().await;
    };
    assert!(
        cuts >= 6,
        "{cuts} cuts: a begin, at least four pages, and an end"
    );
    let source = items(from, &*from.store(), false).await;
    if let Some(report) = report {
        assert_eq!(report.keys as usize, source.len());
    }
    assert_eq!(items(to, &*to.store(), false).await, source);
    let node = to.node().await;
    assert_eq!(node.all("a").await.len(), 16);
    stop(to, node).await;
}

/// Changes one item on its way into the target.
struct Damage {
    /// Of the item among those that are copied.
    item: AtomicUsize,
    kind: u8,
}

#[async_trait]
impl Trouble for Damage {
    async fn commit(
        &self,
        snapshot: Box<dyn Snapshot>,
        mut batch: Batch,
    ) -> store::Result<Version> {
        // The first put is what says how far the copy is.
        let left = self.item.load(Ordering::SeqCst);
        let count = batch.puts.len() - 1;
        if left < count {
            match self.kind {
                0 => batch.puts[left + 1].1.push(0),
                1 => drop(batch.puts.remove(left + 1)),
                _ => {
                    let (key, value) = batch.puts[left + 1].clone();
                    batch
                        .puts
                        .insert(left + 2, ([&key[..], b"x"].concat(), value));
                }
            }
            self.item.store(usize::MAX, Ordering::SeqCst);
        } else if left < usize::MAX {
            self.item.store(left - count, Ordering::SeqCst);
        }
        snapshot.commit(batch).await
    }
}

async fn what_is_not_the_same_is_found_at_the_end(from: &Bed, to: &Bed) {
    some_pages(from).await;
    let last = items(from, &*from.store(), true).await.len() - 1;
    // The first put of all is not of an item: the epoch.
    for (item, kind) in [(9, 0), (last / 2, 1), (last, 2), (last + 1, 0)] {
        to.clear().await;
        let damage = Arc::new(Damage {
            item: AtomicUsize::new(item),
            kind,
        });
        let store = troubled(to.store_to_copy(), damage);
        match copied_by(from, to, store).await {
            Err(Error::Open(said)) => {
                assert!(said.contains("is not the same as its source"), "{said}");
            }
            other => panic!("item {item}, damage {kind}: {other:?}"),
        }
        to.close().await;
        let refused = to.try_open().await.expect_err("it is no store");
        assert!(
            refused.to_string().contains("an unfinished copy"),
            "{refused}"
        );
        to.close().await;
    }
    // Verification alone, by the next run, finds the same.
    refused(from, to, "is not the same as its source").await;
    to.clear().await;
    copied(from, to).await.expect("copied");
}

/// Runs another copy to the same target before the third commit.
struct Second {
    commits: AtomicUsize,
    sides: tokio::sync::Mutex<Option<(copy::Side, copy::Side)>>,
}

#[async_trait]
impl Trouble for Second {
    async fn before_commit(&self, _batch: &Batch) -> store::Result<()> {
        if self.commits.fetch_add(1, Ordering::SeqCst) == 2
            && let Some((from, to)) = self.sides.lock().await.take()
        {
            let copied = copy::copy(&from, &to, "again", &clock(), |_| {}).await;
            copied.expect("the second copy continues the first");
        }
        Ok(())
    }
}

async fn a_target_that_is_not_empty_or_has_two_writers_is_refused(from: &Bed, to: &Bed) {
    // Another service's keys, whose prefix begins with the same bytes, are neither copied nor in the way.
    for bed in [from, to]
        .into_iter()
        .filter(|bed| !bed.prefix().is_empty())
    {
        let other = [bed.prefix(), b"2/\x15\x01"].concat();
        let batch = Batch {
            puts: vec![(other, b"of another service".to_vec())],
            ..Batch::default()
        };
        let snapshot = bed.store().snapshot().await.expect("a snapshot");
        snapshot.commit(batch).await.expect("committed");
    }
    match copied(from, to).await {
        Err(Error::Open(said)) => assert_eq!(said, "there is no store to copy"),
        other => panic!("{other:?}"),
    }
    some_pages(from).await;
    let side = |bed: &Bed, store| copy::Side::new(store, bed.prefix());
    let second = Arc::new(Second {
        commits: AtomicUsize::new(0),
        sides: Some((side(from, from.store()), side(to, to.store_to_copy()))).into(),
    });
    let store = troubled(to.store_to_copy(), second);
    match copied_by(from, to, store).await {
        Err(Error::Open(said)) => assert!(said.contains("another command has written"), "{said}"),
        other => panic!("{other:?}"),
    }
    to.close().await;
    let source = items(from, &*from.store(), false).await;
    assert_eq!(items(to, &*to.store(), false).await, source);
    let kinds: BTreeSet<u8> = source.iter().map(|item| item.key[1]).collect();
    assert!(kinds.len() > 4, "{kinds:?}");

    let node = to.node().await;
    let kept = seen(&node).await;
    stop(to, node).await;
    refused(from, to, "the target is not empty").await;
    to.close().await;
    let node = to.node().await;
    assert_eq!(seen(&node).await, kept);
    stop(to, node).await;

    // A source that was written to since the copy began.
    to.clear().await;
    let cut = Arc::new(Cut {
        commits: AtomicUsize::new(2),
        after: false,
    });
    let store = troubled(to.store_to_copy(), cut);
    copied_by(from, to, store).await.expect_err("cut");
    to.close().await;
    let node = from.node().await;
    node.append(&visit("since", &["a"])).await;
    stop(from, node).await;
    refused(from, to, "it has been written to since").await;
}

/// The source is written to while it is copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_served_meanwhile_is_refused() {
    let (from, to) = (Bed::embedded(), Bed::embedded());
    some_pages(&from).await;
    struct Append(Arc<dyn Store>);
    #[async_trait]
    impl Trouble for Append {
        async fn before_commit(&self, _batch: &Batch) -> store::Result<()> {
            let batch = Batch {
                puts: vec![(b"\x15\x7f".to_vec(), Vec::new())],
                ..Batch::default()
            };
            self.0.snapshot().await?.commit(batch).await.map(drop)
        }
    }
    let store = troubled(to.store_to_copy(), Arc::new(Append(from.store())));
    match copied_by(&from, &to, store).await {
        Err(Error::Open(said)) => {
            assert!(said.contains("stop every node that serves it"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

/// A node writes nothing but the time, every ten seconds.
#[cfg(feature = "fdb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_an_fdb_source_is_noticed_although_nobody_uses_it() {
    let (from, to) = (Bed::fdb(), Bed::embedded());
    some_pages(&from).await;
    let node = from.node().await;
    // So that the row of the time falls into the middle of the copy.
    let step = 10_000_000;
    let wait = (step + step / 2 - from.wall.micros() % step) % step;
    tokio::time::sleep(std::time::Duration::from_micros(wait)).await;
    refused(&from, &to, "stop every node that serves it").await;
    to.close().await;
    stop(&from, node).await;
    refused(&from, &to, "it has been written to since").await;
}
