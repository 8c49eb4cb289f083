//! The hub: which subscriber listens to which feeds, or to the log, and a bounded queue for each subscriber.
//!
//! A subscriber registers, joins with the next round of the tailer, and gets every item that is dispatched to one of its
//! feeds until it leaves.
//!
//! Only the tailer calls what begins, dispatches and ends rounds, one after the other. These calls work in slices and yield.
//! So subscribers can register and leave in the middle of a round; who registers then joins with the next one.

mod board;
mod dispatch;
mod shared_pages;
mod subscriber;
mod subscription;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

pub(super) use self::board::LogAudience;
pub(super) use self::subscription::Forwarded;
use self::{
    board::{Board, ListenersOf},
    shared_pages::SharedPages,
    subscriber::{Interest, Listening, Subscriber},
};
pub use self::{
    subscriber::{QUEUE_BYTES_MAX, QUEUE_ITEMS_MAX},
    subscription::{Received, Subscription},
};
use super::{Item, News};
use crate::{
    error::{Error, Result},
    fairness::WorkBudget,
    log::Filter,
    metrics::Metrics,
    store::keys::Keys,
    types::{FeedName, Kind, ReaderName},
    version::Version,
};

/// Subscribers (streams and long polls) of one node. Those with more than 100 feeds count as several.
pub const STREAMS_MAX: usize = 50_000;

pub struct Hub {
    keys: Keys,
    board: Mutex<Board>,
    shared_pages: Mutex<SharedPages>,
    /// Those whose queues [`Hub::flush`] is to send.
    unsent: Mutex<Vec<Arc<Subscriber>>>,
    /// Notified when a subscriber registers, because it needs a round to join.
    registered: Notify,
    pub(super) metrics: Arc<Metrics>,
}

