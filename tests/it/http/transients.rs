//! How long transients are kept: 10 to 20 seconds of the process, whatever the wall clock does.

use std::{sync::Arc, time::Duration};

use newsfeed::{
    clock::WallTime,
    live::TRANSIENT_LIFE,
    store::{Store, keys},
    version::Version,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::visit;
use crate::support::{
    bed::{Bed, Served},
    patience::until,
};

const NOW: u64 = 1_800_000_000_000_000;
const YEAR: u64 = 365 * 86_400 * 1_000_000;

/// A store whose keys are known.
struct Kept {
    store: Arc<dyn Store>,
    keys: keys::Keys,
}

impl Kept {
    async fn of(bed: &Bed) -> Self {
        Self {
            store: bed.store(),
            keys: bed.keys().await,
        }
    }

    async fn transients(&self) -> usize {
        let range = |partition| {
            let prefix = self.keys.transient(partition);
            keys::range(&prefix, None, Version::MAX, false, usize::MAX, usize::MAX)
        };
        let ranges = (0..self.keys.partitions()).map(range).collect();
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        let slices = snapshot.ranges(ranges).await.expect("slices");
        slices.iter().map(|slice| slice.items.len()).sum()
    }

    async fn until(&self, count: usize) {
        let reached = async || (self.transients().await == count).then_some(());
        until("the number of transients", reached).await;
    }

    /// Sends transients until the store has `count`.
    async fn send(&self, node: &Served, count: usize) {
        for index in self.transients().await..count {
            let signal = json!({ "kind": "typing", "feeds": [format!("a{index}")] });
            assert_eq!(node.post("/v1/transient", &signal).await.0, 202);
        }
        self.until(count).await;
    }
}

#[tokio::test]
async fn transients_are_removed_although_the_clock_was_a_year_ahead() {
    let wall = WallTime::manual(NOW + YEAR);
    let bed = Bed::embedded_at(wall.clone());
    let node = bed.node().await;
    Kept::of(&bed).await.send(&node, 20).await;
    // The versions stand still in the future from now on.
    wall.set(NOW);
    Kept::of(&bed).await.send(&node, 40).await;
    node.stop().await;
    bed.close().await;

    let node = bed.node().await;
    let kept = Kept::of(&bed).await;
    kept.send(&node, 60).await;
    let began = Instant::now();
    tokio::time::pause();
    kept.until(0).await;
    assert!(
        began.elapsed() < 4 * TRANSIENT_LIFE,
        "{:?}",
        began.elapsed()
    );
    tokio::time::resume();
    node.stop().await;
}

#[tokio::test]
async fn transients_are_kept_for_their_time_although_the_clock_is_set_forward() {
    let wall = WallTime::manual(NOW);
    let bed = Bed::embedded_at(wall.clone());
    let node = bed.node().await;
    let kept = Kept::of(&bed).await;
    // Shortly before the next removal.
    tokio::time::pause();
    sleep(TRANSIENT_LIFE * 8 / 10).await;
    tokio::time::resume();
    kept.send(&node, 5).await;
    let sent = Instant::now();
    wall.set(NOW + YEAR);
    node.append(&visit("later", &["a"])).await;
    tokio::time::pause();
    kept.until(0).await;
    let life = sent.elapsed();
    tokio::time::resume();
    // They were sent a moment before the clock was read.
    let tolerance = Duration::from_millis(500);
    assert!(life + tolerance >= TRANSIENT_LIFE, "{life:?}");
    assert!(life < 4 * TRANSIENT_LIFE, "{life:?}");
    node.stop().await;
}
