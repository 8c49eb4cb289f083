//! A random history as it happens, and what the model should know of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use newsfeed::{
    append::writes,
    clock::WallTime,
    error::Error,
    feed::Feeds,
    lifecycle::{Lifecycle, NewData},
    log::Filter,
    projection::{self, Projection, Step, Turn},
    store::{Store, rows::What, transact_until},
    types::{Actor, Draft, Event, EventId, FeedName},
    version::Version,
};

use super::{
    data as data_of,
    model::{Commit, Model, Told, What as Role},
    sweeps::Sweeps,
};
use crate::support::{
    bed::Bed,
    model::{delivery, fresh_feeds},
    raw_commits::Raw,
    stores::{Trouble, troubled},
};

/// Longer than twins of an entry can come, in ticks.
pub const TWINS_OVER: u64 = 11_000_000;

/// The store as an engine without checks of claims: twins can be committed.
struct Unchecked;

impl Trouble for Unchecked {
    fn tells_what_is_unchanged(&self) -> bool {
        true
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    Append {
        id: usize,
        kind: usize,
        actor: usize,
        /// A bit for each feed.
        feeds: usize,
    },
    /// Another commit of an id, by a node that did not see the first one.
    Twin {
        back: usize,
        feeds: usize,
    },
    Edit {
        id: usize,
    },
    Erase {
        id: usize,
    },
    EraseEvents(Vec<usize>),
    EraseFeed {
        feed: usize,
        everywhere: bool,
    },
    EraseActor(usize),
    Project {
        events: usize,
    },
    /// Time passes, and what erasures have left is removed.
    Settle,
}

pub const IDS: usize = 3;
pub const KINDS: [&str; 3] = ["message", "visit", "flirt"];
pub const ACTORS: [&str; 2] = ["anna", "ben"];
/// Indexes of feeds; the first two share a partition.
pub const FEED_SETS: [&[usize]; 3] = [&[0], &[1, 0], &[2, 0, 1]];

pub struct Run {
    pub name: String,
    pub store: Arc<dyn Store>,
    pub raw: Raw,
    pub wall: WallTime,
    /// The engine has a clock of its own.
    pub waits: bool,
    pub feeds: [FeedName; 3],
    pub reader: Feeds,
    lifecycle: Lifecycle,
    pub model: Model,
    /// The store has no other history.
    pub is_alone: bool,
    /// Everything before belongs to other histories.
    pub start: Version,
    texts: usize,
    /// Texts that must not be found.
    pub dead: Vec<String>,
    /// Versions of what was erased, and of news that later ones have replaced.
    pub replaced: Vec<Version>,
    pub sweeps: Sweeps,
    /// Commits that the log does not hold any more.
    pub out_of_log: BTreeSet<Version>,
}

impl Run {
    pub async fn new(bed: &Bed, number: usize) -> Self {
        let raw = Raw::new(bed).await;
        let store = troubled(bed.store(), Arc::new(Unchecked));
        let name = format!("case{number}");
        let start = store.snapshot().await.expect("a snapshot").version();
        Self {
            feeds: fresh_feeds(&raw.keys, &name),
            reader: Feeds::new(Arc::clone(&store), raw.keys.clone()),
            lifecycle: Lifecycle::new(Arc::clone(&store), raw.keys.clone(), Arc::default()),
            wall: bed.wall.clone(),
            waits: !bed.prefix().is_empty(),
            raw,
            store,
            name,
            model: Model::default(),
            is_alone: false,
            start,
            texts: 0,
            dead: Vec::new(),
            replaced: Vec::new(),
            sweeps: Sweeps::default(),
            out_of_log: BTreeSet::new(),
        }
    }

    /// Removes what an earlier history has left, if it failed.
    pub async fn begin(&mut self) {
        self.tick(TWINS_OVER);
        self.lifecycle.end_all().await.expect("the store works");
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        self.start = snapshot.version();
    }

    fn id(&self, id: usize) -> String {
        format!("{}/{id}", self.name)
    }

