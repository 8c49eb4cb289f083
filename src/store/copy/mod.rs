//! Copies a whole store, byte for byte, into an empty place of either engine.
//!
//! Invariants:
//! - Until the last commit, the target has an [`Unfinished`] in the place of its format, so no program opens it as a store.
//! - Every commit writes items together with the position that they reach. So a copy that was killed goes on where it
//!   stopped, and writes no key twice.
//! - The source must be at rest: with every page, what nearly every commit changes ([`Keys::heads`]) is compared with how it
//!   was at the beginning. What that misses is found at the end, when every key of both sides is read again and compared. A
//!   node that nobody uses is noticed by the rows of the time that it writes: a copy takes at least as long as one step of
//!   them, except of a folder, which is locked.
//! - The target is in an epoch above the source's from its first commit on, so everything that is copied lies below its own
//!   moments. In the lineage the source's last epoch ends at the moment of the last look at it. So every version that
//!   the source gave to a client is known in the target, and none that it gives later.
//!
//! Copied is every key of the store, also of kinds that this program does not know, except those that belong to an engine
//! (`last`, `wake`) and those that the copy itself decides (`meta`, `epoch`).

mod pages;
mod unfinished;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use self::pages::Checksum;
pub use self::{pages::Side, unfinished::Unfinished};
use super::{
    Batch, Condition, Error, Found, Plan, Range, Reads, Result, Snapshot, Store, Transaction,
    epoch::{self, Row},
    keys::{self, Keys, TIME_STEP},
    transact,
};
use crate::{clock::WallTime, version::Version};

/// How long a node may take to write a row of the time, which it does every [`TIME_STEP`].
const ROW_TIME_MAX: Duration = Duration::from_secs(2);

/// What a copy has done so far.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// So many keys, and bytes of keys and values, are in the target.
    Copied { keys: u64, bytes: u64 },
    /// So many of them are the same on both sides.
    Verified { keys: u64, of: u64 },
    /// The source is watched for a few seconds more.
    Watching,
}

/// A finished copy.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub keys: u64,
    pub bytes: u64,
    /// Of all keys, without the prefix, and all values; the same on both sides.
    pub checksum: u128,
    /// The epoch of the target.
    pub epoch: u32,
}

/// Copies the store `from` to `to`, which must be empty or an unfinished copy of the same store. `name` is what the user
/// calls the source.
pub async fn copy(
    from: &Side,
    to: &Side,
    name: &str,
    wall: &WallTime,
    mut tell: impl FnMut(Progress),
) -> Result<Report> {
    let began = Instant::now();
    let first = from.page(&[]).await?;
    from.is_store(&first)?;
    let is_locked = first.is_locked;
    let epoch = epoch::after(first.version, wall)?;
    let unfinished = Unfinished {
        name: name.to_owned(),
        state: first.state,
        epoch,
        keys: 0,
        bytes: 0,
        position: Vec::new(),
        is_complete: false,
    };
    let mut unfinished = to.begin(unfinished).await?;
    let mut page = match &*unfinished.position {
        [] => first,
        position => from.page(position).await?,
    };
    while !unfinished.is_complete {
        page.check(&unfinished)?;
        let after = unfinished.after(&page);
        let items = std::mem::take(&mut page.items);
        let write = to.write(&unfinished, &after, items);
        match page.is_last {
            true => write.await?,
            false => {
                let (written, next) = tokio::join!(write, from.page(&after.position));
                written?;
                page = next?;
            }
        }
        unfinished = after;
        tell(Progress::Copied {
            keys: unfinished.keys,
            bytes: unfinished.bytes,
        });
    }
    let checksum = verify(from, to, &unfinished, &mut tell).await?;
    if !is_locked {
        tell(Progress::Watching);
        sleep_until(began + TIME_STEP + ROW_TIME_MAX).await;
    }
    finish(from, to, &unfinished).await?;
    Ok(Report {
        keys: unfinished.keys,
        bytes: unfinished.bytes,
        checksum,
        epoch: unfinished.epoch,
    })
}

/// Reads both sides again and compares every key and value. Returns their checksum.
async fn verify(
    from: &Side,
    to: &Side,
    unfinished: &Unfinished,
    tell: &mut impl FnMut(Progress),
) -> Result<u128> {
    let mut checksum = Checksum::default();
    let mut keys = 0;
    let mut page = from.page(&[]).await?;
    let mut position = Vec::new();
    loop {
        page.check(unfinished)?;
        let read = to.same(&position, &page);
        let next = async {
            match page.is_last {
                true => Ok(None),
                false => from.page(&page.end).await.map(Some),
            }
        };
        let (same, next) = tokio::join!(read, next);
        if let Some(key) = same? {
            return Err(differs(&key, unfinished));
        }
        page.items.iter().for_each(|item| checksum.add(item));
        keys += page.items.len() as u64;
        tell(Progress::Verified {
            keys,
            of: unfinished.keys,
        });
        position.clone_from(&page.end);
        match next? {
            Some(next) => page = next,
            None if keys != unfinished.keys => {
                return Err(Error::Open(format!(
                    "{} keys were copied, but the source has {keys} now: it was written to during the copy. {}",
                    unfinished.keys,
                    unfinished.remedy()
                )));
            }
            None => return Ok(checksum.finish()),
        }
    }
}

fn differs(key: &[u8], unfinished: &Unfinished) -> Error {
    Error::Open(format!(
        "the copy is not the same as its source at key {}: the source was written to during the copy, or the target is \
         damaged. {}",
        foundationdb_tuple::Subspace::from_bytes(key),
        unfinished.remedy()
    ))
}

/// Makes the target a store.
async fn finish(from: &Side, to: &Side, unfinished: &Unfinished) -> Result<()> {
    let last = from.page(&[]).await?;
    last.check(unfinished)?;
    let mut finish = Finish {
        to,
        unfinished: unfinished.encode(),
        meta: last.meta.unwrap_or_default().to_vec(),
        row: Row {
            epoch: unfinished.epoch,
            began: Version::ZERO,
            previous_end: last.version,
        },
    };
    transact(&*to.store, &mut finish).await
}

struct Finish<'a> {
    to: &'a Side,
    unfinished: Vec<u8>,
    meta: Vec<u8>,
    row: Row,
}

#[async_trait]
impl Transaction for Finish<'_> {
    const NAME: &'static str = "copy";

    type Output = ();
    type Error = Error;

    fn first_reads(&self) -> Reads {
        self.to.meta()
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        unsure: bool,
    ) -> Result<Plan<()>> {
        match first.values.first().and_then(Option::as_deref) {
            Some(meta) if unsure && meta == self.meta => return Ok(Plan::Answer(())),
            Some(meta) if meta == self.unfinished => {}
            _ => return Err(interfered()),
        }
        let keys = &self.to.keys;
        let began = Version::new(self.row.epoch, snapshot.taken_at(), 0);
        let mut puts = vec![(keys.meta(), self.meta.clone())];
        puts.extend(Row { began, ..self.row }.puts(keys));
        Ok(Plan::Commit(Batch {
            conditions: vec![self.to.is_unfinished(self.unfinished.clone())],
            puts,
            notify: true,
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) {}
}

/// Somebody else has written to the target.
fn interfered() -> Error {
    Error::Open(
        "another command has written to the target: run one `newsfeed admin copy` at a time".into(),
    )
}
