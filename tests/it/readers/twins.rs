//! "Nothing twice", compared with the model: one id committed repeatedly, at every distance around the bound. The commits
//! bypass the appender, which would have found the claim, and the wall clock is set by the test.

use std::sync::{Arc, atomic::Ordering};

use newsfeed::{
    clock::WallTime,
    feed::{Feeds, Order, PAGE_BYTES_MAX, PageQuery},
    projection::{self, Projection, Step, Turn},
    store::transact_until,
    types::{FeedName, Marker, ReaderName},
    version::Version,
};
use proptest::prelude::*;

use crate::support::{
    bed::Bed,
    follower::{Live, Recorder, check_recorder},
    model::{
        Commit, Model, check_log, check_page, check_pages, check_state, feed_name, for_random,
        fresh_feeds,
    },
    raw_commits::{Raw, uncommitted},
    stores::{Flaky, troubled},
};

/// Distance in ticks from which two commits of an id are two entries.
const BOUND: u64 = 5_000_000;
/// Longer than any snapshot's life, in ticks.
const LONG: u64 = 100_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_commit_of_an_id_is_invisible_within_its_window_and_only_there() {
    let bed = Bed::embedded_at(WallTime::manual(1_000_000_000));
    let raw = Raw::new(&bed).await;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    for distance in [2, 1_000_000, BOUND - 1, BOUND, BOUND + 1, 10 * BOUND] {
        // The time of the second commit's snapshot relative to the first commit, or unknown.
        for read_at in [None, Some(-1), Some(0), Some(1)] {
            let first_at = raw.now().await + LONG;
            let feed = [feed_name(&format!("table.{first_at}"))];
            let read_at = read_at.map(|offset| first_at.saturating_add_signed(offset));
            let mut first = uncommitted("x", "message", &feed, 0);
            let mut second = uncommitted("x", "message", &feed, read_at.unwrap_or(0));
            raw.commit(first_at, std::slice::from_mut(&mut first)).await;
            raw.commit(first_at + distance, std::slice::from_mut(&mut second))
                .await;
            assert_eq!(second.version.time() - first.version.time(), distance);

            let model = Model(vec![first, second]);
            let hidden = distance < BOUND && read_at.is_none_or(|read_at| read_at < first_at);
            assert_eq!(model.merged(&feed).len(), if hidden { 1 } else { 2 });
            check_pages(&reader, &model, &feed, &[1, 2], &[]).await;
            check_markers(&reader, &model, &feed[0]).await;
            check_catch_up(&raw, &model, &feed).await;
        }
    }
}

/// Compares a follower of `feeds` with the model, starting at every cut.
async fn check_catch_up(raw: &Raw, model: &Model, feeds: &[FeedName]) {
    let live = Live::start(raw.store.clone(), raw.keys.clone());
    for cut in model.cuts() {
        let recorder = live.follow(feeds, Some(cut)).await;
        check_recorder(&recorder, model, cut);
    }
    live.end().await;
}

