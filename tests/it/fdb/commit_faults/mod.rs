//! Commits that fail, seem to fail, or come too late, at every attempt.

mod key_space;
mod scripted;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use newsfeed::{
    append::Outcome,
    clock::WallTime,
    error::Error as Rejection,
    store::{Error, epoch},
    version::Version,
};
use rustix::process::Signal;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use self::{
    key_space::{KeySpace, appended, duplicate, event, event_expecting, event_with},
    scripted::{FAULTS, Fault, Held, Step},
};
use super::cluster::Cluster;
use crate::support::{patience::PATIENCE, stores::failed_attempts};

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

/// Number of attempts: after one that committed, the next one that can read ends the transaction.
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
async fn whatever_happens_to_a_commit_an_append_is_answered_correctly_and_done_once() {
    let scene = Arc::new(KeySpace::new().await);
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
            Some(done) => done.expect("no failure"),
            None => break,
        }
    }
}

/// A batch with new events, a duplicate, a repeated event and a reused id.
async fn plain(scene: &KeySpace, number: usize, faults: &[Fault]) {
    let feed = format!("plain:{number}");
    let id = |name: &str| format!("{feed} {name}");
    let old = appended(&scene.rival.append_one(event(&id("old"), &feed)).await);
    let (writer, script) = scene.writer(faults.iter().copied().map(Step::Fail));
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
        Outcome::Rejected(Rejection::IdReused { version, .. }) => assert_eq!(*version, Some(old)),
        other => panic!("{faults:?}: {other:?}"),
    }
    let entries = scene.entries(&feed).await;
    let expected = [(old, id("old")), (a, id("a")), (b, id("b"))];
    assert_eq!(entries, expected, "{faults:?}");
    let tried = script.attempts.load(Ordering::Relaxed);
    assert_eq!(tried, attempts(faults), "{faults:?}");
}

