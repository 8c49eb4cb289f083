//! Projections against a plain model of them: what they have derived at every lag, what readers see, and what reading costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{
    dedup::testing::{Memory, any_history, feed, long_history, plain_log},
    feed::{Feeds, Order, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, PageQuery},
    log,
    store::{
        Batch, Condition, Error, Found, Plan, Reads, Store, StoreErrors, Transaction,
        transact_until,
        values::{Record, decode_indexed},
    },
    types::{Actor, Entry, NO_TWIN},
};

const FEEDS: [&str; 4] = ["a", "b", "c", "d"];
const KINDS: [&str; 3] = ["k", "l", "m"];
const ACTORS: [&str; 2] = ["x", "y"];

fn kind(name: &str) -> Kind {
    name.parse().expect("a kind")
}

fn actor(name: &str) -> Actor {
    name.parse().expect("an actor")
}

/// A store whose log is given, which counts what is read, and to which only projections write.
#[derive(Clone)]
struct Lab {
    state: Arc<Mutex<State>>,
    /// Keys asked for and items found.
    keys_read: Arc<AtomicUsize>,
    errors: Arc<StoreErrors>,
}

struct State {
    memory: Memory,
    derived: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Lab {
    fn of(keys: &Keys, history: &[Record]) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                memory: Memory::with_keys(keys, history),
                derived: BTreeMap::new(),
            })),
            keys_read: Arc::default(),
            errors: Arc::default(),
        }
    }

    /// The log becomes that of a longer history.
    fn grows(&self, keys: &Keys, history: &[Record]) {
        let mut state = self.state.lock().expect("no panic");
        let mut memory = Memory::with_keys(keys, history);
        for (key, value) in &state.derived {
            memory.put(key.clone(), value.clone());
        }
        state.memory = memory;
    }

    fn derived(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state.lock().expect("no panic").derived.clone()
    }

    fn snapshot_now(&self) -> LabSnapshot {
        LabSnapshot {
            memory: self.state.lock().expect("no panic").memory.clone(),
            lab: self.clone(),
        }
    }
}

struct LabSnapshot {
    memory: Memory,
    lab: Lab,
}

#[async_trait]
impl Store for Lab {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        let snapshot = self.snapshot_now();
        let found = snapshot.read(reads).await?;
        Ok((Box::new(snapshot), found))
    }

    async fn wait_for_commit(&self, _seen: Version) -> Result<()> {
        std::future::pending().await
    }

    fn errors(&self) -> &StoreErrors {
        &self.errors
    }

    fn reads_at_once(&self) -> usize {
        1
    }

    async fn close(&self) {}
}

#[async_trait]
impl Snapshot for LabSnapshot {
    fn version(&self) -> Version {
        self.memory.version
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        let keys = reads.keys.len();
        let found = self.memory.read(reads).await?;
        let items = found.slices.iter().map(|slice| slice.items.len());
        let count = keys + items.sum::<usize>();
        self.lab.keys_read.fetch_add(count, Ordering::Relaxed);
        Ok(found)
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self { memory, lab } = *self;
        let version = memory.version;
        drop(memory);
        let mut state = lab.state.lock().expect("no panic");
        for (index, condition) in batch.conditions.iter().enumerate() {
            let Condition::KeyEquals { key, value } = condition else {
                panic!("{condition:?}");
            };
            if state.derived.get(key) != value.as_ref() {
                return Err(Error::ConditionFailed(index));
            }
        }
        assert!(batch.versioned.is_empty() && batch.clears.is_empty() && !batch.notify);
        for (key, value) in batch.puts {
            state.memory.put(key.clone(), value.clone());
            state.derived.insert(key, value);
        }
        Ok(version)
    }
}

/// A history whose events have up to three feeds, and any kinds and actors.
fn any_log() -> impl Strategy<Value = Vec<Record>> {
    let feeds = proptest::collection::vec(0..FEEDS.len(), 1..4);
    let more = (feeds, 0..KINDS.len(), 0..=ACTORS.len());
    (any_history(), proptest::collection::vec(more, 24)).prop_map(|(mut history, more)| {
        for (record, (names, of_kind, of_actor)) in history.iter_mut().zip(more) {
            let mut seen = BTreeSet::new();
            let names = names.into_iter().filter(|&name| seen.insert(name));
            record.feeds = names.map(|name| feed(FEEDS[name])).collect();
            record.entry.kind = kind(KINDS[of_kind]);
            record.entry.actor = ACTORS.get(of_actor).map(|name| actor(name));
        }
        history
    })
}

