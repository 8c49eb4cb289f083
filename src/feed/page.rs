//! Pages: of one feed, or of several merged in version order.

use futures_util::future::try_join_all;
use smallvec::{SmallVec, smallvec};

use super::Feeds;
use crate::{
    dedup::Scan,
    error::{Error, Result},
    store::{self, Snapshot},
    types::{Entry, FeedName, Kind},
    version::Version,
};

/// Maximum number of entries of a page.
pub const PAGE_ENTRIES_MAX: usize = 200;
/// Maximum of [`PageQuery::bytes`].
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of entries that a page examines. A page of one kind may end here before it is full.
pub const PAGE_EXAMINED_MAX: usize = 2_000;

/// Minimum byte limit of a read of one feed.
const CHUNK_BYTES_MIN: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Entries at or below `until` and below `before`.
    NewestFirst {
        until: Option<Version>,
        before: Option<Version>,
    },
    /// Entries above `after`, at or below `until`.
    OldestFirst {
        after: Version,
        until: Option<Version>,
    },
}

#[derive(Debug, Clone)]
pub struct PageQuery {
    pub feeds: Vec<FeedName>,
    pub order: Order,
    pub limit: usize,
    /// The page ends with the entry that brings its data to this many bytes.
    pub bytes: usize,
    pub kind: Option<Kind>,
}

#[derive(Debug)]
pub struct Page {
    /// The moment (vN) of the page: `until` if given, else just below `before` if given, else that of the snapshot.
    pub version: Version,
    pub entries: Vec<PageEntry>,
    /// Where the next page continues; `None` at the end. A page may end before it is full.
    pub next: Option<Version>,
    /// Whether the same query will always have the same result.
    pub immutable: bool,
}

/// Indices of feeds in a query; usually one.
pub type FeedIndices = SmallVec<[usize; 2]>;

#[derive(Debug)]
pub struct PageEntry {
    pub entry: Entry,
    /// The feeds of the query that contain the entry, in the order of the query.
    pub feeds: FeedIndices,
}

impl Order {
    fn scan(self, prefix: Vec<u8>, now: Version) -> Scan {
        match self {
            Self::NewestFirst { until, before } => {
                let until = until
                    .unwrap_or(now)
                    .min(before.map_or(now, Version::before));
                Scan::newest_first(prefix, until)
            }
            Self::OldestFirst { after, until } => {
                Scan::oldest_first(prefix, after, until.unwrap_or(now))
            }
        }
    }

    /// The moment of the page if the query determines it; then the result never changes.
    fn moment(self) -> Option<Version> {
        match self {
            // Just below `before`: a client that goes live from there gets the entry at `before` again, but misses
            // none.
            Self::NewestFirst { until, before } => until.or(before.map(Version::before)),
            Self::OldestFirst { until, .. } => until,
        }
    }

    fn bounds(self) -> [Option<Version>; 2] {
        match self {
            Self::NewestFirst { until, before } => [until, before],
            Self::OldestFirst { after, until } => [Some(after), until],
        }
    }

    fn comes_first(self, a: Version, b: Version) -> bool {
        match self {
            Self::NewestFirst { .. } => a > b,
            Self::OldestFirst { .. } => a < b,
        }
    }
}

impl Feeds {
    /// Reads one page from one snapshot. Fails with [`Error::VersionAhead`] if a bound is above it.
    pub async fn page(&self, query: &PageQuery) -> Result<Page> {
        self.note(self.read_page(query).await)
    }

    async fn read_page(&self, query: &PageQuery) -> Result<Page> {
        let snapshot = self.store.snapshot().await?;
        let now = snapshot.version();
        if let Some(asked) = query
            .order
            .bounds()
            .into_iter()
            .flatten()
            .find(|&bound| bound > now)
        {
            return Err(Error::VersionAhead {
                asked,
                current: now,
            });
        }
        let mut scans: Vec<Scan> = query
            .feeds
            .iter()
            .map(|feed| query.order.scan(self.keys.feed(feed), now))
            .collect();

        let moment = query.order.moment();
        let mut page = Page {
            version: moment.unwrap_or(now),
            entries: Vec::new(),
            next: None,
            immutable: moment.is_some(),
        };
        let (mut examined, mut bytes, mut last) = (0, 0, None);
        loop {
            let first = match first_of(&*snapshot, query, &mut scans, page.entries.len()).await {
                Ok(first) => first,
                // If the snapshot expires, the page ends here, so that reading page by page makes progress.
                Err(Error::Store(store::Error::TooOld)) if last.is_some() => {
                    page.next = last;
                    page.immutable = false;
                    break;
                }
                Err(error) => return Err(error),
            };
            let Some((version, feeds)) = first else {
                break;
            };
            if page.entries.len() >= query.limit
                || bytes >= query.bytes
                || examined >= PAGE_EXAMINED_MAX
            {
                page.next = last;
                break;
            }
            let mut entries = feeds.iter().map(|&feed| scans[feed].pop());
            let Some(entry) = entries.next().flatten() else {
                break;
            };
            entries.for_each(drop);
            last = Some(version);
            examined += 1;
            if query.kind.as_ref().is_none_or(|kind| *kind == entry.kind) {
                bytes += entry.data.len();
                page.entries.push(PageEntry { entry, feeds });
            }
        }
        let hidden = scans.iter().map(Scan::hidden).sum();
        self.twins.page.inc_by(hidden);
        Ok(page)
    }
}

/// The next version in the merged order, and the feeds that have an entry at it.
async fn first_of(
    snapshot: &dyn Snapshot,
    query: &PageQuery,
    scans: &mut [Scan],
    have: usize,
) -> Result<Option<(Version, FeedIndices)>> {
    // One more entry than the page takes, to know whether there is a next page.
    let need = (query.limit - have.min(query.limit)) / scans.len() + 1;
    let bytes_max = (query.bytes / scans.len()).max(CHUNK_BYTES_MIN);
    loop {
        let (wanting, ranges): (Vec<&mut Scan>, Vec<_>) = scans
            .iter_mut()
            .filter_map(|scan| {
                let range = scan.wants(need, bytes_max)?;
                Some((scan, range))
            })
            .unzip();
        if wanting.is_empty() {
            break;
        }
        let slices = snapshot.ranges(ranges).await?;
        // Concurrently, because each may have to look back, and the snapshot lives for only a few seconds.
        try_join_all(
            wanting
                .into_iter()
                .zip(slices)
                .map(|(scan, slice)| scan.take(snapshot, slice)),
        )
        .await?;
    }
    let mut first: Option<(Version, FeedIndices)> = None;
    for (index, scan) in scans.iter().enumerate() {
        let Some(version) = scan.ready().map(|entry| entry.version) else {
            continue;
        };
        match &mut first {
            Some((best, feeds)) if *best == version => feeds.push(index),
            Some((best, _)) if !query.order.comes_first(version, *best) => {}
            _ => first = Some((version, smallvec![index])),
        }
    }
    Ok(first)
}
