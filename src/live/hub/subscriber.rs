//! A subscriber as the hub sees it: a bounded queue of items, and what happens when it overflows.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::board::{AudienceId, PagesId};
use crate::{
    live::{Item, News, forward::Forwarder},
    log::Filter,
    metrics::{Metrics, TransientLoss},
    types::{FeedName, Kind, ReaderName},
    version::Version,
};

/// Items that may wait for a subscriber. One more drops the queue and sends the subscriber back to reading pages.
pub const QUEUE_ITEMS_MAX: usize = 256;
/// Bytes that these items may have together. A larger item waits alone.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024;

/// What a subscriber listens to.
pub(super) enum Listening {
    /// The feeds, and whose state in them.
    Feeds(Arc<[FeedName]>, ReaderName),
    /// The events of the log that pass the filter.
    Log(Arc<Filter>),
}

/// Feeds of a subscriber that counts as one. One with more counts as several.
const PLACE_FEEDS: usize = 100;

impl Listening {
    /// How much the subscriber counts among those of the node.
    pub(super) fn places(&self) -> usize {
        match self {
            Self::Feeds(feeds, _) => feeds.len().div_ceil(PLACE_FEEDS).max(1),
            Self::Log(_) => 1,
        }
    }
}

/// What a subscriber is given. The hub drops everything else before it reaches the queue, so that a subscriber is not woken
/// for it.
pub(super) struct Interest {
    /// Of stored entries only, and not of transients, states and positions.
    entries_only: bool,
    /// The kinds of entries and transients. Empty: all kinds.
    kinds: Box<[Kind]>,
}

impl Interest {
    pub(super) fn everything(kinds: Vec<Kind>) -> Self {
        Self {
            entries_only: false,
            kinds: kinds.into(),
        }
    }

    pub(super) fn entries(kinds: Vec<Kind>) -> Self {
        Self {
            entries_only: true,
            ..Self::everything(kinds)
        }
    }

    fn includes(&self, news: &News) -> bool {
        let located = match news {
            News::Entry(located) => located,
            // The filter of the log has its kinds.
            News::Event(_) => return true,
            _ if self.entries_only => return false,
            News::Transient(located) => located,
            _ => return true,
        };
        self.kinds.is_empty() || self.kinds.contains(&located.entry.kind)
    }
}

pub(super) struct Subscriber {
    pub(super) id: u64,
    pub(super) audience: AudienceId,
    /// All audiences of the same feeds have the same pages.
    pub(super) pages: PagesId,
    pub(super) listening: Listening,
    interest: Interest,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
pub(super) struct Queue {
    items: VecDeque<Arc<Item>>,
    /// Sum over `items`.
    bytes: usize,
    pub(super) state: State,
    /// The moment of the round with which the subscriber joined.
    pub(super) joined_at: Option<Version>,
    /// Items were dropped, and the subscriber has not read the pages with them yet.
    lagging: bool,
    /// Sends items without the task of the subscriber, which waits.
    lent: Option<Box<Forwarder>>,
}

impl Queue {
    /// Takes all items, and frees the memory of the queue.
    pub(super) fn take(&mut self) -> VecDeque<Arc<Item>> {
        self.bytes = 0;
        mem::take(&mut self.items)
    }

    /// Whether items are sent without the subscriber's task.
    fn is_forwarded(&self) -> bool {
        self.lent.as_ref().is_some_and(|lent| lent.is_free())
    }

    fn give_back(&mut self, forwarder: &mut Forwarder) {
        if let Some(lent) = self.lent.take() {
            *forwarder = *lent;
        }
    }
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Items are not queued: they lie below the round with which the subscriber joins, and it reads them from pages.
    #[default]
    Joining,
    Live,
    /// Items were dropped, and the subscriber has not been told yet.
    Lagged,
    Closed,
}

impl Subscriber {
    pub(super) fn new(
        id: u64,
        (audience, pages): (AudienceId, PagesId),
        listening: Listening,
        interest: Interest,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            id,
            audience,
            pages,
            listening,
            interest,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            metrics,
        }
    }

    /// None, if it listens to the log.
    pub(super) fn feeds(&self) -> &[FeedName] {
        match &self.listening {
            Listening::Feeds(feeds, _) => feeds,
            Listening::Log(_) => &[],
        }
    }

    /// Whose state it is told.
    pub(super) fn reader(&self) -> &ReaderName {
        match &self.listening {
            Listening::Feeds(_, reader) => reader,
            Listening::Log(_) => &ReaderName::OWN,
        }
    }

    pub(super) fn kinds(&self) -> &[Kind] {
        &self.interest.kinds
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when `look` finds something in the queue. Every change of the queue wakes the task.
    pub(super) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        look: impl FnOnce(&mut Queue) -> Option<T>,
    ) -> Poll<T> {
        self.waker.register(context.waker());
        look(&mut self.queue()).map_or(Poll::Pending, Poll::Ready)
    }

