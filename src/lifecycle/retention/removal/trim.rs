//! What says up to where feeds and the log were trimmed.

use std::collections::{BTreeMap, BTreeSet};

use super::Removal;
use crate::{
    store::{
        Range, Result, Slice,
        keys::{self, Keys, version_of},
        values::decode_entry,
    },
    types::FeedName,
    version::Version,
};

/// Limits of one read of a feed.
const READ_KEYS: usize = 200;
const READ_BYTES: usize = 64 * 1024;

impl Removal<'_> {
    /// Raises what says up to where a feed was trimmed: to the last version that goes and lies below everything that stays.
    /// Nobody can be told of what goes from between entries that stay, because whoever reads a feed from its beginning
    /// continues from these.
    pub(super) async fn trim_feeds(&mut self) -> Result<()> {
        let mut oldest = self.oldest_left().await?;
        for (feed, gone) in std::mem::take(&mut self.gone) {
            if let Some(last) = gone.last() {
                self.raise(self.keys.trimmed_anywhere(), *last);
            }
            let trimmed = match (oldest.remove(&feed), self.mixed.get(&feed)) {
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

    /// Of each feed from which something goes, the version of the oldest entry that stays, if there is one up to the last
    /// version that goes, or, where some kinds are kept longer, at all. All feeds are read at once.
    async fn oldest_left(&self) -> Result<BTreeMap<FeedName, Version>> {
        let walk = |(feed, gone)| Walk {
            feed,
            gone,
            after: Version::ZERO,
            until: match (BTreeSet::last(gone), self.mixed.contains_key(feed)) {
                (Some(last), false) => *last,
                _ => self.snapshot.version(),
            },
            // Most often, all that is read goes, or the first one stays.
            limit: 1,
        };
        let mut walks: Vec<Walk> = self.gone.iter().map(walk).collect();
        let mut oldest = BTreeMap::new();
        while !walks.is_empty() {
            let ranges = walks.iter().map(|walk| walk.range(self.keys)).collect();
            let slices = self.snapshot.ranges(ranges).await?;
            let mut left = Vec::new();
            for (mut walk, slice) in walks.into_iter().zip(slices) {
                match walk.first_left(&slice)? {
                    Some(version) => drop(oldest.insert(walk.feed.clone(), version)),
                    None if slice.more => left.push(walk),
                    None => {}
                }
            }
            walks = left;
        }
        Ok(oldest)
    }
}

/// A walk through a feed, from its beginning to an entry that stays.
struct Walk<'a> {
    feed: &'a FeedName,
    gone: &'a BTreeSet<Version>,
    after: Version,
    until: Version,
    limit: usize,
}

impl Walk<'_> {
    fn range(&self, keys: &Keys) -> Range {
        let prefix = keys.feed(self.feed);
        let after = Some(self.after);
        keys::entries(&prefix, after, self.until, false, self.limit, READ_BYTES)
    }

    /// The first version in the slice that stays. If there is none, the walk goes on behind the slice.
    fn first_left(&mut self, slice: &Slice) -> Result<Option<Version>> {
        for item in &slice.items {
            self.after = version_of(&item.key)?;
            // The place of an erased entry is nothing that a reader could continue from.
            if !self.gone.contains(&self.after) && !decode_entry(item)?.is_erased() {
                return Ok(Some(self.after));
            }
        }
        self.limit = READ_KEYS;
        Ok(None)
    }
}
