//! Which versions are of this life of the store.
//!
//! Every version that a client hands in is a [`Cursor`], and becomes a [`Version`] only here: it is refused if it is from
//! another life, from a store that was restored, replaced or deleted since. The store keeps a row for each epoch it has
//! lived through ([`crate::store::epoch`]). A version is known if its epoch has a row, and if it lies between the beginning
//! and the end of that epoch.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{
    error::{Error, Result},
    store::{
        self, Snapshot,
        epoch::{self, Row},
        keys::{self, Keys},
    },
    version::{Cursor, Version},
};

/// The lineage of a store, as far as this node has read it; cheap to clone. Rows are read once, and again when a snapshot is
/// in an epoch that is not known yet. So checking costs no read.
#[derive(Clone)]
pub struct Lineage {
    keys: Keys,
    rows: Arc<RwLock<Arc<[Row]>>>,
}

/// The lineage as of the moment of a snapshot.
#[derive(Debug, Clone)]
pub struct Known {
    /// In the order of their epochs.
    rows: Arc<[Row]>,
    now: Version,
}

impl Lineage {
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            rows: Arc::default(),
        }
    }

    /// The lineage as of `snapshot`.
    pub async fn at(&self, snapshot: &dyn Snapshot) -> store::Result<Known> {
        let now = snapshot.version();
        let rows = Arc::clone(&self.rows.read().unwrap_or_else(PoisonError::into_inner));
        let newest = rows.last().map(|row| row.epoch);
        if newest >= Some(now.epoch()) {
            return Ok(Known { rows, now });
        }
        let newer = epoch::rows(snapshot, &self.keys, newest).await?;
        let rows: Arc<[Row]> = rows.iter().copied().chain(newer).collect();
        let newest = rows.last().map(|row| row.epoch);
        if newest < Some(now.epoch()) {
            let key = self.keys.lineage(now.epoch());
            return Err(keys::corrupt(&key, "the epoch has no row in the lineage"));
        }
        let mut kept = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        // Another reader may have read more.
        if kept.last().map(|row| row.epoch) < newest {
            *kept = Arc::clone(&rows);
        }
        Ok(Known { rows, now })
    }
}

impl Known {
    /// The same, as of the earlier moment `now`.
    pub fn until(self, now: Version) -> Self {
        Self { now, ..self }
    }

    /// The greatest version of this life of the store that is not above `version`. The result may be [`Version::ZERO`].
    pub fn nearest(&self, version: Version) -> Version {
        let version = version.min(self.now);
        let row = self.rows.partition_point(|row| row.began <= version);
        let Some(row) = row.checked_sub(1) else {
            return Version::ZERO;
        };
        match self.rows.get(row + 1) {
            Some(next) => version.min(next.previous_end),
            None => version,
        }
    }

    /// The version that the client means.
    ///
    /// # Errors
    /// [`Error::CursorUnknown`] if it is not of this life of the store, and [`Error::VersionAhead`] if it has not been
    /// reached.
    pub fn check(&self, cursor: Cursor) -> Result<Version> {
        let version = cursor.unchecked();
        if version == Version::ZERO {
            return Ok(version);
        }
        let current = self.now;
        let row = self
            .rows
            .binary_search_by_key(&version.epoch(), |row| row.epoch);
        let is_known = row.is_ok_and(|index| {
            let end = self.rows.get(index + 1).map(|next| next.previous_end);
            version >= self.rows[index].began && end.is_none_or(|end| version <= end)
        });
        if !is_known {
            return Err(Error::CursorUnknown {
                asked: version,
                current,
            });
        }
        if version > current {
            return Err(Error::VersionAhead {
                asked: version,
                current,
            });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the rule in its plainest form, for versions around all bounds.
        #[test]
        fn a_version_is_known_if_its_epoch_has_a_row_and_it_lies_between_the_bounds(
            lives in proptest::collection::vec((1..3u32, 0..6u64, 0..6u64), 1..6),
            (epoch, time, count) in (0..14u32, 0..20u64, prop_oneof![Just(0), Just(7), Just(u32::MAX)]),
            now in 0..20u64,
        ) {
            let (mut rows, mut ends) = (Vec::new(), Vec::new());
            let (mut next, mut tick, mut end) = (0, 0, Version::ZERO);
            for (epochs, pause, length) in lives {
                next += epochs;
                tick += pause;
                rows.push(Row { epoch: next, began: Version::new(next, tick, 0), previous_end: end });
                tick += length;
                end = Version::moment(next, tick);
                ends.push(end);
            }
            let current = Version::moment(next, now);
            let known = Known { rows: rows.clone().into(), now: current };
            let asked = Version::new(epoch, time, count);
            let life = rows.iter().position(|row| row.epoch == epoch);
            let is_known = asked == Version::ZERO || life.is_some_and(|life| {
                let is_last = life + 1 == rows.len();
                asked >= rows[life].began && (is_last || asked <= ends[life])
            });
            match known.check(asked.into()) {
                Ok(version) => {
                    prop_assert_eq!(version, asked);
                    prop_assert!(is_known && asked <= current);
                }
                Err(Error::CursorUnknown { .. }) => prop_assert!(!is_known),
                Err(Error::VersionAhead { .. }) => prop_assert!(is_known && asked > current),
                Err(other) => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
