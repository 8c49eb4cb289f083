//! The task of a node that takes the steps of the sweep.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Outcome, Progress, Retention, Step};
use crate::{
    clock::WallTime,
    lineage::Lineage,
    metrics::Metrics,
    pace::{Backoff, jittered, rest},
    store::{Error, Store, keys::Keys, transact_until},
};

/// Between two passes, a node looks this often whether it is time, as a part of the time between them; and at least so often.
const LOOKS: u32 = 4;
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Longest rest after a step. A step takes long mostly because it waits for the cluster, which costs the node little.
const REST_MAX: Duration = Duration::from_millis(100);

/// Takes steps until `stop` is cancelled. Any number of nodes may do this concurrently, with the same rules.
pub async fn run(
    store: Arc<dyn Store>,
    keys: Keys,
    retention: Retention,
    wall: WallTime,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    if retention.keeps_everything() {
        return;
    }
    let lineage = Lineage::new(keys.clone());
    let worker = Worker {
        store,
        keys,
        retention,
        wall,
        lineage,
        metrics,
    };
    tokio::select! {
        () = worker.run() => {}
        () = stop.cancelled() => {}
    }
}

struct Worker {
    store: Arc<dyn Store>,
    keys: Keys,
    retention: Retention,
    wall: WallTime,
    lineage: Lineage,
    metrics: Arc<Metrics>,
}

impl Worker {
    async fn run(&self) {
        let metrics = &self.metrics.retention;
        let look = (self.retention.interval() / LOOKS).min(LOOK_MAX);
        let mut pass = None;
        let mut backoff = Backoff::default();
        // The rules of the node that was started last are in use.
        let mut replaces_rules = true;
        let mut has_warned = false;
        loop {
            let begun = Instant::now();
            let (keys, lineage, now) = (&self.keys, &self.lineage, self.wall.micros());
            let mut step = Step::new(keys, lineage, &self.retention, &mut pass, now);
            step.replaces_rules = replaces_rules;
            // Attempted once. If the outcome of its commit is unknown, the next step reads how far the walk has got.
            match transact_until(&*self.store, &mut step, begun).await {
                Ok(progress) => {
                    backoff.reset();
                    replaces_rules = false;
                    self.report(&progress);
                    match progress.outcome {
                        Outcome::GoesOn => {
                            metrics.won();
                            rest(&self.metrics, begun.elapsed(), REST_MAX).await;
                        }
                        Outcome::IsComplete => {
                            metrics.won();
                            sleep(jittered(look)).await;
                        }
                        Outcome::Rests => sleep(jittered(look)).await,
                        Outcome::HasOtherRules => {
                            if !has_warned {
                                tracing::warn!(
                                    "a node with other retention settings was started after this one: this node leaves retention to it"
                                );
                            }
                            sleep(jittered(LOOK_MAX)).await;
                        }
                    }
                    has_warned = progress.outcome == Outcome::HasOtherRules;
                }
                Err(Error::Closed) => return,
                // Another node was first, or an event was changed.
                Err(Error::Conflict | Error::ConditionFailed(_)) => {
                    metrics.lost();
                    backoff.wait().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a step of retention failed; retrying");
                    backoff.wait().await;
                }
            }
        }
    }

    fn report(&self, progress: &Progress) {
        let metrics = &self.metrics.retention;
        metrics.removed(progress.entries, progress.events);
        let since = match (progress.done, progress.began) {
            (0, began) => began,
            (done, _) => done,
        };
        if progress.outcome != Outcome::HasOtherRules {
            metrics.done_until(since);
        }
    }
}
