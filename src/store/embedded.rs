//! The embedded engine: one fjall keyspace, one writer thread, group commit with one fsync.
//!
//! Invariants:
//! - A reader's view is the one published after the last group's fsync, so nobody sees what a crash could undo.
//! - A snapshot's version is the last published tick. The next group's tick is later (also after a restart with
//!   the wall clock set back, since that tick is stored), so no commit lands at or below a version handed out.
//! - A commit is refused when its tick lies [`SNAPSHOT_AGE_TICKS_MAX`] or more after the snapshot was taken.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch, PersistMode, Readable,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Batch, Condition, Error, KeyValue, Range, Result, Retries, SNAPSHOT_AGE_TICKS_MAX, Slice,
    Snapshot, Store,
};
use crate::{
    clock::{TickClock, WallTime},
    store::keys::{Keys, versioned},
    version::Version,
};

/// Commits waiting for the writer; a further one waits in its task.
const QUEUE_BATCHES_MAX: usize = 64;
/// A group stops taking commits at so many bytes.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Block cache, in bytes.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;

pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<Writer>>,
    retries: Retries,
}

struct Writer {
    queue: mpsc::Sender<Request>,
    thread: std::thread::JoinHandle<()>,
}

struct Shared {
    wall: WallTime,
    /// `None` once closed.
    state: Mutex<Option<State>>,
    published: watch::Sender<Version>,
}

struct State {
    db: Database,
    tree: Keyspace,
    clock: TickClock,
    view: fjall::Snapshot,
    visible: Version,
    /// The tick of the group being written: already stamped, not yet in `view`.
    committing: Option<u64>,
}

struct Request {
    batch: Batch,
    epoch: u32,
    taken_at: u64,
    reply: oneshot::Sender<Result<Version>>,
}

impl Embedded {
    /// Opens or creates the store in `folder`. Blocks on the disk.
    pub fn open(folder: &Path, wall: WallTime) -> Result<Self> {
        let failed = |error: fjall::Error| open_error(folder, error);
        std::fs::create_dir_all(folder).map_err(|error| {
            Error::Open(format!(
                "cannot create the data folder {}: {error}",
                folder.display()
            ))
        })?;
        let db = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .open()
            .map_err(failed)?;
        let tree = db
            .keyspace("newsfeed", KeyspaceCreateOptions::default)
            .map_err(failed)?;

        let keys = EngineKeys::new();
        let visible = match tree.get(&keys.last).map_err(failed)? {
            None => Version::moment(0, 0),
            Some(last) => match <[u8; 16]>::try_from(&last[..]) {
                Ok(last) => Version::from_bytes(last),
                Err(_) => return Err(super::keys::corrupt(&keys.last, "not a version")),
            },
        };
        let clock = TickClock::new(wall.clone(), visible)
            .map_err(|error| Error::Open(error.to_string()))?;
        let state = State {
            view: db.snapshot(),
            db,
            tree,
            clock,
            visible,
            committing: None,
        };
        let shared = Arc::new(Shared {
            wall,
            state: Mutex::new(Some(state)),
            published: watch::Sender::new(visible),
        });

        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write_groups(&shared, &keys, requests)
            })
            .map_err(|error| Error::Open(format!("cannot start the writer thread: {error}")))?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(Writer { queue, thread })),
            retries: Retries::default(),
        })
    }
}

fn open_error(folder: &Path, error: fjall::Error) -> Error {
    let folder = folder.display();
    Error::Open(match error {
        fjall::Error::Locked => format!(
            "the data folder {folder} is in use by another process: stop that one, or give this one another --data"
        ),
        fjall::Error::InvalidVersion(found) => {
            format!(
                "the data folder {folder} is of another storage format ({found:?}): use the newsfeed version that wrote it"
            )
        }
        other => format!("cannot open the data folder {folder}: {other}"),
    })
}

/// The keys the engine itself reads or writes.
struct EngineKeys {
    epoch: Vec<u8>,
    last: Vec<u8>,
}

