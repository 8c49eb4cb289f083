//! Random histories of appends with twins, edits and erasures, between the steps of sweeps at any times: what goes is due,
//! what is due goes, every reader is told what the model says or that its cursor is expired, and nothing else is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use newsfeed::{
    append::{Appender, Outcome as Appended},
    clock::AtClock,
    lifecycle::retention::{Limits, Outcome, Pass, Retention, Rule, Step},
    lineage::Lineage,
    store::{
        Batch,
        keys::{TIME_STEP, entry_keys, version_of, versioned},
        rows::decode_sweep,
        transact,
        values::{decode_records, decode_version, encode_time},
    },
    times::version_at,
    types::FeedName,
    version::Version,
};
use proptest::prelude::*;

use super::{
    changes::any_op,
    model::Commit,
    run::{KINDS, Op, Run},
};
use crate::support::{bed::Bed, model::for_random};

mod embedded {
    use newsfeed::clock::WallTime;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_kept_is_told_exactly_and_nothing_else_is_left() {
        for_random(20, any_history(10..40), async |history| {
            let bed = Bed::embedded_at(WallTime::manual(1_000_000_000));
            check(&bed, history).await;
        });
    }
}

#[cfg(feature = "fdb")]
mod fdb {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    use super::*;

    /// Time passes by itself, and for all histories at once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_kept_is_told_exactly_and_nothing_else_is_left() {
        let mut runner = TestRunner::default();
        let histories = (0..6).map(|_| {
            let history = any_history(10..11).new_tree(&mut runner);
            history.expect("a history").current()
        });
        let checks = histories.map(async |history| check(&Bed::fdb(), history).await);
        futures_util::future::join_all(checks).await;
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Do(Op),
    /// Time passes.
    Later {
        seconds: u64,
    },
    /// Time passes until an event is as old as a rule says, or the log's age, give or take some ticks.
    Horizon {
        back: usize,
        rule: usize,
        ticks: i64,
    },
    Sweep {
        steps: usize,
        removed: usize,
        reads: usize,
    },
}

#[derive(Debug, Clone)]
struct History {
    rules: Vec<Kept>,
    log_age: Option<u64>,
    deeds: Vec<Deed>,
}

/// A rule in its plainest form. Ages are in seconds.
#[derive(Debug, Clone)]
struct Kept {
    /// `None`: all feeds.
    feed: Option<usize>,
    /// Empty: all.
    kinds: Vec<&'static str>,
    age: Option<u64>,
    entries: Option<usize>,
}

fn any_history(ages: std::ops::Range<u64>) -> impl Strategy<Value = History> {
    let age = {
        let ages = ages.clone();
        move || proptest::option::weighted(0.7, ages.clone())
    };
    let kinds = prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec![KINDS[0]]),
        1 => Just(vec![KINDS[1], KINDS[2]]),
    ];
    let rule = (
        proptest::option::of(0..3usize),
        kinds,
        age(),
        proptest::option::of(1..4usize),
    );
    let rule = rule.prop_map(|(feed, kinds, age, entries)| Kept {
        feed,
        kinds,
        entries: entries.filter(|_| age.is_some()).or(match age {
            Some(_) => None,
            None => Some(2),
        }),
        age,
    });
    let steps = prop_oneof![1 => 1..4usize, 2 => Just(usize::MAX)];
    let some = prop_oneof![1..4usize, Just(200)];
    let reads = prop_oneof![1..12usize, Just(1_000)];
    let deed = prop_oneof![
        10 => any_op().prop_map(Deed::Do),
        2 => (1..90u64).prop_map(|seconds| Deed::Later { seconds }),
        2 => (1..9usize, 0..4usize, -1..2i64)
            .prop_map(|(back, rule, ticks)| Deed::Horizon { back, rule, ticks }),
        4 => (steps, some, reads)
            .prop_map(|(steps, removed, reads)| Deed::Sweep { steps, removed, reads }),
    ];
    let rules = proptest::collection::vec(rule, 0..3);
    let deeds = proptest::collection::vec(deed, 4..30);
    (rules, age(), deeds)
        .prop_filter("keeps everything", |(rules, log_age, _)| {
            !rules.is_empty() || log_age.is_some()
        })
        .prop_map(|(rules, log_age, deeds)| History {
            rules,
            log_age,
            deeds,
        })
}

