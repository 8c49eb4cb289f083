//! How long appends wait for a store that is away, on a clock of the test's own.

use std::time::Duration;

use newsfeed::{
    append::Outcome,
    error::Error,
    store::{self, RETRY_FOR},
};
use tokio::time::{Instant, sleep};

use super::load::filler;
use crate::{bed::Bed, gate::Gate, stores::troubled};

crate::on_every_engine!(
    in one thread: an_append_behind_others_gives_up_no_later_than_it_would_alone
);

async fn an_append_behind_others_gives_up_no_later_than_it_would_alone(bed: &Bed) {
    tokio::time::pause();
    let gate = Gate::open();
    let (app, _node) = bed.app_on(troubled(bed.store(), gate.clone())).await;
    gate.fail(true);
    let begun = Instant::now();
    // One id in several requests: what comes later waits for the first.
    let app = &app;
    let append = |after: u64| async move {
        sleep(Duration::from_secs(after)).await;
        let events = vec![filler(1)];
        let admission = app.appender.admit(&events).expect("room");
        let mut outcomes = app.appender.append(events, admission).await.expect("open");
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