    pub fn text(&mut self) -> String {
        self.texts += 1;
        format!("\"text {} of {}\"", self.texts, self.name)
    }

    fn feeds_of(&self, bits: usize) -> Vec<FeedName> {
        let feeds = self.feeds.iter().enumerate();
        let feeds = feeds.filter(|(index, _)| bits & (1 << index) != 0);
        feeds.map(|(_, feed)| feed.clone()).collect()
    }

    pub async fn take(&mut self, op: Op) {
        match op {
            Op::Append {
                id,
                kind,
                actor,
                feeds,
            } => {
                let id = self.id(id);
                if self.model.commits.iter().any(|commit| commit.id == id) {
                    return;
                }
                let feeds = self.feeds_of(feeds);
                self.commit(id, KINDS[kind], actor, feeds, 0).await;
            }
            Op::Twin { back, feeds } => {
                let index = self.model.commits.len().checked_sub(back);
                let Some(first) = index.map(|index| self.model.commits[index].clone()) else {
                    return;
                };
                // Whoever has seen any commit of the id does not commit it again.
                let mut of_id = self.model.commits.iter();
                let first = of_id
                    .find(|commit| commit.id == first.id)
                    .cloned()
                    .unwrap_or(first);
                let now = self.raw.now().await;
                if now >= first.version.time() + 4_000_000 {
                    return;
                }
                let actor = usize::from(first.actor == ACTORS[1]);
                let read_at = first.version.time() - 1;
                let feeds = self.feeds_of(feeds);
                self.commit(first.id, first.kind, actor, feeds, read_at)
                    .await;
            }
            Op::Edit { id } => self.edit(id).await,
            Op::Erase { id } => self.erase(id).await,
            Op::EraseEvents(ids) => {
                let mut ids: Vec<String> = ids.into_iter().map(|id| self.id(id)).collect();
                ids.dedup();
                let events = ids.iter().map(|id| id.parse().expect("an id"));
                self.job(What::Events(events.collect())).await;
                ids.retain(|id| self.exists(id));
                self.erased(|commit| ids.contains(&commit.id)).await;
            }
            Op::EraseFeed { feed, everywhere } => {
                let feed = self.feeds[feed].clone();
                let in_feed = |commit: &Commit| {
                    let is_there = !self.model.is_gone(&feed, commit.version);
                    let is_logged = !self.out_of_log.contains(&commit.version);
                    let is_held = is_there || commit.version > self.model.trimmed_log && is_logged;
                    commit.feeds.contains(&feed) && !commit.is_erased && is_held
                };
                let commits = self.model.commits.iter();
                let found = commits.filter(|commit| in_feed(commit));
                let ids: Vec<String> = found.map(|commit| commit.id.clone()).collect();
                // What is left of an event in other feeds has a model of its own.
                let of_ids = self.model.commits.iter();
                let mut of_ids = of_ids.filter(|commit| ids.contains(&commit.id));
                let everywhere = everywhere || of_ids.any(|commit| commit.feeds != [feed.clone()]);
                self.job(What::Feed { feed, everywhere }).await;
                self.erased(|commit| ids.contains(&commit.id)).await;
            }
            Op::EraseActor(actor) => {
                let actor = ACTORS[actor];
                let name: Actor = self.actor(actor).parse().expect("an actor");
                let held = self.model.commits.iter().filter(|it| self.is_held(it));
                let by_actor = held.filter(|commit| commit.actor == actor);
                let ids: Vec<String> = by_actor.map(|commit| commit.id.clone()).collect();
                self.job(What::Actor(name)).await;
                self.erased(|commit| ids.contains(&commit.id)).await;
            }
            Op::Project { events } => self.project(events).await,
            Op::Settle if self.waits => {}
            Op::Settle => self.settle().await,
        }
    }

    /// Actors are not shared with other histories.
    pub fn actor(&self, actor: &str) -> String {
        format!("{actor}.{}", self.name)
    }

