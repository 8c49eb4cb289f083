//! Pages: of one feed, or of several merged in version order.

use std::{cmp::Reverse, collections::BinaryHeap};

use futures_util::future::try_join_all;
use smallvec::SmallVec;

use super::{
    Feeds,
    changes::Changes,
    source::{Entries, Source},
    states::{EntryStates, Judge, States, UnreadPlaces},
};
use crate::{
    error::{Error, Result},
    fairness::WorkBudget,
    projection,
    store::{
        self, Found, Reads, Snapshot,
        keys::Keys,
        values::{Checkpoint, decode_version_or_zero},
    },
    types::{Entry, FeedName, Kind},
    version::{Cursor, Version},
};

/// Maximum number of entries of a page.
pub const PAGE_ENTRIES_MAX: usize = 200;
/// Maximum of [`PageQuery::bytes`].
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of entries that a page examines. A page of some kinds may end here before it is full; what is indexed
/// is not examined.
pub const PAGE_EXAMINED_MAX: usize = 2_000;

/// Maximum number of kinds that a page or stream can be limited to.
pub const KINDS_MAX: usize = 20;

/// Minimum byte limit of a read of one feed.
const CHUNK_BYTES_MIN: usize = 8 * 1024;

/// The order of a page, and its bounds: as a client named them ([`Cursor`]), or versions of this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order<V = Version> {
    /// Entries at or below `until` and below `before`.
    NewestFirst { until: Option<V>, before: Option<V> },
    /// Entries and news of changes above `after`, at or below `until`. If something there may have been removed, the page is
    /// refused, unless it begins at the beginning or `kept` is set: then it has what is kept.
    OldestFirst {
        after: V,
        until: Option<V>,
        kept: bool,
    },
}

#[derive(Debug, Clone)]
pub struct PageQuery<V = Version> {
    pub feeds: Vec<FeedName>,
    pub order: Order<V>,
    pub limit: usize,
    /// The page ends with the entry that brings its data and names to this many bytes. An entry of a merged page may name
    /// many feeds, which can be much longer than the rest.
    pub bytes: usize,
    /// The kinds of entries, which must be distinct. Empty: all kinds.
    pub kinds: Vec<Kind>,
    /// Whose states to tell. `None`: nobody's.
    pub states: Option<States>,
}

impl<V> PageQuery<V> {
    fn includes(&self, kind: &Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(kind)
    }
}

#[derive(Debug)]
pub struct Page {
    /// The moment (vN) of the page: `until` if given, else just below `before` if given, else that of the snapshot.
    pub version: Version,
    pub entries: Vec<PageEntry>,
    /// Where the next page continues; `None` at the end. A page may end before it is full.
    pub next: Option<Version>,
    /// Whether nothing can have been removed above the position after which the page was read.
    pub(crate) is_whole: bool,
}

/// Indices of feeds in a query; usually one.
pub type FeedIndices = SmallVec<[usize; 2]>;

/// An entry, as it is now, or the news of a change.
#[derive(Debug)]
pub struct PageEntry {
    pub entry: Entry,
    /// The feeds of the query that contain the entry, in the order of the query.
    pub feeds: FeedIndices,
    /// In each of `feeds`, the state of the entry; empty unless the query asks for states.
    pub states: EntryStates,
}

impl<V> PageQuery<V> {
    /// The bytes of an entry of a page that are as long as its producer chose.
    fn text_bytes(&self, entry: &Entry, held_by: &[usize]) -> usize {
        let actor = entry.actor.as_ref().map_or(0, |actor| actor.as_str().len());
        let own = entry.id.as_str().len() + entry.kind.as_str().len() + actor;
        let feeds = match self.feeds.len() {
            1 => 0,
            _ => held_by
                .iter()
                .map(|&feed| self.feeds[feed].as_str().len())
                .sum(),
        };
        entry.data.len() + own + feeds
    }
}

impl<V: Copy> Order<V> {
    /// The same order, with each bound turned into something else.
    pub(crate) fn try_map<T>(self, turn: impl Fn(V) -> Result<T>) -> Result<Order<T>> {
        let option = |bound: Option<V>| bound.map(&turn).transpose();
        Ok(match self {
            Self::NewestFirst { until, before } => Order::NewestFirst {
                until: option(until)?,
                before: option(before)?,
            },
            Self::OldestFirst { after, until, kept } => Order::OldestFirst {
                after: turn(after)?,
                until: option(until)?,
                kept,
            },
        })
    }

