//! The hub: which subscriber listens to which feeds, and a bounded queue for each subscriber.
//!
//! A subscriber registers, joins with the next round of the tailer, and gets every item that is dispatched to one of its
//! feeds until it leaves.

mod board;
mod dispatch;
mod subscriber;
mod subscription;

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use self::{
    board::Board,
    subscriber::{Interest, Subscriber},
};
pub use self::{
    subscriber::{QUEUE_BYTES_MAX, QUEUE_ITEMS_MAX},
    subscription::{Received, Subscription},
};
use super::{Item, News};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
    store::keys::Keys,
    types::{FeedName, Kind},
    version::Version,
};

/// Subscribers (streams and long polls) of one node.
pub const STREAMS_MAX: usize = 50_000;

pub struct Hub {
    keys: Keys,
    board: Mutex<Board>,
    /// Notified when a subscriber registers, because it needs a round to join.
    registered: Notify,
    pub(super) metrics: Arc<Metrics>,
}

impl Hub {
    pub fn new(keys: Keys, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            keys,
            board: Mutex::default(),
            registered: Notify::new(),
            metrics,
        })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers for everything that happens in `feeds`, which must be distinct.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] after [`Hub::close`], and [`Error::TooManyStreams`] above [`STREAMS_MAX`].
    pub fn subscribe(self: &Arc<Self>, feeds: Vec<FeedName>) -> Result<Subscription> {
        self.register(feeds, Interest::Everything)
    }

    /// As [`Self::subscribe`], but only for entries, of one kind if given.
    ///
    /// # Errors
    /// Those of [`Self::subscribe`].
    pub fn subscribe_to_entries(
        self: &Arc<Self>,
        feeds: Vec<FeedName>,
        kind: Option<Kind>,
    ) -> Result<Subscription> {
        self.register(feeds, Interest::Entries { kind })
    }

    fn register(
        self: &Arc<Self>,
        feeds: Vec<FeedName>,
        interest: Interest,
    ) -> Result<Subscription> {
        let mut board = self.board();
        if board.closed {
            return Err(Error::ShuttingDown);
        }
        if board.subscribers >= STREAMS_MAX {
            return Err(Error::TooManyStreams);
        }
        let id = board.next_id;
        board.next_id += 1;
        board.subscribers += 1;
        let metrics = Arc::clone(&self.metrics);
        let subscriber = Arc::new(Subscriber::new(id, feeds, interest, metrics));
        board.joining.push(Arc::clone(&subscriber));
        drop(board);
        self.registered.notify_one();
        Ok(Subscription::new(Arc::clone(self), subscriber))
    }

    /// The current number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.board().subscribers
    }

    /// Ends every subscription and accepts no more.
    pub fn close(&self) {
        let mut board = self.board();
        board.closed = true;
        for subscriber in board.joined().chain(&board.joining) {
            subscriber.close();
        }
    }

    /// Waits until a subscriber registers.
    pub(super) async fn registered(&self) {
        self.registered.notified().await;
    }

    /// Begins a round: all registered subscribers get what it dispatches. Returns the partitions to read, and the
    /// subscribers that join with this round, for [`Hub::end_round`].
    pub(super) fn begin_round(&self) -> (HashSet<u16>, Vec<JoinTicket>) {
        let mut board = self.board();
        let joining = mem::take(&mut board.joining);
        for subscriber in &joining {
            board.add(subscriber, &self.keys);
        }
        (
            board.partitions(),
            joining.into_iter().map(JoinTicket).collect(),
        )
    }

    /// Ends the round that has read everything up to `moment`: the subscribers that joined with it are live from there.
    pub(super) fn end_round(&self, joining: Vec<JoinTicket>, moment: Version) {
        self.board().moment = Some(moment);
        for JoinTicket(subscriber) in joining {
            subscriber.join(moment);
        }
    }

    pub(super) fn has_listeners(&self, feed: &FeedName) -> bool {
        self.board().listeners(feed).is_some()
    }

    /// Sends all subscribers back to reading pages, because the tailer has skipped something.
    pub(super) fn lag_all(&self) {
        for subscriber in self.board().joined() {
            subscriber.lag();
        }
    }

    /// Tells the next group of subscribers, if they are idle, that they have everything up to `moment`.
    pub(super) fn heartbeat(&self, moment: Version) {
        let item = Item::new(News::Moment(moment));
        for subscriber in self.board().next_group() {
            subscriber.push_if_idle(&item);
        }
    }

    /// The number of heartbeats after which every subscriber has had one.
    pub(super) const fn heartbeat_groups() -> u32 {
        board::HEARTBEAT_GROUPS as u32
    }
}

