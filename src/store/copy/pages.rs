//! One side of a copy: reading it page by page, and writing to it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use twox_hash::XxHash3_128;

use super::{
    Batch, Condition, Error, Found, Keys, Plan, Range, Reads, Result, Snapshot, Store, Transaction,
    Unfinished, Version, interfered, keys, transact,
};
use crate::store::KeyValue;

/// Limits of a page, which is also what one commit writes. A transaction of FoundationDB may have 10 MB, in which every key
/// counts three times, and should be far below that.
const PAGE_ITEMS: usize = 5_000;
const PAGE_BYTES: usize = 1024 * 1024;

/// A store, or the place of one.
pub struct Side {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    prefix: Vec<u8>,
    /// The keys that are not copied, without the prefix.
    kept: [Vec<u8>; 4],
}

/// Consecutive items, of which those that are not copied are left out.
pub struct Page {
    /// Their keys are without the prefix.
    pub(super) items: Vec<KeyValue>,
    /// The last key that was read, without the prefix.
    pub(super) end: Vec<u8>,
    pub(super) is_last: bool,
    /// The moment of the snapshot.
    pub(super) version: Version,
    /// See [`Unfinished::state`].
    pub(super) state: u128,
    /// The side is a folder, which no other program can open meanwhile.
    pub(super) is_locked: bool,
    /// The format and the partitions.
    pub(super) meta: Option<Bytes>,
}

impl Page {
    /// Fails unless the source is as it was when the copy began.
    pub(super) fn check(&self, unfinished: &Unfinished) -> Result<()> {
        match self.state == unfinished.state {
            true => Ok(()),
            false => Err(unfinished.changed()),
        }
    }
}

/// The bytes of the key, without the prefix, and of the value.
pub(super) fn size(item: &KeyValue) -> u64 {
    (item.key.len() + item.value.len()) as u64
}

impl Side {
    /// `prefix` is that of all keys.
    pub fn new(store: Arc<dyn Store>, prefix: &[u8]) -> Self {
        let bare = Keys::before_opening(b"");
        Self {
            store,
            keys: Keys::before_opening(prefix),
            prefix: prefix.to_vec(),
            kept: [bare.meta(), bare.epoch(), bare.last(), bare.wake()],
        }
    }

    /// The range of the keys above `after`, which is without the prefix.
    fn above(&self, after: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (begin, end) = self.keys.everything();
        match after {
            [] => (begin, end),
            after => ([&self.prefix, after, &[0]].concat(), end),
        }
    }

    /// The items, without the prefix of their keys.
    fn bare(&self, items: Vec<KeyValue>) -> impl Iterator<Item = KeyValue> {
        let prefix = self.prefix.len();
        items.into_iter().map(move |item| KeyValue {
            key: item.key.slice(prefix..),
            value: item.value,
        })
    }

    /// The items that are copied, without the prefix of their keys.
    fn copied(&self, items: Vec<KeyValue>) -> Vec<KeyValue> {
        let is_copied = |item: &KeyValue| !self.kept.iter().any(|kept| *kept == item.key);
        self.bare(items).filter(is_copied).collect()
    }

    /// The read of what says whether there is a store.
    pub(super) fn meta(&self) -> Reads {
        Reads {
            keys: vec![self.keys.meta()],
            ..Reads::default()
        }
    }

    /// Fails unless `page` shows that this side is a store, of this program's format.
    pub(super) fn is_store(&self, page: &Page) -> Result<()> {
        let Some(meta) = &page.meta else {
            return Err(Error::Open("there is no store to copy".into()));
        };
        keys::decode_meta(&self.keys.meta(), meta).map(drop)
    }

    /// The items above `after`, which is a key without the prefix.
    pub(super) async fn page(&self, after: &[u8]) -> Result<Page> {
        let (begin, end) = self.above(after);
        let page = Range {
            limit: PAGE_ITEMS,
            bytes_max: PAGE_BYTES,
            ..Range::all(begin, end)
        };
        let mut ranges = self.keys.heads();
        ranges.push(page);
        let reads = Reads {
            ranges,
            ..self.meta()
        };
        let (version, mut found) = self.look(reads).await?;
        let slice = found.slices.pop().ok_or(Error::Closed)?;
        let (mut state, mut is_locked) = (Checksum::default(), false);
        let last = self.keys.last();
        for head in found.slices {
            is_locked |= head.items.iter().any(|item| item.key == last);
            self.bare(head.items).for_each(|item| state.add(&item));
        }
        let last = slice.items.last();
        let last = last.map(|last| last.key.slice(self.prefix.len()..));
        Ok(Page {
            end: last.map_or_else(|| after.to_vec(), Vec::from),
            is_last: !slice.more,
            items: self.copied(slice.items),
            version,
            state: state.finish(),
            is_locked,
            meta: found.values.pop().flatten(),
        })
    }

    /// Whether this side has the same items as `page` from `after` to its end; if not, the first key that differs.
    pub(super) async fn same(&self, after: &[u8], page: &Page) -> Result<Option<Bytes>> {
        let (begin, end) = self.above(after);
        let end = match page.is_last {
            true => end,
            false => self.above(&page.end).0,
        };
        let range = Range {
            // One more shows that there are more.
            limit: page.items.len() + self.kept.len() + 1,
            ..Range::all(begin, end)
        };
        let reads = Reads {
            ranges: vec![range],
            ..Reads::default()
        };
        let (_, mut found) = self.look(reads).await?;
        let slice = found.slices.pop().ok_or(Error::Closed)?;
        let items = self.copied(slice.items);
        let differs = |index: &usize| items.get(*index) != page.items.get(*index);
        let first = (0..items.len().max(page.items.len())).find(differs);
        Ok(first.map(|index| {
            let keys = [&items, &page.items].map(|items| items.get(index).map(|item| &item.key));
            keys.into_iter()
                .flatten()
                .min()
                .cloned()
                .unwrap_or_default()
        }))
    }

