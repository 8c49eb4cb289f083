//! Tests of the hub.

mod audiences;
mod forwarding;

use super::*;
use crate::types::{Delivery, Entry, EventId};

/// A round that dispatches nothing.
async fn round(hub: &Hub, moment: Version) {
    let mut budget = WorkBudget::default();
    let (_, joining) = hub.begin_round(&mut budget).await;
    hub.end_round(joining, moment, &mut budget).await;
}

async fn live(hub: &Arc<Hub>) -> Subscription {
    let feed = "a".parse().expect("a name");
    let subscription = hub.subscribe(vec![feed]).expect("room");
    round(hub, Version::ZERO).await;
    subscription
}

fn entry(time: u64, data_bytes: usize) -> Entry {
    Entry {
        version: Version::new(0, time, 0),
        id: EventId::generate(),
        kind: "k".parse().expect("a name"),
        delivery: Delivery::Entry,
        actor: None,
        at: 0,
        time: None,
        data: vec![b'1'; data_bytes].into(),
        read_at: 0,
        change: None,
    }
}

async fn dispatch(hub: &Hub, time: u64, data_bytes: usize) {
    let (entry, feeds) = (entry(time, data_bytes), ["a".parse().expect("a name")]);
    let mut budget = WorkBudget::default();
    hub.dispatch(&entry, &feeds, News::Entry, &mut budget).await;
}

/// The number of items in the queue, or `None` if items were dropped.
async fn queued(subscription: &mut Subscription) -> Option<usize> {
    match subscription.receive().await {
        Received::Items(items) => Some(items.len()),
        Received::Lagged => None,
        Received::Closed => unreachable!("nobody closes the hub"),
    }
}

#[tokio::test]
async fn a_subscriber_lags_from_its_overflow_until_it_has_read_the_pages() {
    let metrics = Arc::new(Metrics::default());
    let hub = Hub::new(Keys::before_opening(b""), Arc::clone(&metrics));
    let counts = || (metrics.live.lagging.get(), metrics.live.overflows.get());
    let overflow = async || {
        for time in 0..=QUEUE_ITEMS_MAX as u64 {
            dispatch(&hub, time, 1).await;
        }
    };
    let mut subscription = live(&hub).await;
    let bystander = live(&hub).await;
    drop(bystander);
    overflow().await;
    assert_eq!(counts(), (1, 1));
    assert_eq!(queued(&mut subscription).await, None);
    // The queue overflows again while the subscriber reads pages.
    overflow().await;
    assert_eq!(counts(), (1, 2));
    subscription.caught_up();
    assert_eq!(counts(), (1, 2));
    assert_eq!(queued(&mut subscription).await, None);
    subscription.caught_up();
    assert_eq!(counts(), (0, 2));
    hub.lag_all(&mut WorkBudget::default()).await;
    assert_eq!(counts(), (1, 3));
    drop(subscription);
    assert_eq!(counts(), (0, 3));
}

/// Neither is it woken: nothing is queued.
#[tokio::test]
async fn a_subscriber_to_a_kind_gets_only_its_entries_and_knows_until_when_there_were_none() {
    let hub = Hub::new(Keys::before_opening(b""), Arc::default());
    let feeds = || vec!["a".parse().expect("a name")];
    let kind = |kind: &str| vec![kind.parse().expect("a name")];
    let mut other = hub
        .subscribe_to_entries(feeds(), kind("other"))
        .expect("room");
    let mut same = hub.subscribe_to_entries(feeds(), kind("k")).expect("room");
    let mut any = hub.subscribe_to_entries(feeds(), Vec::new()).expect("room");
    let moment = |time| Version::moment(0, time);
    let round = async |until| {
        let mut budget = WorkBudget::default();
        let (_, joining) = hub.begin_round(&mut budget).await;
        dispatch(&hub, until, 1).await;
        hub.end_round(joining, moment(until), &mut budget).await;
    };
    assert_eq!(other.quiet_until(), None);
    round(1).await;
    for _ in 0..16 {
        hub.heartbeat(moment(1), &mut WorkBudget::default()).await;
    }
    assert_eq!(any.quiet_until(), Some(moment(1)));
    round(2).await;
    assert_eq!(other.quiet_until(), Some(moment(2)));
    for subscription in [&mut same, &mut any] {
        assert_eq!(subscription.quiet_until(), None);
        assert_eq!(queued(subscription).await, Some(1));
        assert_eq!(subscription.quiet_until(), Some(moment(2)));
    }
    hub.lag_all(&mut WorkBudget::default()).await;
    assert_eq!(other.quiet_until(), None);
    assert_eq!(queued(&mut other).await, None);
}

#[tokio::test]
async fn a_queue_is_bounded_in_items_and_in_bytes() {
    let hub = Hub::new(Keys::before_opening(b""), Arc::default());
    let mut subscription = live(&hub).await;
    let half = QUEUE_BYTES_MAX / 2;
    for (sizes, expected) in [
        (vec![1; QUEUE_ITEMS_MAX], None),
        (vec![1; 100], Some(100)),
        (vec![half - 256; 2], Some(2)),
        (vec![half - 256, half - 255], None),
        // A single item of any size is queued.
        (vec![2 * QUEUE_BYTES_MAX], Some(1)),
        (vec![2 * QUEUE_BYTES_MAX, 1], None),
    ] {
        for (time, &bytes) in (1..).zip(&sizes) {
            dispatch(&hub, time, bytes).await;
        }
        let found = queued(&mut subscription).await;
        assert_eq!(found, expected, "{} of {} bytes", sizes.len(), sizes[0]);
    }
}
