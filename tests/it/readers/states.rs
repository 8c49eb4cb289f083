//! Readers and the states of entries, compared with a model that applies every operation to every entry: through two nodes,
//! with appends, markers, marks, archiving, erasures and retention, and a stream for each reader.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use newsfeed::{
    append::writes,
    error::Error,
    feed::{Feeds, NewState, Order, PAGE_BYTES_MAX, PageQuery, States},
    lifecycle::{
        Lifecycle,
        retention::{Outcome, Retention, Rule, Step},
    },
    lineage::Lineage,
    store::{Range, audit, transact},
    types::{Delivery, Draft, FeedName, Marker, ReadState, ReaderName},
    version::Version,
};
use proptest::prelude::*;

use crate::{
    lifecycle::data,
    support::{
        bed::Bed,
        follower::{Live, Recorder},
        model::{delivery, feed_name, for_random},
        raw_commits::Raw,
    },
};

mod embedded {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_reader_has_the_states_that_the_model_says() {
        let wall = newsfeed::clock::WallTime::manual(1_000_000_000);
        let bed = crate::support::bed::Bed::embedded_at(wall);
        super::every_reader_has_the_states_that_the_model_says(&bed, 16).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn counts_agree_with_entries_whatever_two_nodes_do_at_once() {
        super::counts_agree_with_entries_whatever_two_nodes_do_at_once(
            &crate::support::bed::Bed::embedded(),
        )
        .await;
    }
}

#[cfg(feature = "fdb")]
mod fdb {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_reader_has_the_states_that_the_model_says() {
        super::every_reader_has_the_states_that_the_model_says(
            &crate::support::bed::Bed::fdb(),
            10,
        )
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn counts_agree_with_entries_whatever_two_nodes_do_at_once() {
        super::counts_agree_with_entries_whatever_two_nodes_do_at_once(
            &crate::support::bed::Bed::fdb(),
        )
        .await;
    }
}

/// As many entries as make nodes remember counts: one in three counts as unread.
const MANY: usize = 240;

#[derive(Debug, Clone)]
enum Op {
    /// With a kind and an actor.
    Append(usize, usize),
    /// To the version of the entry that is this many back, or to now.
    Move {
        marker: Marker,
        back: Option<usize>,
    },
    Set {
        back: usize,
        new: NewState,
    },
    Erase {
        back: usize,
    },
    /// Keeps only so many entries.
    Retain {
        back: usize,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    let marker =
        prop_oneof![3 => Just(Marker::Read), 1 => Just(Marker::Seen), 2 => Just(Marker::Archived)];
    let back = || prop_oneof![4 => 1..6usize, 1 => 200..260usize];
    let one = || prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    let new = (one(), one()).prop_filter("no such body", |new| {
        !matches!(new, (None, None) | (Some(false), Some(true)))
    });
    let new = new.prop_map(|(read, archived)| NewState { read, archived });
    prop_oneof![
        5 => (0..KINDS.len(), 0..READERS.len()).prop_map(|(kind, actor)| Op::Append(kind, actor)),
        4 => (marker, proptest::option::of(back())).prop_map(|(marker, back)| Op::Move { marker, back }),
        6 => (back(), new).prop_map(|(back, new)| Op::Set { back, new }),
        1 => back().prop_map(|back| Op::Erase { back }),
        1 => (200..260usize).prop_map(|back| Op::Retain { back }),
    ]
}

const KINDS: [&str; 3] = ["message", "visit", "flirt"];
/// The first one is the feed's own.
const READERS: [&str; 3] = ["", "anna", "ben"];

fn reader(name: &str) -> ReaderName {
    match name {
        "" => ReaderName::OWN,
        name => ReaderName::named(name.parse().expect("a name")),
    }
}

/// How an entry came to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// A marker passed it.
    Passed,
    /// It was marked, or written, there.
    At(Version),
}

/// The state of an entry for one reader.
#[derive(Debug, Clone, Copy)]
struct Held {
    state: ReadState,
    read: Option<Read>,
    /// Where it stands: its version, or that of the mark which made it unread again.
    stands: Version,
    marked: Option<Version>,
}

#[derive(Debug, Clone)]
struct Modelled {
    version: Version,
    id: String,
    kind: &'static str,
    actor: &'static str,
    held: BTreeMap<&'static str, Held>,
}

#[derive(Debug, Default)]
struct Model {
    entries: Vec<Modelled>,
}

impl Model {
    fn append(&mut self, version: Version, id: String, kind: &'static str, actor: &'static str) {
        let held = READERS.map(|reader| {
            let is_own = !reader.is_empty() && reader == actor;
            let held = Held {
                state: if is_own {
                    ReadState::Read
                } else {
                    ReadState::Unread
                },
                read: is_own.then_some(Read::At(version)),
                stands: version,
                marked: None,
            };
            (reader, held)
        });
        self.entries.push(Modelled {
            version,
            id,
            kind,
            actor,
            held: held.into(),
        });
    }

