//! Erasing one event.

use async_trait::async_trait;

use super::{
    Allow, Lifecycle,
    commits::Commits,
    erasure::{Erasure, Selection},
};
use crate::{
    error::{Error, Result},
    store::{Found, Plan, Snapshot, Transaction, transact},
    types::EventId,
    version::{Cursor, Version},
};

/// What became of an event that was to be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Of the event.
    pub version: Version,
    /// Of the erasure; `None` if the event had been erased before.
    pub erased: Option<Version>,
}

impl Lifecycle {
    /// Erases the event `id`, if `revision` is not given or is its revision.
    ///
    /// # Errors
    /// [`Error::EventNotFound`], [`Error::RevisionConflict`], those of `allow`, and those of the store.
    pub async fn erase(
        &self,
        id: &EventId,
        revision: Option<Cursor>,
        allow: Allow<'_>,
    ) -> Result<Erased> {
        let _place = self.place()?;
        let mut erase = EraseOne {
            lifecycle: self,
            id,
            revision,
            allow,
            version: Version::ZERO,
        };
        let erased = transact(&*self.store, &mut erase).await?;
        if erased.erased.is_some() {
            self.metrics.lifecycle.erased.inc();
        }
        Ok(erased)
    }
}

struct EraseOne<'a> {
    lifecycle: &'a Lifecycle,
    id: &'a EventId,
    revision: Option<Cursor>,
    allow: Allow<'a>,
    version: Version,
}

#[async_trait]
impl Transaction for EraseOne<'_> {
    const NAME: &'static str = "erase";

    type Output = Erased;
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<Erased>> {
        let keys = &self.lifecycle.keys;
        let ids = std::slice::from_ref(self.id);
        let found = Commits::of(snapshot, keys, ids).await?.remove(0);
        let not_found = || Error::EventNotFound(self.id.clone());
        let version = found.version().ok_or_else(not_found)?;
        if found.is_erased() {
            return Ok(Plan::Answer(Erased {
                version,
                erased: None,
            }));
        }
        let first = found.commits.first().ok_or_else(not_found)?;
        let entry = first.entry().ok_or_else(not_found)?;
        (self.allow)(entry, &first.claim.feeds)?;
        first.check_revision(self.id, self.revision)?;
        self.version = version;
        let mut erasure = Erasure::new(keys, snapshot);
        erasure.add(found, &Selection::default()).await?;
        let (batch, _) = erasure.finish();
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, base: Version) -> Erased {
        Erased {
            version: self.version,
            erased: Some(base),
        }
    }
}