/// How often time passes by itself.
const WAITS: usize = 2;
/// Longer than the ages of rules on engines on which time passes by itself.
const WAIT: Duration = Duration::from_secs(12);

async fn check(bed: &Bed, history: History) {
    let mut run = Run::new(bed, 0).await;
    run.is_alone = true;
    run.sweeps = Sweeps::new(&run.feeds, &history);
    run.write_time().await;
    let mut waits = 0;
    for deed in history.deeds {
        match deed {
            Deed::Do(op) => run.take(op).await,
            Deed::Later { seconds } if !run.waits => run.tick(seconds * 1_000_000),
            Deed::Horizon { back, rule, ticks } if !run.waits => run.wait_until(back, rule, ticks),
            Deed::Later { .. } | Deed::Horizon { .. } if waits == WAITS => {}
            Deed::Later { .. } | Deed::Horizon { .. } => {
                waits += 1;
                tokio::time::sleep(WAIT).await;
            }
            Deed::Sweep {
                steps,
                removed,
                reads,
            } => {
                let limits = Limits {
                    removed,
                    reads,
                    bytes: usize::MAX,
                };
                run.sweep(steps, limits).await;
            }
        }
    }
    run.check(false).await;
    run.settle().await;
    // The pass that is under way, and one that begins now.
    run.sweep(usize::MAX, Limits::default()).await;
    run.sweep(usize::MAX, Limits::default()).await;
    run.project(1_000).await;
    run.check(true).await;
    run.append_again(bed).await;
    bed.close().await;
}

/// What the rules keep, and how far the sweep is.
#[derive(Debug, Default)]
pub struct Sweeps {
    retention: Retention,
    rules: Vec<Kept>,
    log_age: Option<u64>,
    pass: Option<Pass>,
    /// When the last pass began, in µs since 1970.
    began: u64,
    present: Option<Present>,
}

/// The pass that is under way.
#[derive(Debug)]
struct Present {
    /// What has reached its age, by rule and in the log.
    ages: Vec<Version>,
    log: Version,
    /// Nothing above goes.
    floor: Version,
    /// What the pass must remove, and what it may.
    must: BTreeSet<(FeedName, Version)>,
    may: BTreeSet<(FeedName, Version)>,
    /// Before the pass.
    trimmed: BTreeMap<FeedName, Version>,
}

impl Sweeps {
    fn new(feeds: &[FeedName; 3], history: &History) -> Self {
        let rule = |kept: &Kept| Rule {
            feeds: kept
                .feed
                .map_or("*".to_owned(), |feed| feeds[feed].to_string()),
            kinds: kept
                .kinds
                .iter()
                .map(|it| it.parse().expect("a kind"))
                .collect(),
            age: kept.age.map(Duration::from_secs),
            entries: kept.entries.map(|entries| entries as u64),
        };
        Self {
            retention: Retention {
                rules: history.rules.iter().map(rule).collect(),
                log_age: history.log_age.map(Duration::from_secs),
            },
            rules: history.rules.clone(),
            log_age: history.log_age,
            ..Self::default()
        }
    }
}

impl Run {
    fn rule_of(&self, feed: &FeedName, kind: &str) -> Option<usize> {
        let fits = |rule: &Kept| {
            let is_about = rule.feed.is_none_or(|index| self.feeds[index] == *feed);
            is_about && (rule.kinds.is_empty() || rule.kinds.contains(&kind))
        };
        self.sweeps.rules.iter().position(fits)
    }

    /// Whether kinds in this feed are kept differently, so that something may go from between what stays.
    fn is_mixed(&self, feed: &FeedName) -> bool {
        let mut rules = self.sweeps.rules.iter();
        let about = |rule: &&Kept| rule.feed.is_none_or(|index| self.feeds[index] == *feed);
        let first = rules.find(about);
        first.is_none_or(|rule| !rule.kinds.is_empty())
    }

    /// Lets the clock go on until a commit has the age of a rule: one that has twins, if there is one.
    fn wait_until(&self, back: usize, rule: usize, ticks: i64) {
        let commits = &self.model.commits;
        let has_twin = |first: &&Commit| {
            let mut later = commits.iter().filter(|it| it.version > first.version);
            later.any(|twin| twin.id == first.id)
        };
        let mut chosen: Vec<&Commit> = commits.iter().filter(has_twin).collect();
        if chosen.is_empty() {
            chosen = commits.iter().collect();
        }
        let ages = self.sweeps.rules.iter().map(|rule| rule.age);
        let ages: Vec<u64> = ages.chain([self.sweeps.log_age]).flatten().collect();
        if !chosen.is_empty() && !ages.is_empty() {
            let commit = chosen[chosen.len() - 1 - back % chosen.len()];
            let age = ages[rule % ages.len()] * 1_000_000;
            let then = (commit.version.time() + age).saturating_add_signed(ticks);
            self.wall.set(self.wall.micros().max(then));
        }
    }

