//! Random histories of appends, edits and erasures, with twins: every reader is told what the model says, from every
//! position, and of what was replaced or erased nothing remains in any key or value.

use std::{sync::Arc, time::Duration};

use newsfeed::{
    append::writes,
    clock::WallTime,
    error::Error,
    feed::{Feeds, Order, PAGE_BYTES_MAX, PageQuery},
    lifecycle::{Lifecycle, NewData},
    log::{Filter, LogQuery},
    projection::{self, Projection, Step, Turn},
    store::{Range, Store, rows::What, transact_until},
    types::{Actor, Draft, EventId, FeedName},
    version::Version,
};
use proptest::prelude::*;

use super::data as data_of;
use super::model::{Commit, Model, Told, What as Role, told};
use crate::support::{
    bed::Bed,
    follower::Live,
    model::{delivery, for_random, fresh_feeds},
    raw_commits::Raw,
    stores::{Trouble, troubled},
};

mod embedded {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everybody_is_told_of_every_change_and_nothing_remains() {
        let wall = newsfeed::clock::WallTime::manual(1_000_000_000);
        let bed = crate::support::bed::Bed::embedded_at(wall);
        super::everybody_is_told_of_every_change_and_nothing_remains(&bed).await;
    }
}

#[cfg(feature = "fdb")]
mod fdb {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everybody_is_told_of_every_change_and_nothing_remains() {
        let bed = crate::support::bed::Bed::fdb();
        super::everybody_is_told_of_every_change_and_nothing_remains(&bed).await;
    }
}

/// Longer than twins of an entry can come, in ticks.
const TWINS_OVER: u64 = 11_000_000;

/// The store as an engine without checks of claims: twins can be committed.
struct Unchecked;

impl Trouble for Unchecked {}

