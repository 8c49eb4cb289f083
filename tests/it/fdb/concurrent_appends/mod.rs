//! Many nodes append the same events to one cluster at once. Nothing conflicts, and every client sees every event once, in
//! one order.

mod readers;
mod workload;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use newsfeed::store::{Batch, Result, SNAPSHOT_AGE_TICKS_MAX, Store};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};
use tokio::{sync::Barrier, task::JoinSet};

use self::{
    readers::{END, Reader, WAYS, Way, get, unavailable},
    workload::{Claims, Seen, Workload, id},
};
use crate::{
    fdb::cluster::Cluster,
    support::{
        bed::{Bed, Served, text},
        entries::{assert_same, feeds_of, path},
        stores::{Trouble, failed_attempts, troubled},
    },
};

const NODES: usize = 4;
/// Events in an array when all nodes send the same arrays.
const ALIGNED_EVENTS: usize = 250;
/// Producers of a node when each node sends its own order.
const SHUFFLED_PRODUCERS: usize = 3;

/// The busiest feeds are followed during the appends.
const USERS: usize = 30;
const CHATS: usize = 20;
/// Feeds in a merged page that is read afterwards.
const FEEDS_OF_A_PAGE: usize = 50;

/// How long the conflicts of the idle cluster are counted, for comparison.
const IDLE: Duration = Duration::from_secs(10);
/// Conflicts that the cluster's housekeeping may cause in addition to those while idle: it writes system keys about ten
/// times a minute, in bursts.
const HOUSEKEEPING_PER_MINUTE: f64 = 10.0;
const HOUSEKEEPING_BURST: f64 = 10.0;
/// Time limit for clients to receive the last event after all appends.
const HEARD_WITHIN: Duration = Duration::from_secs(120);
/// Maximum number of runs if the machine itself disturbs them.
const RUNS_MAX: u32 = 3;
/// Maximum number of looks at the cluster's status.
const STATUS_LOOKS_MAX: u32 = 240;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schedule {
    /// All nodes send the same array at the same moment.
    Aligned,
    /// Each node sends the events in its own order and its own arrays.
    Shuffled,
}

/// Delays appends between their reads and their commits, so that other nodes read before they commit.
struct Pause {
    schedule: Schedule,
    meeting: Barrier,
    rng: Mutex<StdRng>,
    commits: AtomicU64,
}

impl Pause {
    fn new(schedule: Schedule) -> Arc<Self> {
        Arc::new(Self {
            schedule,
            meeting: Barrier::new(NODES),
            rng: Mutex::new(StdRng::seed_from_u64(7)),
            commits: AtomicU64::new(0),
        })
    }

    fn millis(&self, max: u64) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(rng.random_range(0..=max))
    }
}

#[async_trait]
impl Trouble for Pause {
    async fn before_commit(&self, batch: &Batch) -> Result<()> {
        // Only appends are delayed.
        if batch.versioned.is_empty() || !batch.notify {
            return Ok(());
        }
        if self.schedule == Schedule::Aligned {
            // All nodes have read before any commits, so none sees the others' claims. A retry times out here.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.meeting.wait()).await;
        }
        let commit = self.commits.fetch_add(1, Ordering::SeqCst);
        // Some commits are so late that readers have already seen the first.
        let late = commit % 61 == 60;
        tokio::time::sleep(self.millis(30) + Duration::from_millis(if late { 1500 } else { 0 }))
            .await;
        Ok(())
    }
}

/// The nodes of a run and their stores.
struct Nodes {
    bed: Bed,
    stores: Vec<Arc<dyn Store>>,
    served: Arc<Vec<Served>>,
}

impl Nodes {
    async fn start(cluster: &Arc<Cluster>, schedule: Schedule) -> Self {
        let bed = Bed::fdb_on(Arc::clone(cluster));
        let pause = Pause::new(schedule);
        let (mut stores, mut served) = (Vec::new(), Vec::new());
        for _ in 0..NODES {
            let store = troubled(bed.store(), Arc::clone(&pause));
            served.push(bed.node_on(Arc::clone(&store)).await);
            stores.push(store);
        }
        Self {
            bed,
            stores,
            served: Arc::new(served),
        }
    }

