//! The bound on which deduplication relies: no commit is farther from its snapshot than the window looks back.

use std::{sync::Arc, time::Duration};

use newsfeed::{
    store::{Batch, Error, SNAPSHOT_AGE_TICKS_MAX, Store, Versioned},
    version::Version,
};
use tokio::{sync::watch, task::JoinSet};

use super::cluster;

/// Publishes the cluster's time, in ticks. It commits continuously, because read versions do not advance without
/// commits.
fn tell_time(store: &Arc<dyn Store>) -> watch::Receiver<u64> {
    let (teller, time) = watch::channel(0);
    let store = Arc::clone(store);
    tokio::spawn(async move {
        while !teller.is_closed() {
            teller.send_replace(commit_now(&store).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    time
}

/// Commits something; returns the time of the commit, in ticks.
async fn commit_now(store: &Arc<dyn Store>) -> u64 {
    loop {
        let snapshot = store.snapshot().await.expect("a snapshot");
        match snapshot.commit(blind_write(b"\xf0now/")).await {
            Ok(version) => return version.time(),
            // The machine was suspended in between.
            Err(Error::TooOld) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn blind_write(prefix: &[u8]) -> Batch {
    Batch {
        versioned: vec![Versioned {
            prefix: prefix.to_vec(),
            index: 0,
            value: b"late".to_vec(),
        }],
        ..Batch::default()
    }
}

/// A store whose client has no time limit below the cluster's.
fn patient_store() -> Arc<dyn Store> {
    let prefix = cluster::fresh_prefix();
    cluster::shared().store_with(&prefix, Duration::from_secs(60))
}

/// A commit that was sent some time after its snapshot was taken at `read_at`.
struct Late {
    read_at: u64,
    outcome: newsfeed::store::Result<Version>,
    /// The time of a commit after the outcome, in ticks.
    afterwards: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_commit_is_farther_from_its_snapshot_than_the_window_looks_back() {
    const PREFIX: &[u8] = b"\xf0late/";
    let store = patient_store();
    // From far inside the bound to far outside, most of them close to it.
    let second = SNAPSHOT_AGE_TICKS_MAX / 5;
    let around = (0..16).map(|step| SNAPSHOT_AGE_TICKS_MAX - 80_000 + step * 10_000);
    let ages = [0, 1, 2, 3, 4]
        .map(|age| age * second)
        .into_iter()
        .chain(around)
        .chain([6, 7].map(|age| age * second));
    let time = tell_time(&store);
    let mut tries = JoinSet::new();
    for age in ages {
        for has_read in [false, true] {
            let (store, mut time) = (Arc::clone(&store), time.clone());
            tries.spawn(async move {
                let snapshot = store.snapshot().await.expect("a snapshot");
                let read_at = snapshot.version().time();
                if has_read {
                    let found = snapshot.get(vec![PREFIX.to_vec()]).await;
                    assert_eq!(found.expect("young enough"), [None]);
                }
                let old = time.wait_for(|now| *now >= read_at + age).await;
                old.expect("time goes on");
                let outcome = snapshot.commit(blind_write(PREFIX)).await;
                let afterwards = commit_now(&store).await;
                Late {
                    read_at,
                    outcome,
                    afterwards,
                }
            });
        }
    }
    let (mut farthest, mut refused) = (0, 0);
    for late in tries.join_all().await {
        match late.outcome {
            Ok(version) => {
                let distance = version.time() - late.read_at;
                assert!(distance <= SNAPSHOT_AGE_TICKS_MAX, "{distance} ticks");
                farthest = farthest.max(distance);
            }
            // A refused commit must be outside the bound.
            Err(Error::TooOld) => {
                let distance = late.afterwards - late.read_at;
                assert!(distance > SNAPSHOT_AGE_TICKS_MAX, "{distance} ticks");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    eprintln!(
        "figure: the latest commit lay {farthest} ticks after its snapshot; {refused} later ones were refused"
    );
    assert!(farthest > 0);
    assert!(refused >= 4, "six and seven seconds are too much");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_too_old_cannot_be_read() {
    let store = patient_store();
    let snapshot = store.snapshot().await.expect("a snapshot");
    let too_old = snapshot.version().time() + SNAPSHOT_AGE_TICKS_MAX;
    let mut time = tell_time(&store);
    time.wait_for(|now| *now > too_old)
        .await
        .expect("time goes on");
    // Storage servers forget old versions with some delay. The client caches what it has read, so each read uses another
    // key.
    let mut tries = 0_u32;
    let read = loop {
        let key = [&b"\xf0any/"[..], &tries.to_be_bytes()].concat();
        tries += 1;
        match snapshot.get(vec![key]).await {
            Ok(_) => time.changed().await.expect("time goes on"),
            Err(error) => break error,
        }
    };
    assert!(matches!(read, Error::TooOld), "{read:?}");
}
