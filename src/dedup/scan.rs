//! A scan: the visible entries of one feed, in one direction, read in chunks.

use std::collections::VecDeque;

use super::{Commit, Window};
use crate::{
    fairness::WorkBudget,
    store::{Range, Result, Slice, Snapshot, keys::version_of, values::decode_entry},
    types::{Entry, NO_TWIN},
    version::Version,
};

/// How often the chunks of a scan double in size.
const CHUNK_DOUBLINGS_MAX: u32 = 4;
/// Keys read beyond the entries needed. Going backward, most commits reach no further than these.
const KEYS_BEYOND: usize = 4;
/// Keys of the chunks that are read together, unless more are needed: other readers have their turns in between.
const CHUNK_KEYS_MAX: usize = 500;
/// Feeds whose latest entries are read at once, and the byte limit of each of these reads: they bound the memory that the
/// conditions of an array take.
const LATEST_AT_ONCE: usize = 128;
const LATEST_BYTES: usize = 8 * 1024;

/// The caller asks for the range to read ([`Scan::wants`]), reads it, perhaps together with the ranges of other scans,
/// and hands the result back ([`Scan::take`]), until the next entry is ready.
pub struct Scan {
    window: Window,
    /// What has not been read yet is `(after, until]`; `after` is `None` at the beginning of the feed.
    after: Option<Version>,
    until: Version,
    newest_first: bool,
    /// Everything has been read.
    exhausted: bool,
    /// How many chunks have been read.
    chunks: u32,
    /// Newest first: the chunk being read ends here, not at the beginning of the feed.
    chunk_end: Option<Version>,
    /// Newest first: read, but not judged yet, because the window does not cover them.
    pending: VecDeque<Entry>,
    /// Judged and visible.
    ready: VecDeque<Entry>,
    hidden: u64,
}

impl Scan {
    /// The entries at or below `until`.
    pub fn newest_first(prefix: Vec<u8>, until: Version) -> Self {
        Self::new(prefix, None, until, true)
    }

    /// The entries above `after`, at or below `until`.
    pub fn newest_first_above(prefix: Vec<u8>, after: Version, until: Version) -> Self {
        Self::new(prefix, Some(after), until, true)
    }

    /// The entries above `after`, at or below `until`.
    pub fn oldest_first(prefix: Vec<u8>, after: Version, until: Version) -> Self {
        Self::new(prefix, Some(after), until, false)
    }

    fn new(prefix: Vec<u8>, after: Option<Version>, until: Version, newest_first: bool) -> Self {
        Self {
            window: Window::of_feed(prefix, after.filter(|_| !newest_first).unwrap_or(until)),
            after,
            until,
            newest_first,
            exhausted: false,
            chunks: 0,
            chunk_end: None,
            pending: VecDeque::new(),
            ready: VecDeque::new(),
            hidden: 0,
        }
    }

    /// How many twins have been left out.
    pub fn hidden(&self) -> u64 {
        self.hidden
    }

    /// The next visible entry, if it has been read.
    pub fn ready(&self) -> Option<&Entry> {
        self.ready.front()
    }

    /// Whether everything has been read.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    pub fn pop(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }

    /// The range to read until the next entry is ready; `None` if it is ready, or if there is none. `need` is how many
    /// entries the caller is going to take; each further chunk is up to twice as large as the one before. `at_once` is the
    /// number of scans whose chunks are read together.
    pub fn wants(&mut self, need: usize, bytes_max: usize, at_once: usize) -> Option<Range> {
        if self.exhausted || !self.ready.is_empty() {
            return None;
        }
        // If enough entries are pending, only their reach remains to be read.
        self.chunk_end = self
            .pending
            .iter()
            .map(|entry| Commit::from(entry).reach())
            .min()
            .filter(|end| {
                self.pending.len() >= need && self.after.is_none_or(|after| *end > after)
            });
        let after = self.chunk_end.or(self.after);
        let least = need + KEYS_BEYOND;
        let limit = least << self.chunks.min(CHUNK_DOUBLINGS_MAX);
        let limit = limit.min(CHUNK_KEYS_MAX / at_once.max(1)).max(least);
        let range = self
            .window
            .range(after, self.until, self.newest_first, limit, bytes_max);
        Some(range)
    }

    /// Takes what reading the range of [`Scan::wants`] found.
    pub async fn take(&mut self, snapshot: &dyn Snapshot, slice: Slice) -> Result<()> {
        self.chunks += 1;
        let mut budget = WorkBudget::default();
        let mut entries = Vec::with_capacity(slice.items.len());
        for item in &slice.items {
            entries.push(decode_entry(item)?);
            budget.spend(1).await;
        }
        match (slice.more, self.chunk_end.take()) {
            (false, Some(end)) => self.until = end,
            (false, None) => self.exhausted = true,
            (true, _) => {
                if let Some(last) = entries.last() {
                    if self.newest_first {
                        self.until = last.version.before();
                    } else {
                        self.after = Some(last.version);
                    }
                }
            }
        }
        if self.newest_first {
            self.take_older(snapshot, entries, &mut budget).await
        } else {
            self.take_newer(snapshot, entries, &mut budget).await
        }
    }

