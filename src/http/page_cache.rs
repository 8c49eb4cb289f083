//! First pages of feeds, kept as they were answered.
//!
//! Apps ask for the newest entries of a feed again and again, mostly without finding anything new. A kept page is answered
//! as long as the store knows without a read that nothing in the feed has been written, changed or removed since. Only its
//! moment (vN), which has always the same length, is written anew.

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};

use super::render::Rendered;
use crate::{
    feed::{Feeds, Order, PAGE_BYTES_MAX, Page, PageQuery},
    metrics::FirstPages,
    types::FeedName,
    version::{Cursor, Version},
};

/// Memory for pages, as it is counted here, in bytes. The least used ones are dropped.
pub const PAGE_CACHE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What a page takes besides its body, in bytes.
const PAGE_BYTES: usize = 256;
/// How many pages are expected.
const PAGES: usize = 2_000;

/// A feed, and the most entries of a page.
type Key = (FeedName, usize);

struct Kept {
    moment: Version,
    page: Rendered,
    next: Option<Version>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Kept>> for Bytes {
    fn weight(&self, (feed, _): &Key, kept: &Arc<Kept>) -> u64 {
        (PAGE_BYTES + feed.as_str().len() + kept.page.body.capacity()) as u64
    }
}

pub struct PageCache {
    pages: Cache<Key, Arc<Kept>, Bytes>,
    metrics: FirstPages,
}

impl PageCache {
    pub fn new(metrics: FirstPages) -> Self {
        Self {
            pages: Cache::with_weighter(PAGES, PAGE_CACHE_BYTES_MAX, Bytes),
            metrics,
        }
    }

    /// The body of the page as it is now, and where the next one begins, if a page that was kept still holds.
    pub(super) fn get(
        &self,
        feeds: &Feeds,
        query: &PageQuery<Cursor>,
        merged: bool,
    ) -> Option<(Vec<u8>, Option<Version>)> {
        let feed = first_page_of(query, merged)?;
        let kept = self.pages.get(&(feed.clone(), query.limit))?;
        let now = feeds.moment_if_same_entries(feed, kept.moment)?;
        self.metrics.cached.inc();
        Some((kept.page.at(now), kept.next))
    }

    /// Keeps what was read for `query` and rendered, if it is a whole first page, and the store can tell when the feed changes.
    pub(super) fn put(
        &self,
        feeds: &Feeds,
        query: &PageQuery<Cursor>,
        merged: bool,
        page: &Page,
        rendered: &Rendered,
    ) {
        let Some(feed) = first_page_of(query, merged) else {
            return;
        };
        self.metrics.read.inc();
        // If memory was short, the page may have ended early.
        let is_whole = query.bytes == PAGE_BYTES_MAX;
        if !is_whole || feeds.moment_if_same_entries(feed, page.version).is_none() {
            return;
        }
        let kept = Kept {
            moment: page.version,
            page: rendered.clone(),
            next: page.next,
        };
        self.pages
            .insert((feed.clone(), query.limit), Arc::new(kept));
        self.metrics.bytes.set(self.pages.weight() as i64);
    }
}

/// The feed, if all that is asked for is its newest entries.
fn first_page_of(query: &PageQuery<Cursor>, merged: bool) -> Option<&FeedName> {
    let newest = Order::NewestFirst {
        until: None,
        before: None,
    };
    match &query.feeds[..] {
        [feed] if !merged && query.order == newest => {
            (query.kinds.is_empty() && query.states.is_none()).then_some(feed)
        }
        _ => None,
    }
}