fn all_projections() -> Vec<Projection> {
    Projection::of(true, [kind("k"), kind("m"), kind("k")])
}

/// The keys that `projection` has in a store whose checkpoint is `until`.
fn expected_keys(
    keys: &Keys,
    projection: &Projection,
    log: &[LogEvent],
    until: Version,
) -> BTreeSet<Vec<u8>> {
    let mut expected = BTreeSet::new();
    for LogEvent { entry, feeds, .. } in log.iter().filter(|it| it.entry.version <= until) {
        let mut add = |prefix: Vec<u8>| expected.insert(versioned(&prefix, entry.version));
        match projection {
            Projection::LogByKind => _ = add(keys.log_by_kind(&entry.kind)),
            Projection::LogByActor => {
                if let Some(actor) = &entry.actor {
                    add(keys.log_by_actor(actor));
                }
            }
            Projection::FeedByKind(of) => {
                for feed in feeds.iter().filter(|_| *of == entry.kind) {
                    add(keys.feed_by_kind(feed, of));
                }
            }
        }
    }
    expected
}

/// The store has derived exactly what it should, up to the checkpoints.
fn check_derived(lab: &Lab, keys: &Keys, log: &[LogEvent]) {
    let derived = lab.derived();
    let mut expected = BTreeSet::new();
    for projection in all_projections() {
        let key = projection.key(keys);
        let value = derived.get(&key).map(|value| value.clone().into());
        let checkpoint = decode_checkpoint(&key, value.as_ref())
            .expect("decodes")
            .until;
        expected.extend(expected_keys(keys, &projection, log, checkpoint));
        expected.extend(value.is_some().then_some(key));
    }
    assert_eq!(derived.into_keys().collect::<BTreeSet<_>>(), expected);
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1..6usize, 1..9usize, 1..400usize, 1..12usize, 1..900usize).prop_map(
        |(events, puts, put_bytes, log_keys, log_bytes)| Limits {
            events,
            puts,
            put_bytes,
            log_keys,
            log_bytes,
        },
    )
}