    async fn commit(
        &mut self,
        id: String,
        kind: &'static str,
        actor: usize,
        feeds: Vec<FeedName>,
        read_at: u64,
    ) {
        let commit = Commit {
            version: Version::ZERO,
            id,
            kind,
            actor: ACTORS[actor],
            feeds,
            data: self.text(),
            first_data: String::new(),
            read_at,
            edited: None,
            is_erased: false,
            news: None,
        };
        let event = self.event(&commit, &commit.data);
        let entry = writes::entry(&event, 1, read_at);
        let batch = writes::of_events(&self.raw.keys, &[(&event, entry)]).await;
        self.tick(1_000);
        let snapshot = self.raw.store.snapshot().await.expect("a snapshot");
        let version = snapshot.commit(batch).await.expect("a blind write commits");
        let first_data = commit.data.clone();
        self.model.commits.push(Commit {
            version,
            first_data,
            ..commit
        });
    }

    /// What a producer sends.
    pub fn event(&self, commit: &Commit, data: &str) -> Event {
        let draft = Draft {
            id: event_id(&commit.id),
            kind: commit.kind.parse().expect("a kind"),
            delivery: delivery(commit.kind),
            feeds: commit.feeds.clone(),
            actor: Some(self.actor(commit.actor).parse().expect("an actor")),
            time: None,
            data: data_of(data),
            expect: None,
        };
        draft.check().expect("valid")
    }

    /// Whether a feed or the log still has it.
    pub fn is_held(&self, commit: &Commit) -> bool {
        let mut feeds = commit.feeds.iter();
        let is_held = feeds.any(|feed| !self.model.is_gone(feed, commit.version))
            || !self.out_of_log.contains(&commit.version);
        is_held && !commit.is_erased
    }

    /// Whether there is an event with this id that can be changed.
    pub fn exists(&self, id: &str) -> bool {
        let mut commits = self.model.commits.iter();
        commits.any(|commit| commit.id == id && self.is_held(commit))
    }

    pub fn is_erased(&self, id: &str) -> bool {
        let mut commits = self.model.commits.iter();
        commits.any(|commit| commit.id == id && commit.is_erased)
    }

    /// Lets the wall clock go on, if it is the test's.
    pub fn tick(&self, ticks: u64) {
        self.wall.set(self.wall.micros() + ticks);
    }

    async fn edit(&mut self, id: usize) {
        let id = self.id(id);
        let data = self.text();
        let new = NewData {
            data: data_of(&data),
            change_id: None,
            revision: None,
        };
        self.tick(1_000);
        let edited = self
            .lifecycle
            .edit(&event_id(&id), &new, &|_, _| Ok(()))
            .await;
        let expected = (self.exists(&id), self.is_erased(&id));
        let edited = match edited {
            Ok(edited) => edited,
            Err(Error::EventNotFound(_)) => return assert_eq!(expected, (false, false)),
            Err(Error::EventErased(_)) => return assert_eq!(expected, (false, true)),
            Err(error) => panic!("{error}"),
        };
        // A late twin of an erased event can be edited until it is removed.
        assert!(!edited.is_duplicate && expected.0, "{:#?}", self.model);
        let commits = self.model.commits.iter();
        let held: Vec<bool> = commits.map(|commit| self.is_held(commit)).collect();
        let commits = self.model.commits.iter_mut().zip(held);
        for (index, (commit, is_held)) in
            (0..).zip(commits.filter(|(it, _)| it.id == id && !it.is_erased))
        {
            self.dead
                .push(std::mem::replace(&mut commit.data, data.clone()));
            self.replaced.extend(commit.news_at());
            commit.edited = Some(edited.edited);
            let feeds = commit.feeds.iter();
            let feeds =
                feeds.filter(|feed| !self.model.gone.contains(&((*feed).clone(), commit.version)));
            let news = (edited.edited.at_index(index), feeds.cloned().collect());
            commit.news = is_held.then_some(news);
        }
    }