    fn stated(&mut self, reader: &'static str) -> impl Iterator<Item = (Version, &mut Held)> {
        let entries = self.entries.iter_mut();
        let entries = entries.filter(|entry| delivery(entry.kind) == Delivery::Notify);
        entries.map(move |entry| (entry.version, entry.held.get_mut(reader).expect("a reader")))
    }

    fn move_marker(&mut self, reader: &'static str, marker: Marker, to: Version) {
        for (version, held) in self.stated(reader) {
            match marker {
                Marker::Read if held.state == ReadState::Unread && held.stands <= to => {
                    held.state = ReadState::Read;
                    held.read = Some(Read::Passed);
                }
                Marker::Archived if held.state == ReadState::Read => {
                    let at = match held.read {
                        Some(Read::At(at)) => at,
                        _ => held.stands,
                    };
                    if at <= to {
                        held.state = ReadState::Archived;
                    }
                    let _ = version;
                }
                _ => {}
            }
        }
    }

    fn set(
        &mut self,
        reader: &'static str,
        entry: Version,
        state: ReadState,
        marked: Option<Version>,
    ) {
        for (version, held) in self.stated(reader) {
            if version == entry && held.state != state {
                held.state = state;
                held.marked = marked;
                held.read =
                    (state != ReadState::Unread).then_some(Read::At(marked.expect("a mark")));
                if state == ReadState::Unread {
                    held.stands = marked.expect("a mark");
                }
            }
        }
    }

    fn unread(&self, reader: &str) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for entry in self
            .entries
            .iter()
            .filter(|entry| delivery(entry.kind) == Delivery::Notify)
        {
            if entry.held[reader].state == ReadState::Unread {
                *kinds.entry(entry.kind.to_owned()).or_default() += 1;
            }
        }
        kinds
    }

    /// Newest first.
    fn list(&self, reader: &str, only: Option<ReadState>) -> Vec<(Version, Option<ReadState>)> {
        let entries = self.entries.iter().rev().map(|entry| {
            let notifies = delivery(entry.kind) == Delivery::Notify;
            (entry.version, notifies.then(|| entry.held[reader].state))
        });
        let entries = entries.filter(|(_, state)| only.is_none() || *state == only);
        entries.collect()
    }
}

struct Run {
    raw: Raw,
    name: String,
    feed: FeedName,
    /// Each with a cache of its own.
    nodes: [Feeds; 2],
    lifecycle: Lifecycle,
    model: Model,
    appended: usize,
    /// The clock is not the test's.
    waits: bool,
}

impl Run {
    async fn new(bed: &Bed) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let raw = Raw::new(bed).await;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("states.{number}");
        let node = || Feeds::new(Arc::clone(&raw.store), raw.keys.clone());
        Self {
            feed: feed_name(&name),
            nodes: [node(), node()],
            lifecycle: Lifecycle::new(Arc::clone(&raw.store), raw.keys.clone(), Arc::default()),
            model: Model::default(),
            appended: 0,
            waits: !bed.prefix().is_empty(),
            raw,
            name,
        }
    }

    async fn now(&self) -> Version {
        let snapshot = self.raw.store.snapshot().await;
        snapshot.expect("a snapshot").version()
    }