    /// As [`Self::poll`]. Has what arrives sent by `forwarder` while it is pending, until [`Self::take_back`].
    pub(super) fn poll_or_forward<T>(
        &self,
        context: &mut Context<'_>,
        forwarder: &mut Forwarder,
        look: impl FnOnce(&mut Queue, &mut Forwarder) -> Option<T>,
    ) -> Poll<T> {
        self.waker.register(context.waker());
        let mut queue = self.queue();
        queue.give_back(forwarder);
        if let Some(found) = look(&mut queue, forwarder) {
            return Poll::Ready(found);
        }
        if forwarder.outlet.is_some() {
            queue.lent = Some(Box::new(mem::take(forwarder)));
        }
        Poll::Pending
    }

    pub(super) fn take_back(&self, forwarder: &mut Forwarder) {
        self.queue().give_back(forwarder);
    }

    /// Sends what was pushed since [`Self::push`] returned that this is to be called.
    pub(super) fn forward(&self) {
        let mut queue = self.queue();
        // Otherwise its task takes what was pushed.
        if queue.state == State::Live && queue.is_forwarded() {
            let items = queue.take();
            if let Some(lent) = &mut queue.lent {
                lent.forward(items);
            }
            if !queue.is_forwarded() {
                drop(queue);
                self.waker.wake();
            }
        }
    }

    /// Queues `item`, which counts as `bytes` bytes. Returns whether [`Self::forward`] is to be called, soon; otherwise the
    /// task of the subscriber takes the item.
    #[must_use]
    pub(super) fn push(&self, item: &Arc<Item>, bytes: usize) -> bool {
        if !self.interest.includes(&item.news) {
            return false;
        }
        let mut queue = self.queue();
        if queue.state != State::Live {
            let transients = u64::from(queue.state == State::Lagged && item.is_transient());
            self.count_lost_transients(transients);
            return false;
        }
        let bytes = queue.bytes + bytes;
        let is_first = queue.items.is_empty();
        if is_first || (queue.items.len() < QUEUE_ITEMS_MAX && bytes <= QUEUE_BYTES_MAX) {
            queue.items.push_back(Arc::clone(item));
            queue.bytes = bytes;
        } else {
            self.count_lost_transients(u64::from(item.is_transient()));
            self.drop_items(&mut queue);
        }
        if queue.state == State::Live && queue.is_forwarded() {
            return is_first;
        }
        drop(queue);
        self.waker.wake();
        false
    }

    /// As [`Self::push`], if nothing is queued.
    #[must_use]
    pub(super) fn push_if_idle(&self, item: &Arc<Item>) -> bool {
        let idle = self.queue().items.is_empty();
        idle && self.push(item, item.bytes(1))
    }

    /// Whether everything that was pushed has been taken, and nothing was dropped.
    pub(super) fn is_up_to_date(&self) -> bool {
        let queue = self.queue();
        queue.state == State::Live && queue.items.is_empty()
    }

    /// Drops what is queued and sends the subscriber back to reading pages.
    pub(super) fn lag(&self) {
        let mut queue = self.queue();
        if queue.state == State::Live {
            self.drop_items(&mut queue);
            drop(queue);
            self.waker.wake();
        }
    }

    fn drop_items(&self, queue: &mut Queue) {
        let dropped = queue.take();
        let transients = dropped.iter().filter(|item| item.is_transient()).count();
        self.count_lost_transients(transients as u64);
        queue.state = State::Lagged;
        self.metrics.live.overflows.inc();
        if !mem::replace(&mut queue.lagging, true) {
            self.metrics.live.lagging.inc();
        }
    }

    /// Transients are in no page, so those that are dropped are lost.
    fn count_lost_transients(&self, count: u64) {
        if count > 0 {
            let appends = &self.metrics.appends;
            appends.note_transients_lost(TransientLoss::Behind, count);
        }
    }

    /// The subscriber has read all pages.
    pub(super) fn catch_up(&self) {
        let mut queue = self.queue();
        // If more items were dropped meanwhile, it has to read pages again.
        if queue.state != State::Lagged && mem::take(&mut queue.lagging) {
            self.metrics.live.lagging.dec();
        }
    }

    /// The subscriber has left: it does not count as lagging any more.
    pub(super) fn leave(&self) {
        if mem::take(&mut self.queue().lagging) {
            self.metrics.live.lagging.dec();
        }
    }

    pub(super) fn join(&self, moment: Version) {
        let mut queue = self.queue();
        if queue.state == State::Joining {
            queue.state = State::Live;
            queue.joined_at = Some(moment);
            drop(queue);
            self.waker.wake();
        }
    }

    pub(super) fn close(&self) {
        self.queue().state = State::Closed;
        self.waker.wake();
    }
}
