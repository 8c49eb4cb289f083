//! Removes transients that all nodes have had time to deliver.
//!
//! Ages are measured with the clock of the process and not by the distance of versions: the versions of the embedded engine
//! stand still after the wall clock was ahead and has been corrected, and jump when it is set forward.

use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{
        Batch, Error, Found, Plan, Result, Snapshot, Store, Transaction, keys, keys::Keys, transact,
    },
    version::Version,
};

/// How long a transient is kept for nodes that are behind.
pub const TRANSIENT_LIFE: Duration = Duration::from_secs(10);

/// Removes old transients every [`TRANSIENT_LIFE`] until `stop` is cancelled. Any number of nodes may do this concurrently.
pub async fn trim_transients(store: &dyn Store, keys: &Keys, stop: CancellationToken) {
    let mut trim = Trim {
        keys,
        old: None,
        current: None,
    };
    loop {
        if let Err(error) = transact(store, &mut trim).await {
            tracing::warn!(%error, "cannot remove old transients");
        }
        tokio::select! {
            () = tokio::time::sleep(TRANSIENT_LIFE) => {}
            () = stop.cancelled() => return,
        }
        trim.old = trim.current.take().or(trim.old);
    }
}

struct Trim<'a> {
    keys: &'a Keys,
    /// A version that was current [`TRANSIENT_LIFE`] ago: everything up to it can go.
    old: Option<Version>,
    /// The version of the last snapshot.
    current: Option<Version>,
}

#[async_trait]
impl Transaction for Trim<'_> {
    const NAME: &'static str = "trim";

    type Output = ();
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<()>> {
        self.current = Some(snapshot.version());
        let Some(until) = self.old else {
            return Ok(Plan::Answer(()));
        };
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