    async fn append(&mut self, kinds_and_actors: &[(usize, usize)]) {
        let drafts =
            kinds_and_actors
                .iter()
                .zip(self.appended..)
                .map(|(&(kind, actor), number)| {
                    let draft = Draft {
                        id: format!("{}/{number}", self.name).parse().expect("an id"),
                        kind: KINDS[kind].parse().expect("a kind"),
                        delivery: delivery(KINDS[kind]),
                        feeds: vec![self.feed.clone()],
                        actor: READERS[actor].parse().ok(),
                        time: None,
                        data: data("null"),
                        expect: None,
                    };
                    draft.check().expect("valid")
                });
        let events: Vec<_> = drafts.collect();
        let entries: Vec<_> = events
            .iter()
            .map(|event| (event, writes::entry(event, 1, newsfeed::types::NO_TWIN)))
            .collect();
        let batch = writes::of_events(&self.raw.keys, &entries).await;
        let snapshot = self.raw.store.snapshot().await.expect("a snapshot");
        let version = snapshot.commit(batch).await.expect("committed");
        for ((event, &(kind, actor)), index) in events.iter().zip(kinds_and_actors).zip(0..) {
            let id = event.id.to_string();
            self.model
                .append(version.at_index(index), id, KINDS[kind], READERS[actor]);
        }
        self.appended += events.len();
    }

    fn entry(&self, back: usize) -> Option<&Modelled> {
        let index = self.model.entries.len().checked_sub(back)?;
        Some(&self.model.entries[index])
    }

    async fn take(&mut self, node: usize, of: &'static str, op: &Op) {
        let node = self.nodes[node].clone();
        let name = reader(of);
        match *op {
            Op::Append(kind, actor) => self.append(&[(kind, actor)]).await,
            Op::Move { marker, back } => {
                let now = self.now().await;
                let to = match back {
                    None => now,
                    Some(back) => self.entry(back).map_or(now, |entry| entry.version),
                };
                let moved = node.move_marker(&self.feed, &name, marker, to).await;
                moved.expect("known");
                self.model.move_marker(of, marker, to);
            }
            Op::Set { back, new } => {
                let Some(entry) = self.entry(back).cloned() else {
                    return;
                };
                let set = node.set_state(&self.feed, &name, entry.version, new).await;
                let held = entry.held[of];
                if delivery(entry.kind) != Delivery::Notify {
                    return assert!(matches!(set, Err(Error::NotNotify(_))));
                }
                if !of.is_empty() && entry.actor == of && new.read == Some(false) {
                    return assert!(matches!(set, Err(Error::OwnEntry)));
                }
                let set = set.expect("the entry is there");
                let expected = match (new.read, new.archived) {
                    (_, Some(true)) => ReadState::Archived,
                    (Some(false), _) => ReadState::Unread,
                    (Some(true), None) if held.state == ReadState::Archived => ReadState::Archived,
                    (Some(true), _) => ReadState::Read,
                    (None, _) if held.state == ReadState::Unread => ReadState::Unread,
                    (None, _) => ReadState::Read,
                };
                assert_eq!(set.state, expected);
                self.model.set(of, entry.version, expected, set.marked);
            }
            Op::Erase { back } => {
                let Some(entry) = self.entry(back) else {
                    return;
                };
                let (version, id) = (entry.version, entry.id.parse().expect("an id"));
                let erased = self.lifecycle.erase(&id, None, &|_, _| Ok(())).await;
                erased.expect("erased");
                self.model.entries.retain(|entry| entry.version != version);
            }
            Op::Retain { back } => {
                // Elsewhere, it takes 10 s until entries can go.
                if self.waits || self.model.entries.len() <= back {
                    return;
                }
                self.sweep(back as u64).await;
                let gone = self.model.entries.len() - back;
                self.model.entries.drain(..gone);
            }
        }
    }