    async fn look(&self, reads: Reads) -> Result<(Version, Found)> {
        transact(&*self.store, &mut Look(reads)).await
    }

    /// Makes this empty side an unfinished copy; or returns how far it is, if it already is one of the same source.
    pub(super) async fn begin(&self, unfinished: Unfinished) -> Result<Unfinished> {
        transact(
            &*self.store,
            &mut Begin {
                side: self,
                unfinished,
            },
        )
        .await
    }

    /// Writes items that follow what `before` says, and then `after`.
    pub(super) async fn write(
        &self,
        before: &Unfinished,
        after: &Unfinished,
        items: Vec<KeyValue>,
    ) -> Result<()> {
        let mut write = Write {
            side: self,
            before: before.encode(),
            after: after.encode(),
            items,
        };
        transact(&*self.store, &mut write).await
    }

    /// The condition that this side is still an unfinished copy, as encoded.
    pub(super) fn is_unfinished(&self, unfinished: Vec<u8>) -> Condition {
        Condition::KeyEquals {
            key: self.keys.meta(),
            value: Some(unfinished),
        }
    }
}

/// A hash of items, in order.
#[derive(Default)]
pub struct Checksum(XxHash3_128);

impl Checksum {
    pub(super) fn add(&mut self, item: &KeyValue) {
        for part in [&item.key, &item.value] {
            self.0.write(&(part.len() as u64).to_be_bytes());
            self.0.write(part);
        }
    }

    pub(super) fn finish(&self) -> u128 {
        self.0.finish_128()
    }
}

/// Reads from a snapshot of their own, which are retried.
struct Look(Reads);

#[async_trait]
impl Transaction for Look {
    const NAME: &'static str = "copy";

    type Output = (Version, Found);
    type Error = Error;

    fn first_reads(&self) -> Reads {
        self.0.clone()
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<Self::Output>> {
        Ok(Plan::Answer((snapshot.version(), first)))
    }

    fn committed(&mut self, version: Version) -> Self::Output {
        (version, Found::default())
    }
}

struct Begin<'a> {
    side: &'a Side,
    unfinished: Unfinished,
}

#[async_trait]
impl Transaction for Begin<'_> {
    const NAME: &'static str = "copy";

    type Output = Unfinished;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        let (begin, end) = self.side.keys.everything();
        Reads {
            ranges: vec![Range {
                limit: 1,
                ..Range::all(begin, end)
            }],
            ..self.side.meta()
        }
    }

    async fn plan(
        &mut self,
        _snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<Unfinished>> {
        let keys = &self.side.keys;
        let meta = first.values.first().and_then(Option::as_deref);
        if let Some(meta) = meta.filter(|meta| Unfinished::is_in(meta)) {
            let found = Unfinished::decode(&keys.meta(), meta)?;
            return match found.state == self.unfinished.state {
                true => Ok(Plan::Answer(found)),
                false => Err(Error::Open(format!(
                    "the target is an unfinished copy of {}, as it was then: this is another store, or it has been \
                     written to since. {}",
                    found.name,
                    found.remedy()
                ))),
            };
        }
        if meta.is_some() || first.slices.iter().any(|slice| !slice.items.is_empty()) {
            return Err(Error::Open(
                "the target is not empty: copy to a folder that does not exist yet, or to a key prefix that is not in use"
                    .into(),
            ));
        }
        // The epoch comes first: everything that is copied then lies below the moments of the target.
        let epoch = self.unfinished.epoch.to_be_bytes().to_vec();
        let (begin, end) = keys.everything();
        Ok(Plan::Commit(Batch {
            conditions: vec![Condition::RangeEmpty { begin, end }],
            puts: vec![
                (keys.meta(), self.unfinished.encode()),
                (keys.epoch(), epoch),
            ],
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) -> Unfinished {
        self.unfinished.clone()
    }
}

struct Write<'a> {
    side: &'a Side,
    before: Vec<u8>,
    after: Vec<u8>,
    items: Vec<KeyValue>,
}

#[async_trait]
impl Transaction for Write<'_> {
    const NAME: &'static str = "copy";

    type Output = ();
    type Error = Error;

    fn first_reads(&self) -> Reads {
        self.side.meta()
    }

    async fn plan(
        &mut self,
        _snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<()>> {
        match first.values.first().and_then(Option::as_deref) {
            Some(meta) if unsure && meta == self.after => return Ok(Plan::Answer(())),
            Some(meta) if meta == self.before => {}
            _ => return Err(interfered()),
        }
        let mut puts = Vec::with_capacity(self.items.len() + 1);
        puts.push((self.side.keys.meta(), self.after.clone()));
        let items = self.items.iter();
        puts.extend(items.map(|item| {
            let key = [&self.side.prefix[..], &item.key].concat();
            (key, item.value.to_vec())
        }));
        Ok(Plan::Commit(Batch {
            conditions: vec![self.side.is_unfinished(self.before.clone())],
            puts,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) {}
}
