//! SIGKILL under load, again and again, with the wall clock set back and forth in between.

use std::{path::Path, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    PATIENCE, Place, Process, assert_same,
    load::{Acknowledged, Client, FEEDS, Known, Life, audit, follow, write},
    place,
};
use crate::bed::Api;

const WRITERS: u64 = 4;
/// Seconds the wall clock is off in each life of the service, and how many events are acknowledged before it is
/// killed, about. The last life is not killed.
const LIVES: [(i64, u64); 8] = [
    (0, 600),
    (0, 400),
    (-3600, 600),
    (-3600, 0),
    (0, 400),
    (3600, 600),
    (-3600, 400),
    (0, 400),
];

async fn start(folder: &Path, number: usize) -> (Process, Life) {
    let offset = LIVES[number].0.to_string();
    let process = Process::start_with(folder, &["--wall-offset-s", &offset]).await;
    let api = process.api.clone();
    (process, Life { number, api })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_nothing_acknowledged_is_lost_or_doubled_and_versions_grow() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut process, first) = start(folder.path(), 0).await;
    let (lives, life) = watch::channel(first);
    let (stop_writing, stop) = watch::channel(false);
    let (stop_reading, reading_stopped) = watch::channel(false);
    let known = Arc::new(watch::Sender::new(vec![Known::default(); LIVES.len()]));
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
    let auditor = tokio::spawn(audit(reading, StdRng::seed_from_u64(rng.random())));

    for number in 1..=LIVES.len() {
        let about = LIVES[number - 1].1;
        let enough = rng.random_range(about / 2..=about * 3 / 2);
        let mut known = known.subscribe();
        let loaded = known.wait_for(|known| known[number - 1].acknowledged >= enough);
        tokio::select! {
            loaded = timeout(PATIENCE, loaded) => drop(loaded.expect("appends go on")),
            ended = writers.join_next() => panic!("a writer ended: {ended:?}"),
        }
        if number < LIVES.len() {
            process.kill().await;
            let life;
            (process, life) = start(folder.path(), number).await;
            lives.send_replace(life);
        }
    }
    stop_writing.send_replace(true);
    let acknowledged: Acknowledged = writers.join_all().await.into_iter().flatten().collect();
    stop_reading.send_replace(true);
    let heard = followers.join_all().await;
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

/// What was acknowledged, in the order of versions.
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

/// A feed by its pages, which must be the same in both directions, and as many entries as its head counts unread.
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

/// What was appended in a life lies above everything anybody saw in the lives before.
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
