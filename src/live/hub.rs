//! The hub: who listens to which feed, and a bounded queue for each.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::{Item, Located, News};
use crate::{
    error::{Error, Result},
    metrics::{Metrics, TransientLoss},
    store::keys::Keys,
    types::{Entry, FeedName},
    version::Version,
};

/// Items a subscriber may have waiting; one more drops its queue and sends it back to the pages.
pub const QUEUE_ITEMS_MAX: usize = 256;
/// Bytes the items waiting for a subscriber may have; one that has more waits alone.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024;
/// Subscribers (streams and long polls) of one node.
pub const STREAMS_MAX: usize = 50_000;
/// Subscribers that read pages at once. When all come back together, the others wait, and appends and pages of others
/// get their share of the machine.
const READERS_AT_ONCE: usize = 16;
/// Heartbeats go round in so many slots, so that not all subscribers hear them at once.
const WHEEL_SLOTS: usize = 16;

pub struct Hub {
    keys: Keys,
    board: Mutex<Board>,
    /// Somebody registered: the tailer has a round to do.
    registered: Notify,
    readers: Semaphore,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Board {
    feeds: HashMap<FeedName, Listeners>,
    /// Subscribed feeds of each partition that has any.
    partitions: HashMap<u16, usize>,
    /// Registered, but no round has ended since.
    joining: Vec<Arc<Subscriber>>,
    wheel: [Listeners; WHEEL_SLOTS],
    subscribers: usize,
    next_id: u64,
    slot: usize,
    closed: bool,
}

/// By id, so that leaving costs the same however many stay.
type Listeners = HashMap<u64, Arc<Subscriber>>;

struct Subscriber {
    id: u64,
    feeds: Vec<FeedName>,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Arc<Item>>,
    /// Of the items.
    bytes: usize,
    state: State,
    /// The moment of the round the subscriber joined with.
    joined_at: Option<Version>,
    /// It was sent back to the pages and is not through with them.
    lagging: bool,
}

impl Queue {
    /// Its items; it keeps no room for others.
    fn take(&mut self) -> VecDeque<Arc<Item>> {
        self.bytes = 0;
        mem::take(&mut self.items)
    }
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What is pushed lies below the round the subscriber waits for: it reads that from pages.
    #[default]
    Joining,
    Live,
    Lagged,
    Closed,
}

/// What a subscriber's queue had.
pub enum Received {
    Items(Vec<Arc<Item>>),
    /// Items were dropped: read pages from the last position.
    Lagged,
    /// The node is shutting down.
    Closed,
}

impl Hub {
    pub fn new(keys: Keys, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            keys,
            board: Mutex::default(),
            registered: Notify::new(),
            readers: Semaphore::new(READERS_AT_ONCE),
            metrics,
        })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers for `feeds`, which must be distinct.
    pub fn subscribe(self: &Arc<Self>, feeds: Vec<FeedName>) -> Result<Subscription> {
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
        let subscriber = Arc::new(Subscriber {
            id,
            feeds,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            metrics: Arc::clone(&self.metrics),
        });
        board.joining.push(Arc::clone(&subscriber));
        drop(board);
        self.registered.notify_one();
        Ok(Subscription {
            hub: Arc::clone(self),
            subscriber,
        })
    }

    pub fn subscribers(&self) -> usize {
        self.board().subscribers
    }

    /// Ends every subscription and takes no more.
    pub fn close(&self) {
        let mut board = self.board();
        board.closed = true;
        let wheel = board.wheel.iter().flat_map(HashMap::values);
        for subscriber in wheel.chain(&board.joining) {
            subscriber.close();
        }
    }

    pub(super) async fn registered(&self) {
        self.registered.notified().await;
    }

    /// Begins a round: whoever has registered hears it. Answers the partitions to read; the subscribers that join with
    /// this round are to be told by [`Hub::end_round`].
    pub(super) fn begin_round(&self) -> (HashSet<u16>, Vec<JoinTicket>) {
        let mut board = self.board();
        let board = &mut *board;
        let joining: Vec<_> = mem::take(&mut board.joining);
        for subscriber in &joining {
            for feed in &subscriber.feeds {
                let listeners = board.feeds.entry(feed.clone()).or_default();
                if listeners.is_empty() {
                    *board
                        .partitions
                        .entry(self.keys.partition(feed))
                        .or_default() += 1;
                }
                listeners.insert(subscriber.id, Arc::clone(subscriber));
            }
            board.wheel[subscriber.slot()].insert(subscriber.id, Arc::clone(subscriber));
        }
        (
            board.partitions.keys().copied().collect(),
            joining.into_iter().map(JoinTicket).collect(),
        )
    }

    /// Those who joined with the round that read up to `moment` may go on.
    pub(super) fn end_round(&self, joining: Vec<JoinTicket>, moment: Version) {
        for JoinTicket(subscriber) in joining {
            subscriber.join(moment);
        }
    }