#[derive(Debug, Clone)]
enum Op {
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

const IDS: usize = 3;
const KINDS: [&str; 3] = ["message", "visit", "flirt"];
const ACTORS: [&str; 2] = ["anna", "ben"];
/// Indexes of feeds; the first two share a partition.
const FEED_SETS: [&[usize]; 3] = [&[0], &[1, 0], &[2, 0, 1]];

fn any_op() -> impl Strategy<Value = Op> {
    let append = (0..IDS, 0..KINDS.len(), 0..ACTORS.len(), 1..8usize);
    prop_oneof![
        6 => append.prop_map(|(id, kind, actor, feeds)| Op::Append { id, kind, actor, feeds }),
        3 => (1..4usize, 1..8usize).prop_map(|(back, feeds)| Op::Twin { back, feeds }),
        5 => (0..IDS).prop_map(|id| Op::Edit { id }),
        3 => (0..IDS).prop_map(|id| Op::Erase { id }),
        1 => proptest::collection::vec(0..IDS, 1..4).prop_map(Op::EraseEvents),
        1 => (0..3usize, any::<bool>()).prop_map(|(feed, everywhere)| Op::EraseFeed { feed, everywhere }),
        1 => (0..ACTORS.len()).prop_map(Op::EraseActor),
        2 => (1..6usize).prop_map(|events| Op::Project { events }),
        3 => Just(Op::Settle),
    ]
}

/// Runs on a store in which twins can be committed.
async fn everybody_is_told_of_every_change_and_nothing_remains(bed: &Bed) {
    // Elsewhere, time passes by itself.
    let cases = if bed.prefix().is_empty() { 60 } else { 4 };
    let number = std::cell::Cell::new(0);
    for_random(
        cases,
        proptest::collection::vec(any_op(), 1..18),
        async |ops| {
            number.set(number.get() + 1);
            let mut run = Run::new(bed, number.get()).await;
            run.begin().await;
            for op in ops {
                run.take(op).await;
            }
            run.check(false).await;
            run.settle().await;
            run.check(true).await;
        },
    );
}

struct Run {
    name: String,
    store: Arc<dyn Store>,
    raw: Raw,
    wall: WallTime,
    /// The engine has a clock of its own.
    waits: bool,
    feeds: [FeedName; 3],
    reader: Feeds,
    lifecycle: Lifecycle,
    model: Model,
    /// Everything before belongs to other histories.
    start: Version,
    texts: usize,
    /// Texts that must not be found.
    dead: Vec<String>,
    /// Versions of what was erased, and of news that later ones have replaced.
    gone: Vec<Version>,
}

impl Run {
    async fn new(bed: &Bed, number: usize) -> Self {
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
            start,
            texts: 0,
            dead: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Removes what an earlier history has left, if it failed.
    async fn begin(&mut self) {
        self.tick(TWINS_OVER);
        self.lifecycle.end_all().await.expect("the store works");
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        self.start = snapshot.version();
    }

    fn id(&self, id: usize) -> String {
        format!("{}/{id}", self.name)
    }

    fn text(&mut self) -> String {
        self.texts += 1;
        format!("\"text {} of {}\"", self.texts, self.name)
    }

    fn feeds_of(&self, bits: usize) -> Vec<FeedName> {
        let feeds = self.feeds.iter().enumerate();
        let feeds = feeds.filter(|(index, _)| bits & (1 << index) != 0);
        feeds.map(|(_, feed)| feed.clone()).collect()
    }

    async fn take(&mut self, op: Op) {
        match op {
            Op::Append {
                id,
                kind,
                actor,
                feeds,
            } => {
                let id = self.id(id);
                if self.model.0.iter().any(|commit| commit.id == id) {
                    return;
                }
                let feeds = self.feeds_of(feeds);
                self.commit(id, KINDS[kind], actor, feeds, 0).await;
            }
            Op::Twin { back, feeds } => {
                let index = self.model.0.len().checked_sub(back);
                let Some(first) = index.map(|index| self.model.0[index].clone()) else {
                    return;
                };
                // Whoever has seen any commit of the id does not commit it again.
                let mut of_id = self.model.0.iter();
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
                self.erased(|commit| ids.contains(&commit.id)).await;
            }
            Op::EraseFeed { feed, everywhere } => {
                let feed = self.feeds[feed].clone();
                // What is left of an event in other feeds has a model of its own.
                let is_shared = |commit: &Commit| {
                    commit.feeds.contains(&feed) && commit.feeds.len() > 1 && !commit.is_erased
                };
                let everywhere = everywhere || self.model.0.iter().any(is_shared);
                let what = What::Feed {
                    feed: feed.clone(),
                    everywhere,
                };
                self.job(what).await;
                let in_feed = self
                    .model
                    .0
                    .iter()
                    .filter(|it| it.feeds.contains(&feed) && !it.is_erased);
                let ids: Vec<String> = in_feed.map(|commit| commit.id.clone()).collect();
                self.erased(|commit| ids.contains(&commit.id)).await;
            }
            Op::EraseActor(actor) => {
                let actor = ACTORS[actor];
                let name: Actor = self.actor(actor).parse().expect("an actor");
                self.job(What::Actor(name)).await;
                self.erased(|commit| commit.actor == actor).await;
            }
            Op::Project { events } => self.project(events).await,
            Op::Settle if self.waits => {}
            Op::Settle => self.settle().await,
        }
    }

    /// Actors are not shared with other histories.
    fn actor(&self, actor: &str) -> String {
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
        let data = self.text();
        let draft = Draft {
            id: id.parse().expect("an id"),
            kind: kind.parse().expect("a kind"),
            delivery: delivery(kind),
            feeds: feeds.clone(),
            actor: Some(self.actor(ACTORS[actor]).parse().expect("an actor")),
            time: None,
            data: data_of(&data),
            expect: None,
        };
        let event = draft.check().expect("valid");
        let entry = writes::entry(&event, 1, read_at);
        let batch = writes::of_events(&self.raw.keys, &[(&event, entry)]).await;
        self.tick(1_000);
        let snapshot = self.raw.store.snapshot().await.expect("a snapshot");
        let version = snapshot.commit(batch).await.expect("a blind write commits");
        self.model.0.push(Commit {
            version,
            id,
            kind,
            actor: ACTORS[actor],
            feeds,
            data,
            read_at,
            edited: None,
            is_erased: false,
            news: None,
        });
    }

    /// Lets the wall clock go on, if it is the test's.
    fn tick(&self, ticks: u64) {
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
        let mut commits = self.model.0.iter_mut().filter(|commit| commit.id == id);
        let mut alive = commits
            .by_ref()
            .filter(|commit| !commit.is_erased)
            .peekable();
        match edited {
            Ok(edited) => {
                assert!(!edited.is_duplicate);
                let mut index = 0;
                for commit in alive {
                    self.dead
                        .push(std::mem::replace(&mut commit.data, data.clone()));
                    self.gone.extend(commit.news);
                    commit.edited = Some(edited.edited);
                    commit.news = Some(edited.edited.at_index(index));
                    index += 1;
                }
                assert!(index > 0, "an erased event was edited");
            }
            Err(Error::EventNotFound(_)) => {
                assert!(!self.model.0.iter().any(|commit| commit.id == id));
            }
            Err(Error::EventErased(_)) => {
                assert!(alive.peek().is_none(), "an event that was not erased is");
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn erase(&mut self, id: usize) {
        let id = self.id(id);
        self.tick(1_000);
        let erased = self
            .lifecycle
            .erase(&event_id(&id), None, &|_, _| Ok(()))
            .await;
        let of_id = |commit: &&Commit| commit.id == id;
        let exists = self.model.0.iter().any(|commit| of_id(&commit));
        let alive = self
            .model
            .0
            .iter()
            .filter(of_id)
            .any(|commit| !commit.is_erased);
        match erased {
            Ok(erased) => assert_eq!((exists, erased.erased.is_some()), (true, alive)),
            Err(Error::EventNotFound(_)) => assert!(!exists),
            Err(error) => panic!("{error}"),
        }
        self.erased(|commit| commit.id == id).await;
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
        let erasures = self.log(&Filter::default(), self.start, 100).await;
        let meant = self
            .model
            .0
            .iter_mut()
            .filter(|commit| !commit.is_erased && is_meant(commit));
        for commit in meant {
            commit.is_erased = true;
            self.gone.push(commit.version);
            self.gone.extend(commit.news);
            self.dead.push(std::mem::take(&mut commit.data));
            let is_news = |told: &&Told| told.what == Role::Erasure && told.of == commit.version;
            let mut news = erasures.iter().filter(is_news);
            commit.news = news.next().map(|told| told.position);
            assert!(commit.news.is_some() && news.next().is_none(), "{commit:?}");
        }
    }

    async fn project(&self, events: usize) {
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
    async fn settle(&mut self) {
        self.tick(TWINS_OVER);
        if self.waits {
            tokio::time::sleep(Duration::from_micros(TWINS_OVER)).await;
        }
        // Late twins of what was erased.
        let first = |commit: &Commit| {
            let mut earlier = self.model.0.iter();
            earlier
                .find(|other| other.id == commit.id)
                .map(|first| first.is_erased)
        };
        let late: Vec<Version> = self
            .model
            .0
            .iter()
            .filter(|commit| !commit.is_erased && first(commit) == Some(true))
            .map(|commit| commit.version)
            .collect();
        self.lifecycle.end_all().await.expect("the store works");
        self.erased(|commit| late.contains(&commit.version)).await;
        // Their places are gone, and nothing can be a twin of them any more.
    }

    async fn check(&self, is_settled: bool) {
        for feeds in FEED_SETS {
            let feeds: Vec<FeedName> = feeds
                .iter()
                .map(|&index| self.feeds[index].clone())
                .collect();
            self.check_feeds(&feeds).await;
        }
        for feed in &self.feeds {
            let state = self.reader.state(feed).await.expect("read");
            assert_eq!(
                state.unread.total,
                self.model.unread(feed),
                "{feed}: {:#?}",
                self.model
            );
            let told = self.model.told(std::slice::from_ref(feed));
            let entries = told
                .iter()
                .filter(|told| matches!(told.what, Role::Entry { .. }));
            let latest = entries.max_by_key(|told| told.position);
            assert_eq!(state.latest, latest.map(|told| told.position));
        }
        self.check_log().await;
        self.check_streams().await;
        self.check_remains(is_settled).await;
    }

    async fn check_feeds(&self, feeds: &[FeedName]) {
        let all = self.model.told(feeds);
        for limit in [1, 3, 200] {
            for cut in self.model.cuts() {
                let above = all.iter().filter(|told| told.position > cut);
                let found = self.pages(feeds, cut, limit, &[]).await;
                assert_eq!(
                    found,
                    above.cloned().collect::<Vec<_>>(),
                    "{limit} above {cut:?}: {:#?}",
                    self.model
                );
            }
        }
        for kind in KINDS {
            let kinds = [kind];
            for cut in self.model.cuts() {
                let above = all
                    .iter()
                    .filter(|told| told.position > cut && told.kind == kind);
                let found = self.pages(feeds, cut, 2, &kinds).await;
                assert_eq!(
                    found,
                    above.cloned().collect::<Vec<_>>(),
                    "{kind} above {cut:?}: {:#?}",
                    self.model
                );
            }
        }
        let query = PageQuery {
            feeds: feeds.to_vec(),
            order: Order::<Version>::NewestFirst {
                until: None,
                before: None,
            },
            limit: 200,
            bytes: PAGE_BYTES_MAX,
            kinds: Vec::new(),
        };
        let page = self.reader.page(&query).await.expect("a page");
        let entries = page.entries.iter();
        let mut found: Vec<Told> = entries
            .map(|it| self.told(&it.entry, &it.feeds, feeds))
            .collect();
        found.reverse();
        let entries = all
            .iter()
            .filter(|told| matches!(told.what, Role::Entry { .. }));
        assert_eq!(
            found,
            entries.cloned().collect::<Vec<_>>(),
            "{:#?}",
            self.model
        );
    }

    fn told(&self, entry: &newsfeed::types::Entry, held_by: &[usize], feeds: &[FeedName]) -> Told {
        let feeds = held_by.iter().map(|&index| feeds[index].clone()).collect();
        self.plain(told(entry, feeds))
    }

    /// With the actor as the model knows it.
    fn plain(&self, mut told: Told) -> Told {
        let actor = told.actor.take();
        told.actor = actor.and_then(|actor| Some(actor.split_once('.')?.0.to_owned()));
        told
    }

    async fn pages(
        &self,
        feeds: &[FeedName],
        mut after: Version,
        limit: usize,
        kinds: &[&str],
    ) -> Vec<Told> {
        let mut found = Vec::new();
        loop {
            let query = PageQuery {
                feeds: feeds.to_vec(),
                order: Order::OldestFirst { after, until: None },
                limit,
                bytes: PAGE_BYTES_MAX,
                kinds: kinds
                    .iter()
                    .map(|kind| kind.parse().expect("a kind"))
                    .collect(),
            };
            let page = self.reader.page(&query).await.expect("a page");
            assert!(page.entries.len() <= limit);
            found.extend(
                page.entries
                    .iter()
                    .map(|it| self.told(&it.entry, &it.feeds, feeds)),
            );
            match page.next {
                Some(next) => after = next,
                None => return found,
            }
        }
    }

    async fn log(&self, filter: &Filter, mut after: Version, limit: usize) -> Vec<Told> {
        let mut found = Vec::new();
        loop {
            let query = LogQuery {
                filter: Arc::new(filter.clone()),
                order: Order::OldestFirst { after, until: None },
                limit,
                bytes: PAGE_BYTES_MAX,
            };
            let page = self.reader.log_page(&query).await.expect("a page");
            let events = page.events.into_iter();
            found.extend(events.map(|it| self.plain(told(&it.entry, it.feeds))));
            match page.next {
                Some(next) => after = next,
                None => return found,
            }
        }
    }

    async fn check_log(&self) {
        let all = self.model.log();
        let cuts = self.model.cuts().into_iter().chain([self.start]);
        for cut in cuts {
            for limit in [1, 100] {
                let above = all.iter().filter(|told| told.position > cut);
                let found = self.log(&Filter::default(), cut, limit).await;
                assert_eq!(
                    found,
                    above.cloned().collect::<Vec<_>>(),
                    "log above {cut:?}: {:#?}",
                    self.model
                );
            }
            for kind in KINDS {
                let filter = Filter {
                    kinds: vec![kind.parse().expect("a kind")],
                    ..Filter::default()
                };
                let above = all
                    .iter()
                    .filter(|told| told.position > cut && told.kind == kind);
                let found = self.log(&filter, cut, 2).await;
                assert_eq!(
                    found,
                    above.cloned().collect::<Vec<_>>(),
                    "{kind} above {cut:?}: {:#?}",
                    self.model
                );
            }
            for actor in ACTORS {
                let filter = Filter {
                    actors: vec![self.actor(actor).parse().expect("an actor")],
                    ..Filter::default()
                };
                let is_by =
                    |told: &&Told| told.actor.as_deref() == Some(actor) || told.actor.is_none();
                let above = all.iter().filter(|told| told.position > cut).filter(is_by);
                let found = self.log(&filter, cut, 2).await;
                assert_eq!(
                    found,
                    above.cloned().collect::<Vec<_>>(),
                    "{actor} above {cut:?}: {:#?}",
                    self.model
                );
            }
        }
    }

    /// Streams that begin at every cut.
    async fn check_streams(&self) {
        let live = Live::start(Arc::clone(&self.store), self.raw.keys.clone());
        let feeds = &self.feeds[..];
        let all = self.model.told(feeds);
        for cut in self.model.cuts() {
            let recorder = live.follow(feeds, Some(cut)).await;
            let found = recorder.received.into_iter();
            let found = found.map(|(entry, feeds)| self.plain(told(&entry, feeds)));
            let above = all.iter().filter(|told| told.position > cut);
            assert_eq!(
                found.collect::<Vec<_>>(),
                above.cloned().collect::<Vec<_>>(),
                "stream above {cut:?}: {:#?}",
                self.model
            );
        }
    }

    /// Nothing of what was replaced or erased is in any key or value.
    async fn check_remains(&self, is_settled: bool) {
        let mut dead = self.dead.clone();
        for actor in ACTORS {
            if !self
                .model
                .0
                .iter()
                .any(|commit| commit.actor == actor && !commit.is_erased)
            {
                dead.push(self.actor(actor));
            }
        }
        let mut begin = self.raw.keys.feeds().0[..self.raw.keys.feeds().0.len() - 3].to_vec();
        let end = [&begin[..], &[0xff]].concat();
        begin.push(0);
        let everything = Range::all(begin, end);
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        let slices = snapshot.ranges(vec![everything]).await.expect("read");
        assert!(!slices[0].items.is_empty());
        let claims = self.raw.keys.claim(&event_id("x"));
        let claims = &claims[..claims.len() - 3];
        for item in &slices[0].items {
            let is_gone = |version: &Version| item.key.ends_with(&version.to_bytes());
            let is_left = is_settled && !item.key.starts_with(claims);
            assert!(
                !is_left || !self.gone.iter().any(is_gone),
                "{item:?} is left: {:#?}",
                self.model
            );
            for dead in &dead {
                let holds = |bytes: &[u8]| memchr::memmem::find(bytes, dead.as_bytes()).is_some();
                assert!(
                    !holds(&item.key) && !holds(&item.value),
                    "{dead} remains in {item:?}: {:#?}",
                    self.model
                );
            }
        }
    }
}

fn event_id(id: &str) -> EventId {
    id.parse().expect("an id")
}
