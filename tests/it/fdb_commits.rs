//! Commits that fail, that seem to, and that come too late, at every attempt.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use newsfeed::{
    append::{Appender, Outcome},
    clock::{AtClock, WallTime},
    error::Error as Rejection,
    feed::{Feeds, Order, PageQuery},
    store::{Batch, Error, Range, Result, Retries, Slice, Snapshot, Store, epoch, keys::Keys},
    types::{Data, Delivery, Draft, Event, Expect},
    version::Version,
};
use serde_json::value::RawValue;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    fdb_cluster::{self, fresh_prefix},
    fdb_load::PATIENCE,
};

/// What becomes of one attempt of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The commit happens, but nobody is told.
    DoneButUnknown,
    /// The commit does not happen, and nobody is told.
    LostAndUnknown,
    CommitTooOld,
    CommitConflict,
    ReadTooOld,
    ReadUnavailable,
}

const FAULTS: [Fault; 6] = [
    Fault::DoneButUnknown,
    Fault::LostAndUnknown,
    Fault::CommitTooOld,
    Fault::CommitConflict,
    Fault::ReadTooOld,
    Fault::ReadUnavailable,
];

impl Fault {
    fn of_reads(self) -> bool {
        matches!(self, Self::ReadTooOld | Self::ReadUnavailable)
    }
}

/// A commit in the test's hands.
struct Held {
    snapshot: Box<dyn Snapshot>,
    batch: Batch,
    answer: oneshot::Sender<Result<Version>>,
}

impl Held {
    /// Lets the commit go on, and its transaction hear of it.
    async fn release(self) {
        let committed = self.snapshot.commit(self.batch).await;
        assert!(self.answer.send(committed).is_ok(), "somebody waits for it");
    }

    /// The transaction hears that it is unknown what became of the commit; which can still happen.
    fn unknown(self) -> (Box<dyn Snapshot>, Batch) {
        let heard = self.answer.send(Err(Error::Unknown));
        assert!(heard.is_ok(), "somebody waits for it");
        (self.snapshot, self.batch)
    }
}

enum Step {
    Fail(Fault),
    Hold(oneshot::Sender<Held>),
}

/// A store whose first attempts go as the test wants it.
struct Scripted {
    inner: Arc<dyn Store>,
    steps: Mutex<VecDeque<Step>>,
    attempts: AtomicUsize,
}

