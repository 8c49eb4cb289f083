//! What a page merges: of each feed its entries, all of them or those of some kinds, and the news of changes.
//!
//! Entries of kinds are found by the index of the feed by kind as far as that has got ([`projection::indexed`]), and
//! in the feed itself above.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{changes::Changes, page::Order, states::UnreadPlaces};
use crate::{
    dedup::Scan,
    projection::{self, Derived},
    store::{
        Fetch, Found, Reads, Result, Snapshot,
        keys::{Keys, corrupt},
        values::{Checkpoint, decode_entry},
    },
    types::{Entry, FeedName, Kind},
    version::Version,
};

/// Entries of all feeds of a page that are fetched together. They may have the maximum size.
const FETCHED_AT_ONCE: usize = 64;

/// What a page merges.
pub(super) struct Source {
    /// As a place in the query.
    pub(super) feed: usize,
    of: Of,
}

enum Of {
    Entries(Box<Entries>),
    Changes(Changes),
}

/// The caller asks for what to read ([`Self::wants`]), reads it together with what other sources want, and hands the result
/// back ([`Self::take`]), until the next entry is ready.
impl Source {
    pub(super) fn entries(feed: usize, entries: Entries) -> Self {
        let of = Of::Entries(Box::new(entries));
        Self { feed, of }
    }

    pub(super) fn changes(feed: usize, changes: Changes) -> Self {
        let of = Of::Changes(changes);
        Self { feed, of }
    }

    /// How many twins have been left out.
    pub(super) fn hidden(&self) -> u64 {
        match &self.of {
            Of::Entries(entries) => entries.hidden(),
            Of::Changes(_) => 0,
        }
    }

    /// The next entry, if it has been read.
    pub(super) fn ready(&self) -> Option<&Entry> {
        match &self.of {
            Of::Entries(entries) => entries.ready(),
            Of::Changes(changes) => changes.ready(),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        match &mut self.of {
            Of::Entries(entries) => entries.pop(),
            Of::Changes(changes) => changes.pop(),
        }
    }

    /// Whether everything has been read.
    pub(super) fn is_exhausted(&self) -> bool {
        match &self.of {
            Of::Entries(entries) => entries.is_exhausted(),
            Of::Changes(changes) => changes.is_exhausted(),
        }
    }

    /// What to read until the next entry is ready; nothing if it is ready, or if there is none. See [`Scan::wants`].
    pub(super) fn wants(&mut self, need: usize, bytes_max: usize, at_once: usize) -> Reads {
        match &mut self.of {
            Of::Entries(entries) => entries.wants(need, bytes_max, at_once),
            Of::Changes(changes) => Reads {
                ranges: Vec::from_iter(changes.wants(need, bytes_max)),
                ..Reads::default()
            },
        }
    }

    /// Takes what reading it found.
    pub(super) async fn take(&mut self, snapshot: &dyn Snapshot, mut found: Found) -> Result<()> {
        match &mut self.of {
            Of::Entries(entries) => entries.take(snapshot, found).await,
            Of::Changes(changes) => match found.slices.pop() {
                Some(slice) => changes.take(slice),
                None => Ok(()),
            },
        }
    }
}

/// The entries of one feed, without news of changes.
pub(super) struct Entries {
    /// In the order in which they are read.
    parts: SmallVec<[Part; 1]>,
}

enum Part {
    Scan(Scan),
    Index(Index),
}

/// The entries that the index names.
struct Index {
    /// Of the feed's entries.
    prefix: Vec<u8>,
    named: Derived,
    /// It may name entries that have gone.
    may_miss: bool,
    fetching: Fetch,
    ready: VecDeque<Entry>,
}

impl Entries {
    /// The entries that a reader has not read, and perhaps others above the read marker.
    pub(super) fn unread(
        keys: &Keys,
        feed: &FeedName,
        order: Order,
        now: Version,
        places: UnreadPlaces,
    ) -> Self {
        let prefix = keys.feed(feed);
        let (after, until, newest_first) = bounds(order, now);
        let from = after.unwrap_or(Version::ZERO);
        let marked = places.marked.into_iter();
        let marked = marked.filter(|version| from < *version && *version <= until);
        let above = from.max(places.above);
        let mut parts = SmallVec::new();
        parts.push(Part::Index(Index {
            prefix: prefix.clone(),
            named: Derived::given(marked, newest_first),
            may_miss: true,
            fetching: Fetch::default(),
            ready: VecDeque::new(),
        }));
        parts.push(Part::Scan(match newest_first {
            true => Scan::newest_first_above(prefix, above, until.max(above)),
            false => Scan::oldest_first(prefix, above, until.max(above)),
        }));
        if newest_first {
            parts.reverse();
        }
        Self { parts }
    }

