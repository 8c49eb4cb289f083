//! Editing: new data for an event that was appended.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Allow, Lifecycle, changing_batch,
    commits::{Commit, Commits},
    news::News,
    rewrite::{Rewrite, index_prefixes, put},
};
use crate::{
    append::writes,
    error::{Error, Result},
    store::{
        self, Batch, Condition, Found, Plan, Snapshot, Transaction,
        keys::{Keys, versioned},
        transact,
        values::{self, Record, THIS_COMMIT},
    },
    types::{Change, DATA_FANOUT_BYTES_MAX, Data, Entry, EventId},
    version::{Cursor, Version},
};

/// Longest id of a change, in bytes.
pub const CHANGE_ID_BYTES_MAX: usize = 255;

/// Events that are checked together.
const CHECKED_AT_ONCE: usize = 50;

/// What an event is to become.
#[derive(Debug, Clone)]
pub struct NewData {
    pub data: Data,
    /// Identifies the change, so that it happens once however often it is sent.
    pub change_id: Option<String>,
    /// The change is made only if this is the event's revision: the version of its last edit or, if it was never edited, its
    /// own.
    pub revision: Option<Cursor>,
}

/// An event after an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edited {
    /// Of the event.
    pub version: Version,
    /// Of the edit.
    pub edited: Version,
    /// The change had been made before.
    pub is_duplicate: bool,
}

impl Lifecycle {
    /// Replaces the data of the event `id`, in all its feeds and in the log.
    ///
    /// # Errors
    /// [`Error::EventNotFound`], [`Error::EventErased`], [`Error::RevisionConflict`], [`Error::FanoutTooLarge`], those of
    /// `allow`, and those of the store.
    pub async fn edit(&self, id: &EventId, new: &NewData, allow: Allow<'_>) -> Result<Edited> {
        let _place = self.place()?;
        // Without an id from the client, one attempt must still recognise what an earlier one has committed.
        let own = uuid::Uuid::now_v7().as_u128();
        let change_id = new.change_id.as_deref().map(hash);
        let mut edit = Edit {
            lifecycle: self,
            id,
            new,
            change_id: change_id.unwrap_or(own),
            allow,
            began: None,
            version: Version::ZERO,
        };
        let edited = transact(&*self.store, &mut edit).await?;
        if !edited.is_duplicate {
            self.metrics.lifecycle.edited.inc();
        }
        Ok(edited)
    }
}

impl Lifecycle {
    /// Those of these events that exist and may be changed. The others are left out if `allow` says that they are not found:
    /// so an id that is free tells no more than one that the caller must not know of, and what is appended to it later is
    /// not changed.
    ///
    /// # Errors
    /// Those of `allow`, except [`Error::EventNotFound`], and those of the store.
    pub async fn changeable(&self, ids: &[EventId], allow: Allow<'_>) -> Result<Vec<EventId>> {
        let mut changeable = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CHECKED_AT_ONCE) {
            let snapshot = self.store.snapshot().await?;
            for found in Commits::of(&*snapshot, &self.keys, ids).await? {
                if found.is_allowed(allow)? {
                    changeable.push(found.id);
                }
            }
        }
        Ok(changeable)
    }
}

fn hash(change_id: &str) -> u128 {
    twox_hash::XxHash3_128::oneshot(change_id.as_bytes())
}

struct Edit<'a> {
    lifecycle: &'a Lifecycle,
    id: &'a EventId,
    new: &'a NewData,
    change_id: u128,
    allow: Allow<'a>,
    /// The moment of the first attempt.
    began: Option<Version>,
    /// Of the event.
    version: Version,
}

