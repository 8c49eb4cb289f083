//! The sweep against the rules in their plainest form, on histories with twins anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::{pass::floor, *};
use crate::{
    dedup::testing::{Memory, any_history, feed, is_twin, plain_log},
    error::Error,
    feed::{Feeds, Order, PageQuery},
    lineage::Lineage,
    log::{Filter, LogQuery},
    projection::{self, Projection, Turn},
    store::{
        self, Batch, Found, Reads, Snapshot, Store, StoreErrors,
        keys::{Keys, entry_keys, unread_versioned, versioned},
        transact,
        values::{Record, encode_claim, encode_time},
    },
    types::{FeedName, Kind},
    version::Version,
};

const SECOND: u64 = 1_000_000;
/// The wall clock says this much more in the next epoch.
const EPOCH: u64 = 1_000 * SECOND;
const KINDS: [&str; 2] = ["message", "typing"];

/// A store in memory. Its versions do not grow.
#[derive(Clone)]
struct Shared(Arc<Mutex<Memory>>, Arc<StoreErrors>);

struct View(Memory, Shared);

impl Shared {
    fn memory(&self) -> Memory {
        self.0.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl Store for Shared {
    async fn begin(&self, reads: Reads) -> store::Result<(Box<dyn Snapshot>, Found)> {
        let view = View(self.memory(), self.clone());
        let found = view.read(reads).await?;
        Ok((Box::new(view), found))
    }

    async fn wait_for_commit(&self, _seen: Version) -> store::Result<()> {
        std::future::pending().await
    }

    fn errors(&self) -> &StoreErrors {
        &self.1
    }

    fn reads_at_once(&self) -> usize {
        1
    }

    async fn close(&self) {}
}

#[async_trait]
impl Snapshot for View {
    fn version(&self) -> Version {
        self.0.version
    }

    async fn read(&self, reads: Reads) -> store::Result<Found> {
        self.0.read(reads).await
    }

    async fn commit(self: Box<Self>, batch: Batch) -> store::Result<Version> {
        let mut memory = self.1.0.lock().expect("not poisoned");
        memory.apply(batch)?;
        Ok(memory.version)
    }
}

fn wall(version: Version) -> u64 {
    u64::from(version.epoch()) * EPOCH + version.time()
}

/// Histories of two feeds and two kinds. Each event has a text of its own.
fn any_events() -> impl Strategy<Value = Vec<Record>> {
    let kinds = proptest::collection::vec(0..KINDS.len(), 24);
    (any_history(), kinds).prop_map(|(mut history, kinds)| {
        history.retain(|record| !record.feeds.is_empty());
        for (index, (record, kind)) in history.iter_mut().zip(kinds).enumerate() {
            record.entry.kind = KINDS[kind].parse().expect("a kind");
            record.entry.data = Bytes::from(text(index));
        }
        history
    })
}

fn text(index: usize) -> String {
    format!("\"text of event {index} of a history\"")
}

fn any_retention() -> impl Strategy<Value = Retention> {
    let age = || proptest::option::of((10..30u64).prop_map(Duration::from_secs));
    let rule = (
        prop_oneof![Just("*"), Just("a"), Just("b*")],
        prop_oneof![Just(vec![]), Just(vec![0]), Just(vec![1])],
        age(),
        proptest::option::of(1..4u64),
    );
    let rule = rule.prop_filter_map("says nothing", |(feeds, kinds, age, entries)| {
        (age.is_some() || entries.is_some()).then(|| Rule {
            feeds: feeds.to_owned(),
            kinds: kinds
                .into_iter()
                .map(|kind: usize| KINDS[kind].parse().expect("a kind"))
                .collect(),
            age,
            entries,
        })
    });
    (proptest::collection::vec(rule, 0..4), age()).prop_map(|(rules, log_age)| Retention {
        rules: rules.into(),
        log_age,
    })
}

/// A store with a history and all that belongs to it.
fn stored(keys: &Keys, history: &[Record], now: Version) -> Shared {
    let mut memory = Memory::with_keys(keys, history);
    for record in history {
        let key = versioned(&keys.claim(&record.entry.id), record.entry.version);
        memory.put(key, encode_claim(1, &record.feeds));
    }
    for epoch in 0..=now.epoch() {
        for step in 0..=30 {
            let version = Version::moment(epoch, step * 10 * SECOND);
            let number = wall(version) / (10 * SECOND);
            memory.put(keys.time(number), encode_time(version));
        }
    }
    memory.version = now;
    Shared(Arc::new(Mutex::new(memory)), Arc::default())
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("ready")
}

/// What the rules keep, and what has been removed.
struct Model<'a> {
    history: &'a [Record],
    retention: &'a Retention,
    gone: BTreeSet<(FeedName, Version)>,
    trimmed_log: Version,
}

impl Model<'_> {
    fn visible(&self, feed: &FeedName) -> Vec<&Record> {
        let records = self.history.iter();
        records
            .filter(|record| record.feeds.contains(feed))
            .filter(|record| !is_twin(self.history, &record.entry, feed))
            .collect()
    }

