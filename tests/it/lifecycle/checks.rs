//! Every reader is compared with the model, and what is stored with what may be.

use std::{collections::BTreeSet, sync::Arc};

use newsfeed::{
    error::Error,
    feed::{Order, PAGE_BYTES_MAX, PageQuery},
    log::{Filter, LogQuery},
    store::{
        KeyValue, Range,
        keys::{unread_versioned, version_of, versioned},
    },
    types::{FeedName, Kind, ReaderName},
    version::Version,
};

use super::{
    model::{Commit, Told, told},
    run::{ACTORS, FEED_SETS, KINDS, Run, event_id},
};
use crate::support::follower::Live;

impl Run {
    pub async fn check(&self, is_settled: bool) {
        for feeds in FEED_SETS {
            let feeds: Vec<FeedName> = feeds
                .iter()
                .map(|&index| self.feeds[index].clone())
                .collect();
            self.check_feeds(&feeds).await;
        }
        for feed in &self.feeds {
            let state = self
                .reader
                .state(feed, &ReaderName::OWN)
                .await
                .expect("read");
            assert_eq!(
                state.unread.total,
                self.model.unread(feed),
                "{feed}: {:#?}",
                self.model
            );
            let told = self.model.told(std::slice::from_ref(feed));
            let entries = told.iter().filter(|told| told.is_entry());
            let latest = entries.max_by_key(|told| told.position);
            assert_eq!(state.latest, latest.map(|told| told.position));
        }
        self.check_log().await;
        self.check_streams().await;
        self.check_remains(is_settled).await;
    }

    async fn check_feeds(&self, feeds: &[FeedName]) {
        let all = self.model.told(feeds);
        let oldest = self.model.oldest(feeds);
        for (index, cut) in self.cuts().into_iter().enumerate() {
            // Small pages from one cut end at all others.
            let limits: &[usize] = match index {
                0 | 1 => &[1, 200],
                _ => &[3],
            };
            for limit in limits {
                let found = self.pages(feeds, (cut, false), *limit, &[]).await;
                self.compare(found, &all, (cut, oldest), |_| true);
            }
            let kind = KINDS[index % KINDS.len()];
            let found = self.pages(feeds, (cut, false), 2, &[kind]).await;
            self.compare(found, &all, (cut, oldest), |told| told.kind == kind);
            if cut < oldest {
                let found = self.pages(feeds, (cut, true), 3, &[]).await;
                self.compare(found, &all, (cut, Version::ZERO), |_| true);
            }
        }
        for kinds in [&[][..], &KINDS[..1], &KINDS[1..]] {
            let query = PageQuery {
                feeds: feeds.to_vec(),
                order: Order::<Version>::NewestFirst {
                    until: None,
                    before: None,
                },
                limit: 200,
                bytes: PAGE_BYTES_MAX,
                kinds: kinds_of(kinds),
                states: None,
            };
            let page = self.reader.page(&query).await.expect("a page");
            let entries = page.entries.iter();
            let mut found: Vec<Told> = entries
                .map(|it| self.told(&it.entry, &it.feeds, feeds))
                .collect();
            found.reverse();
            let is_wanted =
                |told: &Told| told.is_entry() && (kinds.is_empty() || kinds.contains(&&*told.kind));
            self.compare(Ok(found), &all, (Version::ZERO, oldest), is_wanted);
        }
    }

    /// Where readers continue: at every cut, and from the beginning.
    fn cuts(&self) -> Vec<Version> {
        let begin = match self.is_alone {
            true => Version::ZERO,
            false => self.start,
        };
        let cuts = self.model.cuts().into_iter();
        std::iter::once(begin).chain(cuts).collect()
    }