/// Compares unread counts with the model, with the `read` marker at every cut.
async fn check_markers(reader: &Feeds, model: &Model, feed: &FeedName) {
    for cut in model.cuts() {
        let moved = reader
            .move_marker(feed, &ReaderName::OWN, Marker::Read, cut)
            .await;
        moved.expect("the marker moves");
        let moved = reader.state(feed, &ReaderName::OWN).await.expect("read");
        check_state(reader, model, feed).await;
        assert!(moved.markers.read >= Some(cut) || cut == Version::ZERO);
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// Commits events in one transaction.
    Commit(When, Vec<Event>),
    /// Moves the `read` marker of a feed to a commit, or right before it.
    Read {
        feed: usize,
        back: usize,
        before: bool,
    },
    /// Opens a stream over one of [`FEED_SETS`], after a commit or from now.
    Follow {
        feeds: usize,
        after: Option<usize>,
    },
    /// Opens a stream over the log, after a commit or from now.
    FollowLog {
        after: Option<usize>,
    },
    RaiseEpoch,
    /// Takes steps of the indexes, of this many events.
    Project {
        first: bool,
        events: usize,
        steps: usize,
    },
}

#[derive(Debug, Clone)]
enum When {
    After(u64),
    /// `ticks` after an earlier commit, if that is not in the past.
    Since {
        back: usize,
        ticks: u64,
    },
}

#[derive(Debug, Clone)]
struct Event {
    id: usize,
    other_kind: bool,
    /// A bit for each feed.
    feeds: usize,
    /// The snapshot's time: an earlier commit and an offset in ticks; or unknown.
    read_at: Option<(usize, i64)>,
}

const KINDS: [[&str; 2]; 3] = [
    ["message", "call"],
    ["visit", "flirt"],
    ["message", "message"],
];
/// Indexes of feeds; the first two share a partition.
const FEED_SETS: [&[usize]; 4] = [&[0], &[2], &[1, 0], &[2, 0, 1]];

fn any_op() -> impl Strategy<Value = Op> {
    let when = prop_oneof![
        2 => (1..4u64).prop_map(When::After),
        2 => (1..4_000_000u64).prop_map(When::After),
        5 => (1..7usize, BOUND - 1..BOUND + 2).prop_map(|(back, ticks)| When::Since { back, ticks }),
    ];
    let read_at = prop_oneof![Just(None), (1..6usize, -1..2i64).prop_map(Some),];
    let event = (0..3usize, any::<bool>(), 1..8usize, read_at).prop_map(
        |(id, other_kind, feeds, read_at)| Event {
            id,
            other_kind,
            feeds,
            read_at,
        },
    );
    let read = (0..3usize, 1..6usize, any::<bool>());
    let follow = (0..FEED_SETS.len(), proptest::option::of(0..9usize));
    prop_oneof![
        16 => (when, proptest::collection::vec(event, 1..4)).prop_map(|(when, events)| Op::Commit(when, events)),
        4 => read.prop_map(|(feed, back, before)| Op::Read { feed, back, before }),
        3 => follow.prop_map(|(feeds, after)| Op::Follow { feeds, after }),
        2 => proptest::option::of(0..9usize).prop_map(|after| Op::FollowLog { after }),
        1 => Just(Op::RaiseEpoch),
        4 => (any::<bool>(), 1..4usize, 1..4usize).prop_map(|(first, events, steps)| Op::Project { first, events, steps }),
    ]
}

/// A random history in progress, and what is known of it.
struct Run<'a> {
    raw: &'a Raw,
    reader: Feeds,
    live: Live,
    feeds: [FeedName; 3],
    model: Model,
    /// The latest time of a commit or of the clock, in ticks.
    now: u64,
    streams: Vec<(Recorder, Version)>,
    /// Below all commits of this run.
    start: Version,
}

impl<'a> Run<'a> {
    async fn new(raw: &'a Raw) -> Self {
        let now = raw.now().await + LONG;
        let snapshot = raw.store.snapshot().await.expect("a snapshot");
        Self {
            start: snapshot.version(),
            raw,
            reader: Feeds::new(raw.store.clone(), raw.keys.clone()),
            live: Live::start(raw.store.clone(), raw.keys.clone()),
            feeds: fresh_feeds(&raw.keys, &format!("random.{now}")),
            model: Model::default(),
            now,
            streams: Vec::new(),
        }
    }

    fn set(&self, feeds: usize) -> Vec<FeedName> {
        let set = FEED_SETS[feeds].iter();
        set.map(|&feed| self.feeds[feed].clone()).collect()
    }

    /// The version of the commit `back` commits ago; zero if there is none.
    fn back(&self, back: usize) -> Version {
        let index = self.model.0.len().checked_sub(back);
        let commit = index.and_then(|index| self.model.0.get(index));
        commit.map_or(Version::ZERO, |commit| commit.version)
    }

    async fn take(&mut self, op: Op) {
        match op {
            Op::Commit(when, events) => {
                let at = match when {
                    When::After(ticks) => self.now + ticks,
                    When::Since { back, ticks } => self.back(back).time() + ticks,
                };
                let at = at.clamp(self.now + 1, self.now + 2 * BOUND);
                // A tailer round in progress must not find its snapshot too old.
                if at - self.now > BOUND / 2 {
                    self.settle().await;
                }
                let commits = events.iter().map(|event| self.draft(event)).collect();
                self.commit(at, commits).await;
            }
            Op::Read { feed, back, before } => {
                let to = self.back(back);
                let to = if before { to.before() } else { to };
                let moved =
                    self.reader
                        .move_marker(&self.feeds[feed], &ReaderName::OWN, Marker::Read, to);
                moved.await.expect("the marker moves");
            }
            Op::Follow { feeds, after } => {
                let from = after.map(|back| self.back(back));
                let recorder = self.live.follow(&self.set(feeds), from).await;
                self.streams.push((recorder, from.unwrap_or(self.back(1))));
            }
            Op::FollowLog { after } => {
                let from = after.map(|back| self.back(back).max(self.start));
                let recorder = self.live.follow_log(&Arc::default(), from).await;
                let from = from.unwrap_or(self.back(1).max(self.start));
                self.streams.push((recorder, from));
            }
            Op::RaiseEpoch => self.raw.raise_epoch().await,
            Op::Project {
                first,
                events,
                steps,
            } => {
                let turn = match first {
                    true => Turn::First,
                    false => Turn::Last,
                };
                for _ in 0..steps {
                    self.project(turn, events).await;
                }
            }
        }
    }

