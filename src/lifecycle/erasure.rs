//! Everything that a transaction does to remove events, with all their copies and twins.
//!
//! What remains is an empty claim, so that a retry of the append is answered and not stored again, and the news of the
//! erasure.
//!
//! On FoundationDB, a node that has read the claims before the event was committed may still commit a twin of it, for as long
//! as its snapshot lives. That twin must stay invisible although the first commit is gone. So a young entry leaves its place
//! ([`Change::Erased`]), which hides twins like the entry itself, and the transaction leaves a job that removes the places and
//! the late twins once no more can come.

use super::{
    changing_batch,
    commits::{Commit, Commits},
    edit::forget_news,
    news::News,
    rewrite::{FeedsLeft, Rewrite, index_prefixes, indexed},
    unmark::{self, Unmark},
};
use crate::{
    append::writes,
    store::{
        self, Batch, SNAPSHOT_AGE_TICKS_MAX, Snapshot, Versioned,
        keys::{Keys, entry_keys, is_unread, only, versioned},
        rows::{Job, Place, What, encode_job},
        values::{self, Record},
    },
    types::{Actor, Change, Delivery, Entry, EventId, FeedName},
    version::Version,
};

/// Most events that one transaction erases.
pub const ERASED_AT_ONCE_MAX: usize = 50;
/// A transaction takes no further event once it writes this much.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// No twin of an older entry can be committed any more: twice the age that a snapshot can have.
pub(super) const TWINS_TICKS_MAX: u64 = 2 * SNAPSHOT_AGE_TICKS_MAX;

/// What of an event is erased.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    /// Only those of this actor.
    pub(super) actor: Option<Actor>,
    /// Only the copies in this feed. An event that is in no other is erased altogether.
    pub(super) feed: Option<FeedName>,
    /// Only twins of the first commit.
    pub(super) twins: bool,
}

/// A transaction that erases events.
pub(super) struct Erasure<'a> {
    keys: &'a Keys,
    snapshot: &'a dyn Snapshot,
    batch: Batch,
    rewrite: Rewrite<'a>,
    news: News,
    next_index: u16,
    unmark: Unmark,
    /// Of young entries, to be removed later.
    places: Vec<Place>,
    erased: usize,
}

impl<'a> Erasure<'a> {
    pub(super) fn new(keys: &'a Keys, snapshot: &'a dyn Snapshot) -> Self {
        Self {
            keys,
            snapshot,
            batch: changing_batch(keys),
            rewrite: Rewrite::new(keys, snapshot),
            news: News::default(),
            next_index: 0,
            unmark: Unmark::default(),
            places: Vec::new(),
            erased: 0,
        }
    }