#[async_trait]
impl Store for Scripted {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let step = {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            steps.pop_front()
        };
        Ok(Box::new(Attempt {
            inner: self.inner.snapshot().await?,
            step,
        }))
    }

    async fn changed(&self, seen: Version) -> Result<()> {
        self.inner.changed(seen).await
    }

    fn retries(&self) -> &Retries {
        self.inner.retries()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct Attempt {
    inner: Box<dyn Snapshot>,
    step: Option<Step>,
}

impl Attempt {
    fn readable(&self) -> Result<()> {
        match self.step {
            Some(Step::Fail(Fault::ReadTooOld)) => Err(Error::TooOld),
            Some(Step::Fail(Fault::ReadUnavailable)) => Err(Error::Unavailable("away".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Snapshot for Attempt {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Bytes>>> {
        self.readable()?;
        self.inner.get(keys).await
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<Slice>> {
        self.readable()?;
        self.inner.ranges(ranges).await
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self { inner, step } = *self;
        match step {
            None => inner.commit(batch).await,
            Some(Step::Fail(fault)) => match fault {
                Fault::DoneButUnknown => {
                    inner.commit(batch).await?;
                    Err(Error::Unknown)
                }
                Fault::LostAndUnknown => Err(Error::Unknown),
                Fault::CommitTooOld => Err(Error::TooOld),
                Fault::CommitConflict => Err(Error::Conflict),
                Fault::ReadTooOld | Fault::ReadUnavailable => {
                    panic!("a commit after {fault:?}")
                }
            },
            Some(Step::Hold(sender)) => {
                let (answer, answered) = oneshot::channel();
                let held = Held {
                    snapshot: inner,
                    batch,
                    answer,
                };
                assert!(sender.send(held).is_ok(), "the test waits for it");
                answered.await.expect("the test answers")
            }
        }
    }
}

/// One service in a key space: a writer to play tricks on, a rival on the same cluster, and what readers see.
struct Scene {
    store: Arc<dyn Store>,
    keys: Keys,
    feeds: Feeds,
    rival: Writer,
}

#[derive(Clone)]
struct Writer {
    appender: Appender,
}

impl Writer {
    fn on(store: Arc<dyn Store>, keys: Keys) -> Self {
        let clock = AtClock::new(WallTime::system(0)).expect("the clock runs");
        let (appender, _batcher) = Appender::start(store, keys, Arc::new(clock));
        Self { appender }
    }

    async fn append(&self, events: Vec<Event>) -> Vec<Outcome> {
        let admission = self.appender.admit(&events).expect("room");
        let outcomes = self.appender.append(events, admission).await;
        let outcomes = outcomes.expect("answers").into_iter();
        outcomes.map(|(_, outcome)| outcome).collect()
    }

    async fn append_one(&self, event: Event) -> Outcome {
        self.append(vec![event]).await.remove(0)
    }
}

impl Scene {
    async fn new() -> Self {
        let (cluster, prefix) = (fdb_cluster::shared(), fresh_prefix());
        // So patient that it is the database that refuses what comes too late.
        let store = || cluster.store_with(&prefix, PATIENCE);
        let rival = store();
        let store = store();
        let keys = Keys::open(&*store, prefix.as_bytes(), 16).await;
        let keys = keys.expect("the key space opens");
        Self {
            feeds: Feeds::new(Arc::clone(&store), keys.clone()),
            rival: Writer::on(rival, keys.clone()),
            store,
            keys,
        }
    }

    /// A writer on a store that does `steps` first.
    fn writer(&self, steps: impl IntoIterator<Item = Step>) -> (Writer, Arc<Scripted>) {
        let scripted = Arc::new(Scripted {
            inner: Arc::clone(&self.store),
            steps: Mutex::new(steps.into_iter().collect()),
            attempts: AtomicUsize::new(0),
        });
        let store: Arc<dyn Store> = scripted.clone();
        (Writer::on(store, self.keys.clone()), scripted)
    }

    /// Appends `event` and stops it at its commit.
    async fn hold(&self, event: Event) -> (Held, tokio::task::JoinHandle<Outcome>) {
        let (sender, held) = oneshot::channel();
        let (writer, _) = self.writer([Step::Hold(sender)]);
        let outcome = tokio::spawn(async move { writer.append_one(event).await });
        (held.await.expect("it comes to its commit"), outcome)
    }

    /// All of a feed: versions and ids.
    async fn entries(&self, feed: &str) -> Vec<(Version, String)> {
        let query = PageQuery {
            feeds: vec![feed.parse().expect("a name")],
            order: Order::OldestFirst {
                after: Version::ZERO,
                until: None,
            },
            limit: 200,
            kind: None,
        };
        let page = self.feeds.page(&query).await.expect("a page");
        assert_eq!(page.next, None);
        let entries = page.entries.into_iter().map(|found| found.entry);
        entries
            .map(|entry| (entry.version, entry.id.to_string()))
            .collect()
    }
}

fn event(id: &str, feed: &str) -> Event {
    event_with(id, feed, "null")
}

fn event_with(id: &str, feed: &str, data: &str) -> Event {
    draft(id, feed, data, None)
}

/// For a slot: an event for a feed that has no entry after `version`.
fn event_expecting(id: &str, feed: &str, version: Option<Version>) -> Event {
    let expect = Expect {
        feed: feed.parse().expect("a name"),
        version,
    };
    draft(id, feed, "null", Some(expect))
}

fn draft(id: &str, feed: &str, data: &str, expect: Option<Expect>) -> Event {
    let raw = RawValue::from_string(data.to_owned()).expect("JSON");
    let draft = Draft {
        id: id.parse().expect("an id"),
        kind: "message".parse().expect("a name"),
        delivery: Delivery::Notify,
        feeds: vec![feed.parse().expect("a name")],
        actor: None,
        data: Data::from_raw(&raw).expect("small"),
        expect,
    };
    draft.check().expect("a good event")
}

fn appended(outcome: &Outcome) -> Version {
    match outcome {
        Outcome::Appended(version) => *version,
        other => panic!("not appended: {other:?}"),
    }
}

fn duplicate(outcome: &Outcome) -> Version {
    match outcome {
        Outcome::Duplicate(version) => *version,
        other => panic!("not a duplicate: {other:?}"),
    }
}

/// All sequences of one to three faults.
fn sequences() -> Vec<Vec<Fault>> {
    let longer = |shorter: &[Vec<Fault>]| -> Vec<Vec<Fault>> {
        let all = shorter
            .iter()
            .flat_map(|start| FAULTS.map(|fault| [&start[..], &[fault]].concat()));
        all.collect()
    };
    let one = longer(&[vec![]]);
    let two = longer(&one);
    let three = longer(&two);
    [one, two, three].concat()
}

/// How many attempts it takes: after one that committed, the next that can read finds out.
fn attempts(faults: &[Fault]) -> usize {
    let done = faults
        .iter()
        .position(|&fault| fault == Fault::DoneButUnknown);
    let Some(done) = done else {
        return faults.len() + 1;
    };
    let blind = faults[done + 1..]
        .iter()
        .take_while(|fault| fault.of_reads());
    done + 1 + blind.count() + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_commit_an_append_is_answered_right_and_done_once() {
    let scene = Arc::new(Scene::new().await);
    let mut waiting = sequences().into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        while running.len() < 16
            && let Some((number, faults)) = waiting.next()
        {
            let scene = Arc::clone(&scene);
            running.spawn(async move {
                plain(&scene, number, &faults).await;
                conditional(&scene, number, &faults).await;
            });
        }
        match running.join_next().await {
            Some(done) => done.expect("as it must be"),
            None => break,
        }
    }
}

/// A batch of what is new, what is there, what comes twice and what reuses an id.
async fn plain(scene: &Scene, number: usize, faults: &[Fault]) {
    let feed = format!("plain:{number}");
    let id = |name: &str| format!("{feed} {name}");
    let old = appended(&scene.rival.append_one(event(&id("old"), &feed)).await);
    let (writer, store) = scene.writer(faults.iter().copied().map(Step::Fail));
    let events = vec![
        event(&id("a"), &feed),
        event(&id("old"), &feed),
        event(&id("b"), &feed),
        event(&id("a"), &feed),
        event_with(&id("old"), &feed, "1"),
    ];
    let outcomes = writer.append(events).await;
    let (a, b) = (appended(&outcomes[0]), appended(&outcomes[2]));
    assert_eq!(duplicate(&outcomes[1]), old, "{faults:?}");
    assert_eq!(duplicate(&outcomes[3]), a, "{faults:?}");
    match &outcomes[4] {
        Outcome::Rejected(Rejection::IdReused { version, .. }) => assert_eq!(*version, old),
        other => panic!("{faults:?}: {other:?}"),
    }
    let entries = scene.entries(&feed).await;
    let expected = [(old, id("old")), (a, id("a")), (b, id("b"))];
    assert_eq!(entries, expected, "{faults:?}");
    let tried = store.attempts.load(Ordering::Relaxed);
    assert_eq!(tried, attempts(faults), "{faults:?}");
}

/// A slot is taken by the event that expects it free, then by the one that expects that.
async fn conditional(scene: &Scene, number: usize, faults: &[Fault]) {
    let feed = format!("slot:{number}");
    let (first, second) = (format!("{feed} 1"), format!("{feed} 2"));
    let (writer, store) = scene.writer(faults.iter().copied().map(Step::Fail));
    let outcome = writer
        .append_one(event_expecting(&first, &feed, None))
        .await;
    let taken = appended(&outcome);
    let tried = store.attempts.load(Ordering::Relaxed);
    assert_eq!(tried, attempts(faults), "{faults:?}");

    let (writer, _) = scene.writer(faults.iter().copied().map(Step::Fail));
    let next = event_expecting(&second, &feed, Some(taken));
    let next = appended(&writer.append_one(next).await);
    let expected = [(taken, first.clone()), (next, second)];
    assert_eq!(scene.entries(&feed).await, expected, "{faults:?}");

    // Sent again it is a duplicate, although its condition holds no more; and who comes late is told by whom.
    let again = scene.rival.append_one(event_expecting(&first, &feed, None));
    assert_eq!(duplicate(&again.await), taken);
    let (writer, _) = scene.writer(faults.iter().copied().map(Step::Fail));
    let late = event_expecting(&format!("{feed} late"), &feed, Some(taken));
    assert_conflict(&writer.append_one(late).await, next);
    assert_eq!(scene.entries(&feed).await, expected, "{faults:?}");
}

fn assert_conflict(outcome: &Outcome, winner: Version) {
    match outcome {
        Outcome::Rejected(Rejection::VersionConflict { current, .. }) => {
            assert_eq!(*current, Some(winner));
        }
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_won_by_another_while_the_outcome_was_unknown_is_lost() {
    let scene = Scene::new().await;
    let (held, mine) = scene.hold(event_expecting("mine", "slot", None)).await;
    let theirs = scene.rival.append_one(event("theirs", "slot")).await;
    let (snapshot, batch) = held.unknown();
    assert_conflict(&mine.await.expect("answered"), appended(&theirs));
    // And if the lost commit comes after all, it is refused.
    let late = snapshot.commit(batch).await;
    let refused = matches!(late, Err(Error::Conflict | Error::ConditionFailed(_)));
    assert!(refused, "{late:?}");
    let expected = [(appended(&theirs), "theirs".to_owned())];
    assert_eq!(scene.entries("slot").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_won_without_knowing_it_stays_won_although_others_came_after() {
    let scene = Scene::new().await;
    let (held, mine) = scene.hold(event_expecting("mine", "slot", None)).await;
    let Held {
        snapshot,
        batch,
        answer,
    } = held;
    let won = snapshot.commit(batch).await.expect("committed");
    let theirs = scene.rival.append_one(event("theirs", "slot")).await;
    answer.send(Err(Error::Unknown)).expect("somebody waits");
    assert_eq!(appended(&mine.await.expect("answered")), won);
    let expected = [
        (won, "mine".to_owned()),
        (appended(&theirs), "theirs".to_owned()),
    ];
    assert_eq!(scene.entries("slot").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_comes_after_its_own_repetition_is_invisible() {
    let scene = Scene::new().await;
    let (held, outcome) = scene.hold(event("late", "feed")).await;
    let (snapshot, batch) = held.unknown();
    let version = appended(&outcome.await.expect("answered"));
    // It conflicts with nothing: only the rule of twins hides it.
    let twin = snapshot.commit(batch).await.expect("committed");
    assert!(twin > version);
    let after = appended(&scene.rival.append_one(event("after", "feed")).await);
    let expected = [(version, "late".to_owned()), (after, "after".to_owned())];
    assert_eq!(scene.entries("feed").await, expected);
    let again = scene.rival.append_one(event("late", "feed")).await;
    assert_eq!(duplicate(&again), version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_held_up_for_longer_than_a_snapshot_lives_is_refused_and_finds_the_first() {
    let scene = Scene::new().await;
    let (held, outcome) = scene.hold(event("twice", "feed")).await;
    let first = appended(&scene.rival.append_one(event("twice", "feed")).await);
    let planned_at = held.snapshot.version().time();
    let passed = async {
        loop {
            let snapshot = scene.store.snapshot().await.expect("a snapshot");
            // What 5 s are, and the time in which the database may be late to notice.
            if snapshot.version().time() > planned_at + 7_000_000 {
                return;
            }
            drop(snapshot);
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, passed).await.expect("time passes");
    held.release().await;
    assert_eq!(duplicate(&outcome.await.expect("answered")), first);
    let refused = scene.store.retries().counts();
    let refused: Vec<_> = refused.into_iter().collect();
    assert_eq!(refused, [("too_old", 1)]);
    assert_eq!(scene.entries("feed").await, [(first, "twice".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_in_flight_across_a_raise_of_the_epoch_is_done_again_in_the_new_one() {
    let scene = Scene::new().await;
    let before = appended(&scene.rival.append_one(event("before", "feed")).await);
    let (held, outcome) = scene.hold(event("across", "feed")).await;
    let raised = epoch::raise(&*scene.store, &scene.keys).await;
    assert_eq!(raised.expect("raised"), 1);
    held.release().await;
    let across = appended(&outcome.await.expect("answered"));
    assert_eq!((before.epoch(), across.epoch()), (0, 1));
    let conflicts: Vec<_> = scene.store.retries().counts().into_iter().collect();
    assert_eq!(conflicts, [("conflict", 1)]);
    let expected = [(before, "before".to_owned()), (across, "across".to_owned())];
    assert_eq!(scene.entries("feed").await, expected);
}