#[derive(Debug, Clone)]
enum Op {
    /// More batches are committed.
    Grow(usize),
    /// A node that works on some of the projections takes a step. `late`: before it commits, another one takes the same.
    Step {
        node: usize,
        turn: Turn,
        limits: Limits,
        late: bool,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    let turn = prop_oneof![Just(Turn::First), Just(Turn::Last)];
    let step = (0..4usize, turn, any_limits(), any::<bool>());
    prop_oneof![
        2 => (1..6usize).prop_map(Op::Grow),
        5 => step.prop_map(|(node, turn, limits, late)| Op::Step { node, turn, limits, late }),
    ]
}

/// The projections of a node.
fn node(number: usize) -> Vec<Projection> {
    match number {
        0 => all_projections(),
        1 => Projection::of(false, []),
        2 => Projection::of(true, [kind("m")]),
        _ => Projection::of(false, [kind("k"), kind("m")]),
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("ready")
}

/// Takes a step as [`Op::Step`] says.
fn step(
    lab: &Lab,
    keys: &Keys,
    projections: &[Projection],
    turn: Turn,
    limits: Limits,
    late: bool,
) {
    let mut step = Step::new(keys, projections, turn, limits);
    if !late {
        let done = ready(transact_until(lab, &mut step, Instant::now()));
        done.expect("nobody else was there");
        return;
    }
    let (snapshot, found) = ready(lab.begin(step.first_reads())).expect("begins");
    let plan = ready(step.plan(&*snapshot, found, false)).expect("planned");
    let mut other = Step::new(keys, projections, turn, limits);
    ready(transact_until(lab, &mut other, Instant::now())).expect("is first");
    if let Plan::Commit(batch) = plan {
        let refused = ready(snapshot.commit(batch));
        assert!(
            matches!(refused, Err(Error::ConditionFailed(_))),
            "{refused:?}"
        );
    }
}

fn any_wanted() -> Vec<Wanted> {
    let kinds = |names: &[&str]| names.iter().map(|name| kind(name)).collect::<Vec<_>>();
    let actors = |names: &[&str]| names.iter().map(|name| actor(name)).collect::<Vec<_>>();
    let wanted = |of_kinds, of_actors| Wanted {
        kinds: kinds(of_kinds),
        actors: actors(of_actors),
    };
    vec![
        wanted(&[], &[]),
        wanted(&["k"], &[]),
        wanted(&["m", "l", "other"], &[]),
        wanted(&[], &["x", "y"]),
        wanted(&["k", "l"], &["y"]),
    ]
}

/// All wanted events in `(after, until]`, read in steps with these limits.
fn read_events(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    wanted: &Wanted,
    (mut after, mut until): (Version, Version),
    newest_first: bool,
    limits: log::Limits,
) -> Vec<LogEvent> {
    let mut found = Vec::new();
    loop {
        let (wanted, range) = (wanted.clone(), (after, until));
        let events = match newest_first {
            true => ready(Events::newest_first(snapshot, keys, wanted, range, limits)),
            false => ready(Events::oldest_first(snapshot, keys, wanted, range, limits)),
        };
        let mut events = events.expect("opened");
        while let Some(event) = ready(events.next(snapshot)).expect("read") {
            assert!(newest_first || events.position() >= event.entry.version);
            found.push(event);
        }
        if events.is_done() {
            return found;
        }
        let position = events.position();
        assert!(position > after && position <= until, "no progress");
        match newest_first {
            true => until = position.before(),
            false => after = position,
        }
    }
}

/// All entries of `kinds` in `feeds`, page by page.
fn read_pages(
    reader: &Feeds,
    feeds: &[FeedName],
    kinds: &[Kind],
    newest_first: bool,
) -> Vec<Entry> {
    let mut order = match newest_first {
        true => Order::NewestFirst {
            until: None,
            before: None,
        },
        false => Order::OldestFirst {
            after: Version::ZERO,
            until: None,
            kept: false,
        },
    };
    let mut found = Vec::new();
    loop {
        let query = PageQuery {
            feeds: feeds.to_vec(),
            order,
            limit: 2,
            bytes: PAGE_BYTES_MAX,
            kinds: kinds.to_vec(),
            states: None,
        };
        let page = ready(reader.page(&query)).expect("read");
        found.extend(page.entries.into_iter().map(|found| found.entry));
        let Some(next) = page.next else { return found };
        order = match newest_first {
            true => Order::NewestFirst {
                until: None,
                before: Some(next),
            },
            false => Order::OldestFirst {
                after: next,
                until: None,
                kept: false,
            },
        };
    }
}

/// Every reader sees what a plain filter says.
fn check_readers(lab: &Lab, keys: &Keys, log: &[LogEvent], limits: log::Limits) {
    let snapshot = lab.snapshot_now();
    let now = snapshot.version();
    let middle = log.get(log.len() / 2).map_or(now, |it| it.entry.version);
    for wanted in any_wanted() {
        for (after, until) in [(Version::ZERO, now), (middle, now), (Version::ZERO, middle)] {
            let inside = |it: &&LogEvent| {
                let version = it.entry.version;
                version > after && version <= until && wanted.includes(&it.entry)
            };
            let mut expected: Vec<LogEvent> = log.iter().filter(inside).cloned().collect();
            for newest_first in [false, true] {
                let range = (after, until);
                let found = read_events(&snapshot, keys, &wanted, range, newest_first, limits);
                assert_eq!(found, expected, "{wanted:?} in {range:?}, {newest_first}");
                expected.reverse();
            }
        }
    }
    let reader = Feeds::new(Arc::new(lab.clone()), keys.clone());
    let names: Vec<FeedName> = FEEDS.map(feed).to_vec();
    for kinds in [&["k"][..], &["l"], &["m", "k"], &["k", "l"]] {
        let kinds: Vec<Kind> = kinds.iter().map(|name| kind(name)).collect();
        for feeds in [&names[..1], &names[..3]] {
            let inside = |it: &&LogEvent| {
                kinds.contains(&it.entry.kind) && it.feeds.iter().any(|feed| feeds.contains(feed))
            };
            let of_log = log.iter().filter(inside).map(|it| it.entry.clone());
            let mut expected: Vec<Entry> = of_log.collect();
            for newest_first in [false, true] {
                let found = read_pages(&reader, feeds, &kinds, newest_first);
                assert_eq!(found, expected, "{kinds:?} of {feeds:?}, {newest_first}");
                expected.reverse();
            }
        }
    }
}

/// The lag in events is what the plain log has above each checkpoint.
fn check_lags(lab: &Lab, keys: &Keys, log: &[LogEvent], limits: log::Limits) {
    let snapshot = lab.snapshot_now();
    let checkpoints = ready(checkpoints(&snapshot, keys, &all_projections())).expect("read");
    for most in [1, 3, 1_000] {
        let unhurried = (limits, Duration::MAX);
        let counted = ready(behind::count(
            &snapshot,
            keys,
            &checkpoints,
            most,
            unhurried,
        ));
        let counted = counted.expect("read");
        let above = |checkpoint: &Version| {
            let above = log.iter().filter(|it| it.entry.version > *checkpoint);
            (above.count() as u64).min(most)
        };
        let expected: Vec<u64> = checkpoints.iter().map(above).collect();
        assert_eq!(counted, expected, "{checkpoints:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever nodes take steps of any size, at the same time or not: what is derived is exactly what the plain rule says
    /// up to the checkpoint, and readers see the plain filter at every lag.
    #[test]
    fn a_projection_equals_the_plain_model_at_every_lag(
        history in any_log(),
        partitions in 1..5u16,
        ops in proptest::collection::vec(any_op(), 1..14),
        (keys_max, bytes, events) in (1..9usize, 1..600usize, 1..5usize),
    ) {
        let keys = Keys::with_partitions(partitions);
        let batch = |record: &Record| (record.entry.version.epoch(), record.entry.version.time());
        let batches: Vec<_> = history.chunk_by(|a, b| batch(a) == batch(b)).collect();
        let mut grown = 0;
        let lab = Lab::of(&keys, &[]);
        let mut log = Vec::new();
        for op in ops {
            match op {
                Op::Grow(count) => {
                    grown = batches.len().min(grown + count);
                    let so_far = batches[..grown].concat();
                    lab.grows(&keys, &so_far);
                    log = plain_log(&so_far);
                }
                Op::Step { node: number, turn, limits, late } => {
                    step(&lab, &keys, &node(number), turn, limits, late);
                    check_derived(&lab, &keys, &log);
                }
            }
            let limits = log::Limits { keys: keys_max, bytes, events };
            check_readers(&lab, &keys, &log, limits);
            check_lags(&lab, &keys, &log, limits);
        }
        // A node that goes on alone completes them all.
        let projections = all_projections();
        for steps in 0.. {
            let turn = match steps % 2 {
                0 => Turn::First,
                _ => Turn::Last,
            };
            let mut step = Step::new(&keys, &projections, turn, Limits { events: 3, ..Limits::default() });
            let progress = ready(transact_until(&lab, &mut step, Instant::now())).expect("alone");
            prop_assert!(steps < 500, "no progress: {:?}", progress);
            if progress.is_complete {
                prop_assert_eq!(progress.lag_ticks, 0);
                break;
            }
        }
        check_derived(&lab, &keys, &log);
        let complete: usize = projections.iter().map(|it| expected_keys(&keys, it, &log, Version::MAX).len()).sum();
        let checkpoints = projections.iter().filter(|it| lab.derived().contains_key(&it.key(&keys)));
        prop_assert_eq!(lab.derived().len(), complete + checkpoints.count());
        // When there is nothing to do, nothing is written.
        let before = lab.derived();
        step(&lab, &keys, &projections, Turn::Last, Limits::default(), false);
        prop_assert_eq!(lab.derived(), before);
    }
}

/// What an index holds is in the log already: the first feed that the producer named is known even if it shows a twin.
#[test]
fn an_indexed_event_has_the_feeds_that_show_it_and_the_hash_of_the_first_that_was_named() {
    let (a, b) = (feed("a"), feed("b"));
    for (feeds, first) in [(vec![a.clone(), b.clone()], &a), (vec![b.clone()], &a)] {
        let value = encode_indexed(&feeds, Keys::hash(first), false);
        let key = versioned(b"p", Version::new(0, 1, 2)).into();
        let item = crate::store::KeyValue {
            key,
            value: value.into(),
        };
        let read = decode_indexed(&item).expect("decodes");
        assert_eq!(
            (read.feeds, read.first_feed_hash),
            (feeds, Keys::hash(first))
        );
    }
}

/// A history of one feed: `rare` events of three kinds among `others` of other kinds.
fn rare_among(rare: usize, others: usize) -> Vec<Record> {
    let mut history = long_history(rare + others, &[feed("a")]);
    let every = history.len() / rare;
    for (index, record) in history.iter_mut().enumerate() {
        let is_rare = index % every == 0 && index / every < rare;
        record.entry.read_at = NO_TWIN;
        record.entry.kind = kind(match is_rare {
            true => KINDS[index / every % 3],
            false => "other",
        });
    }
    history
}

#[tokio::test]
async fn reading_rare_kinds_costs_what_their_events_cost_however_many_others_there_are() {
    const RARE: usize = 1_600;
    let mut costs = Vec::new();
    for others in [10_000, 48_400] {
        let keys = Keys::with_partitions(2);
        let lab = Lab::of(&keys, &rare_among(RARE, others));
        let kinds: Vec<Kind> = KINDS.map(kind).to_vec();
        let projections = Projection::of(false, kinds.clone());
        loop {
            let mut step = Step::new(&keys, &projections, Turn::Last, Limits::default());
            let progress = transact_until(&lab, &mut step, Instant::now()).await;
            if progress.expect("alone").is_complete {
                break;
            }
        }
        let cost = || lab.keys_read.swap(0, Ordering::Relaxed);
        for newest_first in [false, true] {
            // The log by kind.
            let snapshot = lab.snapshot_now();
            let range = (Version::ZERO, snapshot.version());
            let wanted = Wanted {
                kinds: kinds.clone(),
                actors: Vec::new(),
            };
            let limits = log::Limits {
                keys: usize::MAX,
                bytes: usize::MAX,
                events: RARE,
            };
            cost();
            let mut events = match newest_first {
                true => Events::newest_first(&snapshot, &keys, wanted, range, limits).await,
                false => Events::oldest_first(&snapshot, &keys, wanted, range, limits).await,
            }
            .expect("opened");
            let mut found = 0;
            while events.next(&snapshot).await.expect("read").is_some() {
                found += 1;
            }
            assert_eq!(found, RARE);
            costs.push(("log", newest_first, cost()));

            // The feed by kind, page by page.
            let reader = Feeds::new(Arc::new(lab.clone()), keys.clone());
            let mut query = PageQuery {
                feeds: vec![feed("a")],
                order: match newest_first {
                    true => Order::NewestFirst {
                        until: None,
                        before: None,
                    },
                    false => Order::OldestFirst {
                        after: Version::ZERO,
                        until: None,
                        kept: false,
                    },
                },
                limit: PAGE_ENTRIES_MAX,
                bytes: PAGE_BYTES_MAX,
                kinds: kinds.clone(),
                states: None,
            };
            let (mut found, mut pages) = (0, 0);
            cost();
            loop {
                let page = reader.page(&query).await.expect("read");
                found += page.entries.len();
                pages += 1;
                let Some(next) = page.next else { break };
                query.order = match newest_first {
                    true => Order::NewestFirst {
                        until: None,
                        before: Some(next),
                    },
                    false => Order::OldestFirst {
                        after: next,
                        until: None,
                        kept: false,
                    },
                };
            }
            assert_eq!((found, pages), (RARE, RARE / PAGE_ENTRIES_MAX));
            costs.push(("feed", newest_first, cost()));
        }
    }
    let (few, many) = costs.split_at(costs.len() / 2);
    assert_eq!(few, many, "the cost depends on the other events");
    for (what, _, cost) in few {
        // An index key and an entry for each event, and little beyond.
        assert!((2 * RARE..3 * RARE).contains(cost), "{what}: {cost}");
    }
}