    pub(super) fn keys(&self) -> &'a Keys {
        self.keys
    }

    pub(super) fn snapshot(&self) -> &'a dyn Snapshot {
        self.snapshot
    }

    /// Whether a twin of what was committed at `version` may still come.
    pub(super) fn twins_may_come(&self, version: Version) -> bool {
        let until = version.time().saturating_add(TWINS_TICKS_MAX);
        !self.snapshot.checks_claims()
            && self.snapshot.version().epoch() == version.epoch()
            && self.snapshot.taken_at() < until
    }

    /// The commits of `ids`.
    pub(super) async fn commits(&self, ids: &[EventId]) -> store::Result<Vec<Commits>> {
        Commits::of(self.snapshot, self.keys, ids).await
    }

    /// Whether another event would be too much for one transaction.
    pub(super) fn is_full(&self) -> bool {
        let versioned = self.batch.versioned.iter();
        let news: usize = versioned
            .map(|put| put.prefix.len() + put.value.len())
            .sum();
        let conditions = 64 * self.batch.conditions.len();
        let clears = 128 * self.batch.clears.len();
        self.erased >= ERASED_AT_ONCE_MAX
            || news + conditions + clears + self.rewrite.bytes() > BATCH_BYTES_MAX
    }

    /// Erases what `selection` says of an event.
    pub(super) async fn add(
        &mut self,
        mut found: Commits,
        selection: &Selection,
    ) -> store::Result<()> {
        let first = found.version();
        let mut all = std::mem::take(&mut found.commits);
        let is_meant = |commit: &Commit| {
            let (by, feed) = (selection.actor.as_ref(), selection.feed.as_ref());
            let is_by = |by| {
                commit
                    .entry()
                    .is_some_and(|entry| entry.actor.as_ref() == Some(by))
            };
            (!selection.twins || Some(commit.version) != first)
                && by.is_none_or(is_by)
                && feed.is_none_or(|feed| commit.claim.feeds.contains(feed))
        };
        let left = |commit: &Commit| match &selection.feed {
            None => Vec::new(),
            Some(erased) => {
                let feeds = commit.claim.feeds.iter();
                feeds.filter(|feed| *feed != erased).cloned().collect()
            }
        };
        // Without the first commit, its twins would show, whoever wrote them and wherever they are.
        let ends = all.first().is_some_and(|commit| {
            Some(commit.version) == first && is_meant(commit) && left(commit).is_empty()
        });
        all.retain(|commit| ends || is_meant(commit));
        if all.is_empty() {
            return Ok(());
        }
        self.batch.conditions.extend(found.unchanged(self.keys));
        for commit in &all {
            let left = if ends { Vec::new() } else { left(commit) };
            let is_first = Some(commit.version) == first;
            self.claim(&found.id, commit, &left, is_first);
            self.copies(commit, &left);
            self.marks(commit, &left).await?;
            self.log(commit, &left).await?;
            self.indexes(commit, &left).await?;
            self.tell(commit, &left);
        }
        self.erased += 1;
        Ok(())
    }

    /// What is left of a claim: nothing, if it is a twin's; an empty one, if the event is erased.
    fn claim(&mut self, id: &EventId, commit: &Commit, left: &[FeedName], is_first: bool) {
        let key = versioned(&self.keys.claim(id), commit.version);
        if !left.is_empty() {
            let claim = values::ClaimedEvent {
                feeds: left.to_vec(),
                ..commit.claim.clone()
            };
            self.batch.puts.push((key, values::encode_claim_of(&claim)));
        } else if is_first {
            self.batch.puts.push((key, Vec::new()));
        } else {
            self.batch.clears.push(only(key));
        }
    }

    fn copies(&mut self, commit: &Commit, left: &[FeedName]) {
        let is_young = self.twins_may_come(commit.version);
        for copy in commit
            .copies
            .iter()
            .filter(|copy| !left.contains(&copy.feed))
        {
            let key = copy.item.key.to_vec();
            let has_notify_key = copy.entry.delivery == Delivery::Notify && !is_unread(&key);
            let notify =
                has_notify_key.then(|| versioned(&self.keys.notify(&copy.feed), commit.version));
            if is_young {
                let place = Entry {
                    change: Some(Change::Erased),
                    ..copy.entry.clone()
                };
                let notify = notify.map(|key| (key, values::encode_notify(&place)));
                self.batch.puts.extend(notify);
                self.batch.puts.push((key, values::encode_entry(&place)));
            } else {
                self.batch.clears.push(only(key));
                self.batch.clears.extend(notify.map(only));
            }
            let by_kind = self.keys.feed_by_kind(&copy.feed, &copy.entry.kind);
            self.batch
                .clears
                .push(only(versioned(&by_kind, commit.version)));
            self.batch
                .clears
                .extend(commit.news_under(&self.keys.change(&copy.feed)));
        }
        if is_young && let Some(entry) = commit.entry() {
            let gone = commit
                .claim
                .feeds
                .iter()
                .filter(|feed| !left.contains(feed));
            self.places.push(Place {
                id: entry.id.clone(),
                version: commit.version,
                feeds: gone.cloned().collect(),
            });
        }
    }

    /// Removes what readers have said of the copies.
    async fn marks(&mut self, commit: &Commit, left: &[FeedName]) -> store::Result<()> {
        let copies = commit.copies.iter();
        let copies = copies.filter(|copy| copy.entry.delivery == Delivery::Notify);
        let feeds = copies
            .map(|copy| &copy.feed)
            .filter(|feed| !left.contains(feed));
        let feeds: Vec<&FeedName> = feeds.collect();
        let at = commit.version;
        let ranges = feeds
            .iter()
            .map(|feed| unmark::marks(self.keys, feed, at, at));
        let found = self.snapshot.ranges(ranges.collect()).await?;
        for (feed, found) in feeds.into_iter().zip(&found) {
            let (batch, entry) = (&mut self.batch, (feed, at, at));
            self.unmark.add(self.keys, batch, entry, &found.items)?;
        }
        Ok(())
    }

    /// Removes the event from the records of the log, or those feeds of it that are not `left`.
    async fn log(&mut self, commit: &Commit, left: &[FeedName]) -> store::Result<()> {
        let is_young = self.twins_may_come(commit.version);
        let left_in_log = FeedsLeft::of(self.keys, left);
        for (partition, ..) in writes::records(self.keys, &commit.claim.feeds) {
            let change = |records: &mut Vec<Record>, index: usize| {
                let record = &mut records[index];
                if left_in_log.rename(partition, record) {
                    return;
                }
                if is_young {
                    let entry = &record.entry;
                    let (id, kind) = (entry.id.clone(), entry.kind.clone());
                    let place = Entry {
                        version: entry.version,
                        change: Some(Change::Erased),
                        ..Entry::without_content(id, kind, entry.read_at)
                    };
                    record.entry = place;
                } else {
                    records.remove(index);
                }
            };
            self.rewrite
                .change(partition, commit.version, change)
                .await?;
        }
        match (left.is_empty(), commit.edits.first()) {
            (false, Some(edit)) => self.rename_news(commit, edit.version, &left_in_log).await,
            _ => {
                forget_news(&mut self.batch, self.keys, commit);
                Ok(())
            }
        }
    }

    /// Removes feeds from the news of the last edit in the log.
    async fn rename_news(
        &mut self,
        commit: &Commit,
        edit: Version,
        left: &FeedsLeft<'_>,
    ) -> store::Result<()> {
        for (partition, ..) in writes::records(self.keys, &commit.claim.feeds) {
            let change = |records: &mut Vec<Record>, index: usize| {
                if records[index].entry.change == Some(Change::Edit(commit.version)) {
                    left.rename_or_remove(partition, records, index);
                }
            };
            self.rewrite.change(partition, edit, change).await?;
        }
        Ok(())
    }

    /// Removes the event from the log by kind and by actor, or names those feeds that are `left`.
    async fn indexes(&mut self, commit: &Commit, left: &[FeedName]) -> store::Result<()> {
        let Some(entry) = commit.entry() else {
            return Ok(());
        };
        let Some(first) = left.first() else {
            let places = index_prefixes(self.keys, entry);
            let places = places.map(|prefix| only(versioned(&prefix, commit.version)));
            self.batch.clears.extend(places);
            return Ok(());
        };
        let value = values::encode_indexed(left, Keys::hash(first), false);
        let indexed = indexed(self.snapshot, self.keys, entry).await?;
        let puts = indexed.iter().map(|it| (it.key.to_vec(), value.clone()));
        self.batch.puts.extend(puts);
        Ok(())
    }

    fn tell(&mut self, commit: &Commit, left: &[FeedName]) {
        let Some(entry) = commit.entry() else {
            return;
        };
        let news = Entry {
            version: commit.version,
            ..entry.clone()
        };
        let gone = commit
            .claim
            .feeds
            .iter()
            .filter(|feed| !left.contains(feed));
        let gone: Vec<FeedName> = gone.cloned().collect();
        let index = self.next_index;
        self.next_index += 1;
        self.news.add(
            &mut self.batch,
            self.keys,
            (index, news.erasure()),
            &gone,
            gone.iter(),
        );
    }

    /// Removes the place of an erased entry, and the twins that came since.
    pub(super) async fn clear_place(
        &mut self,
        place: &Place,
        twins: Option<Commits>,
    ) -> store::Result<()> {
        if let Some(found) = twins {
            let selection = match found.commits.first() {
                // Only the copy in one feed was erased.
                Some(first) if Some(first.version) == found.version() => Selection {
                    feed: place.feeds.first().cloned(),
                    twins: true,
                    ..Selection::default()
                },
                _ => Selection::default(),
            };
            self.add(found, &selection).await?;
        }
        let keys = self.keys;
        for feed in &place.feeds {
            let notify = versioned(&keys.notify(feed), place.version);
            let places = entry_keys(&keys.feed(feed), place.version);
            let clears = places.into_iter().chain([notify]);
            self.batch.clears.extend(clears.map(only));
        }
        for (partition, ..) in writes::records(keys, &place.feeds) {
            let change = |records: &mut Vec<Record>, index: usize| {
                if records[index].entry.is_erased() {
                    records.remove(index);
                }
            };
            self.rewrite
                .change(partition, place.version, change)
                .await?;
        }
        Ok(())
    }

    /// The batch, and how many events it erases.
    pub(super) fn finish(self) -> (Batch, usize) {
        let Self {
            keys,
            mut batch,
            rewrite,
            news,
            next_index,
            unmark,
            places,
            erased,
            ..
        } = self;
        rewrite.finish(&mut batch);
        // The news of the erasures tell whoever shows a count.
        unmark.finish(keys, &mut batch);
        news.finish(&mut batch, keys);
        if !places.is_empty() {
            batch.versioned.push(Versioned {
                prefix: keys.job(),
                index: next_index,
                value: encode_job(&Job::new(What::Places(places))),
            });
        }
        (batch, erased)
    }
}
