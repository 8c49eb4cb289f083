//! Removes transients that all nodes have had time to deliver.

use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{
        Batch, Error, Found, Plan, Result, Snapshot, Store, Transaction, keys, keys::Keys, transact,
    },
    version::{TICKS_PER_SECOND, Version},
};

/// How long a transient is kept for nodes that are behind.
pub const TRANSIENT_LIFE: Duration = Duration::from_secs(10);

/// Removes old transients every [`TRANSIENT_LIFE`] until `stop` is cancelled. Any number of nodes may do this concurrently.
pub async fn trim_transients(store: &dyn Store, keys: &Keys, stop: CancellationToken) {
    let mut due = tokio::time::interval(TRANSIENT_LIFE);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = transact(store, &mut Trim { keys }).await {
            tracing::warn!(%error, "cannot remove old transients");
        }
    }
}

struct Trim<'a> {
    keys: &'a Keys,
}

#[async_trait]
impl Transaction for Trim<'_> {
    type Output = ();
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<()>> {
        let now = snapshot.version();
        let horizon = now
            .time()
            .saturating_sub(TRANSIENT_LIFE.as_secs() * TICKS_PER_SECOND);
        let until = Version::moment(now.epoch(), horizon);
        let prefixes: Vec<_> = (0..self.keys.partitions())
            .map(|partition| self.keys.transient(partition))
            .collect();
        let ranges = prefixes
            .iter()
            .map(|prefix| keys::range(prefix, None, until, false, 1, usize::MAX))
            .collect();
        let slices = snapshot.ranges(ranges).await?;
        let clears: Vec<_> = prefixes
            .iter()
            .zip(slices)
            .filter(|(_, slice)| !slice.items.is_empty())
            .map(|(prefix, _)| keys::after_until(prefix, None, until))
            .collect();
        if clears.is_empty() {
            return Ok(Plan::Answer(()));
        }
        Ok(Plan::Commit(Batch {
            clears,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) {}
}