    pub(super) fn has_listeners(&self, feed: &FeedName) -> bool {
        self.board().feeds.contains_key(feed)
    }

    /// Gives an entry (or, with `News::Transient`, a transient) to everyone who listens to one of `feeds`, once.
    pub(super) fn dispatch(&self, entry: &Entry, feeds: &[FeedName], news: fn(Located) -> News) {
        let board = self.board();
        let heard: Vec<(&FeedName, &Listeners)> = feeds
            .iter()
            .filter_map(|feed| board.feeds.get_key_value(feed))
            .collect();
        let item = |feed: &FeedName, feeds: Vec<FeedName>| {
            Item::new(news(Located {
                entry: entry.clone(),
                feed: feed.clone(),
                feeds,
            }))
        };
        // Rendered once for all who hear it through one feed, which is nearly everybody.
        let mut through_several: HashMap<u64, (&Arc<Subscriber>, Vec<&FeedName>)> = HashMap::new();
        if heard.len() > 1 {
            for (feed, listeners) in &heard {
                for subscriber in listeners
                    .values()
                    .filter(|subscriber| subscriber.feeds.len() > 1)
                {
                    through_several
                        .entry(subscriber.id)
                        .or_insert((subscriber, Vec::new()))
                        .1
                        .push(feed);
                }
            }
            through_several.retain(|_, (_, feeds)| feeds.len() > 1);
        }
        for (feed, listeners) in &heard {
            let shared = item(feed, Vec::new());
            for subscriber in listeners.values() {
                if through_several.is_empty() || !through_several.contains_key(&subscriber.id) {
                    subscriber.push(&shared);
                }
            }
        }
        for (subscriber, feeds) in through_several.into_values() {
            let in_order: Vec<FeedName> = subscriber
                .feeds
                .iter()
                .filter(|feed| feeds.contains(feed))
                .cloned()
                .collect();
            if let Some(first) = in_order.first() {
                subscriber.push(&item(first, in_order.clone()));
            }
        }
    }

    pub(super) fn dispatch_state(&self, feed: &FeedName, item: &Arc<Item>) {
        let board = self.board();
        let listeners = board.feeds.get(feed).into_iter();
        for subscriber in listeners.flat_map(HashMap::values) {
            subscriber.push(item);
        }
    }

    /// Sends everyone back to the pages: the tailer skipped something.
    pub(super) fn lag_all(&self) {
        for subscriber in self.board().wheel.iter().flat_map(HashMap::values) {
            subscriber.lag();
        }
    }

    /// Tells the next slot's idle subscribers that they have everything up to `moment`.
    pub(super) fn heartbeat(&self, moment: Version) {
        let mut board = self.board();
        board.slot = (board.slot + 1) % WHEEL_SLOTS;
        let item = Item::new(News::Moment(moment));
        for subscriber in board.wheel[board.slot].values() {
            subscriber.push_if_idle(&item);
        }
    }

    /// How many beats make a full turn of the wheel.
    pub(super) const fn beats() -> u32 {
        WHEEL_SLOTS as u32
    }
}

/// A subscriber on its way into a round.
pub(super) struct JoinTicket(Arc<Subscriber>);

impl Subscriber {
    fn slot(&self) -> usize {
        (self.id % WHEEL_SLOTS as u64) as usize
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: &Arc<Item>) {
        let mut queue = self.queue();
        if queue.state != State::Live {
            let transients = u64::from(queue.state == State::Lagged && item.is_transient());
            self.lost_transients(transients);
            return;
        }
        let bytes = queue.bytes + item.bytes();
        if queue.items.is_empty()
            || (queue.items.len() < QUEUE_ITEMS_MAX && bytes <= QUEUE_BYTES_MAX)
        {
            queue.items.push_back(Arc::clone(item));
            queue.bytes = bytes;
        } else {
            self.lost_transients(u64::from(item.is_transient()));
            self.fall_behind(&mut queue);
        }
        drop(queue);
        self.waker.wake();
    }

    fn push_if_idle(&self, item: &Arc<Item>) {
        let idle = self.queue().items.is_empty();
        if idle {
            self.push(item);
        }
    }

    fn lag(&self) {
        let mut queue = self.queue();
        if queue.state == State::Live {
            self.fall_behind(&mut queue);
            drop(queue);
            self.waker.wake();
        }
    }

    fn fall_behind(&self, queue: &mut Queue) {
        let dropped = queue.take();
        let transients = dropped.iter().filter(|item| item.is_transient()).count();
        self.lost_transients(transients as u64);
        queue.state = State::Lagged;
        self.metrics.live.overflows.inc();
        if !mem::replace(&mut queue.lagging, true) {
            self.metrics.live.lagging.inc();
        }
    }

    fn lost_transients(&self, count: u64) {
        if count > 0 {
            let appends = &self.metrics.appends;
            appends.note_transients_lost(TransientLoss::Behind, count);
        }
    }