    /// As a node does every 10 s. On one machine, the moment of a snapshot moves with commits.
    async fn write_time(&self) {
        let step = TIME_STEP.as_micros() as u64;
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        let now = self.wall.micros();
        let then = snapshot.taken_at().saturating_sub(now % step);
        let row = encode_time(Version::moment(snapshot.version().epoch(), then));
        let batch = Batch {
            puts: vec![(self.raw.keys.time(now / step), row)],
            ..Batch::default()
        };
        snapshot.commit(batch).await.expect("committed");
    }

    /// Takes up to so many steps of the pass that is under way, or of a new one.
    async fn sweep(&mut self, steps: usize, limits: Limits) {
        if self.sweeps.present.is_none() {
            let interval = self.sweeps.retention.interval().as_micros() as u64;
            let next = self.sweeps.began + interval;
            // A clock that cannot be set is not asked.
            self.wall.set(self.wall.micros().max(next));
            self.write_time().await;
            self.sweeps.began = self.wall.micros().max(next);
        }
        let before = self.model.gone.clone();
        for _ in 0..steps {
            if self.step(limits).await == Outcome::IsComplete {
                self.check_complete().await;
                break;
            }
        }
        self.check_kept(&before).await;
    }

    async fn step(&mut self, limits: Limits) -> Outcome {
        let (keys, lineage) = (self.raw.keys.clone(), Lineage::new(self.raw.keys.clone()));
        let mut pass = self.sweeps.pass.take();
        let now = self.sweeps.began;
        let mut step = Step::new(&keys, &lineage, &self.sweeps.retention, &mut pass, now);
        step.limits = limits;
        let progress = transact(&*self.store, &mut step).await.expect("a step");
        self.sweeps.pass = pass;
        assert!(matches!(
            progress.outcome,
            Outcome::GoesOn | Outcome::IsComplete
        ));
        if self.sweeps.present.is_none() {
            self.begin_pass().await;
        }
        let due = self.due();
        if let Some(present) = &mut self.sweeps.present {
            present.must.retain(|place| due.contains(place));
            present.may.extend(due);
        }
        self.observe().await;
        progress.outcome
    }

    /// What the pass is about, according to the row of the sweep.
    async fn begin_pass(&mut self) {
        let (keys, key) = (&self.raw.keys, self.raw.keys.sweep());
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        let value = snapshot
            .get(vec![key.clone()])
            .await
            .expect("read")
            .remove(0);
        let row = decode_sweep(&key, &value.expect("a row")).expect("undamaged");
        assert_eq!(row.began, self.sweeps.began);
        let known = Lineage::new(keys.clone())
            .at(&*snapshot)
            .await
            .expect("read");
        let began_at = row.began_at;
        let floor = Version::moment(began_at.epoch(), began_at.time().saturating_sub(10_000_000));
        let reached = async |age: Option<u64>| match age {
            None => Version::ZERO,
            Some(age) => {
                let then = row.began - age * 1_000_000;
                let version = version_at(&*snapshot, keys, &known, then).await;
                version.expect("read").min(floor)
            }
        };
        let mut ages = Vec::new();
        for rule in &self.sweeps.rules {
            ages.push(reached(rule.age).await);
        }
        self.sweeps.present = Some(Present {
            ages,
            log: reached(self.sweeps.log_age).await,
            floor,
            must: BTreeSet::new(),
            may: BTreeSet::new(),
            trimmed: self.model.trimmed.clone(),
        });
        let due = self.due();
        self.sweeps.present.as_mut().expect("just begun").must = due;
    }