    /// What goes in a pass that begins at the wall time `now`, and at the moment `at`.
    fn due(&self, now: u64, at: Version) -> (BTreeSet<(FeedName, Version)>, Version) {
        let mut due = BTreeSet::new();
        for feed in [feed("a"), feed("b")] {
            let mut counts = vec![0; self.retention.rules.len()];
            for record in self.visible(&feed).into_iter().rev() {
                let entry = &record.entry;
                let place = (feed.clone(), entry.version);
                let Some(index) = self.retention.rule_of(&feed, &entry.kind) else {
                    continue;
                };
                let is_old = entry.version <= floor(at);
                let rule = &self.retention.rules[index];
                counts[index] += u64::from(!self.gone.contains(&place));
                let too_old = rule
                    .age
                    .is_some_and(|age| self.is_before(entry.version, now, age));
                let too_many = rule.entries.is_some_and(|most| counts[index] > most);
                if is_old && (too_old || too_many) {
                    due.insert(place);
                }
            }
        }
        let log = self.history.iter().map(|record| record.entry.version);
        let log = log.filter(|version| {
            let age = self.retention.log_age;
            *version <= floor(at) && age.is_some_and(|age| self.is_before(*version, now, age))
        });
        (due, log.max().unwrap_or(Version::ZERO))
    }

    fn is_before(&self, version: Version, now: u64, age: Duration) -> bool {
        wall(version) <= now.saturating_sub(age.as_micros() as u64)
    }
}

struct Reader {
    feeds: Feeds,
    keys: Keys,
}

