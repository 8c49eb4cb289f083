//! Reads all that a store holds, and decodes it.

use std::fmt;

use super::{
    Error, KeyValue, Range, Result, Store,
    keys::{Keys, corrupt, version_of},
    values,
};

/// What is read at once.
const PAGE_ITEMS: usize = 10_000;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How much of what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ids of events.
    pub claims: u64,
    pub entries: u64,
    pub unread: u64,
    /// Entries in the log.
    pub logged: u64,
    pub transients: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ids, {} entries of feeds, {} unread, {} in the log, {} transients",
            self.claims, self.entries, self.unread, self.logged, self.transients
        )
    }
}

/// Stops at what cannot be read.
pub async fn audit(store: &dyn Store, keys: &Keys) -> Result<Counts> {
    let mut counts = Counts::default();
    visit(store, keys.claims(), |item| {
        version_of(&item.key)?;
        if item.value.len() != size_of::<u128>() {
            return Err(corrupt(&item.key, "not a digest"));
        }
        counts.claims += 1;
        Ok(())
    })
    .await?;
    visit(store, keys.feeds(), |item| {
        values::decode_entry(item).map(|_| counts.entries += 1)
    })
    .await?;
    visit(store, keys.unreads(), |item| {
        values::decode_unread(item).map(|_| counts.unread += 1)
    })
    .await?;
    visit(store, keys.logs(), |item| {
        counts.logged += values::decode_records(item)?.len() as u64;
        Ok(())
    })
    .await?;
    visit(store, keys.transients(), |item| {
        values::decode_transient(item).map(|_| counts.transients += 1)
    })
    .await?;
    Ok(counts)
}

/// Page by page, each of a snapshot of its own.
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
            Some(last) if slice.more => begin = [&last.key[..], &[0]].concat(),
            _ => return Ok(()),
        }
    }
}