    /// Whether the query determines the moment of the page, so that later events do not change the result.
    pub fn is_fixed(self) -> bool {
        match self {
            Self::NewestFirst { until, before } => until.or(before).is_some(),
            Self::OldestFirst { until, .. } => until.is_some(),
        }
    }
}

impl<V: Into<Cursor> + Copy> Order<V> {
    /// Whether the page has what is kept above a position, whatever has been removed there. Whoever reads on from the
    /// beginning needs pages of this kind: further on, more may have gone from one feed than from another, or may go meanwhile.
    pub fn takes_what_is_kept(self) -> bool {
        match self {
            Self::NewestFirst { .. } => true,
            Self::OldestFirst { after, kept, .. } => kept || after.into().is_beginning(),
        }
    }
}

impl Order {
    /// The moment of the page if the query determines it.
    pub(crate) fn moment(self) -> Option<Version> {
        match self {
            // Just below `before`: a client that goes live from there gets the entry at `before` again, but misses
            // none.
            Self::NewestFirst { until, before } => until.or(before.map(Version::before)),
            Self::OldestFirst { until, .. } => until,
        }
    }

    /// Greater for a version that comes first.
    fn rank(self, version: Version) -> u128 {
        let version = u128::from_be_bytes(version.to_bytes());
        match self {
            Self::NewestFirst { .. } => version,
            Self::OldestFirst { .. } => !version,
        }
    }
}

impl Feeds {
    /// Reads one page from one snapshot.
    ///
    /// # Errors
    /// Those of [`Known::check`](crate::lineage::Known::check) for a bound, and those of the store.
    pub async fn page<V: Into<Cursor> + Copy>(&self, query: &PageQuery<V>) -> Result<Page> {
        self.note(self.read_page(query).await)
    }