impl EngineKeys {
    fn new() -> Self {
        let keys = Keys::before_opening(b"");
        Self {
            epoch: keys.epoch(),
            last: keys.last(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let queue = match &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => writer.queue.clone(),
            None => return Err(Error::Closed),
        };
        let mut state = self.shared.state();
        let state = state.as_mut().ok_or(Error::Closed)?;
        // A group being written may hold a twin of what this snapshot's owner will append: count from before it.
        let taken_at = match state.committing {
            Some(tick) => tick - 1,
            None => state
                .clock
                .tick()
                .map_err(|error| Error::Unavailable(error.to_string()))?,
        };
        Ok(Box::new(View {
            tree: state.tree.clone(),
            view: state.view.clone(),
            version: state.visible,
            taken_at,
            wall: self.shared.wall.clone(),
            queue,
        }))
    }

    async fn changed(&self, seen: Version) -> Result<()> {
        let mut published = self.shared.published.subscribe();
        published
            .wait_for(|&version| version > seen)
            .await
            .map(|_| ())
            .map_err(|_| Error::Closed)
    }

    fn retries(&self) -> &Retries {
        &self.retries
    }

    async fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Writer { queue, thread }) = writer {
            drop(queue);
            // The thread ends when the last snapshot, which holds a sender too, is gone.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer thread panicked");
            }
            let state = self.shared.state().take();
            let _ = tokio::task::spawn_blocking(move || drop(state)).await;
        }
    }
}

struct View {
    tree: Keyspace,
    view: fjall::Snapshot,
    version: Version,
    taken_at: u64,
    wall: WallTime,
    queue: mpsc::Sender<Request>,
}

impl View {
    /// Runs a read on the blocking pool: it may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Keyspace, &fjall::Snapshot) -> fjall::Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.wall.micros().saturating_sub(self.taken_at) >= SNAPSHOT_AGE_TICKS_MAX {
            return Err(Error::TooOld);
        }
        let (tree, view) = (self.tree.clone(), self.view.clone());
        match tokio::task::spawn_blocking(move || read(&tree, &view)).await {
            Ok(result) => result.map_err(unavailable),
            Err(panicked) => Err(Error::Unavailable(panicked.to_string())),
        }
    }
}

fn unavailable(error: fjall::Error) -> Error {
    Error::Unavailable(error.to_string())
}

#[async_trait]
impl Snapshot for View {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Bytes>>> {
        self.read(move |tree, view| {
            keys.iter()
                .map(|key| {
                    Ok(view
                        .get(tree, key)?
                        .map(|value| Bytes::copy_from_slice(&value)))
                })
                .collect()
        })
        .await
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Slice>> {
        self.read(move |tree, view| {
            ranges
                .iter()
                .map(|range| read_range(tree, view, range))
                .collect()
        })
        .await
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self {
            version,
            taken_at,
            queue,
            view,
            ..
        } = *self;
        drop(view);
        let (reply, answer) = oneshot::channel();
        let request = Request {
            batch,
            epoch: version.epoch(),
            taken_at,
            reply,
        };
        queue.send(request).await.map_err(|_| Error::Closed)?;
        drop(queue);
        answer.await.unwrap_or(Err(Error::Unknown))
    }
}

fn read_range(tree: &Keyspace, view: &fjall::Snapshot, range: &Range) -> fjall::Result<Slice> {
    let mut slice = Slice::default();
    if range.begin >= range.end {
        return Ok(slice);
    }
    let mut iter = view.range(tree, &range.begin[..]..&range.end[..]);
    let mut bytes = 0;
    loop {
        let Some(guard) = (if range.reverse {
            iter.next_back()
        } else {
            iter.next()
        }) else {
            break;
        };
        if slice.items.len() >= range.limit || bytes >= range.bytes_max {
            slice.more = true;
            break;
        }
        let (key, value) = guard.into_inner()?;
        bytes += key.len() + value.len();
        slice.items.push(KeyValue {
            key: Bytes::copy_from_slice(&key),
            value: Bytes::copy_from_slice(&value),
        });
    }
    Ok(slice)
}

/// The writer thread: takes what is waiting, writes it with one fsync, answers, again.
fn write_groups(shared: &Shared, keys: &EngineKeys, mut requests: mpsc::Receiver<Request>) {
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
}

impl Group {
    fn new(batch: WriteBatch, tree: Keyspace, epoch: u32) -> Self {
        Self {
            batch,
            tree,
            epoch,
            maxima: Default::default(),
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
            self.batch.insert(
                &self.tree,
                versioned(&put.prefix, base.at_index(put.index)),
                &put.value[..],
            );
        }
        self.maxima.extend(maxima);
        Ok(())
    }

    fn write(mut self, visible: Version, keys: &EngineKeys) -> fjall::Result<()> {
        for (key, value) in self.maxima {
            self.batch.insert(&self.tree, key, value);
        }
        self.batch
            .insert(&self.tree, &keys.last[..], &visible.to_bytes()[..]);
        self.batch.commit()
    }
}
