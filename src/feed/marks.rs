//! Marking entries one by one: unread, read or archived, for one reader.

use async_trait::async_trait;

use super::{Feeds, Standing};
use crate::{
    dedup::{Commit, Window},
    error::{Error, Result},
    store::{
        self, Batch, Condition, Found, KeyValue, Plan, Reads, Snapshot, Stamped, Transaction,
        Versioned,
        keys::{self, versioned},
        transact,
        values::{self, Mark, Marked, STAMP_AT, decode_entry, decode_mark, decode_marked},
    },
    types::{Delivery, Entry, FeedName, ReadState, ReaderName},
    version::{Cursor, Version},
};

/// What is to become of an entry's state. At least one of both is given, and an archived entry is not unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewState {
    pub read: Option<bool>,
    pub archived: Option<bool>,
}

impl NewState {
    /// The state after `current`.
    fn after(self, current: ReadState) -> ReadState {
        match (self.read, self.archived) {
            (_, Some(true)) => ReadState::Archived,
            (Some(false), _) => ReadState::Unread,
            (Some(true), Some(false)) => ReadState::Read,
            (None, Some(false)) => current.min(ReadState::Read),
            // What is archived is read.
            (Some(true), None) => current.max(ReadState::Read),
            (None, None) => current,
        }
    }
}

/// The state of an entry for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryState {
    pub state: ReadState,
    /// The version of the mark that was made of this entry alone, if there is one.
    pub marked: Option<Version>,
}

impl Feeds {
    /// Gives the entry at `entry` another state for `reader`.
    ///
    /// # Errors
    /// [`Error::EntryNotFound`], [`Error::NotNotify`], [`Error::OwnEntry`], those of
    /// [`Known::check`](crate::lineage::Known::check) for `entry`, and those of the store.
    pub async fn set_state(
        &self,
        feed: &FeedName,
        reader: &ReaderName,
        entry: impl Into<Cursor>,
        new: NewState,
    ) -> Result<EntryState> {
        let entry = entry.into();
        let mut set = SetState {
            feeds: self,
            feed,
            reader,
            cursor: entry,
            entry: entry.unchecked(),
            new,
            state: ReadState::Unread,
        };
        transact(&*self.store, &mut set).await
    }
}

/// Most marks of a feed that are told after a break.
pub const MARKS_TOLD_MAX: usize = 1_000;

/// Marks that a reader has made since a moment.
pub(crate) struct MarksSince {
    /// Up to here.
    pub(crate) version: Version,
    /// Of each feed, entries and their marks, in the order of the marks; `None` if there are more than [`MARKS_TOLD_MAX`].
    pub(crate) marks: Vec<Option<Vec<(Version, Mark)>>>,
}

impl Feeds {
    /// The entries of `feeds` that `reader` has marked above `since`.
    pub(crate) async fn marks_since(
        &self,
        feeds: &[FeedName],
        reader: &ReaderName,
        since: Version,
    ) -> Result<MarksSince> {
        let prefix = |feed: &FeedName| [self.keys.marked(feed, reader)];
        if let Some(version) = self.moment_if_unchanged(feeds, prefix, since) {
            let marks = vec![Some(Vec::new()); feeds.len()];
            return Ok(MarksSince { version, marks });
        }
        let read = async {
            let snapshot = self.snapshot().await?;
            let version = snapshot.version();
            let range = |feed: &FeedName| {
                let (marked, limit) = (self.keys.marked(feed, reader), MARKS_TOLD_MAX + 1);
                keys::range(&marked, Some(since), version, false, limit, usize::MAX)
            };
            let slices = snapshot.ranges(feeds.iter().map(range).collect()).await?;
            let marks = slices.iter().map(|slice| {
                if slice.items.len() > MARKS_TOLD_MAX {
                    return Ok(None);
                }
                let marked = slice.items.iter().map(|item| {
                    let Marked { entry, mark, .. } = decode_marked(item)?;
                    Ok((entry, mark))
                });
                marked.collect::<store::Result<_>>().map(Some)
            });
            let marks = marks.collect::<store::Result<_>>()?;
            Ok(MarksSince { version, marks })
        };
        self.note(read.await)
    }
}

