//! Transients: delivered to live subscribers, stored in no feed.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::writes;
use crate::{
    clock::AtClock,
    error::{Error, Result},
    metrics::{Metrics, TransientLoss},
    store::{Found, Plan, Snapshot, Store, Transaction, keys::Keys, transact},
    types::Event,
    version::Version,
};

/// Most transients on their way to the store at once; further ones are refused with [`Error::Busy`].
const TRANSIENTS_IN_FLIGHT_MAX: usize = 1024;

/// What is needed to commit transients.
pub(super) struct Transients {
    store: Arc<dyn Store>,
    keys: Keys,
    clock: Arc<AtClock>,
    slots: Arc<Semaphore>,
    tracker: TaskTracker,
    metrics: Arc<Metrics>,
}

/// A transient with a slot among those in flight. Dropping it gives the slot back.
pub struct TransientPermit {
    transients: Arc<Transients>,
    event: Event,
    slot: OwnedSemaphorePermit,
}

impl Transients {
    pub(super) fn new(
        store: Arc<dyn Store>,
        keys: Keys,
        clock: Arc<AtClock>,
        tracker: TaskTracker,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            keys,
            clock,
            slots: Arc::new(Semaphore::new(TRANSIENTS_IN_FLIGHT_MAX)),
            tracker,
            metrics,
        }
    }

    pub(super) fn try_reserve(self: &Arc<Self>, event: Event) -> Result<TransientPermit> {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => Ok(TransientPermit {
                transients: Arc::clone(self),
                event,
                slot,
            }),
            Err(_) => {
                let appends = &self.metrics.appends;
                appends.note_transients_lost(TransientLoss::Busy, 1);
                Err(Error::Busy)
            }
        }
    }

    async fn commit(&self, event: Event) -> Result<()> {
        let mut put = PutTransient {
            keys: &self.keys,
            at: self.clock.now(),
            event,
        };
        transact(&*self.store, &mut put).await
    }
}

impl TransientPermit {
    /// Commits the transient in the background. A failure is counted and logged; nobody waits for the outcome.
    pub fn append(self) {
        let Self {
            transients,
            event,
            slot,
        } = self;
        let tracker = transients.tracker.clone();
        tracker.spawn(async move {
            let appends = &transients.metrics.appends;
            match transients.commit(event).await {
                Ok(()) => appends.note_transient(),
                Err(error) => {
                    appends.note_transients_lost(TransientLoss::Store, 1);
                    tracing::warn!(%error, "a transient was lost");
                }
            }
            drop(slot);
        });
    }
}

struct PutTransient<'a> {
    keys: &'a Keys,
    at: i64,
    event: Event,
}

#[async_trait]
impl Transaction for PutTransient<'_> {
    const NAME: &'static str = "transient";

    type Output = ();
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<()>> {
        let entry = writes::entry(&self.event, self.at, snapshot.version().time());
        Ok(Plan::Commit(writes::of_transient(
            self.keys,
            &self.event.feeds,
            &entry,
        )))
    }

    fn committed(&mut self, _version: Version) {}
}
