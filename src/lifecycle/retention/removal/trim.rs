//! What says up to where feeds and the log were trimmed.

use std::collections::BTreeSet;

use super::Removal;
use crate::{
    store::{
        Result,
        keys::{self, version_of},
    },
    types::FeedName,
    version::Version,
};

/// Limits of one read of a feed.
const READ_KEYS: usize = 200;
const READ_BYTES: usize = 256 * 1024;

impl Removal<'_> {
    /// Raises what says up to where a feed was trimmed: to the last version that goes and lies below everything that stays.
    /// Nobody can be told of what goes from between entries that stay, because whoever reads a feed from its beginning
    /// continues from these.
    pub(super) async fn trim_feeds(&mut self) -> Result<()> {
        for (feed, gone) in std::mem::take(&mut self.gone) {
            if let Some(last) = gone.last() {
                self.raise(self.keys.trimmed_anywhere(), *last);
            }
            let is_mixed = self.mixed.contains_key(&feed);
            let oldest = self.oldest_left(&feed, &gone, is_mixed).await?;
            let trimmed = match (oldest, self.mixed.get(&feed)) {
                (Some(oldest), None) => gone.range(..oldest).next_back().copied(),
                (None, None) => gone.last().copied(),
                // Earlier steps may have removed more, above what goes now.
                (Some(oldest), Some(_)) => Some(oldest.before()),
                (None, Some(floor)) => gone.last().copied().max(Some(*floor)),
            };
            if let Some(version) = trimmed {
                self.raise(self.keys.trimmed(&feed), version);
                self.raise(self.keys.trimmed_anywhere(), version);
            }
        }
        if self.trims_log {
            self.raise(self.keys.trimmed_log(), self.trimmed_log);
            self.raise(self.keys.trimmed_anywhere(), self.trimmed_log);
        }
        Ok(())
    }

    /// Raises the version at `key`, which is in the batch once.
    fn raise(&mut self, key: Vec<u8>, version: Version) {
        let value = version.to_bytes().to_vec();
        let maxima = &mut self.batch.maxima;
        match maxima.iter_mut().find(|(other, _)| *other == key) {
            Some((_, greatest)) => *greatest = std::mem::take(greatest).max(value),
            None => maxima.push((key, value)),
        }
    }

    /// The version of the oldest entry that stays, if there is one up to the last version that goes, or at all.
    async fn oldest_left(
        &self,
        feed: &FeedName,
        gone: &BTreeSet<Version>,
        is_mixed: bool,
    ) -> Result<Option<Version>> {
        let until = match (gone.last(), is_mixed) {
            (_, true) => self.snapshot.version(),
            (Some(last), false) => *last,
            (None, false) => return Ok(None),
        };
        let prefix = self.keys.feed(feed);
        // Most often, all that is read goes, or the first one stays.
        let (mut after, mut limit) = (Version::ZERO, 1);
        loop {
            let range = keys::range(&prefix, Some(after), until, false, limit, READ_BYTES);
            let slice = self.snapshot.ranges(vec![range]).await?.pop();
            let slice = slice.unwrap_or_default();
            for item in &slice.items {
                after = version_of(&item.key)?;
                if !gone.contains(&after) {
                    return Ok(Some(after));
                }
            }
            if !slice.more {
                return Ok(None);
            }
            limit = READ_KEYS;
        }
    }
}