    /// A reader that continues from `cut` must have found what the model has of `all`, if that is not below `oldest`.
    fn compare(
        &self,
        found: Result<Vec<Told>, Version>,
        all: &[Told],
        (cut, oldest): (Version, Version),
        is_wanted: impl Fn(&Told) -> bool,
    ) {
        let above = all.iter().filter(|told| told.position > cut);
        let above = above.filter(|told| is_wanted(told)).cloned().collect();
        let expected = match cut > Version::ZERO && cut < oldest {
            true => Err(oldest),
            false => Ok(above),
        };
        assert_eq!(found, expected, "above {cut:?}: {:#?}", self.model);
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

    /// What is found above `after`, or the oldest version to continue from. What is kept, from the beginning or if `kept`.
    async fn pages(
        &self,
        feeds: &[FeedName],
        (mut after, kept): (Version, bool),
        limit: usize,
        kinds: &[&str],
    ) -> Result<Vec<Told>, Version> {
        let mut found = Vec::new();
        let kept = kept || after == Version::ZERO;
        loop {
            let query = PageQuery {
                feeds: feeds.to_vec(),
                order: Order::OldestFirst {
                    after,
                    until: None,
                    kept,
                },
                limit,
                bytes: PAGE_BYTES_MAX,
                kinds: kinds_of(kinds),
                states: None,
            };
            let page = self.reader.page(&query).await.map_err(expired)?;
            assert!(page.entries.len() <= limit);
            found.extend(
                page.entries
                    .iter()
                    .map(|it| self.told(&it.entry, &it.feeds, feeds)),
            );
            match page.next {
                Some(next) => after = next,
                None => return Ok(found),
            }
        }
    }

    /// As [`Self::pages`], of the log.
    pub async fn log(
        &self,
        filter: &Filter,
        mut after: Version,
        limit: usize,
    ) -> Result<Vec<Told>, Version> {
        let mut found = Vec::new();
        loop {
            let query = LogQuery {
                filter: Arc::new(filter.clone()),
                order: Order::OldestFirst {
                    after,
                    until: None,
                    kept: false,
                },
                limit,
                bytes: PAGE_BYTES_MAX,
            };
            let page = self.reader.log_page(&query).await.map_err(expired)?;
            let events = page.events.into_iter();
            found.extend(events.map(|it| self.plain(told(&it.entry, it.feeds))));
            match page.next {
                Some(next) => after = next,
                None => return Ok(found),
            }
        }
    }

    async fn check_log(&self) {
        let all = self.model.log();
        let oldest = self.model.trimmed_log;
        for (index, cut) in self.cuts().into_iter().enumerate() {
            let at = (cut, oldest);
            let limit = if index < 2 { 1 } else { 100 };
            let found = self.log(&Filter::default(), cut, limit).await;
            self.compare(found, &all, at, |_| true);
            let kind = KINDS[index % KINDS.len()];
            let filter = Filter {
                kinds: kinds_of(&[kind]),
                ..Filter::default()
            };
            let found = self.log(&filter, cut, 2).await;
            self.compare(found, &all, at, |told| told.kind == kind);
            let actor = ACTORS[index % ACTORS.len()];
            let filter = Filter {
                actors: vec![self.actor(actor).parse().expect("an actor")],
                ..Filter::default()
            };
            let is_by = |told: &Told| told.actor.as_deref() == Some(actor) || told.actor.is_none();
            let found = self.log(&filter, cut, 2).await;
            self.compare(found, &all, at, is_by);
        }
    }

    /// Streams that begin at every cut.
    async fn check_streams(&self) {
        let live = Live::start(Arc::clone(&self.store), self.raw.keys.clone());
        let feeds = &self.feeds[..];
        let all = self.model.told(feeds);
        let oldest = self.model.oldest(feeds);
        for cut in self.model.cuts().into_iter().filter(|cut| *cut >= oldest) {
            let recorder = live.follow(feeds, Some(cut)).await;
            let found = recorder.received.into_iter();
            let found = found.map(|(entry, feeds)| self.plain(told(&entry, feeds)));
            self.compare(Ok(found.collect()), &all, (cut, oldest), |_| true);
        }
    }

    pub async fn everything(&self) -> Vec<KeyValue> {
        let feeds = self.raw.keys.feeds().0;
        let mut begin = feeds[..feeds.len() - 3].to_vec();
        let end = [&begin[..], &[0xff]].concat();
        begin.push(0);
        let everything = Range::all(begin, end);
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        let slices = snapshot.ranges(vec![everything]).await.expect("read");
        let slice = slices.into_iter().next().expect("a slice");
        assert!(!slice.items.is_empty() && !slice.more);
        slice.items
    }

    /// Nothing of what was replaced, erased or removed is in any key or value. If `is_settled`, no key is left, either.
    pub async fn check_remains(&self, is_settled: bool) {
        let mut dead = self.dead.clone();
        let commits = &self.model.commits[..];
        for actor in ACTORS {
            let mut by_actor = commits.iter().filter(|commit| commit.actor == actor);
            if !by_actor.any(|commit| self.is_held(commit)) {
                dead.push(self.actor(actor));
            }
        }
        let forgotten = commits.iter().filter(|commit| !self.is_held(commit));
        let forgotten = forgotten.filter(|commit| !commit.data.is_empty());
        if is_settled {
            // An edit is of all commits of the id.
            let exists = |commit: &&Commit| self.exists(&commit.id);
            dead.extend(forgotten.filter(|it| !exists(it)).map(|it| it.data.clone()));
        }
        let positions = commits
            .iter()
            .flat_map(|commit| [Some(commit.version), commit.news_at()]);
        let positions: BTreeSet<Version> = positions
            .flatten()
            .chain(self.replaced.iter().copied())
            .collect();
        let allowed = self.allowed();
        for item in self.everything().await {
            let is_of_model = version_of(&item.key).is_ok_and(|it| positions.contains(&it));
            let is_left = is_settled && is_of_model && !allowed.contains(&item.key[..]);
            assert!(!is_left, "{item:?} is left: {:#?}", self.model);
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

    /// The keys that there may be, of those that end with the version of a commit or of news.
    fn allowed(&self) -> BTreeSet<Vec<u8>> {
        let (keys, model) = (&self.raw.keys, &self.model);
        let mut allowed = BTreeSet::new();
        for commit in &model.commits {
            let version = commit.version;
            let kind = commit.kind.parse().expect("a kind");
            let actor = self.actor(commit.actor).parse().expect("an actor");
            let indexes = [keys.log_by_kind(&kind), keys.log_by_actor(&actor)];
            let partitions = commit.feeds.iter().map(|feed| keys.partition(feed));
            let logs: Vec<_> = partitions.map(|it| keys.log(it)).collect();
            let id = event_id(&commit.id);
            let mut of_id = model.commits.iter().filter(|it| it.id == commit.id);
            let is_first = of_id.next().is_some_and(|first| first.version == version);
            if commit.is_erased && is_first || self.exists(&commit.id) {
                allowed.insert(versioned(&keys.claim(&id), version));
            }
            let feeds = commit.feeds.iter();
            let holders = feeds.filter(|it| !commit.is_erased && !model.is_gone(it, version));
            for feed in holders {
                allowed.insert(versioned(&keys.feed(feed), version));
                allowed.insert(versioned(&keys.feed_by_kind(feed, &kind), version));
                if commit.kind == "message" {
                    allowed.insert(unread_versioned(&keys.feed(feed), version));
                    allowed.insert(versioned(&keys.notify(feed), version));
                }
            }
            let is_logged = version > model.trimmed_log && !commit.is_erased;
            let entry = is_logged.then_some(version);
            let is_told =
                |news: &Version| *news > model.trimmed_log && !model.unlogged.contains(news);
            for at in entry.into_iter().chain(commit.news_at().filter(is_told)) {
                allowed.extend(logs.iter().chain(&indexes).map(|it| versioned(it, at)));
                allowed.insert(versioned(&keys.log_of_erasures(), at));
            }
            if let Some((news, told)) = &commit.news {
                let told = told.iter().filter(|feed| !model.is_gone(feed, *news));
                allowed.extend(told.map(|feed| versioned(&keys.change(feed), *news)));
            }
        }
        allowed
    }
}

fn kinds_of(kinds: &[&str]) -> Vec<Kind> {
    let kinds = kinds.iter();
    kinds.map(|kind| kind.parse().expect("a kind")).collect()
}

fn expired(error: Error) -> Version {
    match error {
        Error::CursorExpired { oldest, .. } => oldest,
        error => panic!("{error}"),
    }
}
