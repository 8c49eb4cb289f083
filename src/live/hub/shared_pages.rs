//! Pages that streams have read to catch up, kept for a while for the other streams of the same feeds.
//!
//! Streams on the same feeds fall behind together: at a burst of entries, or when all of them reconnect. A page of a hundred
//! feeds costs up to a hundred reads for each entry, so one of them reads it for all. The last page that a stream reads is
//! always its own: it alone tells that nothing is missing up to its moment.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::board::PagesId;
use crate::{live::Item, version::Version};

/// How long a page is kept.
pub const SHARED_FOR: Duration = Duration::from_secs(10);
/// Bytes of all pages that are kept, as they are counted here.
pub const SHARED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a page counts at least.
const PAGE_BYTES_MIN: usize = 1024;

/// All entries of the feeds above `after` and up to `until`.
struct SharedPage {
    after: Version,
    until: Version,
    items: Vec<Arc<Item>>,
    /// Whether nothing can have been removed above `after`.
    is_whole: bool,
    bytes: usize,
    read: Instant,
}

/// Part of a page: the entries above a position, and the position after them.
pub type Rest = (Vec<Arc<Item>>, Version);

#[derive(Default)]
pub(super) struct SharedPages {
    /// Oldest first. No queue is empty.
    pages: HashMap<PagesId, VecDeque<SharedPage>>,
    /// Whose the pages are, oldest first.
    order: VecDeque<PagesId>,
    bytes: usize,
}

impl SharedPages {
    /// What has been read above `position`, if anything has. If something may have been removed there, only with `kept`.
    pub(super) fn above(&self, of: PagesId, position: Version, kept: bool) -> Option<Rest> {
        let pages = self.pages.get(&of)?.iter();
        let now = Instant::now();
        let page = pages
            .filter(|page| page.after <= position && position < page.until)
            .filter(|page| kept || page.is_whole)
            .filter(|page| now - page.read < SHARED_FOR)
            .max_by_key(|page| page.until)?;
        let items = page.items.iter();
        let items = items.filter(|item| item.news.version() > position).cloned();
        Some((items.collect(), page.until))
    }

    /// Keeps a page with everything above `after` and up to `until`.
    pub(super) fn add(
        &mut self,
        of: PagesId,
        (after, until): (Version, Version),
        items: &[Arc<Item>],
        is_whole: bool,
    ) {
        // Once as items, and once as the bytes that they are rendered as.
        let bytes = items.iter().map(|item| 2 * item.bytes(1)).sum();
        let page = SharedPage {
            after,
            until,
            items: items.to_vec(),
            is_whole,
            bytes: PAGE_BYTES_MIN.max(bytes),
            read: Instant::now(),
        };
        self.bytes += page.bytes;
        self.order.push_back(of);
        self.pages.entry(of).or_default().push_back(page);
        while self.oldest_is_superfluous() {
            self.drop_oldest();
        }
    }

    fn oldest_is_superfluous(&self) -> bool {
        let oldest = self.order.front().and_then(|oldest| self.pages.get(oldest));
        let oldest = oldest.and_then(VecDeque::front);
        oldest
            .is_some_and(|page| self.bytes > SHARED_BYTES_MAX || page.read.elapsed() >= SHARED_FOR)
    }

    fn drop_oldest(&mut self) {
        let Some(of) = self.order.pop_front() else {
            return;
        };
        let Some(pages) = self.pages.get_mut(&of) else {
            return;
        };
        self.bytes -= pages.pop_front().map_or(0, |page| page.bytes);
        if pages.is_empty() {
            self.pages.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::News;

    fn version(time: u64) -> Version {
        Version::new(0, time, 0)
    }

    fn range(after: u64, until: u64) -> (Version, Version) {
        (version(after), version(until))
    }

    /// An item for each version.
    fn items(times: impl IntoIterator<Item = u64>) -> Vec<Arc<Item>> {
        let times = times.into_iter();
        times
            .map(|time| Item::new(News::Moment(version(time))))
            .collect()
    }

    fn above(shared: &SharedPages, of: PagesId, time: u64) -> Option<(Vec<u64>, u64)> {
        let (items, until) = shared.above(of, version(time), false)?;
        let times = items.iter().map(|item| item.news.version().time());
        Some((times.collect(), until.time()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_serves_every_position_that_it_covers_and_no_other() {
        let mut shared = SharedPages::default();
        shared.add(1, range(10, 20), &items([12, 15, 20]), true);
        shared.add(1, range(20, 30), &items([25]), true);
        shared.add(1, range(14, 24), &items([15, 20, 22]), true);
        assert_eq!(above(&shared, 1, 9), None);
        assert_eq!(above(&shared, 1, 10), Some((vec![12, 15, 20], 20)));
        assert_eq!(above(&shared, 1, 13), Some((vec![15, 20], 20)));
        // The one that leads farthest.
        assert_eq!(above(&shared, 1, 15), Some((vec![20, 22], 24)));
        assert_eq!(above(&shared, 1, 20), Some((vec![25], 30)));
        assert_eq!(above(&shared, 1, 27), Some((vec![], 30)));
        assert_eq!(above(&shared, 1, 30), None);
        assert_eq!(above(&shared, 2, 15), None);
        // What has gaps is only for those who take it so.
        shared.add(2, range(10, 20), &items([15]), false);
        assert_eq!(above(&shared, 2, 10), None);
        assert!(shared.above(2, version(10), true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_kept_for_a_time_and_within_the_limit_of_bytes() {
        let mut shared = SharedPages::default();
        shared.add(1, range(10, 20), &items([15]), true);
        tokio::time::advance(SHARED_FOR - Duration::from_millis(1)).await;
        assert!(above(&shared, 1, 10).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(above(&shared, 1, 10), None);
        shared.add(2, range(10, 20), &items([15]), true);
        assert_eq!((shared.order.len(), shared.pages.len()), (1, 1));
        // Each page counts at least its minimum.
        let most = (SHARED_BYTES_MAX / PAGE_BYTES_MIN) as u64;
        for of in 3..most + 10 {
            shared.add(of, range(10, 20), &items([15]), true);
        }
        assert!(shared.bytes <= SHARED_BYTES_MAX);
        assert_eq!(shared.order.len() as u64, most);
        assert_eq!(above(&shared, 2, 10), None);
        assert!(above(&shared, most, 10).is_some());
    }
}
