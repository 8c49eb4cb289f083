//! The task of a node that takes steps, whenever there is something to project.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Limits, Progress, Projection, Step, Turn, checkpoints, events_above};
use crate::{
    metrics::Metrics,
    pace::{BACKOFF_MAX, Backoff, jittered, rest},
    store::{Error, Result, Store, keys::Keys, transact_until},
};

/// After a commit has woken a node, it waits for further ones for this long, up to twice as long. The node that has taken
/// the last step waits the least, so that the others usually find nothing left to do.
const GATHER: Duration = Duration::from_millis(25);
const GATHER_OTHERS: Duration = Duration::from_millis(250);

/// Longest rest after a step.
const REST_MAX: Duration = Duration::from_secs(1);

/// While projections are behind, a node counts by how many events, this often and up to this many.
const COUNT_EVERY: Duration = Duration::from_secs(15);
const COUNT_MAX: u64 = 100_000;

/// The projections of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Empty: the node takes no steps.
    pub projections: Vec<Projection>,
    pub limits: Limits,
}

/// Takes steps until `stop` is cancelled. Any number of nodes may do this concurrently, with different projections.
pub async fn run(
    store: Arc<dyn Store>,
    keys: Keys,
    settings: Settings,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    if settings.projections.is_empty() {
        return;
    }
    let worker = Worker {
        store,
        keys,
        settings,
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
    settings: Settings,
    metrics: Arc<Metrics>,
}

impl Worker {
    async fn run(&self) {
        let metrics = &self.metrics.projections;
        metrics.begin(self.settings.projections.iter().map(Projection::name));
        let mut turn = Turn::Last;
        let mut backoff = Backoff::default();
        let mut gather = GATHER_OTHERS;
        let mut counted: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let Settings {
                projections,
                limits,
            } = &self.settings;
            // Attempted once. If the outcome of its commit is unknown, the next step reads where the checkpoint is.
            let mut step = Step::new(&self.keys, projections, turn, *limits);
            match transact_until(&*self.store, &mut step, begun).await {
                Ok(progress) => {
                    backoff.reset();
                    let members = &progress.members;
                    metrics.reached(members, progress.lag_ticks);
                    if progress.has_moved {
                        gather = GATHER;
                        metrics.won(members, progress.events);
                    }
                    if progress.is_complete {
                        if self.wait(&progress).await.is_err() {
                            return;
                        }
                        sleep(jittered(gather)).await;
                    } else {
                        let took = begun.elapsed();
                        if counted.is_none_or(|counted| counted.elapsed() >= COUNT_EVERY) {
                            counted = Some(Instant::now());
                            self.count().await;
                        }
                        rest(&self.metrics, took, REST_MAX).await;
                    }
                    // Those that are behind catch up while the others keep up.
                    turn = match turn {
                        Turn::First => Turn::Last,
                        Turn::Last => Turn::First,
                    };
                }
                Err(Error::Closed) => return,
                // Another node was first.
                Err(Error::Conflict | Error::ConditionFailed(_)) => {
                    metrics.lost(step.members());
                    gather = GATHER_OTHERS;
                    backoff.wait().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a step of the projections failed; retrying");
                    metrics.wakes();
                    backoff.wait().await;
                }
            }
        }
    }

    /// Waits for a commit above `progress`. Fails if the store is closed.
    async fn wait(&self, progress: &Progress) -> Result<()> {
        loop {
            match self.store.wait_for_commit(progress.moment).await {
                Ok(()) => break,
                Err(Error::Closed) => return Err(Error::Closed),
                Err(_unavailable) => sleep(jittered(BACKOFF_MAX)).await,
            }
        }
        self.metrics.projections.wakes();
        Ok(())
    }

    /// Counts by how many events each projection is behind.
    async fn count(&self) {
        let projections = &self.settings.projections;
        let counts = async {
            let snapshot = self.store.snapshot().await?;
            let checkpoints = checkpoints(&*snapshot, &self.keys, projections).await?;
            events_above(&*snapshot, &self.keys, &checkpoints, COUNT_MAX).await
        };
        match counts.await {
            Ok(counts) => self.metrics.projections.counted(&counts),
            // The next step reports what is wrong with the store.
            Err(error) => tracing::debug!(%error, "events to project were not counted"),
        }
    }
}