impl Edit<'_> {
    /// The last edit, and whether this change has been made already, by an earlier attempt or an earlier request.
    fn made(&self, first: &Commit) -> Option<Edited> {
        let mut edits = first.claim.edits.iter();
        let made = edits.find(|edit| edit.change_id == Some(self.change_id))?;
        Some(Edited {
            version: first.version,
            edited: made.version,
            // What has been committed since the request began is its own.
            is_duplicate: self.began.is_some_and(|began| made.version <= began),
        })
    }

    fn check(&self, first: &Commit) -> Result<()> {
        first.check_revision(self.id, self.new.revision)?;
        let fanout = self.new.data.text().len() * first.claim.feeds.len();
        match fanout > DATA_FANOUT_BYTES_MAX {
            true => Err(Error::FanoutTooLarge(fanout)),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Transaction for Edit<'_> {
    const NAME: &'static str = "edit";

    type Output = Edited;
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<Edited>> {
        self.began.get_or_insert(snapshot.version());
        let keys = &self.lifecycle.keys;
        let ids = std::slice::from_ref(self.id);
        let found = Commits::of(snapshot, keys, ids).await?.remove(0);
        let Some(first) = found.commits.first() else {
            return Err(match found.is_erased() {
                true => Error::EventErased(self.id.clone()),
                false => Error::EventNotFound(self.id.clone()),
            });
        };
        let entry = first.entry();
        let entry = entry.ok_or_else(|| Error::EventNotFound(self.id.clone()))?;
        (self.allow)(entry, &first.claim.feeds)?;
        if let Some(made) = self.made(first) {
            return Ok(Plan::Answer(made));
        }
        self.check(first)?;
        self.version = first.version;
        let mut batch = changing_batch(keys);
        batch.conditions.extend(found.unchanged(keys));
        let claim = versioned(&keys.claim(self.id), first.version);
        let value = values::encode_edited_claim(&first.claim, Some(self.change_id));
        put(&mut batch, claim, value);
        let mut rewrite = Rewrite::new(keys, snapshot);
        let mut news = News::default();
        for (index, commit) in (0..).zip(&found.commits) {
            let data = self.new.data.text();
            rewrite_copies(&mut batch, commit, data);
            rewrite_log(&mut rewrite, keys, commit, data).await?;
            forget_news(&mut batch, keys, commit);
            if let Some(entry) = commit.entry() {
                let entry = edited(entry, data, Change::Edit(commit.version));
                let holders = commit.copies.iter().map(|copy| &copy.feed);
                news.add(
                    &mut batch,
                    keys,
                    (index, entry),
                    &commit.claim.feeds,
                    holders,
                );
            }
        }
        rewrite.finish(&mut batch);
        news.finish(&mut batch, keys);
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, base: Version) -> Edited {
        Edited {
            version: self.version,
            edited: base,
            is_duplicate: false,
        }
    }
}

/// Rewrites the entry in each feed that holds it, on condition that retention does not remove it meanwhile.
fn rewrite_copies(batch: &mut Batch, commit: &Commit, data: &Bytes) {
    for copy in &commit.copies {
        if copy.entry.is_erased() {
            continue;
        }
        batch.conditions.push(Condition::KeyEquals {
            key: copy.item.key.to_vec(),
            value: Some(copy.item.value.to_vec()),
        });
        let entry = edited(&copy.entry, data, Change::EditedAt(THIS_COMMIT));
        put(batch, copy.item.key.to_vec(), values::encode_entry(&entry));
    }
}

fn edited(entry: &Entry, data: &Bytes, change: Change) -> Entry {
    Entry {
        data: data.clone(),
        change: Some(change),
        ..entry.clone()
    }
}

async fn rewrite_log(
    rewrite: &mut Rewrite<'_>,
    keys: &Keys,
    commit: &Commit,
    data: &Bytes,
) -> store::Result<()> {
    for (partition, ..) in writes::records(keys, &commit.claim.feeds) {
        let change = |records: &mut Vec<Record>, index: usize| {
            let entry = &mut records[index].entry;
            if !entry.is_erased() {
                *entry = edited(entry, data, Change::EditedAt(THIS_COMMIT));
            }
        };
        rewrite.change(partition, commit.version, change).await?;
    }
    Ok(())
}

/// Removes the news of the last edit, wherever it is.
pub(super) fn forget_news(batch: &mut Batch, keys: &Keys, commit: &Commit) {
    let Some(entry) = commit.entry() else {
        return;
    };
    let feeds = commit.claim.feeds.iter();
    let mut prefixes: Vec<_> = feeds.map(|feed| keys.change(feed)).collect();
    prefixes.extend((0..keys.partitions()).map(|partition| keys.log(partition)));
    prefixes.extend(index_prefixes(keys, entry));
    let news = prefixes
        .iter()
        .filter_map(|prefix| commit.news_under(prefix));
    batch.clears.extend(news);
}