    async fn read_page<V: Into<Cursor> + Copy>(&self, query: &PageQuery<V>) -> Result<Page> {
        if let Order::OldestFirst {
            after, until: None, ..
        } = query.order
            && query.states.is_none()
            && let Some(version) = self.moment_if_nothing_new(&query.feeds, after.into())
        {
            return Ok(Page {
                version,
                entries: Vec::new(),
                next: None,
                is_whole: true,
            });
        }
        let (snapshot, removals) = match query.order {
            Order::NewestFirst { .. } => (self.snapshot().await?, None),
            Order::OldestFirst { .. } => {
                let keys = [self.keys.changed(), self.keys.trimmed_anywhere()];
                let (snapshot, removals) = self.begin(keys).await?;
                (snapshot, Some(removals))
            }
        };
        let now = snapshot.version();
        let known = self.lineage.at(&*snapshot).await?;
        let order = query.order.try_map(|bound| known.check(bound.into()))?;
        let indexed = match &query.kinds[..] {
            [] => projection::NOT_INDEXED,
            kinds => projection::indexed(&*snapshot, &self.keys, kinds).await?,
        };
        let (mut changed, mut is_whole) = (Version::ZERO, false);
        if let (Order::OldestFirst { after, .. }, Some([latest, trimmed])) = (order, removals) {
            is_whole = after >= trimmed;
            if !is_whole && !order.takes_what_is_kept() {
                self.check_kept(&*snapshot, &query.feeds, after).await?;
                is_whole = true;
            }
            changed = latest.max(after);
        }
        let judge = match &query.states {
            Some(states) => Some(Judge::new(self, &*snapshot, &query.feeds, states).await?),
            None => None,
        };
        let unread = match &judge {
            Some(judge) => judge.unread_places(&*snapshot).await?,
            None => None,
        };
        let mut merge = match unread {
            Some(places) => Merge::unread(query, order, &self.keys, now, places),
            None => Merge::new(query, order, &self.keys, now, indexed),
        };
        merge.add_changes(query, &self.keys, now, changed);

        let moment = order.moment();
        let mut page = Page {
            version: moment.unwrap_or(now),
            entries: Vec::new(),
            next: None,
            is_whole,
        };
        let (mut examined, mut bytes, mut last) = (0, 0, None);
        // Whose states have not been read yet, and where the page continues if they cannot be read.
        let (mut waiting, mut judged) = (Vec::new(), None);
        let mut budget = WorkBudget::default();
        loop {
            let have = page.entries.len() + waiting.len();
            let ready = merge.pop_of_one_feed();
            let first = match ready {
                Some(_) => Ok(ready),
                None => merge.next(&*snapshot, have).await,
            };
            let first = match first {
                Ok(first) => first,
                // If the snapshot expires, the page ends here, so that reading page by page makes progress.
                Err(Error::Store(store::Error::TooOld)) if judged.is_some() => {
                    page.next = judged;
                    break;
                }
                Err(error) => return Err(error),
            };
            let is_full = |entries: usize| {
                entries >= query.limit || bytes >= query.bytes || examined >= PAGE_EXAMINED_MAX
            };
            if let Some(judge) = &judge
                && (first.is_none() || is_full(have))
            {
                let entries = std::mem::take(&mut waiting);
                match judge.judge(&*snapshot, entries).await {
                    Ok(entries) => page.entries.extend(entries),
                    Err(store::Error::TooOld) if judged.is_some() => {
                        page.next = judged;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
                judged = last;
            }
            let Some((version, entry, feeds)) = first else {
                break;
            };
            budget.spend(feeds.len()).await;
            if is_full(page.entries.len()) {
                page.next = last;
                break;
            }
            last = Some(version);
            examined += 1;
            if query.includes(&entry.kind) {
                bytes += query.text_bytes(&entry, &feeds);
                match judge {
                    Some(_) => waiting.push((entry, feeds)),
                    None => page.entries.push(PageEntry {
                        entry,
                        feeds,
                        states: EntryStates::new(),
                    }),
                }
            }
            if judge.is_none() {
                judged = last;
            }
        }
        self.twins.page.inc_by(merge.hidden());
        Ok(page)
    }

    /// The current version, if it is known without a read that the entries of `feed` are the same as at `since`.
    pub(crate) fn moment_if_same_entries(
        &self,
        feed: &FeedName,
        since: Version,
    ) -> Option<Version> {
        let prefix = |feed: &FeedName| [self.keys.feed(feed)];
        self.moment_if_unchanged(std::slice::from_ref(feed), prefix, since)
    }

    /// The current version, if it is known without a read that there are no entries and no news of changes above `after`.
    pub(crate) fn moment_if_nothing_new(
        &self,
        feeds: &[FeedName],
        after: Cursor,
    ) -> Option<Version> {
        if !self.knows(after) {
            return None;
        }
        // What retention removes is no news, but it is a removal of entries.
        let prefixes = |feed: &FeedName| [self.keys.feed(feed), self.keys.change(feed)];
        self.moment_if_unchanged(feeds, prefixes, after.unchecked())
    }

    /// Fails with [`Error::CursorExpired`] if something above `after` may have been removed from one of `feeds`.
    async fn check_kept(
        &self,
        snapshot: &dyn Snapshot,
        feeds: &[FeedName],
        after: Version,
    ) -> Result<()> {
        let reads: Vec<_> = feeds.iter().map(|feed| self.keys.trimmed(feed)).collect();
        let stored = snapshot.get(reads.clone()).await?;
        let stored = reads.iter().zip(&stored);
        let trimmed = stored.map(|(key, value)| decode_version_or_zero(key, value.as_ref()));
        let trimmed = trimmed.collect::<store::Result<Vec<_>>>()?;
        let trimmed = trimmed.into_iter().max().unwrap_or(Version::ZERO);
        check_kept(after, trimmed, snapshot.version())
    }
}

/// Fails if `after` lies below `trimmed`: something above it may have been removed.
pub fn check_kept(after: Version, trimmed: Version, current: Version) -> Result<()> {
    match after < trimmed {
        true => Err(Error::CursorExpired {
            asked: after,
            oldest: trimmed,
            current,
        }),
        false => Ok(()),
    }
}

/// Merges the feeds of a query.
struct Merge {
    order: Order,
    /// Limits of the page.
    limit: usize,
    bytes: usize,
    sources: Vec<Source>,
    /// The next entry of each source that has one ready: its rank, which is greatest for the entry that comes first, and
    /// the index of the source. At the same rank, the sources are in the order of the query.
    heads: BinaryHeap<(u128, Reverse<usize>)>,
    /// The sources that are not in `heads`, and may have further entries.
    waiting: Vec<usize>,
}

impl Merge {
    fn new<V>(
        query: &PageQuery<V>,
        order: Order,
        keys: &Keys,
        now: Version,
        indexed: Checkpoint,
    ) -> Self {
        let kinds = (&query.kinds[..], indexed);
        let source =
            |(place, feed)| Source::entries(place, Entries::new(keys, feed, order, now, kinds));
        Self {
            order,
            limit: query.limit,
            bytes: query.bytes,
            sources: query.feeds.iter().enumerate().map(source).collect(),
            heads: BinaryHeap::with_capacity(query.feeds.len()),
            waiting: (0..query.feeds.len()).collect(),
        }
    }

    /// Only what is unread, and perhaps more.
    fn unread<V>(
        query: &PageQuery<V>,
        order: Order,
        keys: &Keys,
        now: Version,
        places: Vec<UnreadPlaces>,
    ) -> Self {
        let each = query.feeds.iter().zip(places).enumerate();
        let source = |(place, (feed, places))| {
            Source::entries(place, Entries::unread(keys, feed, order, now, places))
        };
        Self {
            sources: each.map(source).collect(),
            ..Self::new(query, order, keys, now, projection::NOT_INDEXED)
        }
    }

    /// Also merges the news of changes in the feeds, of which there is none above `changed`.
    fn add_changes<V>(
        &mut self,
        query: &PageQuery<V>,
        keys: &Keys,
        now: Version,
        changed: Version,
    ) {
        let (after, until) = match self.order {
            Order::OldestFirst { after, until, .. } if after < changed => {
                (after, until.unwrap_or(now))
            }
            _ => return,
        };
        for (place, feed) in query.feeds.iter().enumerate() {
            let changes = Changes::new(keys, feed, after, until);
            self.waiting.push(self.sources.len());
            self.sources.push(Source::changes(place, changes));
        }
    }

    /// How many twins have been left out.
    fn hidden(&self) -> u64 {
        self.sources.iter().map(Source::hidden).sum()
    }

    /// Takes the next entry if there is a single source, and the entry has been read: then nothing has to be merged.
    fn pop_of_one_feed(&mut self) -> Option<(Version, Entry, FeedIndices)> {
        let [source] = &mut self.sources[..] else {
            return None;
        };
        let entry = source.pop()?;
        Some((entry.version, entry, FeedIndices::from_iter([source.feed])))
    }

    /// Takes the next entry in the merged order, and the feeds that contain it. `have` is the number of entries that the page
    /// has already.
    async fn next(
        &mut self,
        snapshot: &dyn Snapshot,
        have: usize,
    ) -> Result<Option<(Version, Entry, FeedIndices)>> {
        self.fill(snapshot, have).await?;
        let Some(&(rank, _)) = self.heads.peek() else {
            return Ok(None);
        };
        let mut feeds = FeedIndices::new();
        let mut first = None;
        while let Some(&(same, Reverse(index))) = self.heads.peek()
            && same == rank
        {
            self.heads.pop();
            self.waiting.push(index);
            let source = &mut self.sources[index];
            feeds.push(source.feed);
            let entry = source.pop();
            first = first.or(entry);
        }
        Ok(first.map(|entry| (entry.version, entry, feeds)))
    }

    /// Reads until each waiting source has its next entry in `heads`, or has ended.
    async fn fill(&mut self, snapshot: &dyn Snapshot, have: usize) -> Result<()> {
        // One more entry than the page takes, to know whether there is a next page.
        let need = (self.limit - have.min(self.limit)) / self.sources.len() + 1;
        let bytes_max = (self.bytes / self.sources.len()).max(CHUNK_BYTES_MIN);
        loop {
            let (sources, heads, order) = (&mut self.sources, &mut self.heads, self.order);
            self.waiting.retain(|&index| {
                if let Some(entry) = sources[index].ready() {
                    heads.push((order.rank(entry.version), Reverse(index)));
                    return false;
                }
                !sources[index].is_exhausted()
            });
            if self.waiting.is_empty() {
                return Ok(());
            }
            self.waiting.sort_unstable();
            let at_once = self.waiting.len();
            let mut waiting = self.waiting.iter().copied().peekable();
            let sources = self.sources.iter_mut().enumerate();
            let mut reads = Reads::default();
            let mut reading = Vec::with_capacity(at_once);
            for (_, source) in sources.filter(|(index, _)| waiting.next_if_eq(index).is_some()) {
                let wants = source.wants(need, bytes_max, at_once);
                reading.push((source, wants.keys.len(), wants.ranges.len()));
                reads.keys.extend(wants.keys);
                reads.ranges.extend(wants.ranges);
            }
            let found = snapshot.read(reads).await?;
            let (mut values, mut slices) = (found.values.into_iter(), found.slices.into_iter());
            // Concurrently, because each may have to look back, and the snapshot lives for only a few seconds.
            let taken = reading.into_iter().map(|(source, keys, ranges)| {
                let found = Found {
                    values: values.by_ref().take(keys).collect(),
                    slices: slices.by_ref().take(ranges).collect(),
                };
                source.take(snapshot, found)
            });
            try_join_all(taken).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        dedup::testing::{Memory, feed, keys as test_keys, long_history},
        fairness::testing::turns,
    };

    /// Names of feeds may be much longer than everything else. A stream of a hundred feeds keeps a page in memory until its
    /// client has read it.
    #[tokio::test]
    async fn the_names_of_an_entrys_feeds_count_as_bytes_of_a_merged_page() {
        let name = |index: usize| feed(&format!("{index:0255}"));
        let names: Vec<FeedName> = (0..100).map(name).collect();
        let feeds = Feeds::new(Arc::new(Memory::of(&long_history(50, &names))), test_keys());
        let page = async |feeds_of_page: usize| {
            let query = PageQuery {
                feeds: names[..feeds_of_page].to_vec(),
                order: Order::OldestFirst {
                    after: Version::ZERO,
                    until: None,
                    kept: false,
                },
                limit: PAGE_ENTRIES_MAX,
                bytes: 64 * 1024,
                kinds: Vec::new(),
                states: None,
            };
            let page = feeds.page(&query).await.expect("read");
            (page.entries.len(), page.next.is_some())
        };
        // Three times 25,500 bytes are more than 64 KiB.
        assert_eq!(page(100).await, (3, true));
        assert_eq!(page(2).await, (50, false));
        assert_eq!(page(1).await, (50, false));
    }

    #[tokio::test]
    async fn a_merged_page_at_its_limits_lets_other_tasks_run() {
        let names: Vec<FeedName> = (0..100).map(|index| feed(&format!("f{index}"))).collect();
        let mut history = long_history(PAGE_EXAMINED_MAX + 500, &[]);
        for (index, record) in history.iter_mut().enumerate() {
            record.feeds = vec![names[index % names.len()].clone()];
        }
        let feeds = Feeds::new(Arc::new(Memory::of(&history)), test_keys());
        for order in [
            Order::NewestFirst {
                until: None,
                before: None,
            },
            Order::OldestFirst {
                after: Version::ZERO,
                until: None,
                kept: false,
            },
        ] {
            let query = |kind: Option<&str>| PageQuery {
                feeds: names.clone(),
                order,
                limit: PAGE_ENTRIES_MAX,
                bytes: PAGE_BYTES_MAX,
                kinds: Vec::from_iter(kind.map(|kind| kind.parse().expect("a kind"))),
                states: None,
            };
            // A page of a kind that no entry has examines as much as a page may.
            let (page, count) = turns(feeds.page(&query(Some("other")))).await;
            let page = page.expect("read");
            assert!(page.entries.is_empty() && page.next.is_some());
            assert!(count >= PAGE_EXAMINED_MAX / 500, "{order:?}: {count}");

            let page = feeds.page(&query(None)).await.expect("read");
            let versions = page.entries.iter().map(|found| found.entry.version);
            let expected = history.iter().map(|record| record.entry.version);
            let expected: Vec<_> = match order {
                Order::NewestFirst { .. } => expected.rev().take(PAGE_ENTRIES_MAX).collect(),
                Order::OldestFirst { .. } => expected.take(PAGE_ENTRIES_MAX).collect(),
            };
            assert_eq!(versions.collect::<Vec<_>>(), expected);
        }
    }
}
