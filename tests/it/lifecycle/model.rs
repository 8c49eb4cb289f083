//! The model of feeds whose entries are edited and erased. It is deliberately simple, and shares no code with the service.

use std::collections::BTreeSet;

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
    pub read_at: u64,
    pub edited: Option<Version>,
    pub is_erased: bool,
    /// The last news of it.
    pub news: Option<Version>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Entry { edited: Option<Version> },
    Edit,
    Erasure,
}

/// All commits, in commit order.
#[derive(Debug, Default)]
pub struct Model(pub Vec<Commit>);

impl Model {
    /// See the model of feeds without changes. The place of an erased entry hides twins like the entry.
    fn is_twin(&self, commit: &Commit, feed: &FeedName) -> bool {
        let version = commit.version;
        self.0.iter().any(|first| {
            first.id == commit.id
                && first.feeds.contains(feed)
                && first.version < version
                && first.version.time() > commit.read_at
                && version.time() - first.version.time() < 5_000_000
        })
    }

    fn entry(&self, commit: &Commit, feeds: &[FeedName]) -> Option<Told> {
        let held = |feed: &&FeedName| commit.feeds.contains(feed) && !self.is_twin(commit, feed);
        let feeds: Vec<FeedName> = feeds.iter().filter(held).cloned().collect();
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

    fn news(commit: &Commit, feeds: &[FeedName]) -> Option<Told> {
        let held = feeds.iter().filter(|feed| commit.feeds.contains(feed));
        let feeds: Vec<FeedName> = held.cloned().collect();
        let position = commit.news.filter(|_| !feeds.is_empty())?;
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

    /// What a reader of `feeds` is told from the beginning, in order.
    pub fn told(&self, feeds: &[FeedName]) -> Vec<Told> {
        let entries = self.0.iter().filter_map(|commit| self.entry(commit, feeds));
        let news = self.0.iter().filter_map(|commit| Self::news(commit, feeds));
        let mut told: Vec<Told> = entries.chain(news).collect();
        told.sort_by_key(|told| told.position);
        told
    }

    /// What a reader of the log is told: with all feeds, in the producer's order.
    pub fn log(&self) -> Vec<Told> {
        let entries = self
            .0
            .iter()
            .filter_map(|commit| self.entry(commit, &commit.feeds));
        let news = self
            .0
            .iter()
            .filter_map(|commit| Self::news(commit, &commit.feeds));
        let mut told: Vec<Told> = entries.chain(news).collect();
        told.sort_by_key(|told| told.position);
        told
    }

    /// The unread entries of `feed`, if nothing was marked.
    pub fn unread(&self, feed: &FeedName) -> usize {
        let told = self.told(std::slice::from_ref(feed));
        let is_unread =
            |told: &&Told| matches!(told.what, What::Entry { .. }) && told.kind == "message";
        told.iter().filter(is_unread).count()
    }

    /// Every position at which a reader can continue.
    pub fn cuts(&self) -> BTreeSet<Version> {
        let positions = self
            .0
            .iter()
            .flat_map(|commit| [Some(commit.version), commit.news]);
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