impl Hub {
    pub fn new(keys: Keys, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            keys,
            board: Mutex::default(),
            shared_pages: Mutex::default(),
            unsent: Mutex::default(),
            registered: Notify::new(),
            metrics,
        })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsent(&self) -> MutexGuard<'_, Vec<Arc<Subscriber>>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared_pages(&self) -> MutexGuard<'_, SharedPages> {
        let pages = self.shared_pages.lock();
        pages.unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers for everything that happens in `feeds`, which must be distinct.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] after [`Hub::close`], and [`Error::TooManyStreams`] above [`STREAMS_MAX`].
    pub fn subscribe(self: &Arc<Self>, feeds: Vec<FeedName>) -> Result<Subscription> {
        self.subscribe_to(feeds, ReaderName::OWN, Vec::new())
    }

    /// As [`Self::subscribe`], with the states of `reader`, but of entries and transients only those of `kinds`, unless that is
    /// empty.
    ///
    /// # Errors
    /// Those of [`Self::subscribe`].
    pub fn subscribe_to(
        self: &Arc<Self>,
        feeds: Vec<FeedName>,
        reader: ReaderName,
        kinds: Vec<Kind>,
    ) -> Result<Subscription> {
        let to = Listening::Feeds(feeds.into(), reader);
        self.register(to, Interest::everything(kinds))
    }

    /// As [`Self::subscribe_to`], but only for entries.
    ///
    /// # Errors
    /// Those of [`Self::subscribe`].
    pub fn subscribe_to_entries(
        self: &Arc<Self>,
        feeds: Vec<FeedName>,
        kinds: Vec<Kind>,
    ) -> Result<Subscription> {
        let to = Listening::Feeds(feeds.into(), ReaderName::OWN);
        self.register(to, Interest::entries(kinds))
    }

    /// Registers for all events of the log that pass `filter`. Everybody with an equal filter shares the work.
    ///
    /// # Errors
    /// Those of [`Self::subscribe`].
    pub fn subscribe_to_log(self: &Arc<Self>, filter: Arc<Filter>) -> Result<Subscription> {
        self.register(Listening::Log(filter), Interest::everything(Vec::new()))
    }

    /// As [`Self::subscribe_to_log`], but without heartbeats.
    ///
    /// # Errors
    /// Those of [`Self::subscribe`].
    pub fn subscribe_to_events(self: &Arc<Self>, filter: Arc<Filter>) -> Result<Subscription> {
        let interest = Interest::entries(Vec::new());
        self.register(Listening::Log(filter), interest)
    }

    fn register(self: &Arc<Self>, to: Listening, interest: Interest) -> Result<Subscription> {
        let mut board = self.board();
        if board.closed {
            return Err(Error::ShuttingDown);
        }
        if board.places + to.places() > STREAMS_MAX {
            return Err(Error::TooManyStreams);
        }
        let metrics = Arc::clone(&self.metrics);
        let subscriber = board.register(to, |id, of, to| {
            Subscriber::new(id, of, to, interest, metrics)
        });
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
        for subscriber in board.all() {
            subscriber.close();
        }
    }

    /// Waits until a subscriber registers.
    pub(super) async fn registered(&self) {
        self.registered.notified().await;
    }

    /// Begins a round: all registered subscribers get what it dispatches. Returns the partitions to read, and the
    /// subscribers that join with this round, for [`Hub::end_round`].
    pub(super) async fn begin_round(
        &self,
        budget: &mut WorkBudget,
    ) -> (HashSet<u16>, Vec<JoinTicket>) {
        let below = self.board().next_id();
        let mut joining = Vec::new();
        loop {
            let next = self.board().join_next(below, &self.keys);
            let Some((subscriber, listed)) = next else {
                break;
            };
            joining.push(JoinTicket(subscriber));
            budget.spend(1 + listed / 2).await;
        }
        (self.board().partitions(&self.keys), joining)
    }

    /// Ends the round that has dispatched everything up to `moment`: the subscribers that joined with it are live from there.
    pub(super) async fn end_round(
        &self,
        joining: Vec<JoinTicket>,
        moment: Version,
        budget: &mut WorkBudget,
    ) {
        self.board().moment = Some(moment);
        for JoinTicket(subscriber) in joining {
            subscriber.join(moment);
            budget.spend(1).await;
        }
    }

    /// Those who follow the log, by what they want of it.
    pub(super) fn log_audiences(&self) -> Vec<LogAudience> {
        self.board().log_audiences()
    }

    pub(super) fn has_listeners(&self, feed: &FeedName) -> bool {
        self.board().audiences(feed).is_some()
    }

    /// Those whose states somebody who listens to `feed` is told.
    pub(super) fn readers(&self, feed: &FeedName) -> BTreeSet<ReaderName> {
        let board = self.board();
        let audiences = board.audiences(feed).into_iter();
        let audiences = audiences.flat_map(|(_, audiences)| audiences.keys());
        let readers = audiences.filter_map(|audience| board.reader(*audience));
        readers.cloned().collect()
    }

    /// Sends all subscribers back to reading pages, because the tailer has skipped something.
    pub(super) async fn lag_all(&self, budget: &mut WorkBudget) {
        for group in 0..board::HEARTBEAT_GROUPS {
            let members = ListenersOf::HeartbeatGroup(group);
            self.each(members, |subscriber| subscriber.lag(), budget)
                .await;
        }
    }

    /// Tells the next group of subscribers, if they are idle, that they have everything up to `moment`.
    pub(super) async fn heartbeat(&self, moment: Version, budget: &mut WorkBudget) {
        let item = Item::new(News::Moment(moment));
        let members = self.board().next_group();
        let push = |subscriber: &Subscriber| subscriber.push_if_idle(&item);
        self.push_each(members, push, budget).await;
        self.flush().await;
    }

    /// The number of heartbeats after which every subscriber has had one.
    pub(super) const fn heartbeat_groups() -> u32 {
        board::HEARTBEAT_GROUPS as u32
    }
}

/// A subscriber that joins with the current round.
pub(super) struct JoinTicket(Arc<Subscriber>);

#[cfg(test)]
mod tests;
