//! Nodes that are paused, killed, restarted, have different wall clocks, or have the epoch raised under load.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use newsfeed::{
    store::{Error, Range, Store},
    version::Version,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    cluster::{self, Cluster, fresh_prefix},
    multi_node::{
        ALL, Client, END, Load, NodeProcess, Pressure, Targets, newsfeed, percentile, twins,
    },
};
use crate::support::{
    bed::text,
    entries::{Place, assert_same, place},
    patience::PATIENCE,
    sse::Stream,
};

/// Number of times that a node is killed.
const KILLS: usize = 50;
/// Maximum number of pauses until one interrupts a transaction.
const PAUSES_MAX: usize = 8;

async fn start(cluster: &Cluster, prefix: &str, nodes: usize) -> Vec<NodeProcess> {
    let start = (0..nodes).map(|_| NodeProcess::start(cluster, prefix, &[]));
    futures_util::future::join_all(start).await
}

/// Waits until the cluster's clock has advanced by `ticks` (10⁶ a second).
async fn ticks_pass(store: &dyn Store, ticks: u64) {
    let time = async || {
        let snapshot = store.snapshot().await;
        snapshot.expect("a snapshot").version().time()
    };
    let begin = time().await;
    let passed = async {
        while time().await < begin + ticks {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, passed).await.expect("the clock ticks");
}

/// Number of retried appends in a node's log, by reason.
fn retries(log: &Path) -> BTreeMap<&'static str, usize> {
    let log = std::fs::read_to_string(log).expect("a log");
    let reasons = [Error::TooOld, Error::Conflict, Error::Unknown].map(|error| error.to_string());
    let names = ["too_old", "conflict", "unknown_result"];
    let mut counts = BTreeMap::new();
    for line in log
        .lines()
        .filter(|line| line.contains("retrying a transaction"))
        .filter(|line| line.contains(r#"transaction="append""#))
    {
        let reason = reasons.iter().position(|reason| line.contains(reason));
        let name = reason.map_or("unavailable", |reason| names[reason]);
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Two nodes are paused: one whose transactions time out meanwhile, and one with a longer time limit, so that the
/// database refuses them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_nodes_continue_old_transactions_and_nothing_is_lost_or_doubled() {
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = |node: usize| folder.path().join(node.to_string());
    let patient = ["--fdb-timeout-ms", "60000"];
    let nodes = [
        NodeProcess::start_logging(&cluster, &prefix, &[], &log(0)).await,
        NodeProcess::start_logging(&cluster, &prefix, &patient, &log(1)).await,
        NodeProcess::start(&cluster, &prefix, &[]).await,
    ];
    let pressure = Pressure {
        producers: 9,
        pace: Duration::ZERO,
        patience: Duration::from_millis(1500),
        ..Pressure::default()
    };
    let load = Load::start(&Targets::new(&nodes), pressure);
    load.acknowledged(500).await;
    load.delivered().await;

    let store = cluster.store(&prefix);
    let mut pauses = 0;
    // Until a pause has interrupted a transaction.
    while retries(&log(0)).is_empty() && retries(&log(1)).is_empty() {
        assert!(pauses < PAUSES_MAX, "no pause interrupted a transaction");
        pauses += 1;
        for node in &nodes[..2] {
            node.signal(Signal::STOP);
        }
        ticks_pass(&*store, 10_000_000).await;
        for node in &nodes[..2] {
            node.signal(Signal::CONT);
        }
        load.acknowledged(500).await;
        load.delivered().await;
    }
    let report = load.finish().await;
    assert!(
        report.timeouts > 0,
        "requests were pending during the pauses"
    );
    let reconnects = &report.reconnects;
    assert!(
        reconnects.is_empty(),
        "no stream reconnects: {reconnects:?}"
    );
    eprintln!(
        "figure: two nodes paused for 10 s, {pauses} times: {} events, {} appends sent again to another node, {} twins hidden, tried again {:?} (time limit 10 s) and {:?} (60 s)",
        report.all.len(),
        report.timeouts,
        twins(&*store, &prefix, &report).await,
        retries(&log(0)),
        retries(&log(1)),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_node_continue_at_another() {
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let mut nodes = start(&cluster, &prefix, 3).await;
    let targets = Targets::new(&nodes);
    let load = Load::start(&targets, Pressure::default());
    load.acknowledged(50).await;
    for kill in 0..KILLS {
        let victim = kill % nodes.len();
        nodes[victim].signal(Signal::KILL);
        // Dropping the old one reaps it.
        nodes[victim] = NodeProcess::start(&cluster, &prefix, &[]).await;
        targets.set(victim, &nodes[victim]);
        load.acknowledged(60).await;
        load.delivered().await;
    }
    let mut report = load.finish().await;
    let hidden = twins(&*cluster.store(&prefix), &prefix, &report).await;
    let reconnects = &mut report.reconnects;
    reconnects.sort_unstable();
    assert!(reconnects.len() >= KILLS, "{}", reconnects.len());
    eprintln!(
        "figure: {KILLS} nodes killed: {} events, {hidden} twins hidden, {} streams reconnected, first event after it p50 {:?} p99 {:?}",
        report.all.len(),
        reconnects.len(),
        percentile(reconnects, 50),
        percentile(reconnects, 99),
    );
}

/// Nodes are restarted one after the other, at the same address, once the previous one is ready again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_leaves_no_request_hanging_and_loses_nothing() {
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let mut nodes = start(&cluster, &prefix, 3).await;
    let targets = Targets::new(&nodes);
    let load = Load::start(&targets, Pressure::default());
    load.acknowledged(100).await;
    for restart in 0..2 * nodes.len() {
        let node = restart % nodes.len();
        let address = nodes[node].address();
        let leaving = nodes.remove(node);
        leaving.signal(Signal::TERM);
        assert_eq!(leaving.exited().await.code(), Some(0));
        // The others keep working meanwhile.
        load.acknowledged(30).await;
        nodes.insert(
            node,
            NodeProcess::start_at(&cluster, &prefix, &address).await,
        );
        let ready = async {
            let ready = targets.url(node, "/readyz");
            while reqwest::get(&ready).await.expect("it listens").status() != 200 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("it is ready");
        load.acknowledged(60).await;
        load.delivered().await;
    }
    let report = load.finish().await;
    assert_eq!(report.timeouts, 0, "no request was left without an answer");
    assert!(!report.reconnects.is_empty(), "streams moved on");
    eprintln!(
        "figure: three nodes restarted in turn, twice: {} events, {} streams reconnected, {} twins hidden",
        report.all.len(),
        report.reconnects.len(),
        twins(&*cluster.store(&prefix), &prefix, &report).await,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clocks_an_hour_apart_change_nothing_but_at_and_no_answer_is_dated_before_its_message()
{
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let offsets = ["3600", "0", "-3600"];
    let start = |offset| {
        let (cluster, prefix) = (Arc::clone(&cluster), prefix.clone());
        async move { NodeProcess::start(&cluster, &prefix, &["--wall-offset-s", offset]).await }
    };
    let mut nodes = Vec::new();
    for offset in offsets {
        nodes.push(start(offset).await);
    }
    let targets = Targets::new(&nodes);
    let mut client = Client::new(&targets, 0);
    // Messages and answers between all pairs of nodes; one node is restarted in between.
    let turns = [2, 1, 2, 0, 1, 0, 2, 2, 1, 1, 0, 0];
    let mut told: Vec<Place> = Vec::new();
    for (round, &node) in turns.iter().cycle().take(60).enumerate() {
        if round == 30 {
            nodes[2] = start(offsets[2]).await;
            targets.set(2, &nodes[2]);
        }
        client.node = node;
        let id = format!("{round}");
        let event = json!({ "id": id, "kind": "message", "feeds": [ALL] });
        let outcomes = client.try_append(&event).await.expect("an answer");
        assert_eq!(outcomes[0]["status"], "appended");
        told.push((text(&outcomes[0]["version"]), id));
    }
    check_conversation(&targets, &told).await;
}

async fn check_conversation(targets: &Targets, told: &[Place]) {
    let mut feeds = Vec::new();
    for node in 0..3 {
        let mut client = Client::new(targets, node);
        let page = client
            .get(&format!("/v1/feeds/{ALL}/entries?after=0&limit=200"))
            .await;
        feeds.push(page["entries"].as_array().expect("entries").clone());
    }
    assert!(feeds[0] == feeds[1] && feeds[1] == feeds[2]);
    let places: Vec<Place> = feeds[0].iter().map(place).collect();
    assert_eq!(places, told, "order and versions as acknowledged");

    let at: Vec<i64> = feeds[0].iter().map(|entry| micros(&entry["at"])).collect();
    for (pair, answer) in at.windows(2).zip(1..) {
        assert!(
            pair[0] <= pair[1],
            "{answer} is dated before what it answers: {pair:?}"
        );
    }
    // The clocks do differ: from the first message of the fast node on, `at` is an hour ahead.
    let hour = 3_600_000_000;
    assert!(at[at.len() - 1] - at[0] > hour, "{at:?}");
    let time = |place: &Place| place.0.parse::<Version>().expect("a version").time();
    let ticks = time(&told[told.len() - 1]) - time(&told[0]);
    assert!(
        ticks < hour as u64 / 4,
        "versions follow the cluster's clock"
    );
}

/// Microseconds since 1970.
fn micros(at: &Value) -> i64 {
    let at: jiff::Timestamp = text(at).parse().expect("RFC 3339");
    at.as_microsecond()
}

/// Runs `newsfeed admin epoch`; returns the epoch that it prints.
async fn admin_epoch(cluster: &Cluster, prefix: &str, raise: bool) -> u32 {
    let file = cluster.file();
    let file = file.to_str().expect("a UTF-8 path");
    let mut command = newsfeed(&["admin", "epoch"], file, prefix);
    if raise {
        command.arg("--raise");
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("it ends").expect("it runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let epoch = text.trim_end().strip_prefix("epoch ");
    epoch.expect(&text).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_admin_command_creates_a_store() {
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let file = cluster.file();
    let file = file.to_str().expect("a UTF-8 path");
    for args in [
        &["admin", "epoch"][..],
        &["admin", "epoch", "--raise"],
        &["admin", "check"],
    ] {
        let mut command = newsfeed(args, file, &prefix);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("it ends").expect("it runs");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        for part in ["there is no store with the key prefix", &prefix, "--prefix"] {
            assert!(stderr.contains(part), "{args:?}: {stderr}");
        }
        let store = cluster.store(&prefix);
        let snapshot = store.snapshot().await.expect("a snapshot");
        let (begin, end) = (
            prefix.as_bytes().to_vec(),
            [prefix.as_bytes(), &[0xff]].concat(),
        );
        let found = snapshot.ranges(vec![Range::all(begin, end)]).await;
        assert_eq!(found.expect("read")[0].items, [], "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_epoch_is_raised_under_load_and_old_cursors_keep_working() {
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let nodes = start(&cluster, &prefix, 2).await;
    let targets = Targets::new(&nodes);
    let mut client = Client::new(&targets, 0);
    let first = admin_epoch(&cluster, &prefix, false).await;
    let load = Load::start(
        &targets,
        Pressure {
            raises: true,
            ..Pressure::default()
        },
    );
    load.acknowledged(300).await;

    // Cursors of the old epoch: an entry's version, and a moment.
    let path = format!("/v1/feeds/{ALL}/entries");
    let page = client.get(&format!("{path}?after=0&limit=120")).await;
    let entry = text(&page["next"]);
    let moment = text(&client.get(&format!("/v1/feeds/{ALL}")).await["version"]);
    let old = [
        format!("{path}?until={entry}&limit=200"),
        format!("{path}?before={entry}&limit=50"),
        format!("{path}?after={entry}&until={moment}&limit=200"),
        format!("{path}?until={moment}&limit=200"),
    ];
    let mut answers = Vec::new();
    for path in &old {
        answers.push(client.get(path).await);
    }

    let mut raised = vec![first];
    for _ in 1..=3 {
        raised.push(admin_epoch(&cluster, &prefix, true).await);
        load.acknowledged(100).await;
        load.delivered().await;
    }
    // Two concurrent raises raise it twice.
    let both = tokio::join!(
        admin_epoch(&cluster, &prefix, true),
        admin_epoch(&cluster, &prefix, true)
    );
    assert_ne!(both.0, both.1);
    load.acknowledged(100).await;
    let last = admin_epoch(&cluster, &prefix, false).await;
    assert_eq!(last, both.0.max(both.1));
    raised.extend([both.0.min(both.1), last]);
    assert!(raised.is_sorted_by(|a, b| a < b), "{raised:?}");
    raised.remove(4);

    let all = load.finish().await.all;
    let epochs: Vec<u32> = all
        .iter()
        .map(|(version, _)| version.parse::<Version>().expect("a version").epoch())
        .collect();
    assert!(epochs.is_sorted());
    for epoch in raised {
        assert!(epochs.contains(&epoch), "events in epoch {epoch}");
    }
    for node in 0..2 {
        for (path, answer) in old.iter().zip(&answers) {
            client.node = node;
            assert_eq!(client.get(path).await, *answer, "{path}");
        }
        for cursor in [&entry, &moment] {
            let rest: Vec<Place> = all
                .iter()
                .filter(|place| place.0 > *cursor)
                .cloned()
                .collect();
            let resumed = resumed(&targets.url(node, ""), cursor).await;
            assert_same(&resumed, &rest, &format!("a stream resumed at {cursor}"));
        }
    }
}

/// The entries of a stream resumed at `cursor`, up to the last event.
async fn resumed(base: &str, cursor: &str) -> Vec<Place> {
    let url = format!("{base}/v1/feeds/{ALL}/live");
    let mut stream = Stream::open(&reqwest::Client::new(), &url, Some(cursor)).await;
    let mut places: Vec<Place> = Vec::new();
    while places.last().is_none_or(|(_, id)| id != END) {
        let event = stream.next_of(&["entry", "notify", "reset"]).await;
        assert_ne!(event.name, "reset");
        places.push(place(&event.data));
    }
    places
}
