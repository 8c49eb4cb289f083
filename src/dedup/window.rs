//! The window of a sequence: the earlier commits that a commit is compared with.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
};

use smallvec::SmallVec;

use crate::{
    fairness::WorkBudget,
    store::{
        KeyValue, Range, Result, SNAPSHOT_AGE_TICKS_MAX, Snapshot,
        keys::{self, RangeOf},
        values::{NotifyKey, Record, decode_entry, decode_records},
    },
    types::{Entry, EventId, FeedName, NO_TWIN},
    version::Version,
};

/// Keys per read when a window is extended backwards.
const LOOK_BACK_KEYS: usize = 500;
/// A window of up to this many commits is searched, which costs less than counting their ids. (Few in unit tests, whose
/// windows are short.)
const SEARCHED_COMMITS_MAX: usize = if cfg!(test) { 4 } else { 64 };

/// A commit of an event id: all that the rule for twins looks at. News of changes are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub version: Version,
    pub id: EventId,
    /// See [`Entry::read_at`].
    pub read_at: u64,
    /// In a log: the event's feeds, or at least those in the partition. Empty in the sequence of a single feed.
    pub feeds: Vec<FeedName>,
}

impl Commit {
    /// If this commit is a twin, the first commit of its id lies above this version.
    pub fn reach(&self) -> Version {
        horizon(self.version).max(Version::moment(self.version.epoch(), self.read_at))
    }
}

fn hash(id: &EventId) -> u64 {
    twox_hash::XxHash3_64::oneshot(id.as_str().as_bytes())
}

/// How far back any commit at or above `version` may reach.
fn horizon(version: Version) -> Version {
    let oldest = version.time().saturating_sub(SNAPSHOT_AGE_TICKS_MAX);
    Version::moment(version.epoch(), oldest)
}

impl From<&Entry> for Commit {
    fn from(entry: &Entry) -> Self {
        Self {
            version: entry.version,
            id: entry.id.clone(),
            read_at: entry.read_at,
            feeds: Vec::new(),
        }
    }
}

impl From<&NotifyKey> for Commit {
    fn from(notify: &NotifyKey) -> Self {
        Self {
            version: notify.version,
            id: notify.id.clone(),
            read_at: notify.read_at,
            feeds: Vec::new(),
        }
    }
}

impl From<&Record> for Commit {
    fn from(record: &Record) -> Self {
        Self {
            feeds: record.feeds.clone(),
            ..Self::from(&record.entry)
        }
    }
}

/// A contiguous part of a sequence of commits: the entries of a feed, one partition of the log, or the whole log.
///
/// Invariant: the window holds every commit of the sequence above `complete_from`, up to the newest commit that was
/// added and has not been dropped since. A commit may be judged once the window [covers](Self::covers) its reach.
///
/// A reader that goes forward looks back as far as the commits it has read reach, judges each of them and adds it with
/// [`Self::push_newer`]. A reader that goes backward adds commits with [`Self::push_older`], and judges the newest one as
/// soon as it is covered.
pub struct Window {
    /// Of the keys of the sequence; several if it is the whole log, merged from its partitions.
    prefixes: SmallVec<[Vec<u8>; 1]>,
    /// The range of the keys under a prefix.
    range: RangeOf,
    /// The commits in a key and its value, in version order.
    decode: fn(&KeyValue) -> Result<Vec<Commit>>,
    /// In version order.
    commits: VecDeque<Commit>,
    /// How many of them have the same hash of their id; empty while the window is short. Nearly all ids are there once, so
    /// that judging a commit rarely has to search a window that is long, as after a bulk load.
    ids: HashMap<u64, usize>,
    complete_from: Version,
    look_back_keys: usize,
}

impl Window {
    /// An empty window after `start` over the feed whose entries have keys with `prefix`.
    pub fn of_feed(prefix: Vec<u8>, start: Version) -> Self {
        let decode = |item: &KeyValue| Ok(vec![Commit::from(&decode_entry(item)?)]);
        Self {
            range: keys::entries,
            ..Self::new(prefix, start, decode)
        }
    }

