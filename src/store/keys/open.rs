//! Opening a key space, and creating one.

use super::{Keys, corrupt};
use crate::{
    clock::WallTime,
    store::{
        Batch, Condition, Error, Found, Plan, Result, Snapshot, Store, Transaction,
        copy::Unfinished, epoch::Row, transact,
    },
    version::Version,
};

/// The version of the key and value formats that new stores get. A store of a format that is not known is refused.
pub const FORMAT: u32 = 3;

/// The oldest format that can be read, and whose stores are written as that format demands until they are migrated.
const FORMAT_MIN: u32 = 2;

impl Keys {
    /// Opens the key space and reads its number of partitions. If there is none, creates it with `partitions`, and its first
    /// epoch by `wall`.
    pub async fn open(
        store: &dyn Store,
        prefix: &[u8],
        partitions: u16,
        wall: &WallTime,
    ) -> Result<Self> {
        let mut opening = Opening {
            keys: Self::new(prefix, partitions),
            create: Some(wall),
        };
        transact(store, &mut opening).await?;
        Ok(opening.keys)
    }

    /// Opens the key space; `None` if there is none under `prefix`. Writes nothing.
    pub async fn open_existing(store: &dyn Store, prefix: &[u8]) -> Result<Option<Self>> {
        let mut opening = Opening {
            keys: Self::before_opening(prefix),
            create: None,
        };
        let exists = transact(store, &mut opening).await?;
        Ok(exists.then_some(opening.keys))
    }
}

/// Format and number of partitions in the value of [`Keys::meta`]. Refuses formats that are not known, and unfinished copies.
pub(in crate::store) fn decode_meta(key: &[u8], meta: &[u8]) -> Result<(u32, u16)> {
    if Unfinished::is_in(meta) {
        return Err(Unfinished::refusal(key, meta));
    }
    // Every format begins with its number; what follows depends on the format.
    let Some((format, rest)) = meta.split_first_chunk() else {
        return Err(corrupt(key, "the format number is missing"));
    };
    let format = u32::from_be_bytes(*format);
    match format {
        FORMAT_MIN..=FORMAT => {}
        1 => {
            return Err(Error::Open(format!(
                "the store has format 1 of a release before 1.0, which this program cannot read: append its events \
                 again to a new store of format {FORMAT} (with another data folder or key prefix), or use the newsfeed \
                 version that wrote it"
            )));
        }
        format => {
            return Err(Error::Open(format!(
                "the store has format {format}, but this program supports formats up to {FORMAT}: \
                 use the newsfeed version that wrote it, or another data folder or key prefix"
            )));
        }
    }
    match rest.try_into().map(u16::from_be_bytes) {
        Ok(partitions @ 1..) => Ok((format, partitions)),
        _ => Err(corrupt(key, "the number of partitions is missing")),
    }
}

/// Migrates the store to format [`FORMAT`], and returns the format that it had. Nothing but the number changes: what is written
/// from then on differs, and all of it can be read.
pub async fn migrate(store: &dyn Store, keys: &Keys) -> Result<u32> {
    transact(store, &mut Migration { keys, format: 0 }).await
}

struct Migration<'a> {
    keys: &'a Keys,
    /// What the store had.
    format: u32,
}

#[async_trait::async_trait]
impl Transaction for Migration<'_> {
    const NAME: &'static str = "migrate";

    type Output = u32;
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<u32>> {
        let key = self.keys.meta();
        let meta = snapshot.get(vec![key.clone()]).await?.remove(0);
        let (format, partitions) = decode_meta(&key, meta.as_deref().unwrap_or_default())?;
        // After an attempt with an unknown outcome, the format may be the new one already.
        if self.format == 0 {
            self.format = format;
        }
        if format == FORMAT {
            return Ok(Plan::Answer(self.format));
        }
        Ok(Plan::Commit(Batch {
            conditions: vec![Condition::KeyEquals {
                key: key.clone(),
                value: meta.map(|meta| meta.to_vec()),
            }],
            puts: vec![(key, encode_meta(partitions))],
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) -> u32 {
        self.format
    }
}

/// The value of [`Keys::meta`] in a store of format [`FORMAT`].
fn encode_meta(partitions: u16) -> Vec<u8> {
    [&FORMAT.to_be_bytes()[..], &partitions.to_be_bytes()].concat()
}

/// Reads format and number of partitions; its output is whether the key space exists.
struct Opening<'a> {
    keys: Keys,
    /// If there is none, create it by this clock.
    create: Option<&'a WallTime>,
}

#[async_trait::async_trait]
impl Transaction for Opening<'_> {
    const NAME: &'static str = "open";

    type Output = bool;
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<bool>> {
        let key = self.keys.meta();
        let Some(meta) = snapshot.get(vec![key.clone()]).await?.remove(0) else {
            let Some(wall) = self.create else {
                return Ok(Plan::Answer(false));
            };
            let mut puts = vec![(key.clone(), encode_meta(self.keys.partitions))];
            puts.extend(Row::first(snapshot, wall)?.puts(&self.keys));
            return Ok(Plan::Commit(Batch {
                conditions: vec![Condition::KeyEquals { key, value: None }],
                puts,
                ..Batch::default()
            }));
        };
        (self.keys.format, self.keys.partitions) = decode_meta(&key, &meta)?;
        Ok(Plan::Answer(true))
    }

    fn committed(&mut self, _version: Version) -> bool {
        true
    }
}