    async fn erase(&mut self, id: usize) {
        let id = self.id(id);
        self.tick(1_000);
        let erased = self
            .lifecycle
            .erase(&event_id(&id), None, &|_, _| Ok(()))
            .await;
        let (exists, is_erased) = (self.exists(&id), self.is_erased(&id));
        match erased {
            Ok(erased) => {
                let expected = (exists || is_erased, exists);
                assert_eq!(expected, (true, erased.erased.is_some()));
                self.erased(|commit| commit.id == id).await;
            }
            Err(Error::EventNotFound(_)) => assert!(!exists && !is_erased),
            Err(error) => panic!("{error}"),
        }
    }

    async fn job(&mut self, what: What) {
        self.tick(1_000);
        let id = self.lifecycle.begin(what).await.expect("begun");
        let state = self.lifecycle.work_on(id, Duration::from_secs(60)).await;
        assert!(state.expect("steps").is_done);
        let state = self.lifecycle.job(id).await.expect("read");
        assert!(state.is_some_and(|state| state.is_done));
    }

    /// Notes what the store should have erased. The versions of the news are read from the log, each at most once.
    async fn erased(&mut self, is_meant: impl Fn(&Commit) -> bool) {
        let start = self.start.max(self.model.trimmed_log);
        let erasures = self.log(&Filter::default(), start, 100).await;
        let erasures = erasures.expect("everything above is kept");
        let late = self.late();
        let commits = self.model.commits.iter();
        let held: Vec<bool> = commits.map(|commit| self.is_held(commit)).collect();
        let commits = self.model.commits.iter_mut().zip(held);
        for (commit, is_held) in commits.filter(|(it, _)| !it.is_erased && is_meant(it)) {
            let is_news = |told: &&Told| told.what == Role::Erasure && told.of == commit.version;
            let mut news = erasures.iter().filter(is_news);
            let position = news.next().map(|told| told.position);
            assert!(news.next().is_none(), "{commit:?} is erased twice");
            // A late twin may be found only when the place is removed that hides it.
            if position.is_none() && late.contains(&commit.version) {
                continue;
            }
            assert_eq!(position.is_some(), is_held, "{commit:?}");
            commit.is_erased = true;
            self.replaced.push(commit.version);
            self.replaced.extend(commit.news_at());
            self.dead.push(std::mem::take(&mut commit.data));
            commit.news = position.map(|position| (position, commit.feeds.clone()));
        }
    }

    /// Twins that came after the first commit was erased.
    fn late(&self) -> Vec<Version> {
        let commits = self.model.commits.iter();
        let late = commits.filter(|commit| {
            let mut of_id = self.model.commits.iter();
            let first = of_id.find(|first| first.id == commit.id);
            !commit.is_erased && first.is_some_and(|first| first.is_erased)
        });
        late.map(|commit| commit.version).collect()
    }

    pub async fn project(&self, events: usize) {
        let kinds = KINDS.map(|kind| kind.parse().expect("a kind"));
        let projections = Projection::of(true, kinds);
        let limits = projection::Limits {
            events,
            ..projection::Limits::default()
        };
        let mut step = Step::new(&self.raw.keys, &projections, Turn::First, limits);
        let now = tokio::time::Instant::now();
        let progress = transact_until(&*self.store, &mut step, now).await;
        progress.expect("nobody else takes steps");
    }

    /// Time passes until no twin can come; then all that is left of erased events is removed.
    pub async fn settle(&mut self) {
        let over = self.raw.now().await + TWINS_OVER;
        self.tick(TWINS_OVER);
        // The versions of a busy cluster lag behind the clock.
        while self.waits && self.raw.now().await < over {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let late = self.late();
        self.lifecycle.end_all().await.expect("the store works");
        self.erased(|commit| late.contains(&commit.version)).await;
        assert_eq!(self.late(), []);
        // Their places are gone, and nothing can be a twin of them any more.
    }
}

pub fn event_id(id: &str) -> EventId {
    id.parse().expect("an id")
}
