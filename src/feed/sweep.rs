//! Clearing the unread keys of feeds that were marked read.
//!
//! Readers count unread keys above the read marker only, so a key at or below it has no meaning: it may be cleared at any
//! time. On FoundationDB, clearing a range costs one mutation, and moving the marker clears them all. The embedded engine
//! writes a tombstone for each key. There, moving the marker clears up to [`PIECE_KEYS`] keys, and a background task clears
//! the rest piece by piece, so that appends commit in between. What a crash leaves is cleared when the marker moves next.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::state::read_marker;
use crate::{
    store::{
        Batch, Error, Found, Plan, Result, Snapshot, Store, Transaction, keys,
        keys::{Keys, version_of},
        transact,
    },
    types::FeedName,
    version::Version,
};

/// Most unread keys that one transaction clears, where each costs a write.
pub(super) const PIECE_KEYS: usize = 1_000;
/// Most feeds that wait to be swept. The keys of further ones are cleared when their marker moves next.
const FEEDS_WAITING_MAX: usize = 10_000;

/// Unread keys to clear.
pub(super) struct Piece {
    pub(super) range: (Vec<u8>, Vec<u8>),
    pub(super) last: Version,
    /// There are more, above `last`.
    pub(super) more: bool,
}

impl Piece {
    /// The first unread keys of `feed` in `(after, until]`, if there are any.
    pub(super) async fn read(
        snapshot: &dyn Snapshot,
        keys: &Keys,
        feed: &FeedName,
        after: Option<Version>,
        until: Version,
    ) -> Result<Option<Self>> {
        let prefix = keys.unread(feed);
        let range = keys::range(&prefix, after, until, false, PIECE_KEYS, usize::MAX);
        let slices = snapshot.ranges(vec![range]).await?;
        let slice = slices.into_iter().next().unwrap_or_default();
        let (Some(first), Some(last)) = (slice.items.first(), slice.items.last()) else {
            return Ok(None);
        };
        let last_version = version_of(&last.key)?;
        Ok(Some(Self {
            range: (first.key.to_vec(), [&last.key[..], &[0]].concat()),
            last: last_version,
            more: slice.more,
        }))
    }
}

/// The feeds that are being swept; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Sweeps(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    feeds: BTreeSet<FeedName>,
    is_running: bool,
}

impl Sweeps {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears the unread keys of `feed` up to its read marker, in the background.
    pub(super) fn begin(&self, store: &Arc<dyn Store>, keys: &Keys, feed: &FeedName) {
        let mut waiting = self.waiting();
        if waiting.feeds.len() < FEEDS_WAITING_MAX {
            waiting.feeds.insert(feed.clone());
        }
        if std::mem::replace(&mut waiting.is_running, true) {
            return;
        }
        drop(waiting);
        let (sweeps, store, keys) = (self.clone(), Arc::clone(store), keys.clone());
        tokio::spawn(async move {
            // Finding no feed and ending the task is one atomic step: a later feed starts another task.
            while let Some(feed) = sweeps.next() {
                match sweep(&*store, &keys, &feed).await {
                    Ok(()) | Err(Error::Closed) => {}
                    Err(error) => {
                        tracing::warn!(%error, "some unread keys of a feed were not cleared; they do not count, and are cleared when the feed is marked read next");
                    }
                }
            }
        });
    }

    fn next(&self) -> Option<FeedName> {
        let mut waiting = self.waiting();
        let next = waiting.feeds.pop_first();
        waiting.is_running = next.is_some();
        next
    }
}

/// Clears the unread keys of `feed` up to its read marker.
async fn sweep(store: &dyn Store, keys: &Keys, feed: &FeedName) -> Result<()> {
    let mut after = None;
    loop {
        let began = Instant::now();
        let mut clear = ClearPiece {
            keys,
            feed,
            after,
            planned: None,
        };
        after = transact(store, &mut clear).await?;
        if after.is_none() {
            return Ok(());
        }
        // At most half of the writer's time.
        sleep(began.elapsed()).await;
    }
}

/// Clears a piece. Its output is the last version of the piece, or `None` if there was nothing to clear.
struct ClearPiece<'a> {
    keys: &'a Keys,
    feed: &'a FeedName,
    /// Everything up to here has been cleared. Reading on from here skips the tombstones.
    after: Option<Version>,
    planned: Option<Version>,
}

#[async_trait]
impl Transaction for ClearPiece<'_> {
    type Output = Option<Version>;
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<Option<Version>>> {
        let Some(until) = read_marker(snapshot, self.keys, self.feed).await? else {
            return Ok(Plan::Answer(None));
        };
        let piece = Piece::read(snapshot, self.keys, self.feed, self.after, until).await?;
        let Some(piece) = piece else {
            return Ok(Plan::Answer(None));
        };
        self.planned = Some(piece.last);
        Ok(Plan::Commit(Batch {
            clears: vec![piece.range],
            ..Batch::default()
        }))
    }

    fn committed(&mut self, _version: Version) -> Option<Version> {
        self.planned
    }
}