    /// Takes a step; returns whether everything is indexed.
    async fn project(&self, turn: Turn, events: usize) -> bool {
        let kinds = ["message", "visit"].map(|kind| kind.parse().expect("a kind"));
        let projections = Projection::of(false, kinds);
        let limits = projection::Limits {
            events,
            ..projection::Limits::default()
        };
        let mut step = Step::new(&self.raw.keys, &projections, turn, limits);
        let now = tokio::time::Instant::now();
        let progress = transact_until(&*self.raw.store, &mut step, now).await;
        progress.expect("nobody else takes steps").is_complete
    }

    fn draft(&self, event: &Event) -> Commit {
        let feeds = self.feeds.iter().enumerate();
        let feeds = feeds.filter(|(index, _)| event.feeds & (1 << index) != 0);
        let read_at = event
            .read_at
            .map(|(back, offset)| self.back(back).time().saturating_add_signed(offset));
        let mut feeds: Vec<_> = feeds.map(|(_, feed)| feed.clone()).collect();
        if event.other_kind {
            feeds.reverse();
        }
        Commit {
            version: Version::ZERO,
            id: format!("id {}", event.id),
            kind: KINDS[event.id][usize::from(event.other_kind)].into(),
            feeds,
            data: format!("{{\"n\":{}}}", self.model.0.len()),
            read_at: read_at.unwrap_or(0),
        }
    }

    async fn commit(&mut self, at: u64, mut commits: Vec<Commit>) {
        self.raw.commit(at, &mut commits).await;
        self.now = at.max(commits[0].version.time());
        self.model.0.extend(commits);
    }

