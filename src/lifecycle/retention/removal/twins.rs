//! The twins of what goes from a feed or from the log: they go with it, or nothing would hide them.

use super::{Ends, Removal};
use crate::{
    append::writes,
    dedup::Commit,
    lifecycle::rewrite::{FeedsLeft, Rewrite, indexed},
    store::{
        Result, entries_at,
        keys::{self, Keys},
        values::{ClaimedEvent, Record, decode_entry, decode_indexed, encode_indexed},
    },
    types::{Entry, EventId, FeedName},
    version::Version,
};

impl Removal<'_> {
    /// Removes the twins of copies that go. Whether a feed still holds the event.
    pub(super) async fn twins_in_feeds(
        &mut self,
        id: &EventId,
        commits: &[(Version, ClaimedEvent)],
    ) -> Result<bool> {
        let gone = self.events.get(id).map(|removed| removed.copies.clone());
        let mut gone = gone.unwrap_or_default();
        let places = commits
            .iter()
            .flat_map(|(version, claim)| claim.feeds.iter().map(|feed| (feed.clone(), *version)));
        let places: Vec<_> = places.filter(|place| !gone.contains(place)).collect();
        let keys = places
            .iter()
            .map(|(feed, version)| (self.keys.feed(feed), *version));
        let items = entries_at(self.snapshot, keys).await?;
        let mut is_held = false;
        for ((feed, version), item) in places.into_iter().zip(items) {
            let Some(item) = item else {
                continue;
            };
            let entry = decode_entry(&item)?;
            if entry.is_erased() {
                continue;
            }
            let is_twin =
                |(other, first): &(FeedName, Version)| *other == feed && is_twin_of(&entry, *first);
            // In the order of versions, so that the twin of a twin goes with it.
            if gone.iter().any(is_twin) {
                gone.insert((feed.clone(), version));
                let only = Ends::of(version);
                // Of its kind, others may stay.
                let index = self.keys.feed_by_kind(&feed, &entry.kind);
                let clears = [self.keys.notify(&feed), index];
                let clears = clears.iter().map(|prefix| only.under(prefix));
                self.batch.clears.extend(clears);
                self.batch.clears.push(keys::only(item.key.to_vec()));
                self.with(&feed, entry);
            } else {
                is_held = true;
            }
        }
        Ok(is_held)
    }

    /// Removes the twins of what goes from the log: from it altogether, or those feeds in which they are twins. Whether the log
    /// still holds the event.
    pub(super) async fn twins_in_log(
        &mut self,
        id: &EventId,
        commits: &[(Version, ClaimedEvent)],
        rewrite: &mut Rewrite<'_>,
    ) -> Result<bool> {
        let gone = self.events.get(id).map(|removed| removed.logged.clone());
        let mut gone = gone.unwrap_or_default();
        let mut is_held = false;
        for (version, claim) in commits {
            let mut found = Vec::new();
            for (partition, ..) in writes::records(self.keys, &claim.feeds) {
                let Some((key, record)) = rewrite.record(partition, *version).await? else {
                    continue;
                };
                let goes = self
                    .log
                    .get(&partition)
                    .is_some_and(|ends| ends.contains(key));
                if !goes {
                    found.push((partition, record.clone()));
                }
            }
            let mut exporting = found.iter().map(|(_, it)| it).filter(|it| it.exports);
            let Some(record) = exporting.next() else {
                continue;
            };
            let hides = |feed: &FeedName| {
                let mut gone = gone.iter();
                gone.any(|(first, feeds)| feeds.contains(feed) && is_twin_of(&record.entry, *first))
            };
            let left = record.feeds.iter().filter(|feed| !hides(feed));
            let left: Vec<FeedName> = left.cloned().collect();
            if left.len() < record.feeds.len() {
                let hidden = record.feeds.iter().filter(|feed| hides(feed));
                let hidden: Vec<FeedName> = hidden.cloned().collect();
                if let Some(first) = left.first() {
                    self.index_again(&record.entry, Keys::hash(first)).await?;
                }
                let left = FeedsLeft::of(self.keys, &left);
                for (partition, _) in &found {
                    let change = |records: &mut Vec<Record>, index: usize| {
                        left.rename_or_remove(*partition, records, index);
                    };
                    rewrite.change(*partition, *version, change).await?;
                }
                gone.push((*version, hidden));
            }
            is_held |= !left.is_empty() && *version > self.trimmed_log;
        }
        Ok(is_held)
    }

    /// An event has another first feed in the log now: so must the indexes of the log, if they name it.
    async fn index_again(&mut self, entry: &Entry, first_feed_hash: u64) -> Result<()> {
        for item in indexed(self.snapshot, self.keys, entry).await? {
            let feeds = decode_indexed(&item)?.feeds;
            let value = encode_indexed(&feeds, first_feed_hash, false);
            self.batch.puts.push((item.key.to_vec(), value));
        }
        Ok(())
    }
}

/// Whether the entry, whose id is that of `first`, is hidden by it.
fn is_twin_of(entry: &Entry, first: Version) -> bool {
    first < entry.version && Commit::from(entry).reach() < first
}