impl Reader {
    /// The versions in a feed after a cursor, in order; `None` if the cursor is expired.
    fn feed(&self, feed: &FeedName, after: Version, kinds: &[Kind]) -> Option<Vec<Version>> {
        let (mut found, mut after) = (Vec::new(), after);
        loop {
            let query = PageQuery {
                feeds: vec![feed.clone()],
                order: Order::OldestFirst {
                    after,
                    until: None,
                    kept: false,
                },
                limit: 3,
                bytes: 1 << 20,
                kinds: kinds.to_vec(),
                states: None,
            };
            match ready(self.feeds.page(&query)) {
                Ok(page) => {
                    found.extend(page.entries.iter().map(|it| it.entry.version));
                    let Some(next) = page.next else {
                        return Some(found);
                    };
                    after = next;
                }
                Err(Error::CursorExpired { .. }) if found.is_empty() => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn feed_newest_first(&self, feed: &FeedName, kinds: &[Kind]) -> Vec<Version> {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let query = PageQuery {
                feeds: vec![feed.clone()],
                order: Order::NewestFirst {
                    until: None,
                    before,
                },
                limit: 3,
                bytes: 1 << 20,
                kinds: kinds.to_vec(),
                states: None,
            };
            let page = ready(self.feeds.page(&query)).expect("a page");
            found.extend(page.entries.iter().map(|it| it.entry.version));
            before = page.next;
            if before.is_none() {
                found.reverse();
                return found;
            }
        }
    }

    fn log(&self, after: Version, kinds: &[Kind]) -> Option<Vec<(Version, Vec<FeedName>)>> {
        let query = LogQuery {
            filter: Arc::new(Filter {
                kinds: kinds.to_vec(),
                ..Filter::default()
            }),
            order: Order::OldestFirst {
                after,
                until: None,
                kept: false,
            },
            limit: 200,
            bytes: 1 << 20,
        };
        match ready(self.feeds.log_page(&query)) {
            Ok(page) => {
                assert_eq!(page.next, None);
                let events = page.events.into_iter();
                Some(events.map(|it| (it.entry.version, it.feeds)).collect())
            }
            Err(Error::CursorExpired { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn step(
    store: &Shared,
    (keys, retention): (&Keys, &Retention),
    pass: &mut Option<Pass>,
    now: u64,
    limits: Limits,
) -> Progress {
    let lineage = Lineage::new(keys.clone());
    let mut step = Step::new(keys, &lineage, retention, pass, now);
    step.limits = limits;
    ready(transact(store, &mut step)).expect("a step")
}

/// Projects everything.
fn project(store: &Shared, keys: &Keys) {
    let kinds = KINDS.map(|kind| kind.parse().expect("a kind"));
    let projections = Projection::of(true, kinds);
    let limits = projection::Limits::default();
    loop {
        let mut step = projection::Step::new(keys, &projections, Turn::Last, limits);
        if ready(transact(store, &mut step))
            .expect("a step")
            .is_complete
        {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Passes at any times, in steps of any size: at every step, what is shown was visible and is not due before the pass
    /// ends; afterwards, what is kept is shown exactly, from every cursor, and cursors below what was removed are expired.
    #[test]
    fn what_is_kept_is_shown_exactly_and_no_twin_is_uncovered(
        history in any_events(),
        retention in any_retention(),
        partitions in 1..4u16,
        passes in proptest::collection::vec((0..24usize, 0..40 * SECOND), 1..4),
        removed in 1..6usize,
        reads in 1..12usize,
        projects_early in any::<bool>(),
    ) {
        prop_assume!(!retention.keeps_everything());
        let keys = Keys::with_partitions(partitions);
        let last = history.last().map_or(Version::ZERO, |record| record.entry.version);
        let now = Version::moment(last.epoch(), last.time() + 60 * SECOND);
        let store = stored(&keys, &history, now);
        if projects_early {
            project(&store, &keys);
        }
        let reader = Reader { feeds: Feeds::new(Arc::new(store.clone()), keys.clone()), keys: keys.clone() };
        let mut model = Model { history: &history, retention: &retention, gone: BTreeSet::new(), trimmed_log: Version::ZERO };
        let kinds: Vec<Kind> = KINDS.map(|kind| kind.parse().expect("a kind")).into();
        let mut times: Vec<(u64, Version)> = passes.iter().map(|(index, later)| {
            let version = history.get(*index).map_or(last, |record| record.entry.version);
            // Beyond the interval between passes, which is not the subject here.
            (wall(version) + later, Version::moment(version.epoch(), version.time() + later))
        }).collect();
        times.sort_unstable();
        let end = wall(last) + 2 * EPOCH;
        times.push((end, now));
        let mut at_least = 1;
        for (time, at) in times {
            let time = time.max(at_least);
            at_least = time + 2 * retention.interval().as_micros() as u64;
            let at = at.max(last);
            store.0.lock().expect("not poisoned").version = at;
            let (due, log) = model.due(time, at);
            let limits = Limits { removed, reads, bytes: usize::MAX };
            let mut pass = None;
            loop {
                let progress = step(&store, (&keys, &retention), &mut pass, time, limits);
                for name in [feed("a"), feed("b")] {
                    let shown = reader.feed_newest_first(&name, &[]);
                    let visible: Vec<_> = model.visible(&name).iter().map(|it| it.entry.version).collect();
                    prop_assert!(shown.iter().all(|version| visible.contains(version)), "uncovered: {:?} of {:?}", shown, visible);
                    let missing = |version: &&Version| !shown.contains(version);
                    for version in visible.iter().filter(missing) {
                        let place = (name.clone(), *version);
                        prop_assert!(due.contains(&place) || model.gone.contains(&place), "{place:?} is not due");
                    }
                }
                let events: BTreeMap<Version, Vec<FeedName>> = plain_log(&history).into_iter().map(|it| (it.entry.version, it.feeds)).collect();
                for (version, feeds) in reader.log(Version::ZERO, &[]).expect("from the beginning") {
                    prop_assert_eq!(events.get(&version), Some(&feeds), "{:?} in the log", version);
                }
                prop_assert!(progress.outcome != Outcome::Rests);
                if progress.outcome == Outcome::IsComplete {
                    break;
                }
            }
            model.gone.extend(due);
            model.trimmed_log = model.trimmed_log.max(log);
            project(&store, &keys);
            check(&reader, &store, &model, &kinds, time >= end)?;
        }
    }
}

/// Everything is as the model says.
fn check(
    reader: &Reader,
    store: &Shared,
    model: &Model<'_>,
    kinds: &[Kind],
    from_everywhere: bool,
) -> std::result::Result<(), TestCaseError> {
    let memory = store.memory();
    let history = model.history;
    let mut cursors: Vec<Version> = history.iter().map(|it| it.entry.version).collect();
    cursors.extend(cursors.clone().iter().map(|version| version.before()));
    cursors.retain(|_| from_everywhere);
    let chosen: Vec<Vec<Kind>> = [&[][..], &kinds[..1], &kinds[1..]]
        .map(<[Kind]>::to_vec)
        .into();
    for name in [feed("a"), feed("b")] {
        let gone = |version: &Version| model.gone.contains(&(name.clone(), *version));
        let is_in_order = model
            .retention
            .rules
            .iter()
            .all(|rule| rule.kinds.is_empty());
        // As far as everything is gone. (Twins that nobody saw count, too.)
        let trimmed = trimmed(&memory, &reader.keys.trimmed(&name));
        let records = model.visible(&name).into_iter();
        let versions: Vec<_> = records.map(|it| it.entry.version).collect();
        let oldest = versions.iter().find(|version| !gone(version));
        prop_assert!(oldest.is_none_or(|oldest| trimmed < *oldest));
        let below = |version: &&Version| oldest.is_none_or(|oldest| *version < oldest);
        prop_assert!(
            versions
                .iter()
                .rfind(below)
                .is_none_or(|last| trimmed >= *last)
        );
        for kinds in &chosen {
            let records = model.visible(&name).into_iter();
            let visible: Vec<_> = records
                .filter(|it| kinds.is_empty() || kinds.contains(&it.entry.kind))
                .map(|it| it.entry.version)
                .collect();
            let kept: Vec<_> = visible
                .iter()
                .copied()
                .filter(|version| !gone(version))
                .collect();
            prop_assert_eq!(
                &reader.feed_newest_first(&name, kinds),
                &kept,
                "{} of {:?}",
                name,
                kinds
            );
            prop_assert_eq!(reader.feed(&name, Version::ZERO, kinds), Some(kept.clone()));
            for after in &cursors {
                let expected = match *after < trimmed {
                    true => None,
                    false => Some(
                        kept.iter()
                            .copied()
                            .filter(|version| version > after)
                            .collect::<Vec<_>>(),
                    ),
                };
                // Nothing is missing without notice, unless a rule takes it from between what stays.
                let above = visible.iter().filter(|version| *version > after);
                prop_assert!(!is_in_order || expected.as_ref().is_none_or(|kept| above.eq(kept)));
                prop_assert_eq!(
                    reader.feed(&name, *after, kinds),
                    expected,
                    "{} after {:?}",
                    name,
                    after
                );
            }
        }
        // Neither are notify keys, nor index keys.
        let is_held = |it: &&Record| {
            let keys = entry_keys(&reader.keys.feed(&name), it.entry.version);
            keys.iter().any(|key| memory.values().contains_key(key))
        };
        let held = history.iter().filter(is_held);
        let held: BTreeSet<Version> = held.map(|it| it.entry.version).collect();
        for record in history {
            let version = record.entry.version;
            let notify = versioned(&reader.keys.notify(&name), version);
            let unread = unread_versioned(&reader.keys.feed(&name), version);
            let counts = [notify, unread].map(|key| memory.values().contains_key(&key));
            prop_assert_eq!(counts.contains(&true), held.contains(&version));
            for kind in kinds {
                let index = versioned(&reader.keys.feed_by_kind(&name, kind), version);
                let is_indexed = memory.values().contains_key(&index);
                prop_assert!(
                    !is_indexed || held.contains(&version),
                    "an index key is left"
                );
            }
        }
    }
    let all: Vec<_> = plain_log(history).into_iter().collect();
    for kinds in &chosen {
        let of_kinds = all
            .iter()
            .filter(|it| kinds.is_empty() || kinds.contains(&it.entry.kind));
        let events: Vec<_> = of_kinds
            .map(|it| (it.entry.version, it.feeds.clone()))
            .collect();
        let kept: Vec<_> = events
            .iter()
            .filter(|(version, _)| *version > model.trimmed_log)
            .cloned()
            .collect();
        prop_assert_eq!(
            reader.log(Version::ZERO, kinds),
            Some(kept),
            "the log of {:?}",
            kinds
        );
        for after in &cursors {
            match reader.log(*after, kinds) {
                None => prop_assert!(*after < trimmed(&memory, &reader.keys.trimmed_log())),
                Some(found) => {
                    let expected: Vec<_> = events
                        .iter()
                        .filter(|(version, _)| version > after)
                        .cloned()
                        .collect();
                    prop_assert_eq!(found, expected, "the log after {:?}", after);
                }
            }
        }
    }
    // Nothing is left of what is neither in a feed nor in the log.
    for (index, record) in history.iter().enumerate() {
        let version = record.entry.version;
        let shows = |name: &&FeedName| {
            let is_gone = model.gone.contains(&((*name).clone(), version));
            !is_gone && !is_twin(history, &record.entry, name)
        };
        let in_feeds = record.feeds.iter().any(|name| shows(&name));
        let is_first_gone = model.trimmed_log >= version;
        if !in_feeds && is_first_gone {
            let text = text(index);
            let hidden_by_kept = record
                .feeds
                .iter()
                .any(|name| is_twin(history, &record.entry, name));
            let holds = |value: &Vec<u8>| {
                value
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
            };
            let is_left = memory.values().values().any(holds);
            prop_assert!(!is_left || hidden_by_kept, "event {} is left", index);
        }
    }
    // Claims go with the last event of their id, and not before.
    let ids: BTreeSet<_> = history.iter().map(|it| it.entry.id.clone()).collect();
    for id in ids {
        let (begin, end) = store::keys::after_until(&reader.keys.claim(&id), None, Version::MAX);
        let claims = memory.values().range(begin..end).count();
        let mut commits = history.iter().filter(|it| it.entry.id == id);
        let is_held = commits.any(|it| {
            let version = it.entry.version;
            let in_feed = it.feeds.iter().any(|name| {
                let keys = entry_keys(&reader.keys.feed(name), version);
                keys.iter().any(|key| memory.values().contains_key(key))
            });
            in_feed
                || all
                    .iter()
                    .any(|event| event.entry.version == version && version > model.trimmed_log)
        });
        if is_held {
            prop_assert!(claims > 0, "the claim of {} is missing", id);
        } else {
            prop_assert_eq!(claims, 0, "the claim of {} is left", id);
        }
    }
    Ok(())
}

fn trimmed(memory: &Memory, key: &[u8]) -> Version {
    let value = memory.values().get(key);
    let bytes = value.and_then(|value| value[..].try_into().ok());
    bytes.map_or(Version::ZERO, Version::from_bytes)
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rule = |feeds: &str, kinds: &[&str]| Rule {
        feeds: feeds.to_owned(),
        kinds: kinds
            .iter()
            .map(|kind| kind.parse().expect("a kind"))
            .collect(),
        age: Some(AGE_MIN),
        entries: None,
    };
    let retention = Retention {
        rules: vec![
            rule("chat:*", &["typing"]),
            rule("chat:1", &[]),
            rule("*", &["message"]),
            rule("user:*", &[]),
        ]
        .into(),
        log_age: None,
    };
    let kind = |name: &str| -> Kind { name.parse().expect("a kind") };
    for (name, of, expected) in [
        ("chat:1", "typing", Some(0)),
        ("chat:1", "message", Some(1)),
        ("chat:2", "message", Some(2)),
        ("chat:2", "visit", None),
        ("user:1", "visit", Some(3)),
        ("chat", "typing", None),
    ] {
        assert_eq!(
            retention.rule_of(&feed(name), &kind(of)),
            expected,
            "{name} {of}"
        );
    }
    assert_eq!(retention.rules_of(&feed("chat:1")), [0, 1]);
    assert_eq!(retention.rules_of(&feed("chat:2")), [0, 2]);
    assert_eq!(retention.rules_of(&feed("user:1")), [2, 3]);
}

/// Nodes with different rules do not undo each other's passes: the one that was started last decides.
#[test]
fn the_rules_of_the_node_that_was_started_last_are_in_use() {
    let keys = Keys::with_partitions(1);
    let store = stored(&keys, &[], Version::moment(0, 100 * SECOND));
    let rules = |age| Retention {
        rules: Arc::default(),
        log_age: Some(Duration::from_secs(age)),
    };
    let lineage = Lineage::new(keys.clone());
    let take = |retention: &Retention, replaces_rules: bool| {
        let mut pass = None;
        let mut step = Step::new(&keys, &lineage, retention, &mut pass, EPOCH);
        step.replaces_rules = replaces_rules;
        ready(transact(&store, &mut step)).expect("a step").outcome
    };
    let (first, second) = (rules(20), rules(30));
    assert_eq!(take(&first, true), Outcome::IsComplete);
    assert_eq!(take(&first, false), Outcome::Rests);
    assert_eq!(take(&second, true), Outcome::IsComplete);
    assert_eq!(take(&first, false), Outcome::HasOtherRules);
    assert_eq!(take(&second, false), Outcome::Rests);
}