struct SetState<'a> {
    feeds: &'a Feeds,
    feed: &'a FeedName,
    reader: &'a ReaderName,
    cursor: Cursor,
    entry: Version,
    new: NewState,
    /// What was planned.
    state: ReadState,
}

impl SetState<'_> {
    /// The entry, if the feed shows it.
    async fn visible(
        &self,
        snapshot: &dyn Snapshot,
        item: &KeyValue,
    ) -> store::Result<Option<Entry>> {
        let entry = decode_entry(item)?;
        if entry.is_erased() {
            return Ok(None);
        }
        let commit = Commit::from(&entry);
        let mut window = Window::of_feed(self.feeds.keys.feed(self.feed), entry.version.before());
        window
            .look_back(snapshot, std::slice::from_ref(&commit))
            .await?;
        Ok(Some(entry).filter(|_| !window.is_twin(&commit)))
    }
}

#[async_trait]
impl Transaction for SetState<'_> {
    const NAME: &'static str = "state";

    type Output = EntryState;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        let keys = &self.feeds.keys;
        let mut reads = Standing::reads(keys, self.feed, self.reader).to_vec();
        reads.push(versioned(&keys.notify(self.feed), self.entry));
        reads.push(keys.state(self.feed, self.entry, self.reader));
        reads.extend(keys::entry_keys(&keys.feed(self.feed), self.entry));
        Reads {
            keys: reads,
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<EntryState>> {
        self.feeds.lineage.at(snapshot).await?.check(self.cursor)?;
        let reads = self.first_reads().keys;
        let standing = Standing::from(&reads, &first.values)?;
        let item = |index: usize| {
            let index = Standing::READS + index;
            first.values[index].clone().map(|value| KeyValue {
                key: reads[index].clone().into(),
                value,
            })
        };
        let shown = item(2).or_else(|| item(3));
        let entry = match &shown {
            Some(shown) => self.visible(snapshot, shown).await?,
            None => None,
        };
        let entry = entry.ok_or(Error::EntryNotFound(self.entry))?;
        let notify = shown.filter(|shown| keys::is_unread(&shown.key));
        let notify = notify.or_else(|| item(0));
        let notify = notify.filter(|_| entry.delivery == Delivery::Notify);
        let notify = notify.ok_or_else(|| Error::NotNotify(entry.kind.clone()))?;
        let is_own = entry.is_by(self.reader);
        if is_own && self.new.read == Some(false) {
            return Err(Error::OwnEntry);
        }
        let stored = item(1);
        let mark = stored.as_ref().map(decode_mark).transpose()?;
        let current = standing.state(self.entry, is_own, mark);
        self.state = self.new.after(current);
        if self.state == current {
            return Ok(Plan::Answer(EntryState {
                state: current,
                marked: mark.map(|mark| mark.marked),
            }));
        }
        let (keys, feed, reader) = (&self.feeds.keys, self.feed, self.reader);
        let marked = keys.marked(feed, reader);
        let key = keys.state(feed, self.entry, reader);
        let mut conditions = standing.unchanged(keys, feed, reader);
        conditions.extend([
            // It has not been removed.
            Condition::KeyEquals {
                key: notify.key.to_vec(),
                value: Some(notify.value.to_vec()),
            },
            Condition::KeyEquals {
                key: key.clone(),
                value: stored.map(|stored| stored.value.to_vec()),
            },
        ]);
        let before = mark.map(|mark| keys::only(versioned(&marked, mark.marked)));
        let (entry_at, state) = (self.entry, self.state);
        Ok(Plan::Commit(Batch {
            conditions,
            clears: before.into_iter().collect(),
            versioned: vec![
                Versioned {
                    prefix: marked,
                    index: 0,
                    value: values::encode_marked(entry_at, entry.kind.as_str(), state),
                },
                Versioned {
                    prefix: keys.transient(keys.partition(feed)),
                    index: 0,
                    value: values::encode_news_of_mark(feed, reader, entry_at, state),
                },
            ],
            stamped: vec![Stamped {
                key,
                index: 0,
                value: values::encode_mark(state),
                at: STAMP_AT,
            }],
            notify: true,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, version: Version) -> EntryState {
        EntryState {
            state: self.state,
            marked: Some(version),
        }
    }
}
