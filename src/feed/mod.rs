//! Reading feeds: pages, states, unread counts; moving markers.
//!
//! Every function takes one snapshot, reads, and drops the snapshot before it returns. So no snapshot can be held while a
//! client reads.

mod event;
mod markers;
mod page;
mod read_slots;
mod state;
mod sweep;

use std::sync::Arc;

pub use self::{
    page::{
        Order, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_EXAMINED_MAX, Page, PageEntry, PageQuery,
    },
    read_slots::{READ_WAIT_MAX, READS_AT_ONCE, READS_WAITING_MAX, ReadSlot},
    state::{FeedState, Markers, UNREAD_MAX, Unread},
};
use self::{read_slots::ReadSlots, sweep::Sweeps};
use crate::{
    error::{Error, Result},
    metrics::TwinsHidden,
    store::{Store, keys::Keys},
};

/// The reading side of the service; cheap to clone.
#[derive(Clone)]
pub struct Feeds {
    store: Arc<dyn Store>,
    keys: Keys,
    twins: TwinsHidden,
    slots: ReadSlots,
    sweeps: Sweeps,
}

impl Feeds {
    pub fn new(store: Arc<dyn Store>, keys: Keys) -> Self {
        Self::counting(store, keys, TwinsHidden::default())
    }

    /// As [`Self::new`], counting hidden twins in `twins`.
    pub fn counting(store: Arc<dyn Store>, keys: Keys, twins: TwinsHidden) -> Self {
        Self {
            store,
            keys,
            twins,
            slots: ReadSlots::new(),
            sweeps: Sweeps::default(),
        }
    }

    /// Waits for permission to read on behalf of a request; fails with [`Error::ReadsBusy`]. (Streams do not use this: the
    /// hub lets them read in turn, without ever refusing them.)
    pub async fn read_slot(&self) -> Result<ReadSlot<'_>> {
        self.slots.acquire().await
    }

    /// Counts the error, if it is one of the store.
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Store(error)) = &result {
            self.store.errors().note_read(error);
        }
        result
    }
}