    async fn sweep(&self, keep: u64) {
        let rule = Rule {
            feeds: self.name.clone(),
            kinds: Vec::new(),
            age: None,
            entries: Some(keep),
        };
        let retention = Retention {
            rules: [rule].into(),
            log_age: None,
        };
        // Nothing younger than 10 s goes, and a pass begins some time after the one before.
        self.raw.wall.set(self.raw.wall.micros() + 3_600_000_000);
        self.nodes[0]
            .move_marker(
                &feed_name("tick"),
                &ReaderName::OWN,
                Marker::Seen,
                self.now().await,
            )
            .await
            .expect("a commit");
        let lineage = Lineage::new(self.raw.keys.clone());
        let mut pass = None;
        loop {
            let (keys, now) = (&self.raw.keys, self.raw.wall.micros());
            let mut step = Step::new(keys, &lineage, &retention, &mut pass, now);
            let progress = transact(&*self.raw.store, &mut step).await.expect("a step");
            if progress.outcome == Outcome::IsComplete {
                return;
            }
            assert_eq!(progress.outcome, Outcome::GoesOn);
        }
    }

    /// Checks one reader on one node.
    async fn check(&self, node: usize, of: &'static str) {
        let (node, name) = (&self.nodes[node], reader(of));
        let state = node.state(&self.feed, &name).await.expect("read");
        let expected = self.model.unread(of);
        assert_eq!(state.unread.kinds, expected, "{of} of {:#?}", self.model);
        assert_eq!(state.unread.total, expected.values().sum::<usize>());
        assert!(!state.unread.more);
    }

    async fn check_lists(&self, node: usize, of: &'static str) {
        let name = reader(of);
        let only = [
            None,
            Some(ReadState::Unread),
            Some(ReadState::Read),
            Some(ReadState::Archived),
        ];
        for only in only {
            for newest_first in [true, false] {
                let mut expected = self.model.list(of, only);
                if !newest_first {
                    expected.reverse();
                }
                let listed = list(&self.nodes[node], &self.feed, &name, only, newest_first).await;
                assert_eq!(listed, expected, "{of} {only:?} of {:#?}", self.model);
            }
        }
    }

    /// Checks that a stream was told the counts and the marks.
    async fn check_stream(&self, recorder: &mut Recorder, of: &'static str) {
        let expected = self.model.unread(of);
        let feed = &self.feed;
        let is_told = |recorder: &Recorder| recorder.told.unread[feed].1.kinds == expected;
        recorder.until(is_told).await;
        let marks = self.model.entries.iter().filter_map(|entry| {
            let held = entry.held[of];
            Some((entry.version, held.marked?))
        });
        let marks: Vec<_> = marks.collect();
        let all_told = |recorder: &Recorder| {
            let told = |(entry, marked): &(Version, Version)| {
                recorder
                    .told
                    .marks
                    .get(entry)
                    .is_some_and(|mark| mark.marked == *marked)
            };
            marks.iter().all(told)
        };
        recorder.until(all_told).await;
    }
}

/// All entries of a list, page by page, with their states.
async fn list(
    node: &Feeds,
    feed: &FeedName,
    reader: &ReaderName,
    only: Option<ReadState>,
    newest_first: bool,
) -> Vec<(Version, Option<ReadState>)> {
    let mut listed = Vec::new();
    let mut next = None;
    loop {
        let order = match newest_first {
            true => Order::NewestFirst {
                until: None,
                before: next,
            },
            false => Order::OldestFirst {
                after: next.unwrap_or(Version::ZERO),
                until: None,
                kept: true,
            },
        };
        let query = PageQuery {
            feeds: vec![feed.clone()],
            order,
            limit: 7,
            bytes: PAGE_BYTES_MAX,
            kinds: Vec::new(),
            states: Some(States {
                reader: reader.clone(),
                only,
            }),
        };
        let page = node.page(&query).await.expect("a page");
        for found in page
            .entries
            .iter()
            .filter(|found| found.entry.changed().is_none())
        {
            let state = found.states.first().expect("a state or none");
            listed.push((found.entry.version, state.as_ref().map(|state| state.state)));
        }
        next = page.next;
        if next.is_none() {
            return listed;
        }
    }
}