    fn catch_up(&self) {
        let mut queue = self.queue();
        // If it fell behind once more meanwhile, it is to read pages once more.
        if queue.state != State::Lagged && mem::take(&mut queue.lagging) {
            self.metrics.live.lagging.dec();
        }
    }

    fn join(&self, moment: Version) {
        let mut queue = self.queue();
        if queue.state == State::Joining {
            queue.state = State::Live;
            queue.joined_at = Some(moment);
            drop(queue);
            self.waker.wake();
        }
    }

    fn close(&self) {
        self.queue().state = State::Closed;
        self.waker.wake();
    }
}

/// A place in the hub; given up when dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
}

impl Subscription {
    pub fn feeds(&self) -> &[FeedName] {
        &self.subscriber.feeds
    }

    /// Names the subscription in the log.
    pub fn id(&self) -> u64 {
        self.subscriber.id
    }

    /// The pages are read; what follows waits in the queue.
    pub(super) fn caught_up(&self) {
        self.subscriber.catch_up();
    }

    /// Waits for a turn to read pages.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.hub.readers.acquire().await;
        turn.expect("nobody closes the semaphore")
    }

    /// Waits for a round that knows of this subscription: from its moment on, the queue misses nothing.
    /// `None`: the node is shutting down.
    pub async fn joined(&mut self) -> Option<Version> {
        self.wait(|queue| match (queue.state, queue.joined_at) {
            (State::Closed, _) => Some(None),
            (_, Some(moment)) => Some(Some(moment)),
            (_, None) => None,
        })
        .await
    }

    /// Waits for what comes next.
    pub async fn receive(&mut self) -> Received {
        self.wait(|queue| match queue.state {
            State::Closed => Some(Received::Closed),
            State::Lagged => {
                queue.state = State::Live;
                Some(Received::Lagged)
            }
            State::Joining | State::Live => {
                let items = queue.take();
                (!items.is_empty()).then(|| Received::Items(items.into()))
            }
        })
        .await
    }

    async fn wait<T>(&mut self, mut look: impl FnMut(&mut Queue) -> Option<T>) -> T {
        poll_fn(|context| {
            self.subscriber.waker.register(context.waker());
            match look(&mut self.subscriber.queue()) {
                Some(found) => Poll::Ready(found),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut board = self.hub.board();
        if mem::take(&mut self.subscriber.queue().lagging) {
            self.hub.metrics.live.lagging.dec();
        }
        let board = &mut *board;
        let id = self.subscriber.id;
        board.subscribers -= 1;
        if board.wheel[self.subscriber.slot()].remove(&id).is_none() {
            board.joining.retain(|subscriber| subscriber.id != id);
            return;
        }
        for feed in &self.subscriber.feeds {
            let Some(listeners) = board.feeds.get_mut(feed) else {
                continue;
            };
            listeners.remove(&id);
            if listeners.is_empty() {
                board.feeds.remove(feed);
                let partition = self.hub.keys.partition(feed);
                if let Some(feeds) = board.partitions.get_mut(&partition) {
                    *feeds -= 1;
                    if *feeds == 0 {
                        board.partitions.remove(&partition);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Delivery, EventId};

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
            data: vec![b'1'; data_bytes].into(),
            read_at: 0,
        };
        hub.dispatch(&entry, &["a".parse().expect("a name")], News::Entry);
    }

    /// What waits, if nothing was dropped.
    async fn waiting(subscription: &mut Subscription) -> Option<usize> {
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
        assert_eq!(waiting(&mut subscription).await, None);
        // It reads pages, and falls behind again meanwhile.
        overflow();
        assert_eq!(counts(), (1, 2));
        subscription.caught_up();
        assert_eq!(counts(), (1, 2));
        assert_eq!(waiting(&mut subscription).await, None);
        subscription.caught_up();
        assert_eq!(counts(), (0, 2));
        hub.lag_all();
        assert_eq!(counts(), (1, 3));
        drop(subscription);
        assert_eq!(counts(), (0, 3));
    }

    #[tokio::test]
    async fn what_waits_for_a_subscriber_is_bounded_in_items_and_in_bytes() {
        let hub = Hub::new(Keys::before_opening(b""), Arc::default());
        let mut subscription = live(&hub);
        let half = QUEUE_BYTES_MAX / 2;
        for (sizes, expected) in [
            (vec![1; QUEUE_ITEMS_MAX], None),
            (vec![1; 100], Some(100)),
            (vec![half - 256; 2], Some(2)),
            (vec![half - 256, half - 255], None),
            // One alone waits, whatever it has.
            (vec![2 * QUEUE_BYTES_MAX], Some(1)),
            (vec![2 * QUEUE_BYTES_MAX, 1], None),
        ] {
            for (time, &bytes) in (1..).zip(&sizes) {
                dispatch(&hub, time, bytes);
            }
            let found = waiting(&mut subscription).await;
            assert_eq!(found, expected, "{} of {} bytes", sizes.len(), sizes[0]);
        }
    }
}
