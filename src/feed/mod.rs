//! Reading feeds: pages, heads, unread counts; moving markers.
//!
//! Every function here takes one snapshot, reads, lets go of it and only then returns: nobody can hold one while a
//! client reads.

mod admission;
mod markers;
mod page;
mod state;

use std::sync::Arc;

use self::admission::Admission;
pub use self::{
    admission::{READ_WAIT_MAX, READS_AT_ONCE, READS_WAITING_MAX, Turn},
    page::{
        Order, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_EXAMINED_MAX, Page, PageEntry, PageQuery,
    },
    state::{FeedState, Markers, UNREAD_MAX, Unread},
};
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
    admission: Admission,
}

impl Feeds {
    pub fn new(store: Arc<dyn Store>, keys: Keys) -> Self {
        Self::counting(store, keys, TwinsHidden::default())
    }

    /// Counts the twins it hides.
    pub fn counting(store: Arc<dyn Store>, keys: Keys, twins: TwinsHidden) -> Self {
        Self {
            store,
            keys,
            twins,
            admission: Admission::new(),
        }
    }

    /// A turn to read for a request. (Streams take theirs from the hub: they wait, and are never refused.)
    pub async fn turn(&self) -> Result<Turn<'_>> {
        self.admission.turn().await
    }

    /// Counts an error of the store, if it is one.
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Store(error)) = &result {
            self.store.retries().note_read(error);
        }
        result
    }
}
