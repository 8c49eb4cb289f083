//! The counts that a node remembers.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};

use super::count::Counted;
use crate::{
    metrics::UnreadCounts,
    types::{FeedName, ReaderName},
};

/// Memory for counts, as it is counted here, in bytes. The least used ones are forgotten.
pub const UNREAD_CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a count takes besides its entries, in bytes.
const COUNT_BYTES: usize = 256;
/// How many counts are expected.
const COUNTS: usize = 10_000;

type Key = (FeedName, ReaderName);

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Key, Arc<Counted>> for Bytes {
    fn weight(&self, (feed, reader): &Key, counted: &Arc<Counted>) -> u64 {
        (COUNT_BYTES + feed.as_str().len() + reader.as_str().len() + counted.bytes()) as u64
    }
}

/// Counts of what is unread, by feed and reader; cheap to clone.
#[derive(Clone)]
pub struct UnreadCache {
    counts: Arc<Cache<Key, Arc<Counted>, Bytes>>,
    pub(super) metrics: UnreadCounts,
}

impl UnreadCache {
    pub fn new(metrics: UnreadCounts) -> Self {
        let counts = Cache::with_weighter(COUNTS, UNREAD_CACHE_BYTES_MAX, Bytes);
        Self {
            counts: Arc::new(counts),
            metrics,
        }
    }

    pub(super) fn get(&self, feed: &FeedName, reader: &ReaderName) -> Option<Arc<Counted>> {
        self.counts.get(&(feed.clone(), reader.clone()))
    }

    pub(super) fn put(&self, feed: &FeedName, reader: &ReaderName, counted: Counted) {
        let key = (feed.clone(), reader.clone());
        self.counts.insert(key, Arc::new(counted));
        self.metrics.readers.set(self.counts.len() as i64);
        self.metrics.bytes.set(self.counts.weight() as i64);
    }
}