    async fn stop(self) {
        let served = Arc::into_inner(self.served).expect("no client is left");
        for node in served {
            node.stop().await;
        }
    }
}

/// An answer: event, version, and whether it was `appended`.
type Answer = (usize, String, bool);

async fn post(node: &Served, workload: &Workload, events: &[usize]) -> Vec<Answer> {
    let request = node
        .http
        .post(node.url("/v1/events"))
        .header("content-type", "application/json")
        .body(workload.array(events));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let answers: Vec<Value> = response.json().await.expect("an array");
    assert_eq!(answers.len(), events.len());
    let answer = |(&event, answer): (&usize, &Value)| {
        assert_eq!(answer["id"], id(event), "{answer}");
        let appended = match answer["status"].as_str() {
            Some("appended") => true,
            Some("duplicate") => false,
            _ => panic!("{answer}"),
        };
        (event, text(&answer["version"]), appended)
    };
    events.iter().zip(&answers).map(answer).collect()
}

/// Appends all events through all nodes; returns all answers.
async fn append(
    nodes: &Arc<Vec<Served>>,
    workload: &Arc<Workload>,
    schedule: Schedule,
) -> Vec<Answer> {
    let mut producers = JoinSet::new();
    let start = Arc::new(Barrier::new(NODES));
    for number in 0..NODES {
        let (arrays, count) = arrays(workload.events.len(), schedule, number as u64);
        let arrays = Arc::new(Mutex::new(arrays));
        for _ in 0..count {
            let (nodes, workload) = (Arc::clone(nodes), Arc::clone(workload));
            let (arrays, start) = (Arc::clone(&arrays), Arc::clone(&start));
            producers.spawn(async move {
                let mut answers = Vec::new();
                loop {
                    if schedule == Schedule::Aligned {
                        start.wait().await;
                    }
                    let next = arrays
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    match next {
                        Some(events) => {
                            answers.extend(post(&nodes[number], &workload, &events).await)
                        }
                        None => return answers,
                    }
                }
            });
        }
    }
    producers.join_all().await.concat()
}

/// The arrays that a node sends, and the number of producers that share them.
fn arrays(events: usize, schedule: Schedule, seed: u64) -> (VecDeque<Vec<usize>>, usize) {
    let mut events: Vec<usize> = (0..events).collect();
    match schedule {
        Schedule::Aligned => {
            let arrays = events.chunks(ALIGNED_EVENTS).map(<[usize]>::to_vec);
            (arrays.collect(), 1)
        }
        Schedule::Shuffled => {
            let mut rng = StdRng::seed_from_u64(seed);
            events.shuffle(&mut rng);
            let mut arrays = VecDeque::new();
            while !events.is_empty() {
                let left = events.len();
                arrays.push_back(events.split_off(left - rng.random_range(1..=400).min(left)));
            }
            (arrays, SHUFFLED_PRODUCERS)
        }
    }
}

/// Readers of every kind, of single feeds and of many merged.
fn start_readers(nodes: &Arc<Vec<Served>>, followed: &[String], single: &[String]) -> Vec<Reader> {
    let mut readers = Vec::new();
    for way in WAYS {
        for (first, feed) in single.iter().enumerate() {
            readers.push(Reader::start(nodes, way, vec![feed.clone()], first));
        }
        let merged = if way == Way::Stream { NODES } else { 1 };
        for first in 0..merged {
            readers.push(Reader::start(nodes, way, followed.to_vec(), first));
        }
    }
    readers
}

