//! A cluster that is killed under load and restarted, and starting without a cluster.

use std::{net::TcpListener, path::Path, process::Output, time::Duration};

use newsfeed::{store::Store, version::Version};
use serde_json::{Value, json};
use tokio::{
    task::block_in_place,
    time::{sleep, timeout},
};

use crate::{
    fdb::{
        cluster::{Cluster, fresh_prefix},
        multi_node::{Client, Load, NodeProcess, Pressure, Targets, newsfeed},
    },
    support::patience::PATIENCE,
};

/// The version of a snapshot, as soon as the cluster answers.
async fn now(store: &dyn Store) -> Version {
    let now = async {
        loop {
            match store.snapshot().await {
                Ok(snapshot) => return snapshot.version(),
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    };
    timeout(PATIENCE, now).await.expect("the cluster answers")
}

/// Polls `/readyz` of a node until it answers `status`.
async fn readyz_turns(targets: &Targets, node: usize, status: u16) {
    let http = reqwest::Client::new();
    let turns = async {
        loop {
            let response = http.get(targets.url(node, "/readyz")).send().await;
            let response = response.expect("the node itself answers");
            let said = response.status().as_u16();
            let body: Value = response.json().await.expect("JSON");
            match said {
                200 => assert_eq!(body["status"], "ready"),
                // `tail_behind` while the node catches up after the cluster is back.
                _ => assert!(
                    said == 503
                        && (body["code"] == "store_unavailable" || body["code"] == "tail_behind"),
                    "{said} {body}"
                ),
            }
            if said == status {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, turns).await.expect("it turns");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_killed_under_load_loses_nothing() {
    let cluster = block_in_place(|| Cluster::start(1, "ssd"));
    let prefix = fresh_prefix();
    let nodes = [
        NodeProcess::start(&cluster, &prefix, &[]).await,
        NodeProcess::start(&cluster, &prefix, &[]).await,
    ];
    let targets = Targets::new(&nodes);
    let load = Load::start(&targets, Pressure::default());
    load.acknowledged(200).await;
    let store = cluster.store(&prefix);

    // Restarted at once: appends are delayed but succeed.
    let before = now(&*store).await;
    cluster.kill(0);
    readyz_turns(&targets, 0, 503).await;
    block_in_place(|| cluster.start_again());
    let jump = now(&*store).await.time() - before.time();
    assert!(jump > 90_000_000, "a recovery jumps by 10⁸, not {jump}");
    load.acknowledged(200).await;
    load.delivered().await;

    // Down until an append is refused; sent again afterwards, it is appended once.
    cluster.kill(0);
    let probe = json!({ "id": "probe", "kind": "message", "feeds": ["probe"] });
    let http = reqwest::Client::new();
    let append = http.post(targets.url(0, "/v1/events")).json(&probe).send();
    let page = http.get(targets.url(0, "/v1/feeds/probe/entries")).send();
    let both = async { tokio::join!(append, page) };
    let (append, page) = timeout(PATIENCE, both).await.expect("answers in time");
    assert_eq!(page.expect("an answer").status(), 503);
    let answer = append.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["code"], "store_unavailable");
    for node in 0..2 {
        readyz_turns(&targets, node, 503).await;
    }
    block_in_place(|| cluster.start_again());
    for node in 0..2 {
        readyz_turns(&targets, node, 200).await;
    }
    load.acknowledged(200).await;
    load.delivered().await;
    let mut client = Client::new(&targets, 1);
    let version = client.append(&probe).await;
    let page = client.get("/v1/feeds/probe/entries?after=0").await;
    let entries = page["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["version"], version);

    let report = load.finish().await;
    eprintln!(
        "figure: fdbserver killed twice under load: {} events, none lost or doubled; a recovery jumped the version by {jump}",
        report.all.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_three_fdbservers_is_killed_under_load_and_nothing_is_lost() {
    let cluster = block_in_place(|| Cluster::start(3, "ssd"));
    let prefix = fresh_prefix();
    let nodes = [
        NodeProcess::start(&cluster, &prefix, &[]).await,
        NodeProcess::start(&cluster, &prefix, &[]).await,
    ];
    let load = Load::start(&Targets::new(&nodes), Pressure::default());
    load.acknowledged(100).await;
    for victim in 0..3 {
        cluster.kill(victim);
        // The other two keep working.
        load.acknowledged(100).await;
        load.delivered().await;
        block_in_place(|| cluster.start_again());
        whole(&cluster).await;
    }
    load.acknowledged(100).await;
    load.delivered().await;
    let report = load.finish().await;
    eprintln!(
        "figure: each of three fdbservers killed under load: {} events, none lost or doubled",
        report.all.len()
    );
}

/// Waits until the cluster can tolerate a failure again.
async fn whole(cluster: &Cluster) {
    let whole = async {
        loop {
            let status = block_in_place(|| cluster.cli("status json"));
            let json = status.find('{').map(|begin| &status[begin..]);
            let status: Option<Value> = json.and_then(|json| serde_json::from_str(json).ok());
            let cluster = &status.unwrap_or_default()["cluster"];
            let spare =
                &cluster["fault_tolerance"]["max_zone_failures_without_losing_availability"];
            let processes = cluster["processes"].as_object();
            if processes.is_some_and(|processes| processes.len() == 3) && spare.as_u64() >= Some(1)
            {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, whole).await.expect("it recovers");
}

/// Runs a command that must fail; returns its stderr.
async fn failure(command: &'static [&'static str], cluster_file: &Path) -> String {
    let file = cluster_file.to_str().expect("a UTF-8 path").to_owned();
    let run = tokio::task::spawn_blocking(move || newsfeed(command, &file, "test/").output());
    let output = timeout(PATIENCE, run).await.expect("it ends by itself");
    let Output { status, stderr, .. } = output.expect("it runs").expect("it runs");
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(cluster_file.to_str().expect("text")),
        "{stderr}"
    );
    stderr
}

const SERVE: &[&str] = &["serve", "--listen", "127.0.0.1:0"];
const EPOCH: &[&str] = &["admin", "epoch"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unusable_cluster_file_is_reported_with_advice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing.cluster");
    let rubbish = folder.path().join("rubbish.cluster");
    std::fs::write(&rubbish, "this is no cluster file\n").expect("written");
    for file in [&missing, &rubbish, &folder.path().to_owned()] {
        for command in [SERVE, EPOCH] {
            let said = failure(command, file).await;
            assert!(said.contains("cluster file"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_cluster_is_reported_in_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("fdb.cluster");
    // Nothing listens on this port any more.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = address.expect("a free port");
    std::fs::write(&file, format!("gone:gone@{address}\n")).expect("written");
    let (serve, epoch) = tokio::join!(failure(SERVE, &file), failure(EPOCH, &file));
    for said in [serve, epoch] {
        assert!(said.contains("does not answer"), "{said}");
        assert!(
            said.contains("check that FoundationDB is running there"),
            "{said}"
        );
    }
}
