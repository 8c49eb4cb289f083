//! All commits of an event id, with their copies in feeds. There is more than one if it has twins.

use super::Allow;
use crate::{
    error::{self, Error},
    log::entry_at,
    store::{
        Condition, KeyValue, Result, Snapshot, entries_at,
        keys::{self, Keys},
        values::{Claim, ClaimedEvent, Edit, decode_claim, decode_entry},
    },
    types::{Entry, EventId, FeedName},
    version::{Cursor, Version},
};

/// The claims of an id, and what they claimed.
#[derive(Debug)]
pub(super) struct Commits {
    pub(super) id: EventId,
    /// In version order; the first one counts. Empty if the id is free.
    claims: Vec<KeyValue>,
    /// Those that were not erased.
    pub(super) commits: Vec<Commit>,
}

#[derive(Debug)]
pub(super) struct Commit {
    pub(super) version: Version,
    pub(super) claim: ClaimedEvent,
    /// The edits of the event, newest first. An edit is of all its commits, and the first claim remembers it.
    pub(super) edits: Vec<Edit>,
    /// The feeds that hold the entry (retention may have removed it from some), in order, with its keys there.
    pub(super) copies: Vec<Copy>,
    /// The event as the log has it, if no feed holds it any more.
    logged: Option<Entry>,
}

#[derive(Debug)]
pub(super) struct Copy {
    pub(super) feed: FeedName,
    pub(super) item: KeyValue,
    pub(super) entry: Entry,
}

impl Commits {
    /// Reads the commits of `ids`, in two rounds of reads.
    pub(super) async fn of(
        snapshot: &dyn Snapshot,
        keys: &Keys,
        ids: &[EventId],
    ) -> Result<Vec<Self>> {
        let claims = ids.iter().map(|id| keys.all_claims(id));
        let slices = snapshot.ranges(claims.collect()).await?;
        let mut found = Vec::with_capacity(ids.len());
        let mut held = Vec::new();
        for (id, slice) in ids.iter().zip(slices) {
            let mut commits = Vec::new();
            for item in &slice.items {
                let Claim { version, event } = decode_claim(item)?;
                let Some(claim) = event else {
                    continue;
                };
                let places = claim.feeds.iter();
                held.extend(places.map(|feed| (keys.feed(feed), version)));
                let first: Option<&Commit> = commits.first();
                let edits = first.map_or_else(|| claim.edits.clone(), |first| first.edits.clone());
                commits.push(Commit {
                    version,
                    claim,
                    edits,
                    copies: Vec::new(),
                    logged: None,
                });
            }
            found.push(Self {
                id: id.clone(),
                claims: slice.items,
                commits,
            });
        }
        let mut stored = entries_at(snapshot, held.into_iter()).await?.into_iter();
        for commit in found.iter_mut().flat_map(|commits| &mut commits.commits) {
            for feed in &commit.claim.feeds {
                let Some(Some(item)) = stored.next() else {
                    continue;
                };
                commit.copies.push(Copy {
                    feed: feed.clone(),
                    entry: decode_entry(&item)?,
                    item,
                });
            }
            if let (true, Some(first)) = (commit.copies.is_empty(), commit.claim.feeds.first()) {
                let hash = Keys::hash(first);
                commit.logged = entry_at(snapshot, keys, hash, commit.version).await?;
            }
        }
        Ok(found)
    }

    /// The version of the first commit, if there is one.
    pub(super) fn version(&self) -> Option<Version> {
        let first = self.claims.first();
        first.and_then(|item| keys::version_of(&item.key).ok())
    }

    /// Whether the id was erased, and nothing of it is left.
    pub(super) fn is_erased(&self) -> bool {
        !self.claims.is_empty() && self.commits.is_empty()
    }

    /// Whether there is an event, all of whose commits may be changed.
    pub(super) fn is_allowed(&self, allow: Allow<'_>) -> error::Result<bool> {
        let mut exists = false;
        for commit in &self.commits {
            let Some(entry) = commit.entry() else {
                continue;
            };
            match allow(entry, &commit.claim.feeds) {
                Ok(()) => exists = true,
                Err(Error::EventNotFound(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(exists)
    }

    /// Conditions by which nobody has changed, erased or appended the event meanwhile.
    pub(super) fn unchanged(&self, keys: &Keys) -> impl Iterator<Item = Condition> {
        let equal = |item: &KeyValue| Condition::KeyEquals {
            key: item.key.to_vec(),
            value: Some(item.value.to_vec()),
        };
        let last = self.claims.last();
        let last = last.and_then(|item| keys::version_of(&item.key).ok());
        let (begin, end) = keys::after_until(&keys.claim(&self.id), last, Version::MAX);
        let no_twin = Condition::RangeEmpty { begin, end };
        let claims: Vec<_> = self.claims.iter().map(equal).collect();
        claims.into_iter().chain([no_twin])
    }
}

impl Commit {
    /// The entry, if a feed or the log still holds it.
    pub(super) fn entry(&self) -> Option<&Entry> {
        let copy = self.copies.first().map(|copy| &copy.entry);
        copy.or(self.logged.as_ref())
    }

    /// The version of the last edit or, if the event was never edited, its own.
    pub(super) fn revision(&self) -> Version {
        self.edits.first().map_or(self.version, |edit| edit.version)
    }

    /// Refuses a change of the event that was to be made only if `expected` is its revision.
    pub(super) fn check_revision(
        &self,
        id: &EventId,
        expected: Option<Cursor>,
    ) -> error::Result<()> {
        let current = self.revision();
        match expected {
            Some(expected) if expected.unchecked() != current => Err(Error::RevisionConflict {
                id: id.clone(),
                current,
            }),
            _ => Ok(()),
        }
    }

    /// What to clear under `prefix`, so that the news of the last edit is gone.
    pub(super) fn news_under(&self, prefix: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let last = self.edits.first()?;
        Some(keys::of_transaction(prefix, last.version))
    }
}