/// Checks that every answer has the version of a claim, and that each claim was answered `appended` once.
fn check_answers(claims: &Claims, answers: &[Answer]) {
    let mut appended = 0;
    for (event, version, was_appended) in answers {
        let version = version.parse().expect("a version");
        assert!(
            claims.of(*event).contains(&version),
            "event {event} was answered {version}"
        );
        if *was_appended {
            appended += 1;
        } else {
            assert_eq!(
                version,
                claims.first(*event),
                "a duplicate's version is the first's"
            );
        }
    }
    assert_eq!(appended, claims.count());
}

/// Compares merged pages of all feeds on all nodes with the claims.
async fn check_all_feeds(nodes: &Arc<Vec<Served>>, workload: &Arc<Workload>, claims: &Arc<Claims>) {
    let mut checks = JoinSet::new();
    for number in 0..NODES {
        let (nodes, workload, claims) =
            (Arc::clone(nodes), Arc::clone(workload), Arc::clone(claims));
        checks.spawn(async move {
            let feeds: Vec<String> = workload.feeds.keys().cloned().collect();
            for some in feeds.chunks(FEEDS_OF_A_PAGE) {
                let timeline = without_end(all_entries(&nodes[number], some, number == 0).await);
                let expected = claims.timeline(&workload, some);
                assert_same(&timeline, &expected, &format!("pages of node {number}"));
            }
        });
    }
    checks.join_all().await;
}

/// All entries of `feeds`, oldest first, read in either direction.
async fn all_entries(node: &Served, feeds: &[String], oldest_first: bool) -> Vec<Seen> {
    let (path, mut from) = (path(feeds, "entries"), String::new());
    if oldest_first {
        from = "after=0&".to_owned();
    }
    let mut seen = Vec::new();
    loop {
        let page = get(node, &format!("{path}{from}limit=200")).await;
        for entry in page["entries"].as_array().expect("entries") {
            seen.push((
                text(&entry["version"]),
                text(&entry["id"]),
                feeds_of(entry, feeds),
            ));
        }
        match page["next"].as_str() {
            Some(next) if oldest_first => from = format!("after={next}&"),
            Some(next) => from = format!("before={next}&"),
            None => break,
        }
    }
    if !oldest_first {
        seen.reverse();
    }
    seen
}

fn without_end(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.retain(|(_, id, _)| id != END);
    seen
}

/// Checks that unread counts ignore twins.
async fn check_unread(nodes: &[Served], workload: &Workload, feeds: &[String]) {
    for (number, feed) in feeds.iter().enumerate() {
        let head = nodes[number % NODES]
            .get(&format!("/v1/feeds/{feed}"))
            .await;
        assert_eq!(
            head["unread"]["total"],
            workload.feeds[feed].len(),
            "{head}"
        );
    }
}

