//! Reading feeds: pages, states, unread counts; moving markers.
//!
//! Every function takes one snapshot, reads, and drops the snapshot before it returns. So no snapshot can be held while a
//! client reads.

mod changes;
mod event;
mod markers;
mod marks;
mod page;
mod source;
mod standing;
mod state;
mod states;
mod turns;
mod unread;

use std::sync::Arc;

pub use self::{
    event::FoundEvent,
    markers::{ReaderMarkers, Readers},
    marks::{EntryState, MARKS_TOLD_MAX, NewState},
    page::{
        FeedIndices, KINDS_MAX, Order, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_EXAMINED_MAX, Page,
        PageEntry, PageQuery, check_kept,
    },
    standing::Standing,
    state::{FeedState, Markers, UNREAD_MAX, UNREAD_TOGETHER_MAX, Unread},
    states::{EntryStates, States},
    turns::Reader,
    unread::UNREAD_CACHE_BYTES_MAX,
};
use self::{
    turns::{InTurn, Turn, Turns},
    unread::UnreadCache,
};
use crate::{
    error::{Error, Result},
    lineage::Lineage,
    metrics::{TwinsHidden, UnreadCounts},
    store::{self, Reads, Snapshot, Store, keys::Keys, values::decode_version_or_zero},
    times,
    types::FeedName,
    version::{Cursor, Version},
};

/// Maximum number of feeds of a read about which it is asked whether they have changed.
const TRACKED_FEEDS_MAX: usize = 10;

/// The reading side of the service; cheap to clone.
#[derive(Clone)]
pub struct Feeds {
    store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) lineage: Lineage,
    pub(crate) twins: TwinsHidden,
    unread: UnreadCache,
    turns: Turns,
    reader: Reader,
    /// Held for the reads that are under way.
    turn: Option<Arc<Turn>>,
}

impl Feeds {
    pub fn new(store: Arc<dyn Store>, keys: Keys) -> Self {
        let (twins, unread) = (TwinsHidden::default(), UnreadCounts::default());
        Self::counting(store, keys, twins, unread)
    }

    /// As [`Self::new`], with these metrics.
    pub fn counting(
        store: Arc<dyn Store>,
        keys: Keys,
        twins: TwinsHidden,
        unread: UnreadCounts,
    ) -> Self {
        Self {
            turns: Turns::new(store.reads_at_once()),
            store,
            lineage: Lineage::new(keys.clone()),
            keys,
            twins,
            unread: UnreadCache::new(unread),
            reader: Reader::default(),
            turn: None,
        }
    }

    /// The same, to be read by `reader`.
    pub fn of(&self, reader: Reader) -> Self {
        Self {
            reader,
            turn: None,
            ..self.clone()
        }
    }

    /// The same, with a turn of the reader: until the last clone is dropped, reads wait for their turn and are charged. Do
    /// not wait for anything else meanwhile, and not for a second turn.
    ///
    /// # Errors
    /// [`Error::ReadsBusy`], but not for streams.
    pub async fn turn(&self) -> Result<Self> {
        let turn = self.turns.begin(self.reader).await?;
        Ok(Self {
            turn: Some(Arc::new(turn)),
            ..self.clone()
        })
    }

    /// The version that was current at `micros` since 1970.
    pub async fn version_at(&self, micros: u64) -> Result<Version> {
        let found = async {
            let snapshot = self.snapshot().await?;
            let known = self.lineage.at(&*snapshot).await?;
            Ok(times::version_at(&*snapshot, &self.keys, &known, micros).await?)
        };
        self.note(found.await)
    }

    /// The current version, if the engine knows, without a read, that nothing under the prefixes of `feeds` has been written or
    /// removed above `since`.
    fn moment_if_unchanged<const N: usize>(
        &self,
        feeds: &[FeedName],
        prefixes: impl Fn(&FeedName) -> [Vec<u8>; N],
        since: Version,
    ) -> Option<Version> {
        if !(1..=TRACKED_FEEDS_MAX).contains(&feeds.len()) {
            return None;
        }
        let mut moment = Version::MAX;
        for prefix in feeds.iter().flat_map(prefixes) {
            moment = moment.min(self.store.moment_if_unchanged(&prefix, since)?);
        }
        (since <= moment).then_some(moment)
    }

    /// Whether the version is known, without a read, to be of this life of the store.
    pub(crate) fn knows(&self, cursor: Cursor) -> bool {
        self.lineage.knows(cursor)
    }

    pub(crate) async fn snapshot(&self) -> store::Result<Box<dyn Snapshot>> {
        let snapshot = self.store.snapshot().await?;
        Ok(match &self.turn {
            Some(turn) => Box::new(InTurn {
                snapshot,
                turn: Arc::clone(turn),
            }),
            None => snapshot,
        })
    }

    /// Takes a snapshot and reads the versions at `keys`, in one round trip. Zero for those that are missing.
    pub(crate) async fn begin<const N: usize>(
        &self,
        keys: [Vec<u8>; N],
    ) -> store::Result<(Box<dyn Snapshot>, [Version; N])> {
        let reads = Reads {
            keys: keys.to_vec(),
            ..Reads::default()
        };
        let (snapshot, found): (Box<dyn Snapshot>, _) = match &self.turn {
            Some(turn) => {
                let (snapshot, found) = InTurn::begin(&*self.store, turn, reads).await?;
                (Box::new(snapshot), found)
            }
            None => self.store.begin(reads).await?,
        };
        let mut versions = [Version::ZERO; N];
        for ((version, key), value) in versions.iter_mut().zip(&keys).zip(&found.values) {
            *version = decode_version_or_zero(key, value.as_ref())?;
        }
        Ok((snapshot, versions))
    }

    /// Counts the error, if it is one of the store.
    pub(crate) fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Store(error)) = &result {
            self.store.errors().note_read(error);
        }
        result
    }
}