    /// `indexed` says between which versions the entries of `kinds` are indexed.
    pub(super) fn new(
        keys: &Keys,
        feed: &FeedName,
        order: Order,
        now: Version,
        (kinds, indexed): (&[Kind], Checkpoint),
    ) -> Self {
        let prefix = keys.feed(feed);
        let (after, until, newest_first) = bounds(order, now);
        if kinds.is_empty() || indexed.until <= indexed.from {
            let scan = match after {
                None => Scan::newest_first(prefix, until),
                Some(after) => Scan::oldest_first(prefix, after, until),
            };
            let parts = SmallVec::from_iter([Part::Scan(scan)]);
            return Self { parts };
        }
        let from = after.unwrap_or(Version::ZERO);
        let above = from.max(indexed.until);
        let mut parts = SmallVec::new();
        // What was trimmed from the log before it was indexed.
        if from < indexed.from {
            let until = until.min(indexed.from);
            parts.push(Part::Scan(match newest_first {
                true => Scan::newest_first(prefix.clone(), until),
                false => Scan::oldest_first(prefix.clone(), from, until),
            }));
        }
        let range = (from.max(indexed.from), until.min(indexed.until));
        parts.push(Part::Index(Index {
            prefix: prefix.clone(),
            named: projection::of_feed(keys, feed, kinds, range, newest_first),
            may_miss: false,
            fetching: Fetch::default(),
            ready: VecDeque::new(),
        }));
        parts.push(Part::Scan(match newest_first {
            true => Scan::newest_first_above(prefix, above, until),
            false => Scan::oldest_first(prefix, above, until),
        }));
        if newest_first {
            parts.reverse();
        }
        Self { parts }
    }

    /// How many twins have been left out.
    fn hidden(&self) -> u64 {
        let hidden = |part: &Part| match part {
            Part::Scan(scan) => scan.hidden(),
            Part::Index(_) => 0,
        };
        self.parts.iter().map(hidden).sum()
    }

    fn ready(&self) -> Option<&Entry> {
        let part = self.parts.iter().find(|part| !part.is_done())?;
        match part {
            Part::Scan(scan) => scan.ready(),
            Part::Index(index) => index.ready.front(),
        }
    }

    /// The part that the next entry comes from.
    fn part(&mut self) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| !part.is_done())
    }

    fn pop(&mut self) -> Option<Entry> {
        match self.part()? {
            Part::Scan(scan) => scan.pop(),
            Part::Index(index) => index.ready.pop_front(),
        }
    }

    fn is_exhausted(&self) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Scan(scan) => scan.is_exhausted(),
            Part::Index(index) => index.is_read(),
        })
    }

    fn wants(&mut self, need: usize, bytes_max: usize, at_once: usize) -> Reads {
        match self.part() {
            Some(Part::Index(index)) => index.wants(need, at_once),
            Some(Part::Scan(scan)) => Reads {
                ranges: Vec::from_iter(scan.wants(need, bytes_max, at_once)),
                ..Reads::default()
            },
            None => Reads::default(),
        }
    }

    async fn take(&mut self, snapshot: &dyn Snapshot, mut found: Found) -> Result<()> {
        match self.part() {
            Some(Part::Index(index)) => index.take(found),
            Some(Part::Scan(scan)) => match found.slices.pop() {
                Some(slice) => scan.take(snapshot, slice).await,
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}

/// The bounds of an order: above what and up to what, and whether the newest come first.
fn bounds(order: Order, now: Version) -> (Option<Version>, Version, bool) {
    match order {
        Order::NewestFirst { until, before } => {
            let until = until
                .unwrap_or(now)
                .min(before.map_or(now, Version::before));
            (None, until, true)
        }
        Order::OldestFirst { after, until, .. } => (Some(after), until.unwrap_or(now), false),
    }
}

impl Part {
    /// Whether everything has been read and taken.
    fn is_done(&self) -> bool {
        match self {
            Self::Scan(scan) => scan.is_exhausted() && scan.ready().is_none(),
            Self::Index(index) => index.is_done(),
        }
    }
}

impl Index {
    /// Whether everything that it names has been fetched.
    fn is_read(&self) -> bool {
        self.fetching.is_empty() && self.named.is_done()
    }

    fn is_done(&self) -> bool {
        self.ready.is_empty() && self.is_read()
    }

    fn wants(&mut self, need: usize, at_once: usize) -> Reads {
        if !self.ready.is_empty() {
            return Reads::default();
        }
        let most = need.min(FETCHED_AT_ONCE / at_once.max(1)).max(1);
        // What was added later would not be fetched with the others.
        let most = if self.fetching.has_begun() { 0 } else { most };
        while self.fetching.len() < most
            && let Some((version, _)) = self.named.pop()
        {
            self.fetching.entry(&self.prefix, version);
        }
        match self.fetching.is_empty() {
            true => Reads {
                ranges: self.named.wants(need),
                ..Reads::default()
            },
            false => Reads {
                keys: self.fetching.wants(),
                ..Reads::default()
            },
        }
    }

    fn take(&mut self, found: Found) -> Result<()> {
        match self.fetching.is_empty() {
            true => self.named.take(found.slices),
            false => {
                for (key, item) in self.fetching.take(found.values).into_iter().flatten() {
                    match item {
                        Some(item) => self.ready.push_back(decode_entry(&item)?),
                        None if self.may_miss => {}
                        None => {
                            let what = "an index names an entry that is missing";
                            return Err(corrupt(&key, what));
                        }
                    }
                }
                Ok(())
            }
        }
    }
}