    async fn take_older(
        &mut self,
        snapshot: &dyn Snapshot,
        entries: Vec<Entry>,
        budget: &mut WorkBudget,
    ) -> Result<()> {
        let complete_from = match self.exhausted {
            true => self.after.unwrap_or(Version::ZERO),
            false => self.until,
        };
        // Entries that cannot be twins are visible at once, and what is older is not compared with them.
        let is_visible = |entry: &Entry| entry.read_at == NO_TWIN && !entry.is_erased();
        if self.pending.is_empty() && self.ready.is_empty() && entries.iter().all(is_visible) {
            self.ready = entries.into();
            self.window.drop_above(complete_from);
            return Ok(());
        }
        let commits = entries.iter().map(Commit::from);
        self.window.push_older(commits, complete_from);
        self.pending.extend(entries);
        if self.exhausted && self.after.is_some() {
            // The last ones may be twins of what lies below the range.
            let commits: Vec<_> = self.pending.iter().map(Commit::from).collect();
            self.window.look_back(snapshot, &commits).await?;
        }
        while let Some(entry) = self.pending.front() {
            let commit = Commit::from(entry);
            if !self.window.covers(&commit) {
                break;
            }
            let is_twin = self.window.is_twin(&commit);
            self.hidden += u64::from(is_twin);
            self.window.drop_above(commit.version.before());
            let entry = self.pending.pop_front();
            self.ready
                .extend(entry.filter(|entry| !is_twin && !entry.is_erased()));
            budget.spend(1).await;
        }
        Ok(())
    }

    async fn take_newer(
        &mut self,
        snapshot: &dyn Snapshot,
        entries: Vec<Entry>,
        budget: &mut WorkBudget,
    ) -> Result<()> {
        let commits: Vec<Commit> = entries.iter().map(Commit::from).collect();
        self.window.look_back(snapshot, &commits).await?;
        for (entry, commit) in entries.into_iter().zip(commits) {
            match self.window.is_twin(&commit) {
                true => self.hidden += 1,
                false => self
                    .ready
                    .extend(Some(entry).filter(|entry| !entry.is_erased())),
            }
            self.window.push_newer(commit);
            budget.spend(1).await;
        }
        Ok(())
    }
}

/// The latest entries of a feed, in one snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latest {
    /// The version of the latest visible entry.
    pub entry: Option<Version>,
    /// The version of the latest key, which may be a twin's.
    pub key: Option<Version>,
}

/// Reads the latest versions of the feed whose entries have keys with `prefix`.
pub async fn latest(snapshot: &dyn Snapshot, prefix: Vec<u8>) -> Result<Latest> {
    let latest = latest_of(snapshot, vec![prefix]).await?;
    Ok(latest.into_iter().next().unwrap_or_default())
}

/// Reads the latest versions of the feeds whose entries have keys with `prefixes`, in as few round trips as possible.
pub async fn latest_of(snapshot: &dyn Snapshot, prefixes: Vec<Vec<u8>>) -> Result<Vec<Latest>> {
    let mut found = vec![Latest::default(); prefixes.len()];
    let mut budget = WorkBudget::default();
    let scan = |prefix| Scan::newest_first(prefix, snapshot.version());
    let scans = prefixes.into_iter().map(scan);
    let mut scans: Vec<(&mut Latest, Scan)> = found.iter_mut().zip(scans).collect();
    for scans in scans.chunks_mut(LATEST_AT_ONCE) {
        loop {
            let wanting = scans.iter_mut().filter_map(|(latest, scan)| {
                let range = scan.wants(1, LATEST_BYTES, LATEST_AT_ONCE)?;
                Some(((latest, scan), range))
            });
            let (wanting, ranges): (Vec<_>, Vec<_>) = wanting.unzip();
            if wanting.is_empty() {
                break;
            }
            let slices = snapshot.ranges(ranges).await?;
            for ((latest, scan), slice) in wanting.into_iter().zip(slices) {
                if let (None, Some(item)) = (latest.key, slice.items.first()) {
                    latest.key = Some(version_of(&item.key)?);
                }
                budget.spend(slice.items.len()).await;
                scan.take(snapshot, slice).await?;
                latest.entry = scan.ready().map(|entry| entry.version);
            }
        }
    }
    Ok(found)
}
