//! The writer thread: takes the commits that are waiting, writes them with one fsync, answers, again.

use fjall::{Keyspace, OwnedWriteBatch as WriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot};

use super::{EngineKeys, Shared, unavailable};
use crate::{
    store::{Batch, Condition, Error, Result, SNAPSHOT_AGE_TICKS_MAX, keys::versioned},
    version::Version,
};

/// A group stops taking commits at so many bytes.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A commit on its way to the writer.
pub(super) struct Request {
    pub(super) batch: Batch,
    /// The epoch of its snapshot, and the tick at which that was taken.
    pub(super) epoch: u32,
    pub(super) taken_at: u64,
    pub(super) reply: oneshot::Sender<Result<Version>>,
}

/// Runs until nobody can send commits any more.
pub(super) fn write_groups(
    shared: &Shared,
    keys: &EngineKeys,
    mut requests: mpsc::Receiver<Request>,
) {
    while let Some(first) = requests.blocking_recv() {
        let mut group = vec![first];
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX {
            let Ok(request) = requests.try_recv() else {
                break;
            };
            bytes += size_of_batch(&request.batch);
            group.push(request);
        }
        let mut rest = group.into_iter().peekable();
        while rest.peek().is_some() {
            write_group(shared, keys, &mut rest);
        }
    }
}

fn size_of_batch(batch: &Batch) -> usize {
    batch
        .versioned
        .iter()
        .map(|put| put.prefix.len() + put.value.len())
        .sum()
}

/// A commit that looks at what is stored (or changes the epoch) must see all before it: it begins a group.
fn begins_a_group(request: &Request, keys: &EngineKeys) -> bool {
    let Batch {
        conditions,
        clears,
        puts,
        ..
    } = &request.batch;
    !conditions.is_empty() || !clears.is_empty() || puts.iter().any(|(key, _)| *key == keys.epoch)
}

/// Writes the first of `requests` and those after it that need no group of their own.
fn write_group(
    shared: &Shared,
    keys: &EngineKeys,
    requests: &mut std::iter::Peekable<impl Iterator<Item = Request>>,
) {
    let (db, tree, tick, epoch) = {
        let mut state = shared.state();
        let Some(state) = state.as_mut() else { return };
        let tick = match state.clock.tick() {
            Ok(tick) => tick,
            Err(error) => {
                for request in requests {
                    let _ = request
                        .reply
                        .send(Err(Error::Unavailable(error.to_string())));
                }
                return;
            }
        };
        state.committing = Some(tick);
        (
            state.db.clone(),
            state.tree.clone(),
            tick,
            state.visible.epoch(),
        )
    };

    let mut group = Group::new(
        db.batch().durability(Some(PersistMode::SyncAll)),
        tree,
        epoch,
    );
    let mut accepted = Vec::new();
    let mut ring = false;
    for order in 0..=u16::MAX {
        let starts_a_group = |request: &Request| {
            order > 0 && (begins_a_group(request, keys) || group.epoch != epoch)
        };
        let Some(request) = requests.next_if(|request| !starts_a_group(request)) else {
            break;
        };
        let base = Version::new(epoch, tick, u32::from(order) << 16);
        let checked = if request.epoch != epoch {
            Err(Error::Conflict)
        } else if tick - request.taken_at >= SNAPSHOT_AGE_TICKS_MAX {
            Err(Error::TooOld)
        } else {
            group.add(&request.batch, base, keys)
        };
        match checked {
            Ok(()) => {
                ring |= request.batch.ring;
                accepted.push((request.reply, base));
            }
            Err(error) => {
                let _ = request.reply.send(Err(error));
            }
        }
    }

    let visible = Version::moment(group.epoch, tick);
    let written = if accepted.is_empty() {
        Ok(())
    } else {
        group.write(visible, keys)
    };
    let mut state = shared.state();
    if let Some(state) = state.as_mut() {
        state.committing = None;
        if written.is_ok() && !accepted.is_empty() {
            state.view = db.snapshot();
            state.visible = visible;
            state.clock.set_epoch(visible.epoch());
        }
    }
    drop(state);
    for (reply, base) in accepted {
        // After a failed write or fsync nobody knows what a restart will find.
        let _ = reply.send(if written.is_ok() {
            Ok(base)
        } else {
            Err(Error::Unknown)
        });
    }
    match written {
        Ok(()) if ring => {
            shared.published.send_replace(visible);
        }
        Ok(()) => {}
        Err(error) => {
            tracing::error!(%error, "the store cannot write; restart once the disk is well again")
        }
    }
}

/// The writes of one group under construction.
struct Group {
    batch: WriteBatch,
    tree: Keyspace,
    /// The epoch after this group.
    epoch: u32,
    /// Maxima of this group, not yet in the tree.
    maxima: std::collections::HashMap<Vec<u8>, Vec<u8>>,
    /// Versioned puts.
    stamped: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Group {
    fn new(batch: WriteBatch, tree: Keyspace, epoch: u32) -> Self {
        Self {
            batch,
            tree,
            epoch,
            maxima: Default::default(),
            stamped: Vec::new(),
        }
    }

    fn add(&mut self, batch: &Batch, base: Version, keys: &EngineKeys) -> Result<()> {
        for (index, condition) in batch.conditions.iter().enumerate() {
            let holds = match condition {
                Condition::KeyEquals { key, value } => {
                    self.tree.get(key).map_err(unavailable)?.as_deref() == value.as_deref()
                }
                Condition::RangeEmpty { begin, end } => {
                    begin >= end || self.tree.range(&begin[..]..&end[..]).next().is_none()
                }
            };
            if !holds {
                return Err(Error::ConditionFailed(index));
            }
        }
        // All reads come before the first write: an error here leaves nothing of this commit in the group.
        let mut cleared = Vec::new();
        for (begin, end) in batch.clears.iter().filter(|(begin, end)| begin < end) {
            for guard in self.tree.range(&begin[..]..&end[..]) {
                cleared.push(guard.key().map_err(unavailable)?);
            }
        }
        let mut maxima = Vec::new();
        for (key, value) in &batch.maxima {
            let stored = match self.maxima.get(key) {
                Some(value) => Some(value.clone()),
                None => self
                    .tree
                    .get(key)
                    .map_err(unavailable)?
                    .map(|value| value.to_vec()),
            };
            if stored.is_none_or(|stored| stored < *value) {
                maxima.push((key.clone(), value.clone()));
            }
        }

        for key in cleared {
            self.batch.remove(&self.tree, key);
        }
        for (key, value) in &batch.puts {
            if let (true, Ok(epoch)) = (*key == keys.epoch, <[u8; 4]>::try_from(&value[..])) {
                self.epoch = u32::from_be_bytes(epoch);
            }
            self.batch.insert(&self.tree, &key[..], &value[..]);
        }
        for put in &batch.versioned {
            self.stamped.push((
                versioned(&put.prefix, base.at_index(put.index)),
                put.value.clone(),
            ));
        }
        self.maxima.extend(maxima);
        Ok(())
    }

    fn write(mut self, visible: Version, keys: &EngineKeys) -> fjall::Result<()> {
        // In key order one insert finds in the processor's caches what the one before it has touched.
        self.stamped.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in self.stamped {
            self.batch.insert(&self.tree, key, value);
        }
        for (key, value) in self.maxima {
            self.batch.insert(&self.tree, key, value);
        }
        self.batch
            .insert(&self.tree, &keys.last[..], &visible.to_bytes()[..]);
        self.batch.commit()
    }
}
