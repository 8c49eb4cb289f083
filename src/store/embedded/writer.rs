//! The writer thread: it takes all waiting commits, writes them as a group with one fsync, and answers them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch as WriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot};

use super::{
    recent::hash,
    shared::{EngineKeys, Shared},
    tables::{Put, Tables},
};
use crate::{
    store::{
        Batch, Condition, Error, Range, Result, SNAPSHOT_AGE_TICKS_MAX, Stamped,
        epoch::Row,
        keys::{Keys, unread_versioned},
    },
    version::{BYTES_LEN, Version},
};

/// A group takes no further commits at this size.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A commit on its way to the writer.
pub(super) struct Request {
    pub(super) batch: Batch,
    /// The epoch of its snapshot, and the tick at which the snapshot was taken.
    pub(super) epoch: u32,
    pub(super) taken_at: u64,
    pub(super) reply: oneshot::Sender<Result<Version>>,
}

/// Runs until all senders are dropped.
pub(super) fn write_groups(shared: &Shared, mut requests: mpsc::Receiver<Request>) {
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
        if let Err(error) = begin_epoch(shared) {
            for request in group {
                let _ = request.reply.send(Err(error.clone()));
            }
            continue;
        }
        let mut rest = group.into_iter().peekable();
        while rest.peek().is_some() {
            write_group(shared, &mut rest);
        }
    }
}

/// Begins the epoch of a new life of the store, unless it has begun. Must not run concurrently with [`write_groups`].
///
/// Until that succeeds (the disk may be full), the store commits nothing, and the moment of its snapshots remains that of
/// the last commit before: the end of the old epoch. So it is a known version in all lives of the store.
pub(super) fn begin_epoch(shared: &Shared) -> Result<()> {
    let (reply, mut answer) = oneshot::channel();
    let raise = {
        let mut state = shared.state();
        let state = state.as_mut().ok_or(Error::Closed)?;
        if !state.begins_epoch {
            return Ok(());
        }
        let last = state.visible;
        let tick = state
            .clock
            .tick()
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        let row = Row::of_new_life(last, tick, &shared.wall)?;
        Request {
            batch: Batch {
                puts: row.puts(&Keys::before_opening(b"")),
                notify: true,
                ..Batch::default()
            },
            epoch: last.epoch(),
            taken_at: tick,
            reply,
        }
    };
    write_group(shared, &mut [raise].into_iter().peekable());
    answer.try_recv().unwrap_or(Err(Error::Closed))?;
    if let Some(state) = &mut *shared.state() {
        state.begins_epoch = false;
    }
    Ok(())
}

fn size_of_batch(batch: &Batch) -> usize {
    let versioned = batch.versioned.iter().chain(&batch.unread);
    let versioned = versioned.map(|put| put.prefix.len() + put.value.len());
    let puts = batch
        .puts
        .iter()
        .map(|(key, value)| key.len() + value.len());
    let stamped = batch
        .stamped
        .iter()
        .map(|put| put.key.len() + put.value.len());
    versioned.chain(puts).chain(stamped).sum()
}