/// An event expects an empty feed, and a second one expects the first.
async fn conditional(scene: &KeySpace, number: usize, faults: &[Fault]) {
    let feed = format!("slot:{number}");
    let (first, second) = (format!("{feed} 1"), format!("{feed} 2"));
    let (writer, script) = scene.writer(faults.iter().copied().map(Step::Fail));
    let outcome = writer
        .append_one(event_expecting(&first, &feed, None))
        .await;
    let taken = appended(&outcome);
    let tried = script.attempts.load(Ordering::Relaxed);
    assert_eq!(tried, attempts(faults), "{faults:?}");

    let (writer, _) = scene.writer(faults.iter().copied().map(Step::Fail));
    let next = event_expecting(&second, &feed, Some(taken));
    let next = appended(&writer.append_one(next).await);
    let expected = [(taken, first.clone()), (next, second)];
    assert_eq!(scene.entries(&feed).await, expected, "{faults:?}");

    // Sent again, the first is a duplicate, although its condition no longer holds. A late event gets the current version.
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
    let scene = KeySpace::new().await;
    let (held, mine) = scene.hold(event_expecting("mine", "slot", None)).await;
    let theirs = scene.rival.append_one(event("theirs", "slot")).await;
    let (snapshot, batch) = held.unknown();
    assert_conflict(&mine.await.expect("answered"), appended(&theirs));
    // If the commit arrives after all, it is refused.
    let late = snapshot.commit(batch).await;
    let refused = matches!(late, Err(Error::Conflict | Error::ConditionFailed(_)));
    assert!(refused, "{late:?}");
    let expected = [(appended(&theirs), "theirs".to_owned())];
    assert_eq!(scene.entries("slot").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_won_without_knowing_it_stays_won_although_others_came_after() {
    let scene = KeySpace::new().await;
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
async fn a_commit_that_arrives_after_its_own_retry_is_invisible() {
    let scene = KeySpace::new().await;
    let (held, outcome) = scene.hold(event("late", "feed")).await;
    let (snapshot, batch) = held.unknown();
    let version = appended(&outcome.await.expect("answered"));
    // It conflicts with nothing, and is hidden as a twin.
    let twin = snapshot.commit(batch).await.expect("committed");
    assert!(twin > version);
    let after = appended(&scene.rival.append_one(event("after", "feed")).await);
    let expected = [(version, "late".to_owned()), (after, "after".to_owned())];
    assert_eq!(scene.entries("feed").await, expected);
    let again = scene.rival.append_one(event("late", "feed")).await;
    assert_eq!(duplicate(&again), version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_delayed_beyond_its_snapshots_life_is_refused_and_its_retry_finds_the_first() {
    let scene = KeySpace::new().await;
    let (held, outcome) = scene.hold(event("twice", "feed")).await;
    let first = appended(&scene.rival.append_one(event("twice", "feed")).await);
    let planned_at = held.snapshot.version().time();
    let passed = async {
        loop {
            let snapshot = scene.store.snapshot().await.expect("a snapshot");
            // 5 s, and some time until the database notices.
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
    let refused = failed_attempts(&*scene.store, "append");
    let refused: Vec<_> = refused.into_iter().collect();
    assert_eq!(refused, [("too_old", 1)]);
    assert_eq!(scene.entries("feed").await, [(first, "twice".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_in_flight_during_an_epoch_raise_is_retried_in_the_new_epoch() {
    let scene = KeySpace::new().await;
    let before = appended(&scene.rival.append_one(event("before", "feed")).await);
    let (held, outcome) = scene.hold(event("across", "feed")).await;
    let wall = WallTime::system(0);
    let raised = epoch::raise(&*scene.store, &scene.keys, &wall, None).await;
    let raised = raised.expect("raised");
    assert!(raised > before.epoch());
    held.release().await;
    let across = appended(&outcome.await.expect("answered"));
    assert_eq!(across.epoch(), raised);
    let conflicts: Vec<_> = failed_attempts(&*scene.store, "append")
        .into_iter()
        .collect();
    assert_eq!(conflicts, [("conflict", 1)]);
    let expected = [(before, "before".to_owned()), (across, "across".to_owned())];
    assert_eq!(scene.entries("feed").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_times_out_is_unknown_and_done_once() {
    let cluster = block_in_place(|| Cluster::start(1, "ssd"));
    let scene = KeySpace::on(&cluster, Duration::from_secs(1)).await;
    let (held, outcome) = scene.hold(event("once", "feed")).await;
    // The server receives the commit when it continues; by then the client has given up.
    cluster.signal(0, Signal::STOP);
    let commit = timeout(PATIENCE, held.snapshot.commit(held.batch)).await;
    cluster.signal(0, Signal::CONT);
    let heard = commit.expect("it has a limit");
    assert!(matches!(heard, Err(Error::Unknown)), "{heard:?}");
    assert!(held.answer.send(heard).is_ok(), "somebody waits for it");
    let told = appended(&outcome.await.expect("answered"));
    // The retry may commit before the late commit, find its claim, or become its twin.
    let entries = scene.entries("feed").await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert!(entries[0].0 <= told, "{entries:?} {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_dies_with_the_server_is_unknown_and_done_once() {
    let cluster = block_in_place(|| Cluster::start(1, "ssd"));
    // The client library may wait for the dead server up to the time limit.
    let scene = KeySpace::on(&cluster, Duration::from_secs(5)).await;
    let (held, outcome) = scene.hold(event("once", "feed")).await;
    cluster.signal(0, Signal::STOP);
    let commit = tokio::spawn(held.snapshot.commit(held.batch));
    // Gives the commit time to leave this process.
    sleep(Duration::from_millis(200)).await;
    block_in_place(|| {
        cluster.kill(0);
        cluster.start_again();
    });
    let heard = timeout(PATIENCE, commit).await.expect("it hears of it");
    let heard = heard.expect("no panic");
    // A commit that had not left yet is too old after the recovery, which advances versions far.
    let honest = matches!(heard, Err(Error::Unknown | Error::TooOld));
    assert!(honest, "{heard:?}");
    eprintln!("figure: a commit in flight when fdbserver was killed heard: {heard:?}");
    assert!(held.answer.send(heard).is_ok(), "somebody waits for it");
    let version = appended(&outcome.await.expect("answered"));
    let expected = [(version, "once".to_owned())];
    assert_eq!(scene.entries("feed").await, expected);
}