/// A subscriber that joins with the current round.
pub(super) struct JoinTicket(Arc<Subscriber>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Delivery, Entry, EventId};

    fn live(hub: &Arc<Hub>) -> Subscription {
        let feed = "a".parse().expect("a name");
        let subscription = hub.subscribe(vec![feed]).expect("room");
        let (_, joining) = hub.begin_round();
        hub.end_round(joining, Version::ZERO);
        subscription
    }

    fn dispatch(hub: &Hub, time: u64, data_bytes: usize) {
        let entry = Entry {
            version: Version::new(0, time, 0),
            id: EventId::generate(),
            kind: "k".parse().expect("a name"),
            delivery: Delivery::Entry,
            actor: None,
            at: 0,
            time: None,
            data: vec![b'1'; data_bytes].into(),
            read_at: 0,
        };
        hub.dispatch(&entry, &["a".parse().expect("a name")], News::Entry);
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
        let overflow = || (0..=QUEUE_ITEMS_MAX as u64).for_each(|time| dispatch(&hub, time, 1));
        let mut subscription = live(&hub);
        let bystander = live(&hub);
        drop(bystander);
        overflow();
        assert_eq!(counts(), (1, 1));
        assert_eq!(queued(&mut subscription).await, None);
        // The queue overflows again while the subscriber reads pages.
        overflow();
        assert_eq!(counts(), (1, 2));
        subscription.caught_up();
        assert_eq!(counts(), (1, 2));
        assert_eq!(queued(&mut subscription).await, None);
        subscription.caught_up();
        assert_eq!(counts(), (0, 2));
        hub.lag_all();
        assert_eq!(counts(), (1, 3));
        drop(subscription);
        assert_eq!(counts(), (0, 3));
    }

    /// Neither is it woken: nothing is queued.
    #[tokio::test]
    async fn a_subscriber_to_a_kind_gets_only_its_entries_and_knows_until_when_there_were_none() {
        let hub = Hub::new(Keys::before_opening(b""), Arc::default());
        let feeds = || vec!["a".parse().expect("a name")];
        let kind = |kind: &str| Some(kind.parse().expect("a name"));
        let mut other = hub
            .subscribe_to_entries(feeds(), kind("other"))
            .expect("room");
        let mut same = hub.subscribe_to_entries(feeds(), kind("k")).expect("room");
        let mut any = hub.subscribe_to_entries(feeds(), None).expect("room");
        let moment = |time| Version::moment(0, time);
        let round = |until| {
            let (_, joining) = hub.begin_round();
            dispatch(&hub, until, 1);
            hub.end_round(joining, moment(until));
        };
        assert_eq!(other.quiet_until(), None);
        round(1);
        (0..16).for_each(|_| hub.heartbeat(moment(1)));
        assert_eq!(any.quiet_until(), Some(moment(1)));
        round(2);
        assert_eq!(other.quiet_until(), Some(moment(2)));
        for subscription in [&mut same, &mut any] {
            assert_eq!(subscription.quiet_until(), None);
            assert_eq!(queued(subscription).await, Some(1));
            assert_eq!(subscription.quiet_until(), Some(moment(2)));
        }
        hub.lag_all();
        assert_eq!(other.quiet_until(), None);
        assert_eq!(queued(&mut other).await, None);
    }

    #[tokio::test]
    async fn a_queue_is_bounded_in_items_and_in_bytes() {
        let hub = Hub::new(Keys::before_opening(b""), Arc::default());
        let mut subscription = live(&hub);
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
                dispatch(&hub, time, bytes);
            }
            let found = queued(&mut subscription).await;
            assert_eq!(found, expected, "{} of {} bytes", sizes.len(), sizes[0]);
        }
    }
}
