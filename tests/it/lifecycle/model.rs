//! The model of feeds whose entries are edited, erased and removed by retention. It is deliberately simple, and shares no
//! code with the service.

use std::collections::{BTreeMap, BTreeSet};

use newsfeed::{
    types::{Change, Entry, FeedName},
    version::Version,
};

/// One commit of an event.
#[derive(Debug, Clone)]
pub struct Commit {
    pub version: Version,
    pub id: String,
    pub kind: &'static str,
    pub actor: &'static str,
    pub feeds: Vec<FeedName>,
    pub data: String,
    /// The data before any edit.
    pub first_data: String,
    pub read_at: u64,
    pub edited: Option<Version>,
    pub is_erased: bool,
    /// The last news of it, and the feeds whose readers are told.
    pub news: Option<(Version, Vec<FeedName>)>,
}

impl Commit {
    pub fn news_at(&self) -> Option<Version> {
        self.news.as_ref().map(|(position, _)| *position)
    }
}

/// What a reader is told, at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub position: Version,
    pub what: What,
    /// The version of the entry.
    pub of: Version,
    pub id: String,
    pub kind: String,
    /// Empty for an erasure.
    pub data: String,
    pub actor: Option<String>,
    /// The reader's feeds that are concerned, in the reader's order.
    pub feeds: Vec<FeedName>,
}

impl Told {
    pub fn is_entry(&self) -> bool {
        matches!(self.what, What::Entry { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Entry { edited: Option<Version> },
    Edit,
    Erasure,
}

/// All commits, in commit order, and what retention has removed.
#[derive(Debug)]
pub struct Model {
    pub commits: Vec<Commit>,
    /// Entries and news that are not in a feed any more.
    pub gone: BTreeSet<(FeedName, Version)>,
    /// News that is not in the log any more.
    pub unlogged: BTreeSet<Version>,
    /// Whoever continues from below is told that something is missing.
    pub trimmed: BTreeMap<FeedName, Version>,
    pub trimmed_log: Version,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            commits: Vec::new(),
            gone: BTreeSet::new(),
            unlogged: BTreeSet::new(),
            trimmed: BTreeMap::new(),
            trimmed_log: Version::ZERO,
        }
    }
}

impl Model {
    /// See the model of feeds without changes. The place of an erased entry hides twins like the entry; so does an entry
    /// that retention has removed.
    pub fn is_twin(&self, commit: &Commit, feed: &FeedName) -> bool {
        let version = commit.version;
        self.commits.iter().any(|first| {
            first.id == commit.id
                && first.feeds.contains(feed)
                && first.version < version
                && first.version.time() > commit.read_at
                && version.time() - first.version.time() < 5_000_000
        })
    }

    pub fn is_gone(&self, feed: &FeedName, position: Version) -> bool {
        self.gone.contains(&(feed.clone(), position))
    }

    /// The entry as it is in a feed, for readers of `feeds`, which show it.
    fn shown(commit: &Commit, feeds: Vec<FeedName>) -> Option<Told> {
        (!commit.is_erased && !feeds.is_empty()).then(|| Told {
            position: commit.version,
            what: What::Entry {
                edited: commit.edited,
            },
            of: commit.version,
            id: commit.id.clone(),
            kind: commit.kind.into(),
            data: commit.data.clone(),
            actor: Some(commit.actor.into()),
            feeds,
        })
    }

    fn entry(&self, commit: &Commit, feeds: &[FeedName]) -> Option<Told> {
        let held = |feed: &&FeedName| {
            commit.feeds.contains(feed)
                && !self.is_twin(commit, feed)
                && !self.is_gone(feed, commit.version)
        };
        Self::shown(commit, feeds.iter().filter(held).cloned().collect())
    }

    /// The last news of a commit, for readers of `feeds`, which have it.
    fn news(commit: &Commit, feeds: Vec<FeedName>) -> Option<Told> {
        let position = commit.news_at().filter(|_| !feeds.is_empty())?;
        let (what, data, actor) = match commit.is_erased {
            true => (What::Erasure, String::new(), None),
            false => (What::Edit, commit.data.clone(), Some(commit.actor.into())),
        };
        Some(Told {
            position,
            what,
            of: commit.version,
            id: commit.id.clone(),
            kind: commit.kind.into(),
            data,
            actor,
            feeds,
        })
    }

    fn in_order(told: impl Iterator<Item = Told>) -> Vec<Told> {
        let mut told: Vec<Told> = told.collect();
        told.sort_by_key(|told| told.position);
        told
    }

    /// What a reader of `feeds` is told from the beginning, in order.
    pub fn told(&self, feeds: &[FeedName]) -> Vec<Told> {
        let commits = self.commits.iter();
        let entries = commits.filter_map(|commit| self.entry(commit, feeds));
        let news = self.commits.iter().filter_map(|commit| {
            let (position, told) = commit.news.as_ref()?;
            let has = |feed: &&FeedName| told.contains(feed) && !self.is_gone(feed, *position);
            Self::news(commit, feeds.iter().filter(has).cloned().collect())
        });
        Self::in_order(entries.chain(news))
    }

    /// What a reader of the log is told: with all feeds, in the producer's order.
    pub fn log(&self) -> Vec<Told> {
        let entries = self.commits.iter().filter_map(|commit| {
            let feeds = commit.feeds.iter();
            let feeds = feeds.filter(|feed| !self.is_twin(commit, feed));
            Self::shown(commit, feeds.cloned().collect())
        });
        let news = self
            .commits
            .iter()
            .filter_map(|commit| Self::news(commit, commit.feeds.clone()));
        let kept = |told: &Told| {
            told.position > self.trimmed_log && !self.unlogged.contains(&told.position)
        };
        Self::in_order(entries.chain(news).filter(kept))
    }

    /// The unread entries of `feed`, if nothing was marked.
    pub fn unread(&self, feed: &FeedName) -> usize {
        let told = self.told(std::slice::from_ref(feed));
        let is_unread = |told: &&Told| told.is_entry() && told.kind == "message";
        told.iter().filter(is_unread).count()
    }

    /// The least version from which a reader of `feeds` can continue.
    pub fn oldest(&self, feeds: &[FeedName]) -> Version {
        let trimmed = feeds.iter().filter_map(|feed| self.trimmed.get(feed));
        trimmed.max().copied().unwrap_or(Version::ZERO)
    }

    /// Every position at which a reader can continue, or could before retention.
    pub fn cuts(&self) -> BTreeSet<Version> {
        let positions = self
            .commits
            .iter()
            .flat_map(|commit| [Some(commit.version), commit.news_at()]);
        let positions = positions.flatten();
        positions
            .flat_map(|position| [position.before(), position])
            .collect()
    }
}

/// What a reader has been told.
pub fn told(entry: &Entry, feeds: Vec<FeedName>) -> Told {
    let (what, of) = match entry.change {
        None => (What::Entry { edited: None }, entry.version),
        Some(Change::EditedAt(at)) => (What::Entry { edited: Some(at) }, entry.version),
        Some(Change::Edit(of)) => (What::Edit, of),
        Some(Change::Erasure(of)) => (What::Erasure, of),
        Some(Change::Erased) => panic!("the place of an erased entry is shown: {entry:?}"),
    };
    Told {
        position: entry.version,
        what,
        of,
        id: entry.id.to_string(),
        kind: entry.kind.to_string(),
        data: String::from_utf8(entry.data.to_vec()).expect("JSON"),
        actor: entry.actor.as_ref().map(ToString::to_string),
        feeds,
    }
}
