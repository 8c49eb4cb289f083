//! How long appends wait for an unavailable store. Tokio's clock is paused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use newsfeed::{
    append::Outcome,
    error::Error,
    store::{self, Batch, RETRY_FOR},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::capacity::filler;
use crate::support::{
    bed::{Bed, default_settings},
    gate::Gate,
    raw,
    stores::{Trouble, troubled},
};

crate::on_every_engine!(
    in one thread: an_append_behind_others_times_out_no_later_than_it_would_alone,
    appends_are_refused_while_the_queue_is_late_and_accepted_when_it_moves,
    an_unknown_outcome_stays_unknown_when_the_disk_then_is_full,
);

async fn an_append_behind_others_times_out_no_later_than_it_would_alone(bed: &Bed) {
    tokio::time::pause();
    let gate = Gate::open();
    let (app, _node) = bed.app_on(troubled(bed.store(), gate.clone())).await;
    gate.fail(true);
    let begun = Instant::now();
    // The same id in several requests: the later ones wait for the first.
    let app = &app;
    let append = |after: u64| async move {
        sleep(Duration::from_secs(after)).await;
        let permit = app.appender.reserve(vec![filler(1)]).await.expect("room");
        let mut outcomes = permit.append().await.expect("open");
        outcomes.remove(0).1
    };
    let outcomes = tokio::join!(append(0), append(1), append(2));
    for outcome in [outcomes.0, outcomes.1, outcomes.2] {
        let Outcome::Rejected(Error::Store(store::Error::Unavailable(_))) = outcome else {
            panic!("{outcome:?}");
        };
    }
    assert!(begun.elapsed() < RETRY_FOR * 3 / 2, "{:?}", begun.elapsed());
    gate.fail(false);
    assert!(matches!(append(0).await, Outcome::Appended(_)));
}

async fn appends_are_refused_while_the_queue_is_late_and_accepted_when_it_moves(bed: &Bed) {
    tokio::time::pause();
    let gate = Gate::open();
    let (app, node) = bed.app_on(troubled(bed.store(), gate.clone())).await;
    let max = default_settings().appends.queue_time_max;
    let appender = app.appender;
    let append = || {
        let permit = appender.try_reserve(vec![filler(1)]).expect("room");
        tokio::spawn(async move { permit.append().await.expect("open") })
    };
    gate.hold(true);
    let first = append();
    gate.something_is_held().await;
    // The first append is in a transaction and no longer in the queue; the same id again waits in the queue.
    sleep(max * 2).await;
    let second = append();
    sleep(max - Duration::from_millis(10)).await;
    appender.check(false).expect("not too late yet");
    sleep(Duration::from_millis(20)).await;
    assert!(matches!(appender.check(false), Err(Error::Late)));
    appender
        .check(true)
        .expect("atomic appends do not wait for others");
    // From here on sockets are involved, and a paused clock would not wait for them.
    tokio::time::resume();
    let event = json!({ "kind": "visit", "feeds": ["a"] });
    let headers = [("content-type", "application/json")];
    let answer = node.send_body("POST", "/v1/events", &headers, event.to_string());
    answer.await.problem(503, "busy").expect("too late");
    // It is refused at its head, without waiting for the body.
    let length = [("content-length", "100"), headers[0]];
    let head = raw::head("POST", "/v1/events", &length);
    let answer = raw::exchange(node.address, &head).await;
    answer.problem(503, "busy").expect("too late");
    let waiting = appender.reserve(vec![filler(1)]).await;
    drop(waiting.expect("NDJSON waits"));

    gate.hold(false);
    let outcomes =
        [first.await, second.await].map(|outcomes| outcomes.expect("no panic").remove(0).1);
    let [Outcome::Appended(appended), Outcome::Duplicate(known)] = outcomes else {
        panic!("{outcomes:?}");
    };
    assert_eq!(appended, known);
    append().await.expect("admitted again");
}

/// The outcome of the first commit is unknown; all later ones fail because the disk is full.
#[derive(Default)]
struct Fills(AtomicBool);

#[async_trait]
impl Trouble for Fills {
    async fn before_commit(&self, _batch: &Batch) -> store::Result<()> {
        match self.0.swap(true, Ordering::Relaxed) {
            false => Err(store::Error::Unknown),
            true => Err(store::Error::Full),
        }
    }
}

async fn an_unknown_outcome_stays_unknown_when_the_disk_then_is_full(bed: &Bed) {
    let (_app, node) = bed
        .app_on(troubled(bed.store(), Arc::new(Fills::default())))
        .await;
    for (id, expected) in [
        ("a", (503, "store_unavailable")),
        ("b", (507, "storage_full")),
    ] {
        let event = json!({ "id": id, "kind": "visit", "feeds": ["a"] });
        let (status, answer) = node.post("/v1/events", &event).await;
        let code = answer["code"].as_str().expect("a code");
        assert_eq!((status, code), expected, "{id}");
    }
}