    /// An empty window after `start` over the log partition whose records have keys with `prefix`.
    pub fn of_log(prefix: Vec<u8>, start: Version) -> Self {
        Self::new(prefix, start, |item| {
            let records = decode_records(item)?.into_iter();
            let commits = records.filter(|record| record.entry.changed().is_none());
            Ok(commits.map(|record| Commit::from(&record)).collect())
        })
    }

    /// An empty window after `start` over the whole log, whose partitions have keys with `prefixes`. Its commits are those
    /// of the records that export an event.
    pub fn of_whole_log(prefixes: impl IntoIterator<Item = Vec<u8>>, start: Version) -> Self {
        let decode = |item: &KeyValue| {
            let records = decode_records(item)?.into_iter();
            let is_commit = |record: &Record| record.exports && record.entry.changed().is_none();
            let exported = records.filter(is_commit);
            Ok(exported.map(|record| Commit::from(&record)).collect())
        };
        Self {
            prefixes: prefixes.into_iter().collect(),
            ..Self::new(Vec::new(), start, decode)
        }
    }

    fn new(prefix: Vec<u8>, start: Version, decode: fn(&KeyValue) -> Result<Vec<Commit>>) -> Self {
        Self {
            prefixes: SmallVec::from([prefix]),
            range: keys::range,
            decode,
            commits: VecDeque::new(),
            ids: HashMap::new(),
            complete_from: start,
            look_back_keys: LOOK_BACK_KEYS,
        }
    }

    #[cfg(test)]
    pub(crate) fn looking_back_by(mut self, keys: usize) -> Self {
        self.look_back_keys = keys;
        self
    }

    /// The range of the sequence in `(after, until]`, which must not be the whole log.
    pub fn range(
        &self,
        after: Option<Version>,
        until: Version,
        reverse: bool,
        limit: usize,
        bytes_max: usize,
    ) -> Range {
        (self.range)(&self.prefixes[0], after, until, reverse, limit, bytes_max)
    }

    /// The version above which no commit is missing.
    pub fn complete_from(&self) -> Version {
        self.complete_from
    }

    /// Whether `commit` can be judged: nothing is missing within its reach.
    pub fn covers(&self, commit: &Commit) -> bool {
        self.complete_from <= commit.reach()
    }

    /// Whether another commit may have the id of `commit`, whose place in the window is `place`.
    fn may_have_another(&self, commit: &Commit, place: usize) -> bool {
        if self.ids.is_empty() {
            return true;
        }
        let itself = self.commits.get(place);
        let itself = itself.is_some_and(|other| other.version == commit.version);
        let same = self.ids.get(&hash(&commit.id)).copied().unwrap_or(0);
        same > usize::from(itself)
    }

    /// The earlier commits of the same id within the reach of `commit`, which the window must cover.
    fn firsts(&self, commit: &Commit) -> impl Iterator<Item = &Commit> {
        debug_assert!(self.covers(commit), "a commit was judged too early");
        let reach = commit.reach();
        let before = self
            .commits
            .partition_point(|other| other.version < commit.version);
        let end = match self.may_have_another(commit, before) {
            true => before,
            false => 0,
        };
        self.commits
            .range(..end)
            .rev()
            .take_while(move |other| other.version > reach)
            .filter(|other| other.id == commit.id)
    }

    /// Whether `commit` is a twin in the sequence of a feed.
    pub fn is_twin(&self, commit: &Commit) -> bool {
        self.firsts(commit).next().is_some()
    }

    /// Removes from `feeds` those in which `commit`, of a log, is a twin.
    pub fn retain_visible(&self, commit: &Commit, feeds: &mut Vec<FeedName>) {
        for first in self.firsts(commit) {
            feeds.retain(|feed| !first.feeds.contains(feed));
        }
    }