async fn every_reader_has_the_states_that_the_model_says(bed: &Bed, cases: u32) {
    let live = Live::start(bed.store(), bed.keys().await);
    let step = (0..2usize, 0..READERS.len(), any_op());
    for_random(
        cases,
        proptest::collection::vec(step, 1..24),
        async |steps| {
            let mut run = Run::new(bed).await;
            let many: Vec<_> = (0..MANY)
                .map(|n| (n % KINDS.len(), n % READERS.len()))
                .collect();
            run.append(&many).await;
            let mut streams = BTreeMap::new();
            for of in READERS {
                let recorder = live.follow_as(&[run.feed.clone()], &reader(of), None).await;
                streams.insert(of, recorder);
            }
            for (node, of, op) in &steps {
                run.take(*node, READERS[*of], op).await;
                for of in READERS {
                    for node in 0..2 {
                        run.check(node, of).await;
                    }
                }
            }
            for (of, recorder) in &mut streams {
                run.check_lists(0, of).await;
                run.check_stream(recorder, of).await;
                // From the beginning: what has happened is told at once.
                let mut late = live
                    .follow_as(&[run.feed.clone()], &reader(of), Some(Version::ZERO))
                    .await;
                run.check_stream(&mut late, of).await;
            }
        },
    );
    let counts = audit::audit(&*bed.store(), &bed.keys().await).await;
    assert!(counts.expect("all values are valid").marks > 0);
}

async fn counts_agree_with_entries_whatever_two_nodes_do_at_once(bed: &Bed) {
    let mut run = Run::new(bed).await;
    let many: Vec<_> = (0..MANY)
        .map(|n| (n % KINDS.len(), n % READERS.len()))
        .collect();
    run.append(&many).await;
    let (feed, name) = (run.feed.clone(), reader("anna"));
    let entries = run
        .model
        .entries
        .iter()
        .filter(|entry| delivery(entry.kind) == Delivery::Notify && entry.actor != "anna");
    // So few that marks of the same entry meet.
    let versions: Vec<Version> = entries.map(|entry| entry.version).take(3).collect();
    let work = |node: Feeds, seed: usize| {
        let (feed, name, versions) = (feed.clone(), name.clone(), versions.clone());
        async move {
            for n in 0..40 {
                let entry = versions[(seed * 7 + n * 11) % versions.len()];
                let done = match (seed + n) % 5 {
                    0 => {
                        node.move_marker(&feed, &name, Marker::Read, versions[n % versions.len()])
                            .await
                    }
                    1 => {
                        node.move_marker(&feed, &name, Marker::Archived, entry)
                            .await
                    }
                    other => {
                        let new = NewState {
                            read: Some(other == 2),
                            archived: None,
                        };
                        node.set_state(&feed, &name, entry, new).await.map(drop)
                    }
                };
                done.expect("done");
                node.state(&feed, &name).await.expect("read");
            }
        }
    };
    let [a, b] = run.nodes.clone();
    tokio::join!(
        work(a.clone(), 0),
        work(b.clone(), 1),
        work(a, 2),
        work(b, 3)
    );
    let fresh = Feeds::new(Arc::clone(&run.raw.store), run.raw.keys.clone());
    let mut states: Vec<_> = list(&fresh, &feed, &name, None, true).await;
    states.retain(|(_, state)| *state == Some(ReadState::Unread));
    for node in run.nodes.iter().chain([&fresh]) {
        let state = node.state(&feed, &name).await.expect("read");
        assert_eq!(state.unread.total, states.len());
        let unread = list(node, &feed, &name, Some(ReadState::Unread), true).await;
        assert_eq!(unread, states);
    }
    // One row for each entry, and one under its mark.
    let ranges = run.raw.keys.all_marks();
    let ranges = ranges.map(|(begin, end)| Range::all(begin, end)).to_vec();
    let snapshot = run.raw.store.snapshot().await.expect("a snapshot");
    let rows = snapshot.ranges(ranges).await.expect("read");
    assert_eq!(rows[0].items.len(), rows[1].items.len());
    assert!((1..=versions.len()).contains(&rows[0].items.len()));
}