    /// Commits an event with a new id to all feeds; waits until every stream has received it.
    async fn settle(&mut self) {
        let id = format!("settled {}", self.model.0.len());
        let event = uncommitted(&id, "visit", &self.feeds, 0);
        self.commit(self.now + 1, vec![event]).await;
        for (recorder, _) in &mut self.streams {
            let arrived =
                |recorder: &Recorder| recorder.entries.last().is_some_and(|last| last.id == id);
            recorder.until(arrived).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reader_sees_what_the_model_says() {
    let bed = Bed::embedded_at(WallTime::manual(1_000_000_000));
    let raw = Raw::new(&bed).await;
    let hidden = std::cell::Cell::new(0);
    for_random(
        16,
        proptest::collection::vec(any_op(), 1..16),
        async |ops| {
            let mut run = Run::new(&raw).await;
            // What earlier histories have left.
            while !run.project(Turn::Last, 100).await {}
            for op in ops {
                run.take(op).await;
                for feed in &run.feeds {
                    check_state(&run.reader, &run.model, feed).await;
                }
            }
            run.settle().await;
            for (recorder, after) in &run.streams {
                check_recorder(recorder, &run.model, *after);
            }
            // All limits for a short history; for a long one, limits around the batch size of reads.
            let limits: Vec<usize> = match run.model.0.len() {
                short @ ..=8 => (1..=short + 1).collect(),
                _ => vec![1, 6, 9],
            };
            check_pages(&run.reader, &run.model, &run.set(3), &limits, &[]).await;
            check_pages(&run.reader, &run.model, &run.set(3), &[2], &["message"]).await;
            check_pages(
                &run.reader,
                &run.model,
                &run.set(3),
                &[2, 9],
                &["visit", "message"],
            )
            .await;
            for set in 0..3 {
                check_pages(&run.reader, &run.model, &run.set(set), &[5], &[]).await;
            }
            check_log(&run.reader, &run.model, run.start, 3).await;
            check_catch_up(&raw, &run.model, &run.set(3)).await;
            check_markers(&run.reader, &run.model, &run.feeds[0]).await;
            hidden.set(hidden.get() + hidden_in(&run.model));
        },
    );
    assert!(hidden.get() > 0, "the random histories had no twins");
}

fn hidden_in(model: &Model) -> usize {
    let places = |commit: &Commit| {
        let twin = |feed: &&FeedName| model.is_twin(commit, feed);
        commit.feeds.iter().filter(twin).count()
    };
    model.0.iter().map(places).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_commit_far_back_still_hides_its_twin() {
    let bed = Bed::embedded_at(WallTime::manual(1_000_000_000));
    let raw = Raw::new(&bed).await;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    let feed = [feed_name("busy")];
    let start = raw.now().await + LONG;
    let mut model = Model::default();
    let append = async |model: &mut Model, id: &str, at: u64| {
        let mut commits = [uncommitted(id, "message", &feed, 0)];
        raw.commit(at, &mut commits).await;
        model.0.extend(commits);
    };
    append(&mut model, "x", start).await;
    for number in 1..1_100 {
        append(
            &mut model,
            &format!("between {number}"),
            start + 4_000 * number,
        )
        .await;
    }
    let live = Live::start(raw.store.clone(), raw.keys.clone());
    let before_twin = model.0.last().expect("commits").version;
    let mut recorder = live.follow(&feed, None).await;
    append(&mut model, "x", start + BOUND - 1).await;
    let twin = model.0.last().expect("commits").version;
    assert_eq!(twin.time() - model.0[0].version.time(), BOUND - 1);
    append(&mut model, "end", start + BOUND).await;

    recorder
        .until(|recorder| recorder.entries.iter().any(|shown| shown.id == "end"))
        .await;
    check_recorder(&recorder, &model, before_twin);
    check_recorder(
        &live.follow(&feed, Some(before_twin)).await,
        &model,
        before_twin,
    );
    for order in [
        Order::NewestFirst {
            until: Some(twin),
            before: None,
        },
        Order::NewestFirst {
            until: None,
            before: None,
        },
        Order::OldestFirst {
            after: before_twin,
            until: None,
            kept: false,
        },
        Order::OldestFirst {
            after: before_twin,
            until: Some(twin),
            kept: false,
        },
    ] {
        for limit in [1, 2, 200] {
            let query = PageQuery {
                feeds: feed.to_vec(),
                order,
                limit,
                bytes: PAGE_BYTES_MAX,
                kinds: Vec::new(),
                states: None,
            };
            check_page(&reader, &model, &query).await;
        }
    }
    for marker in [Version::ZERO, model.0[0].version, before_twin, twin] {
        let moved = reader
            .move_marker(&feed[0], &ReaderName::OWN, Marker::Read, marker)
            .await;
        moved.expect("the marker moves");
        check_state(&reader, &model, &feed[0]).await;
    }
}

crate::on_every_engine!(a_stream_loses_nothing_when_rounds_of_live_delivery_fail_half_way);

async fn a_stream_loses_nothing_when_rounds_of_live_delivery_fail_half_way(bed: &Bed) {
    let raw = Raw::new(bed).await;
    let flaky = Arc::new(Flaky::default());
    let live = Live::start(troubled(raw.store.clone(), flaky.clone()), raw.keys.clone());
    let feeds = fresh_feeds(&raw.keys, "flaky");
    let mut recorder = live.follow(&feeds, None).await;
    let mut model = Model::default();
    flaky.on.store(true, Ordering::SeqCst);
    for number in 0..12 {
        // The snapshot's time is unknown, so each round has to look for an earlier commit.
        let mut commits = [uncommitted(
            &format!("event {number}"),
            "message",
            &feeds,
            0,
        )];
        raw.commit(1, &mut commits).await;
        model.0.extend(commits);
        let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
        let read = reader.move_marker(
            &feeds[0],
            &ReaderName::OWN,
            Marker::Read,
            model.0[0].version,
        );
        read.await.expect("the marker moves");
    }
    recorder
        .until(|recorder| {
            recorder
                .entries
                .last()
                .is_some_and(|last| last.id == "event 11")
        })
        .await;
    check_recorder(&recorder, &model, Version::ZERO);
    assert!(flaky.failures.load(Ordering::SeqCst) > 0, "no read failed");
}
