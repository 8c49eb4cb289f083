//! The epoch: the generation number at the front of every version. An operator can raise it.

use async_trait::async_trait;

use super::{
    Batch, Condition, Error, Found, Plan, Reads, Result, Snapshot, Store, Transaction, keys::Keys,
    transact,
};
use crate::version::Version;

/// The current epoch.
pub async fn current(store: &dyn Store) -> Result<u32> {
    Ok(store.snapshot().await?.version().epoch())
}

/// Raises the epoch by one and returns the new one. Transactions in flight abort and are retried in the new epoch. All
/// later versions are above all earlier ones.
pub async fn raise(store: &dyn Store, keys: &Keys) -> Result<u32> {
    transact(store, &mut Raise { keys, to: 0 }).await
}

struct Raise<'a> {
    keys: &'a Keys,
    to: u32,
}

#[async_trait]
impl Transaction for Raise<'_> {
    type Output = u32;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        Reads {
            keys: vec![self.keys.epoch()],
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        mut first: Found,
        unsure: bool,
    ) -> Result<Plan<u32>> {
        let current = snapshot.version().epoch();
        if unsure && current >= self.to {
            return Ok(Plan::Answer(current));
        }
        self.to = current
            .checked_add(1)
            .ok_or_else(|| Error::Refused("the epoch cannot be raised any further".into()))?;
        let key = self.keys.epoch();
        let stored = first.values.pop().flatten();
        Ok(Plan::Commit(Batch {
            conditions: vec![Condition::KeyEquals {
                key: key.clone(),
                value: stored.map(|epoch| epoch.to_vec()),
            }],
            puts: vec![(key, self.to.to_be_bytes().to_vec())],
            notify: true,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) -> u32 {
        self.to
    }
}
