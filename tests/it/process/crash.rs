//! Repeated SIGKILL under load, with the wall clock set back and forth in between; and repeated SIGTERM with a restart at
//! the same address, as in a rolling restart.

use std::{path::Path, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    PATIENCE, Place, Process, assert_same,
    crash_clients::{Acknowledged, Client, FEEDS, Known, Life, audit, follow, poll, write},
    place, run,
};
use crate::{
    http::{column, items, message},
    support::bed::{Api, JSON},
};

const WRITERS: u64 = 4;
/// For each life of the service: the offset of its wall clock in seconds, and about how many events are acknowledged
/// before it is ended. The last life is not ended.
type Lives = [(i64, u64)];
const KILLED: [(i64, u64); 8] = [
    (0, 600),
    (0, 400),
    (-3600, 600),
    (-3600, 0),
    (0, 400),
    (3600, 600),
    (-3600, 400),
    (0, 400),
];

const STOPPED: [(i64, u64); 6] = [(0, 500), (0, 300), (0, 0), (0, 500), (0, 300), (0, 300)];

async fn start(address: &str, folder: &Path, offset: i64, number: usize) -> (Process, Life) {
    let offset = offset.to_string();
    let process = Process::start_on(address, folder, &["--wall-offset-s", &offset]).await;
    let api = process.api.clone();
    (process, Life { number, api })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_nothing_acknowledged_is_lost_or_doubled_and_versions_grow() {
    outlived(&KILLED, "127.0.0.1:0", async |process| process.kill().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_under_load_at_one_address_nothing_is_lost_or_doubled() {
    // A random loopback address, so that no other process takes the port while the service is down.
    let [a, b, c] = rand::random::<[u8; 3]>();
    let address = format!("127.{}.{b}.{c}:0", a | 1);
    outlived(&STOPPED, &address, async |process| process.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_right_after_marking_read_the_counts_are_exact() {
    const MESSAGES: usize = 3_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut process = Process::start(folder.path()).await;
    let mut versions = Vec::new();
    for begin in (0..MESSAGES).step_by(1_000) {
        let event = |index: usize| message(&format!("m{}", begin + index), &["a"]);
        let answer = process.api.append(&(0..1_000).map(event).collect()).await;
        versions.extend(column(items(&answer), "version"));
    }
    for unread in [1_000, 500, 0] {
        let version = &versions[MESSAGES - 1 - unread];
        let body = json!({ "version": version }).to_string();
        let path = "/v1/feeds/a/markers/read";
        let answer = process.api.send_body("PUT", path, &[JSON], body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["unread"]["total"], json!(unread));
        process.kill().await;
        process = Process::start(folder.path()).await;
        let state = process.api.get("/v1/feeds/a").await;
        assert_eq!(state["unread"]["total"], json!(unread));
        assert_eq!(state["markers"]["read"], json!(version));
    }
    process.stop().await;
    let data = folder.path().to_str().expect("UTF-8");
    let said = run(&["admin", "check", "--data", data]).await.stdout;
    let said = String::from_utf8(said).expect("text");
    assert!(
        said.contains("3000 feed entries, 3000 notify keys"),
        "{said}"
    );
}

/// Runs clients through several lives of the service, each but the last ended by `end`. All lives use the address of
/// the first, unless `address` is 127.0.0.1 with any port.
async fn outlived(lives_of: &Lives, address: &str, end: impl AsyncFn(Process)) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut process, first) = start(address, folder.path(), lives_of[0].0, 0).await;
    let kept = process.api.url("").replace("http://", "");
    let address = if address.starts_with("127.0.0.1:") {
        address
    } else {
        &kept
    };
    let (lives, life) = watch::channel(first);
    let (stop_writing, stop) = watch::channel(false);
    let (stop_reading, reading_stopped) = watch::channel(false);
    let known = Arc::new(watch::Sender::new(vec![Known::default(); lives_of.len()]));
    let writing = Client {
        life,
        stop,
        known: Arc::clone(&known),
    };
    let reading = Client {
        stop: reading_stopped,
        ..writing.clone()
    };

    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(
            writing.clone(),
            writer,
            StdRng::seed_from_u64(rng.random()),
        ));
    }
    let mut followers = JoinSet::new();
    for (path, reconnect_every) in [
        ("/v1/feeds/user:0/live?after=0", usize::MAX),
        ("/v1/feeds/user:0/live?after=0", 37),
        (
            "/v1/live?feed=chat:all&feed=user:1&feed=user:2&after=0",
            211,
        ),
    ] {
        let following = follow(reading.clone(), path.to_owned(), reconnect_every);
        followers.spawn(async move { (path, following.await) });
    }
    let polled = tokio::spawn(poll(reading.clone(), FEEDS[3]));
    let auditor = tokio::spawn(audit(reading, StdRng::seed_from_u64(rng.random())));

    for number in 1..=lives_of.len() {
        let about = lives_of[number - 1].1;
        let enough = rng.random_range(about / 2..=about * 3 / 2);
        let mut known = known.subscribe();
        let loaded = known.wait_for(|known| known[number - 1].acknowledged >= enough);
        tokio::select! {
            loaded = timeout(PATIENCE, loaded) => drop(loaded.expect("appends go on")),
            ended = writers.join_next() => panic!("a writer ended: {ended:?}"),
        }
        if let Some((offset, _)) = lives_of.get(number) {
            end(process).await;
            let life;
            (process, life) = start(address, folder.path(), *offset, number).await;
            lives.send_replace(life);
        }
    }
    stop_writing.send_replace(true);
    let acknowledged: Acknowledged = writers.join_all().await.into_iter().flatten().collect();
    stop_reading.send_replace(true);
    let mut heard = followers.join_all().await;
    heard.push((FEEDS[3], polled.await.expect("no poll found fault")));
    auditor.await.expect("the audit finds nothing");
    assert!(acknowledged.len() > 500, "hardly any load");

    let api = &process.api;
    for feed in FEEDS {
        assert_same(
            &stored(api, feed).await,
            &expected(&acknowledged, &[feed]),
            feed,
        );
    }
    for (path, heard) in heard {
        let feeds: Vec<&str> = FEEDS
            .into_iter()
            .filter(|feed| path.contains(feed))
            .collect();
        assert_same(&heard, &expected(&acknowledged, &feeds), path);
    }
    versions_grew(&known.borrow());
    process.stop().await;
}

/// The acknowledged events in `feeds`, in version order.
fn expected(acknowledged: &Acknowledged, feeds: &[&str]) -> Vec<Place> {
    let held = acknowledged
        .iter()
        .filter(|(_, (_, held_by))| held_by.iter().any(|feed| feeds.contains(feed)));
    let mut places: Vec<Place> = held
        .map(|(id, (version, _))| (version.clone(), id.clone()))
        .collect();
    places.sort();
    places
}

/// Reads a feed page by page. Both directions must agree, and all entries must count as unread.
async fn stored(api: &Api, feed: &str) -> Vec<Place> {
    let oldest_first: Vec<Place> = api.all(feed).await.iter().map(place).collect();
    let head = api.get(&format!("/v1/feeds/{feed}")).await;
    assert_eq!(head["unread"]["total"], oldest_first.len(), "{feed}");
    assert_eq!(
        head["latest"].as_str(),
        oldest_first.last().map(|(version, _)| &version[..])
    );
    let mut newest_first = Vec::new();
    let mut path = format!("/v1/feeds/{feed}/entries?limit=77");
    loop {
        let page = api.get(&path).await;
        newest_first.extend(
            page["entries"]
                .as_array()
                .expect("entries")
                .iter()
                .map(place),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/feeds/{feed}/entries?limit=77&before={next}");
    }
    newest_first.reverse();
    assert_same(&newest_first, &oldest_first, feed);
    oldest_first
}

/// Checks that each life's versions are above everything seen in earlier lives.
fn versions_grew(known: &[Known]) {
    let mut greatest = "";
    for (number, life) in known.iter().enumerate() {
        if let Some(least) = &life.least_appended {
            assert!(
                **least > *greatest,
                "life {number} stamped {least}, after {greatest} was seen"
            );
        }
        greatest = greatest.max(&life.greatest);
    }
}