    /// The entries that are too old or too many, as things are.
    fn due(&self) -> BTreeSet<(FeedName, Version)> {
        let mut due = BTreeSet::new();
        let Some(present) = &self.sweeps.present else {
            return due;
        };
        for feed in &self.feeds {
            let mut newer = vec![0; self.sweeps.rules.len()];
            let shown = self.model.told(std::slice::from_ref(feed));
            for told in shown.iter().filter(|told| told.is_entry()).rev() {
                let Some(index) = self.rule_of(feed, &told.kind) else {
                    continue;
                };
                newer[index] += 1;
                let most = self.sweeps.rules[index].entries;
                let is_too_much = most.is_some_and(|most| newer[index] > most);
                let is_too_old = told.position <= present.ages[index];
                if is_too_old || is_too_much && told.position <= present.floor {
                    due.insert((feed.clone(), told.position));
                }
            }
        }
        due
    }

    /// Looks what is gone, which must have been due, and notes it in the model.
    async fn observe(&mut self) {
        let keys = self.raw.keys.clone();
        let items = self.everything().await;
        let stored: BTreeSet<&[u8]> = items.iter().map(|item| &item.key[..]).collect();
        let holds = |prefix: Vec<u8>, version| stored.contains(&versioned(&prefix, version)[..]);
        for feed in &self.feeds {
            let key = keys.trimmed(feed);
            if let Some(item) = items.iter().find(|item| item.key == key) {
                let trimmed = decode_version(&key, &item.value).expect("undamaged");
                let before = self.model.trimmed.insert(feed.clone(), trimmed);
                assert!(before.is_none_or(|before| before <= trimmed));
            }
        }
        let present = self.sweeps.present.as_ref().expect("a pass is under way");
        let trimmed_log = keys.trimmed_log();
        if let Some(item) = items.iter().find(|item| item.key == trimmed_log) {
            let trimmed = decode_version(&trimmed_log, &item.value).expect("undamaged");
            let most = self.model.trimmed_log.max(present.log);
            assert!(self.model.trimmed_log <= trimmed && trimmed <= most);
            self.model.trimmed_log = trimmed;
        }
        let mut logged = BTreeSet::new();
        for partition in 0..keys.partitions() {
            let log = keys.log(partition);
            for item in items.iter().filter(|item| item.key.starts_with(&log)) {
                let records = decode_records(item).expect("undamaged");
                logged.extend(records.iter().map(|it| (partition, it.entry.version)));
            }
        }
        let mut gone = Vec::new();
        for commit in &self.model.commits {
            let version = commit.version;
            let partition = keys.partition(&commit.feeds[0]);
            if !logged.contains(&(partition, version)) {
                self.out_of_log.insert(version);
            }
            let feeds = commit.feeds.iter();
            let alive =
                feeds.filter(|feed| !commit.is_erased && !self.model.is_gone(feed, version));
            let is_held = |feed: &FeedName| {
                let places = entry_keys(&keys.feed(feed), version);
                places.iter().any(|key| stored.contains(&key[..]))
            };
            for feed in alive.filter(|feed| !is_held(feed)) {
                let place = (feed.clone(), version);
                let may = present.may.contains(&place) || self.model.is_twin(commit, feed);
                assert!(may, "{place:?} is not due: {:#?}", self.model);
                gone.push(place);
            }
        }
        self.model.gone.extend(gone);
        let mut gone = Vec::new();
        for commit in &self.model.commits {
            let Some((news, told)) = &commit.news else {
                continue;
            };
            for feed in told.iter().filter(|feed| !self.model.is_gone(feed, *news)) {
                let goes = !commit.is_erased && self.model.is_gone(feed, commit.version);
                let trimmed = self.model.oldest(std::slice::from_ref(feed));
                let is_old = self.is_old_news(commit, feed, *news);
                match holds(keys.change(feed), *news) {
                    true => assert!(!goes, "news of {commit:?} in {feed} is left"),
                    false => {
                        let may = goes || is_old || *news <= trimmed;
                        assert!(may, "news of {commit:?} in {feed} is not due");
                        gone.push((feed.clone(), *news));
                    }
                }
            }
            let is_logged = logged.iter().any(|(_, version)| version == news);
            if !is_logged && *news > self.model.trimmed_log {
                let goes = !commit.is_erased && !self.is_logged(commit);
                assert!(goes, "news of {commit:?} is not due: {:#?}", self.model);
                self.model.unlogged.insert(*news);
            }
        }
        self.model.gone.extend(gone);
    }

    fn is_logged(&self, commit: &Commit) -> bool {
        let is_trimmed = commit.version <= self.model.trimmed_log;
        !is_trimmed && !self.out_of_log.contains(&commit.version)
    }

