//! One order on all nodes of a cluster: commit order is version order, for producers, readers and live streams. A
//! condition has one winner.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use newsfeed::{store::Store, version::Version};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    bed::{Bed, Served, text},
    entries::path,
    sse::Stream,
    stores::failed_attempts,
};

const NODES: usize = 3;
const FEEDS: usize = 24;
const PRODUCERS: usize = 6;
const APPENDS_OF_EACH: usize = 60;
const LOOKERS: usize = 3;
/// Time limit for streams to receive what was committed.
const HEARD_WITHIN: Duration = Duration::from_secs(90);

/// An operation of a client: when it began and ended, by a common counter, and the versions `low` to `high` in its
/// answer.
#[derive(Debug)]
struct Did {
    node: usize,
    began: u64,
    ended: u64,
    low: Version,
    high: Version,
}

/// The counter that orders beginnings and ends of operations.
#[derive(Default)]
struct Watch(AtomicU64);

impl Watch {
    fn tell(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What must be seen: version → (id, feeds).
type Truth = BTreeMap<Version, (String, BTreeSet<String>)>;

fn feed(number: usize) -> String {
    format!("order:{number}")
}

fn all_feeds() -> Vec<String> {
    (0..FEEDS).map(feed).collect()
}

fn version(value: &Value) -> Version {
    text(value).parse().expect("a version")
}

/// Appends single events and arrays, each through a random node.
async fn produce(number: usize, nodes: Arc<Vec<Served>>, watch: Arc<Watch>) -> (Vec<Did>, Truth) {
    let mut rng = StdRng::seed_from_u64(number as u64);
    let (mut done, mut truth) = (Vec::new(), Truth::new());
    for turn in 0..APPENDS_OF_EACH {
        let count = if turn % 7 == 6 { 4 } else { 1 };
        let events: Vec<(String, BTreeSet<String>)> = (0..count)
            .map(|index| {
                let feeds = (0..rng.random_range(1..=3)).map(|_| feed(rng.random_range(0..FEEDS)));
                (format!("{number}-{turn}-{index}"), feeds.collect())
            })
            .collect();
        let array: Vec<Value> = events
            .iter()
            .map(|(id, feeds)| json!({ "id": id, "kind": "note", "feeds": feeds }))
            .collect();
        let node = rng.random_range(0..NODES);
        let began = watch.tell();
        let answers = nodes[node].append(&json!(array)).await;
        let ended = watch.tell();
        let versions: Vec<Version> = answers
            .as_array()
            .expect("answers")
            .iter()
            .map(|answer| version(&answer["version"]))
            .collect();
        assert!(
            versions.is_sorted(),
            "versions of one request grow in its order"
        );
        done.push(Did {
            node,
            began,
            ended,
            low: versions[0],
            high: versions[versions.len() - 1],
        });
        truth.extend(versions.into_iter().zip(events));
    }
    (done, truth)
}

/// A read as of `did.high`, with the entries if it was a page.
struct Look {
    did: Did,
    page: Option<Vec<(Version, String)>>,
}

/// Reads moments from random nodes, in all possible ways, until the producers are done.
async fn look(
    number: usize,
    nodes: Arc<Vec<Served>>,
    stores: Arc<Vec<Arc<dyn Store>>>,
    watch: Arc<Watch>,
    over: Arc<AtomicBool>,
) -> Vec<Look> {
    let mut rng = StdRng::seed_from_u64(100 + number as u64);
    let mut looks = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let node = rng.random_range(0..NODES);
        let began = watch.tell();
        let (moment, page) = match rng.random_range(0..3) {
            0 => {
                let snapshot = stores[node].snapshot().await.expect("a snapshot");
                (snapshot.version(), None)
            }
            1 => {
                let path = format!("/v1/feeds/{}", feed(rng.random_range(0..FEEDS)));
                (version(&nodes[node].get(&path).await["version"]), None)
            }
            _ => {
                let page = nodes[node]
                    .get(&(path(&all_feeds(), "entries") + "limit=200"))
                    .await;
                let entries = page["entries"].as_array().expect("entries").iter();
                let entries = entries.map(|entry| (version(&entry["version"]), text(&entry["id"])));
                (version(&page["version"]), Some(entries.collect()))
            }
        };
        let ended = watch.tell();
        let did = Did {
            node,
            began,
            ended,
            low: moment,
            high: moment,
        };
        looks.push(Look { did, page });
    }
    looks
}

/// Follows a stream to the event `end`; returns its entries.
async fn listen(mut stream: Stream) -> Vec<(Version, String, BTreeSet<String>)> {
    let mut told = Vec::new();
    loop {
        let event = stream.next_of(&["entry", "notify"]).await;
        let id = text(&event.data["id"]);
        if id == "end" {
            return told;
        }
        let feeds = match event.data["feeds"].as_array() {
            Some(feeds) => feeds.iter().map(text).collect(),
            None => [text(&event.data["feed"])].into(),
        };
        told.push((version(&event.data["version"]), id, feeds));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_order_is_version_order_on_every_node() {
    let bed = Bed::fdb();
    let keys = bed.keys().await;
    let partitions: BTreeSet<u16> = all_feeds()
        .iter()
        .map(|feed| keys.partition(&feed.parse().expect("a feed name")))
        .collect();
    assert!(
        partitions.len() > FEEDS / 4,
        "the merged streams cross partitions"
    );
    let (mut nodes, mut stores) = (Vec::new(), Vec::new());
    for _ in 0..NODES {
        let store = bed.store();
        nodes.push(bed.node_on(Arc::clone(&store)).await);
        stores.push(store);
    }
    let (nodes, stores) = (Arc::new(nodes), Arc::new(stores));

    // Every node has a stream over all feeds, and some over one feed.
    let http = reqwest::Client::new();
    let mut streams = JoinSet::new();
    for (number, node) in nodes.iter().enumerate() {
        for followed in [None, Some(number), Some(number + NODES)] {
            let path = match followed {
                None => path(&all_feeds(), "live"),
                Some(number) => format!("/v1/feeds/{}/live", feed(number)),
            };
            let mut stream = Stream::open(&http, &node.url(&path), None).await;
            assert!(stream.caught_up().await.is_empty());
            streams.spawn(async move { (followed.map(feed), listen(stream).await) });
        }
    }

    let (watch, over) = (Arc::new(Watch::default()), Arc::new(AtomicBool::new(false)));
    let mut lookers = JoinSet::new();
    for number in 0..LOOKERS {
        lookers.spawn(look(
            number,
            Arc::clone(&nodes),
            Arc::clone(&stores),
            Arc::clone(&watch),
            Arc::clone(&over),
        ));
    }
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        producers.spawn(produce(number, Arc::clone(&nodes), Arc::clone(&watch)));
    }
    let (mut done, mut truth) = (Vec::new(), Truth::new());
    for (did, committed) in producers.join_all().await {
        done.extend(did);
        truth.extend(committed);
    }
    over.store(true, Ordering::SeqCst);
    let looks = lookers.join_all().await.into_iter().flatten();
    nodes[0]
        .append(&json!({ "id": "end", "kind": "note", "feeds": all_feeds() }))
        .await;

    let mut pages = 0;
    for Look { did, page } in looks {
        if let Some(page) = page {
            pages += 1;
            let newest = truth.range(..=did.high).rev().take(200);
            let expected: Vec<_> = newest
                .map(|(version, (id, _))| (*version, id.clone()))
                .collect();
            assert_eq!(page, expected, "a page as of {:?}", did.high);
        }
        done.push(did);
    }
    assert!(pages > 0);
    check_order(&done);

    let streams = tokio::time::timeout(HEARD_WITHIN, streams.join_all());
    for (followed, told) in streams.await.expect("every stream comes to the end") {
        let expected = truth.iter().filter(|(_, (_, feeds))| {
            followed
                .as_ref()
                .is_none_or(|followed| feeds.contains(followed))
        });
        let expected: Vec<_> = expected
            .map(|(version, (id, feeds))| {
                let feeds = match &followed {
                    Some(followed) => [followed.clone()].into(),
                    None => feeds.clone(),
                };
                (*version, id.clone(), feeds)
            })
            .collect();
        assert_eq!(told, expected, "the stream of {followed:?}");
    }
}

/// Checks that an operation that ended before another began has lower versions.
fn check_order(done: &[Did]) {
    let mut across_nodes = 0;
    for a in done {
        for b in done.iter().filter(|b| a.ended < b.began) {
            assert!(a.high <= b.low, "{a:?} ended before {b:?} began");
            across_nodes += usize::from(a.node != b.node);
        }
    }
    eprintln!(
        "figure: commit order against real order: {} appends and snapshots, {across_nodes} pairs across nodes",
        done.len()
    );
    assert!(across_nodes > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hundred_racing_conditional_appends_one_wins_and_other_appends_are_unaffected() {
    const CLIENTS: usize = 200;
    const SLOTS: usize = 5;
    let bed = Bed::fdb();
    let (mut nodes, mut stores) = (Vec::new(), Vec::new());
    for _ in 0..=NODES {
        let store = bed.store();
        nodes.push(bed.node_on(Arc::clone(&store)).await);
        stores.push(store);
    }
    let nodes = Arc::new(nodes);
    let over = Arc::new(AtomicBool::new(false));
    // The last node gets only unconditional appends.
    let plain = tokio::spawn({
        let (nodes, over) = (Arc::clone(&nodes), Arc::clone(&over));
        async move {
            let mut appended = 0;
            while !over.load(Ordering::SeqCst) {
                let feeds = [format!("other:{}", appended % 7), "other:all".to_owned()];
                let event =
                    json!({ "id": format!("plain-{appended}"), "kind": "message", "feeds": feeds });
                let answer = nodes[NODES].append(&event).await;
                assert_eq!(answer["status"], "appended");
                appended += 1;
            }
            appended
        }
    });

    for slot in (0..SLOTS).map(|number| format!("slot:{number}")) {
        let booking = |client: usize| {
            json!({
                "id": format!("{slot}/{client}"), "kind": "booking", "feeds": [slot],
                "expect": { "feed": slot, "version": null },
            })
        };
        let mut race = JoinSet::new();
        for client in 0..CLIENTS {
            let (nodes, booking) = (Arc::clone(&nodes), booking(client));
            race.spawn(async move {
                let (status, answer) = nodes[client % NODES].post("/v1/events", &booking).await;
                (client, status, answer)
            });
        }
        let (won, lost): (Vec<_>, Vec<_>) = race
            .join_all()
            .await
            .into_iter()
            .partition(|(_, status, _)| *status == 200);
        let [(winner, _, answer)] = &won[..] else {
            panic!("{} won {slot}: {won:?}", won.len());
        };
        assert_eq!(answer["status"], "appended");
        for (_, status, problem) in &lost {
            assert_eq!(
                (*status, problem["code"].as_str()),
                (409, Some("version_conflict")),
                "{problem}"
            );
            assert_eq!(problem["current"], answer["version"]);
            assert_eq!(problem["feed"], *slot);
        }
        for node in &nodes[..NODES] {
            let entries = node.all(&slot).await;
            assert_eq!(entries.len(), 1, "{slot}");
            assert_eq!(entries[0]["version"], answer["version"]);
            // Sent again, it is a duplicate.
            let again = node.append(&booking(*winner)).await;
            assert_eq!(
                (again["status"].as_str(), &again["version"]),
                (Some("duplicate"), &answer["version"])
            );
        }
    }
    over.store(true, Ordering::SeqCst);
    let appended = plain.await.expect("plain appends go through");
    assert!(appended > 0);
    let counts: Vec<_> = stores
        .iter()
        .map(|store| failed_attempts(&**store, "append"))
        .collect();
    eprintln!(
        "figure: {CLIENTS} clients raced for {SLOTS} slots; retries by node: {:?}; {appended} plain appends beside them: {:?}",
        &counts[..NODES],
        counts[NODES]
    );
    let conflicts = counts[..NODES]
        .iter()
        .filter_map(|counts| counts.get("conflict"));
    assert!(conflicts.sum::<u64>() > 0, "the appends did conflict");
    assert_eq!(counts[NODES].get("conflict"), None);
    assert_eq!(counts[NODES].get("condition_failed"), None);
}