/// The cluster's counters of (conflicted, committed) transactions since its last recovery, once the second is at least
/// `commits`: the status lags by seconds.
async fn transactions(cluster: &Cluster, commits: u64) -> (u64, u64) {
    for _ in 0..STATUS_LOOKS_MAX {
        let status = cluster.cli("status json");
        let json = &status[status.find('{').unwrap_or_default()..];
        let status: Value = serde_json::from_str(json).expect("the status is JSON");
        let counters = &status["cluster"]["workload"]["transactions"];
        let counter = |name: &str| counters[name]["counter"].as_u64();
        match (counter("conflicted"), counter("committed")) {
            (Some(conflicted), Some(committed)) if committed >= commits => {
                return (conflicted, committed);
            }
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    panic!(
        "the cluster's status does not count {commits} commits; did it recover, and count anew?"
    );
}

/// Conflicts per second of the idle cluster.
async fn idle_conflicts(cluster: &Cluster) -> f64 {
    let (before, _) = transactions(cluster, 0).await;
    tokio::time::sleep(IDLE).await;
    let (after, _) = transactions(cluster, 0).await;
    after.saturating_sub(before) as f64 / IDLE.as_secs_f64()
}

/// Returns whether no attempt failed. If the machine is suspended for seconds, attempts fail, though never because of a
/// conflict; then the run proves nothing.
async fn run(
    cluster: &Arc<Cluster>,
    workload: &Arc<Workload>,
    schedule: Schedule,
    idle: f64,
) -> bool {
    let nodes = Nodes::start(cluster, schedule).await;
    let (conflicted_before, committed_before) = transactions(cluster, 0).await;
    let began = Instant::now();

    let mut followed = workload.busiest("user:", USERS);
    followed.extend(workload.busiest("chat:", CHATS));
    let single = [&followed[..4], &followed[USERS..USERS + 2]].concat();
    let readers = start_readers(&nodes.served, &followed, &single);
    let answers = append(&nodes.served, workload, schedule).await;
    let appending = began.elapsed();
    nodes.served[0]
        .append(&json!({ "id": END, "kind": "note", "feeds": followed }))
        .await;
    let mut seen = Vec::new();
    for reader in readers {
        let timeline = tokio::time::timeout(HEARD_WITHIN, reader.seen).await;
        let timeline = timeline
            .expect("the client receives the last event")
            .expect("the client found no error");
        seen.push((reader.way, reader.feeds, timeline));
    }

    let counts: Vec<BTreeMap<&str, u64>> = nodes
        .stores
        .iter()
        .map(|store| failed_attempts(&**store, "append"))
        .collect();
    assert!(
        counts.iter().all(|counts| !counts.contains_key("conflict")),
        "attempts that failed, by node: {counts:?}"
    );
    if !counts.iter().all(BTreeMap::is_empty) {
        eprintln!("figure: {schedule:?}: the cluster stood still; by node: {counts:?}");
        nodes.stop().await;
        return false;
    }

    let keys = nodes.bed.keys().await;
    let claims = Arc::new(Claims::read(&*nodes.stores[0], &keys).await);
    let (twins, distance) = claims.twins();
    eprintln!(
        "figure: {schedule:?}: {} events on {NODES} nodes in {appending:.1?}; {twins} twins, the farthest {distance} ticks from its first",
        workload.events.len(),
    );
    assert!(twins > 0, "there were twins");
    assert!(distance < SNAPSHOT_AGE_TICKS_MAX);

    check_answers(&claims, &answers);
    for (way, feeds, seen) in &seen {
        let who = format!("a client ({way:?}) of {} feeds", feeds.len());
        assert_same(seen, &claims.timeline(workload, feeds), &who);
    }
    check_unread(&nodes.served, workload, &followed[..20]).await;
    check_all_feeds(&nodes.served, workload, &claims).await;

    let arrays = (workload.events.len() / ALIGNED_EVENTS) as u64;
    let (conflicted, _) = transactions(cluster, committed_before + arrays).await;
    let elapsed = began.elapsed().as_secs_f64();
    let moved = conflicted.checked_sub(conflicted_before);
    let moved = moved.expect("the counters were not reset by a recovery");
    let granted = (idle + HOUSEKEEPING_PER_MINUTE / 60.0) * elapsed + HOUSEKEEPING_BURST;
    eprintln!(
        "figure: {schedule:?}: the cluster counted {moved} conflicts in {elapsed:.0} s (idle: {:.1} a minute); {} times a client was told to come back later",
        idle * 60.0,
        unavailable()
    );
    assert!(
        (moved as f64) < granted,
        "{moved} conflicts; an idle cluster has at most {granted:.0}"
    );
    nodes.stop().await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_events_through_many_nodes_at_once_never_conflict_and_are_seen_once() {
    let Some(workload) = Workload::load().map(Arc::new) else {
        return;
    };
    let cluster = Arc::new(Cluster::start(1, "ssd"));
    let idle = idle_conflicts(&cluster).await;
    for schedule in [Schedule::Aligned, Schedule::Shuffled] {
        let mut clean = false;
        for _ in 0..RUNS_MAX {
            clean = clean || run(&cluster, &workload, schedule, idle).await;
        }
        assert!(clean, "{RUNS_MAX} runs in which attempts failed");
    }
}
