//! Reads and decodes everything in a store.

use std::fmt;

use super::{
    Error, KeyValue, Range, Result, Store,
    keys::{Keys, is_unread, next_key},
    values,
};

/// Limits of one read.
const PAGE_ITEMS: usize = 10_000;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How many items of each kind the store contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Claimed event ids.
    pub claims: u64,
    pub entries: u64,
    /// News of edits and erasures.
    pub changes: u64,
    pub notify: u64,
    /// Events in the log, once per partition.
    pub logged: u64,
    pub transients: u64,
    /// Events in the log by kind and in the log by actor.
    pub indexed: u64,
    /// Entries that readers have marked one by one.
    pub marks: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ids, {} feed entries, {} notify keys, {} log records, {} transients, {} index keys of the log",
            self.claims, self.entries, self.notify, self.logged, self.transients, self.indexed
        )?;
        if self.changes > 0 {
            write!(f, ", {} news of changes", self.changes)?;
        }
        match self.marks {
            0 => Ok(()),
            marks => write!(f, ", {marks} marked entries"),
        }
    }
}

/// Counts everything in the store; fails at the first item that cannot be decoded.
pub async fn audit(store: &dyn Store, keys: &Keys) -> Result<Counts> {
    let mut counts = Counts::default();
    visit(store, keys.claims(), |item| {
        values::decode_claim(item).map(|_| counts.claims += 1)
    })
    .await?;
    visit(store, keys.feeds(), |item| {
        counts.notify += u64::from(is_unread(&item.key));
        values::decode_entry(item).map(|_| counts.entries += 1)
    })
    .await?;
    visit(store, keys.changes(), |item| {
        values::decode_change(item).map(|_| counts.changes += 1)
    })
    .await?;
    visit(store, keys.notifies(), |item| {
        values::decode_notify(item).map(|_| counts.notify += 1)
    })
    .await?;
    let [states, marked] = keys.all_marks();
    visit(store, states, |item| {
        values::decode_mark(item).map(|_| counts.marks += 1)
    })
    .await?;
    visit(store, marked, |item| values::decode_marked(item).map(drop)).await?;
    visit(store, keys.logs(), |item| {
        counts.logged += values::decode_records(item)?.len() as u64;
        Ok(())
    })
    .await?;
    visit(store, keys.transients(), |item| {
        values::decode_transient(item).map(|_| counts.transients += 1)
    })
    .await?;
    visit(store, keys.log_indexes(), |item| {
        values::decode_indexed(item).map(|_| counts.indexed += 1)
    })
    .await?;
    Ok(counts)
}

/// Visits all items in a range, page by page; each page is read from its own snapshot.
async fn visit(
    store: &dyn Store,
    (mut begin, end): (Vec<u8>, Vec<u8>),
    mut see: impl FnMut(&KeyValue) -> Result<()>,
) -> Result<()> {
    loop {
        let page = Range {
            limit: PAGE_ITEMS,
            bytes_max: PAGE_BYTES,
            ..Range::all(begin, end.clone())
        };
        let slice = store.snapshot().await?.ranges(vec![page]).await?.pop();
        let slice = slice.ok_or(Error::Closed)?;
        slice.items.iter().try_for_each(&mut see)?;
        match slice.items.last() {
            Some(last) if slice.more => begin = next_key(last.key.to_vec()),
            _ => return Ok(()),
        }
    }
}