/// Writes a group: the first of `requests`, and those after it up to the next one that must see this group.
fn write_group(shared: &Shared, requests: &mut std::iter::Peekable<impl Iterator<Item = Request>>) {
    let keys = &shared.keys;
    let mut refuse = |error: Error| {
        for request in &mut *requests {
            let _ = request.reply.send(Err(error.clone()));
        }
    };
    if let Err(refusal) = shared.refusal() {
        return refuse(refusal);
    }
    let writing = shared.writing.lock();
    let _writing = writing.unwrap_or_else(PoisonError::into_inner);
    let (tables, tick, epoch) = {
        let mut state = shared.state();
        let Some(state) = state.as_mut() else { return };
        let tick = match state.clock.tick() {
            Ok(tick) => tick,
            Err(error) => return refuse(Error::Unavailable(error.to_string())),
        };
        let Some(open) = &state.open else {
            return refuse(Error::Unavailable("the database is being reopened".into()));
        };
        state.committing = Some(tick);
        (Arc::clone(&open.tables), tick, state.visible.epoch())
    };

    let mut group = Group::new(Arc::clone(&tables), epoch);
    let mut accepted = Vec::new();
    let mut notify = false;
    for order in 0..=u16::MAX {
        let joins = |request: &Request| order == 0 || group.takes(&request.batch, epoch, keys);
        let Some(request) = requests.next_if(joins) else {
            break;
        };
        let base = Version::new(epoch, tick, u32::from(order) << 16);
        let asks_to_notify = request.batch.notify;
        let checked = if request.epoch != epoch {
            Err(Error::Conflict)
        } else if tick - request.taken_at >= SNAPSHOT_AGE_TICKS_MAX {
            Err(Error::TooOld)
        } else {
            // Damaged files can make the engine panic. A commit is added to the group after all its reads, so a panic
            // leaves the group as it was.
            let added = catch_unwind(AssertUnwindSafe(|| group.add(request.batch, base, keys)));
            added.unwrap_or_else(|_| Err(Error::Damaged("a read panicked".into())))
        };
        match checked {
            Ok(()) => {
                notify |= asks_to_notify;
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
        let removals = group.removals().into_iter();
        shared.removals.note(removals, shared.wall.micros());
        let batch = catch_unwind(AssertUnwindSafe(|| group.into_batch(visible, keys)));
        let batch = batch.unwrap_or_else(|_| Err(Error::Damaged("a read panicked".into())));
        batch.and_then(|batch| {
            batch.commit().map_err(|error| {
                shared.note_failed_write(&error);
                match error {
                    // The commit was refused before anything was written.
                    fjall::Error::Poisoned => Error::Unavailable("an earlier write failed".into()),
                    // Whether it is on disk is known only after the database has been reopened.
                    _ => Error::Unknown,
                }
            })
        })
    };
    let mut state = shared.state();
    if let Some(state) = state.as_mut() {
        state.committing = None;
        if written.is_ok()
            && !accepted.is_empty()
            && let Some(open) = &mut state.open
        {
            shared.group_commits.fetch_add(1, Ordering::Relaxed);
            open.view = tables.db().snapshot();
            state.visible = visible;
            state.clock.set_epoch(visible.epoch());
        }
    }
    drop(state);
    drop(tables);
    for (reply, base) in accepted {
        let _ = reply.send(written.clone().map(|()| base));
    }
    if notify && written.is_ok() {
        shared.published.send_replace(visible);
    }
}

/// A group under construction.
struct Group {
    /// Shows all groups before this one.
    before: fjall::Snapshot,
    tables: Arc<Tables>,
    /// The epoch after this group.
    epoch: u32,
    /// Maxima written by this group.
    maxima: HashMap<Vec<u8>, Vec<u8>>,
    removed: Vec<(Keyspace, Bytes)>,
    puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Versioned puts, with their complete keys.
    stamped: Vec<Put>,
    /// Hashes of the claims in this group.
    claims: HashSet<u64>,
    /// Hashes of the prefixes of its versioned puts, except claims.
    prefixes: HashSet<u64>,
}

impl Group {
    fn new(tables: Arc<Tables>, epoch: u32) -> Self {
        Self {
            before: tables.db().snapshot(),
            tables,
            epoch,
            maxima: HashMap::new(),
            removed: Vec::new(),
            puts: Vec::new(),
            stamped: Vec::new(),
            claims: HashSet::new(),
            prefixes: HashSet::new(),
        }
    }

    /// Whether `batch` can join this group, which was begun in `epoch`. A batch that reads what this group writes, or that
    /// clears keys or changes the epoch, begins a group of its own. Conditions of appends rarely read what their group
    /// writes, so they share its sync with other commits.
    fn takes(&self, batch: &Batch, epoch: u32, keys: &EngineKeys) -> bool {
        self.epoch == epoch
            && batch.clears.is_empty()
            && batch.puts.iter().all(|(key, _)| *key != keys.epoch)
            && !batch
                .conditions
                .iter()
                .any(|condition| self.may_change(condition))
    }

    /// Whether this group may change the outcome of `condition`.
    fn may_change(&self, condition: &Condition) -> bool {
        let Condition::RangeEmpty { begin, end } = condition else {
            return true;
        };
        let range = &begin[..]..&end[..];
        let is_put = self.puts.iter().any(|(key, _)| range.contains(&&key[..]))
            || self.maxima.keys().any(|key| range.contains(&&key[..]));
        // As `keys::after_until` makes it: a range of versioned keys under one prefix.
        let prefix = end.len().checked_sub(BYTES_LEN + 1).map(|len| &end[..len]);
        let Some(prefix) = prefix.filter(|prefix| begin.starts_with(prefix)) else {
            return true;
        };
        is_put || !self.removed.is_empty() || self.prefixes.contains(&hash(prefix))
    }

    fn add(&mut self, batch: Batch, base: Version, keys: &EngineKeys) -> Result<()> {
        for (index, condition) in batch.conditions.iter().enumerate() {
            if !self.holds(condition)? {
                return Err(Error::ConditionFailed(index));
            }
        }
        // All reads come first, so that an error leaves the group as it was.
        let mut maxima = Vec::new();
        for (key, value) in batch.maxima {
            let stored = match self.maxima.get(&key) {
                Some(value) => Some(value.clone().into()),
                None => self.tables.get(&self.before, &key)?,
            };
            if stored.is_none_or(|stored| stored[..] < value[..]) {
                maxima.push((key, value));
            }
        }
        let (mut claims, mut prefixes) = (Vec::new(), Vec::new());
        for put in &batch.versioned {
            if let Some(claim) = self.tables.claim(&put.prefix) {
                let hash = hash(claim);
                // A hash collision in a group costs one of the commits another attempt.
                if batch.unclaimed
                    && (self.claims.contains(&hash)
                        || self.tables.is_claimed(&self.before, claim)?)
                {
                    return Err(Error::Conflict);
                }
                claims.push(hash);
            } else {
                prefixes.push(hash(&put.prefix));
            }
        }
        prefixes.extend(batch.unread.iter().map(|put| hash(&put.prefix)));
        let mut cleared = Vec::new();
        for (begin, end) in batch.clears {
            let range = Range::all(begin, end);
            cleared.extend(self.tables.places(&self.before, &range)?);
        }

        self.claims.extend(claims);
        self.prefixes.extend(prefixes);
        self.removed.extend(cleared);
        for (key, value) in &batch.puts {
            if let (true, Ok(epoch)) = (*key == keys.epoch, <[u8; 4]>::try_from(&value[..])) {
                self.epoch = u32::from_be_bytes(epoch);
            }
        }
        self.puts.extend(batch.puts);
        self.puts.extend(batch.stamped.into_iter().map(|put| {
            let Stamped {
                key,
                index,
                mut value,
                at,
            } = put;
            let version = base.at_index(index).to_bytes();
            value[at..at + BYTES_LEN].copy_from_slice(&version);
            (key, value)
        }));
        for put in batch.versioned {
            let mut key = put.prefix;
            key.extend_from_slice(&base.at_index(put.index).to_bytes());
            self.stamped.push(Put {
                key,
                value: put.value,
                is_first: batch.unclaimed,
            });
        }
        for put in batch.unread {
            self.stamped.push(Put {
                key: unread_versioned(&put.prefix, base.at_index(put.index)),
                value: put.value,
                is_first: false,
            });
        }
        self.maxima.extend(maxima);
        Ok(())
    }

    fn holds(&self, condition: &Condition) -> Result<bool> {
        Ok(match condition {
            Condition::KeyEquals { key, value } => {
                self.tables.get(&self.before, key)?.as_deref() == value.as_deref()
            }
            Condition::RangeEmpty { begin, end } => {
                let range = Range::all(begin.clone(), end.clone());
                let one = Range { limit: 1, ..range };
                self.tables.range(&self.before, &one)?.items.is_empty()
            }
        })
    }

    /// Names of the tables from which this group removes something that was stored before.
    fn removals(&self) -> BTreeSet<&str> {
        let puts = self.puts.iter();
        let replaced = puts.filter_map(|(key, _)| self.tables.replaced_by(key));
        let removed = self.removed.iter().map(|(table, _)| table);
        removed
            .chain(replaced)
            .map(|table| &**table.name())
            .collect()
    }

    fn into_batch(mut self, visible: Version, keys: &EngineKeys) -> Result<WriteBatch> {
        let size = self.removed.len() + self.puts.len() + self.maxima.len() + self.stamped.len();
        let prefix = |put: &Put| put.key.len() - BYTES_LEN;
        let prefixes = self.stamped.iter().map(|put| &put.key[..prefix(put)]);
        self.tables.recent.note(
            (prefixes, self.prefixes.iter().copied()),
            self.puts.iter().map(|(key, _)| &key[..]),
            self.removed.iter().map(|(_, key)| &key[..]),
            visible,
        );
        let mut batch = WriteBatch::with_capacity(self.tables.db().clone(), size + 1)
            .durability(Some(PersistMode::SyncAll));
        for (table, key) in self.removed {
            batch.remove(&table, key);
        }
        self.stamped.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let last = (keys.last.clone(), visible.to_bytes().to_vec());
        let rest = self.maxima.into_iter().chain([last]);
        let puts = self.puts.into_iter().map(Put::from);
        let all = puts.chain(self.stamped).chain(rest.map(Put::from));
        self.tables.insert(&self.before, all, &mut batch)?;
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use fjall::Database;

    use super::*;
    use crate::store::{Versioned, keys::after_until};

    #[test]
    fn conditions_share_a_group_with_commits_that_do_not_change_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::builder(folder.path()).open().expect("opens");
        let (keys, engine) = (Keys::before_opening(b""), EngineKeys::new());
        let tables = Arc::new(Tables::open(db, keys.clone()).expect("opens"));
        let append = |feed: &str, expected: &str| {
            let prefix = |name: &str| keys.feed(&name.parse().expect("a name"));
            let (begin, end) = after_until(&prefix(expected), None, Version::MAX);
            Batch {
                conditions: vec![Condition::RangeEmpty { begin, end }],
                versioned: vec![Versioned {
                    prefix: prefix(feed),
                    index: 0,
                    value: b"entry".to_vec(),
                }],
                ..Batch::default()
            }
        };
        let clear = Batch {
            clears: vec![keys_of(&keys, "z")],
            ..Batch::default()
        };
        let raise = Batch {
            puts: vec![(engine.epoch.clone(), 1u32.to_be_bytes().to_vec())],
            ..Batch::default()
        };
        let mut group = Group::new(Arc::clone(&tables), 0);
        let version = |order: u32| Version::new(0, 7, order << 16);
        for (order, feed) in (0..).zip(["a", "b", "c"]) {
            let batch = append(feed, feed);
            assert!(group.takes(&batch, 0, &engine), "{feed}");
            group.add(batch, version(order), &engine).expect("holds");
        }
        // Whoever expects a feed of the group must see it; so must those who read or change more than a feed.
        for expected in ["a", "b", "c"] {
            assert!(!group.takes(&append("d", expected), 0, &engine));
        }
        assert!(group.takes(&append("a", "d"), 0, &engine));
        assert!(!group.takes(&clear, 0, &engine) && !group.takes(&raise, 0, &engine));
        assert!(!group.takes(&append("d", "d"), 1, &engine));

        let batch = group.into_batch(version(9), &engine).expect("built");
        batch.commit().expect("written");
        let mut next = Group::new(tables, 0);
        for feed in ["a", "b", "c"] {
            let refused = next.add(append("d", feed), version(10), &engine);
            assert!(matches!(refused, Err(Error::ConditionFailed(0))));
        }
        // A condition must see what its group has cleared.
        let clear = Batch {
            clears: vec![keys_of(&keys, "a")],
            ..Batch::default()
        };
        next.add(clear, version(10), &engine).expect("cleared");
        assert!(!next.takes(&append("d", "a"), 0, &engine));
    }

    fn keys_of(keys: &Keys, feed: &str) -> (Vec<u8>, Vec<u8>) {
        after_until(
            &keys.feed(&feed.parse().expect("a name")),
            None,
            Version::MAX,
        )
    }
}