    fn is_old_news(&self, commit: &Commit, feed: &FeedName, news: Version) -> bool {
        let present = self.sweeps.present.as_ref().expect("a pass is under way");
        let rule = self.rule_of(feed, commit.kind);
        rule.is_some_and(|rule| news <= present.ages[rule])
    }

    /// Everything that was due when the pass began is gone.
    async fn check_complete(&mut self) {
        let present = self.sweeps.present.as_ref().expect("a pass is under way");
        for place in &present.must {
            let is_gone = self.model.gone.contains(place);
            assert!(is_gone, "{place:?} is left: {:#?}", self.model);
        }
        for commit in &self.model.commits {
            let Some((news, told)) = &commit.news else {
                continue;
            };
            for feed in told {
                let trimmed = present.trimmed.get(feed);
                let is_due = self.is_old_news(commit, feed, *news)
                    || trimmed.is_some_and(|trimmed| news <= trimmed);
                let is_left = is_due && !self.model.is_gone(feed, *news);
                assert!(!is_left, "old news of {commit:?} is left in {feed}");
            }
        }
        let trimmed = present.log.max(self.model.trimmed_log);
        for item in self.everything().await {
            let keys = &self.raw.keys;
            let mut logs = (0..keys.partitions()).map(|partition| keys.log(partition));
            let is_log = logs.any(|log| item.key.starts_with(&log));
            let is_left = is_log && version_of(&item.key).is_ok_and(|it| it <= trimmed);
            assert!(!is_left, "{item:?} of the log is left");
        }
        self.sweeps.present = None;
        self.check_remains(false).await;
    }

    /// Readers are told if they could have missed something; whoever holds a copy holds a claim.
    async fn check_kept(&self, before: &BTreeSet<(FeedName, Version)>) {
        for feed in &self.feeds {
            let trimmed = self.model.oldest(std::slice::from_ref(feed));
            let told = self.model.told(std::slice::from_ref(feed));
            let oldest = told.iter().find(|told| told.is_entry());
            let oldest = oldest.map(|told| told.position);
            let is_kept = oldest.is_none_or(|oldest| trimmed < oldest);
            assert!(
                is_kept,
                "{feed} is expired up to {trimmed}: {:#?}",
                self.model
            );
            let gone = self.model.commits.iter().filter(|commit| {
                let is_gone = self.model.is_gone(feed, commit.version);
                is_gone && !commit.is_erased && !self.model.is_twin(commit, feed)
            });
            for commit in gone {
                let is_between = oldest.is_some_and(|oldest| oldest < commit.version)
                    || before.contains(&(feed.clone(), commit.version));
                let is_told = commit.version <= trimmed || self.is_mixed(feed) && is_between;
                assert!(
                    is_told,
                    "{commit:?} is missing in {feed}: {:#?}",
                    self.model
                );
            }
        }
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        for commit in &self.model.commits {
            let id = super::run::event_id(&commit.id);
            let claims = vec![self.raw.keys.first_claim(&id)];
            let claims = snapshot.ranges(claims).await.expect("read");
            let is_claimed = !claims[0].items.is_empty();
            let should = self.exists(&commit.id) || self.is_erased(&commit.id);
            assert!(is_claimed || !should, "{commit:?} is not claimed");
        }
    }

    /// What is kept in any way is a duplicate, what was erased stays erased, and all else is new.
    async fn append_again(&self, bed: &Bed) {
        let clock = Arc::new(AtClock::new(self.wall.clone()).expect("the clock runs"));
        let tuning = crate::support::bed::default_settings().appends;
        let (appender, _batcher) = Appender::start(
            bed.store(),
            self.raw.keys.clone(),
            clock,
            tuning,
            Default::default(),
            Arc::default(),
        );
        let mut seen = BTreeSet::new();
        for first in self.model.commits.iter().filter(|it| seen.insert(&it.id)) {
            let event = self.event(first, &first.first_data);
            let permit = appender.try_reserve(vec![event]).expect("room");
            let (_, outcome) = permit.append().await.expect("answered").remove(0);
            let expected = match (self.exists(&first.id), self.is_erased(&first.id)) {
                (true, _) => matches!(outcome, Appended::Duplicate(at) if at == first.version),
                (_, true) => matches!(outcome, Appended::Erased(_)),
                _ => matches!(outcome, Appended::Appended(_)),
            };
            assert!(expected, "{outcome:?} of {first:?}: {:#?}", self.model);
        }
    }
}