    /// Reads back until the window covers every commit of `commits`.
    pub async fn look_back(&mut self, snapshot: &dyn Snapshot, commits: &[Commit]) -> Result<()> {
        let Some(reach) = commits.iter().map(Commit::reach).min() else {
            return Ok(());
        };
        let mut budget = WorkBudget::default();
        while reach < self.complete_from {
            let keys = (self.look_back_keys / self.prefixes.len()).max(1);
            let (after, until) = (Some(reach), self.complete_from);
            let range =
                |prefix: &Vec<u8>| (self.range)(prefix, after, until, true, keys, usize::MAX);
            let slices = snapshot
                .ranges(self.prefixes.iter().map(range).collect())
                .await?;
            // Above this version, all prefixes have been read.
            let mut complete_from = reach;
            for slice in slices.iter().filter(|slice| slice.more) {
                if let Some(last) = slice.items.last() {
                    complete_from = complete_from.max(keys::version_of(&last.key)?.before());
                }
            }
            let mut commits = Vec::new();
            for item in slices.iter().flat_map(|slice| &slice.items) {
                let found = (self.decode)(item)?.into_iter().rev();
                // A key of the log holds a batch, which may reach beyond both ends.
                commits
                    .extend(found.filter(|commit| {
                        commit.version > complete_from && commit.version <= until
                    }));
                budget.spend(1).await;
            }
            if self.prefixes.len() > 1 {
                commits.sort_unstable_by_key(|commit| Reverse(commit.version));
            }
            for commit in commits {
                self.push_front(commit);
                budget.spend(1).await;
            }
            self.complete_from = complete_from;
        }
        Ok(())
    }

    /// Whether the next entry of a reader that goes forward needs no judgement: it cannot be a twin. Such entries are not
    /// added either, as long as no commit has been: the first one that may be a twin reads back for them. So a reader
    /// keeps nothing of a store without twins.
    pub fn skips(&mut self, entry: &Entry) -> bool {
        let skips = entry.read_at == NO_TWIN && self.commits.is_empty();
        if skips {
            self.complete_from = self.complete_from.max(entry.version);
        }
        skips
    }

    /// Adds the next commit of a reader that goes forward; then drops what no later commit can reach.
    pub fn push_newer(&mut self, commit: Commit) {
        let horizon = horizon(commit.version);
        self.count(&commit.id);
        self.commits.push_back(commit);
        while let Some(oldest) = self
            .commits
            .pop_front_if(|oldest| oldest.version <= horizon)
        {
            self.forget(&oldest.id);
            self.complete_from = self.complete_from.max(oldest.version);
        }
    }

    /// Adds the next commits of a reader that goes backward, newest first; none is missing above `complete_from`.
    pub fn push_older(
        &mut self,
        commits: impl IntoIterator<Item = Commit>,
        complete_from: Version,
    ) {
        for commit in commits {
            self.push_front(commit);
        }
        self.complete_from = complete_from;
    }

    fn push_front(&mut self, commit: Commit) {
        self.count(&commit.id);
        self.commits.push_front(commit);
    }

    /// Notes that a commit with this id is about to join the window.
    fn count(&mut self, id: &EventId) {
        if self.ids.is_empty() {
            if self.commits.len() < SEARCHED_COMMITS_MAX {
                return;
            }
            for commit in &self.commits {
                *self.ids.entry(hash(&commit.id)).or_default() += 1;
            }
        }
        *self.ids.entry(hash(id)).or_default() += 1;
    }

    /// Notes that a commit with this id has left the window.
    fn forget(&mut self, id: &EventId) {
        if self.ids.is_empty() {
            return;
        }
        let hash = hash(id);
        match self.ids.get_mut(&hash) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.ids.remove(&hash)),
        }
    }

    /// Drops the commits above `moment`: they will be added again, or are not needed any more.
    pub fn drop_above(&mut self, moment: Version) {
        while let Some(newest) = self.commits.pop_back_if(|newest| newest.version > moment) {
            self.forget(&newest.id);
        }
        self.complete_from = self.complete_from.min(moment);
    }
}
