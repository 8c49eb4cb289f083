//! Transients: live subscribers hear them, no feed holds them.

use async_trait::async_trait;

use super::writes;
use crate::{
    clock::AtClock,
    error::{Error, Result},
    store::{Found, Plan, Snapshot, Store, Transaction, keys::Keys, transact},
    types::Event,
    version::Version,
};

/// Commits a transient.
pub async fn put_transient(
    store: &dyn Store,
    keys: &Keys,
    clock: &AtClock,
    event: Event,
) -> Result<()> {
    transact(
        store,
        &mut PutTransient {
            keys,
            at: clock.now(),
            event,
        },
    )
    .await
}

struct PutTransient<'a> {
    keys: &'a Keys,
    at: i64,
    event: Event,
}

#[async_trait]
impl Transaction for PutTransient<'_> {
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
