//! A subscription: the hub as a subscriber sees it.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;

use super::{
    Hub,
    shared_pages::Rest,
    subscriber::{Queue, State, Subscriber},
};
use crate::{
    live::{Item, forward::Forwarder},
    types::{FeedName, Kind, ReaderName},
    version::Version,
};

/// What [`Subscription::receive`] finds.
pub enum Received {
    Items(Vec<Arc<Item>>),
    /// Items were dropped: read pages from the last position on.
    Lagged,
    /// The node is shutting down.
    Closed,
}

/// What [`Subscription::forward`] finds.
pub(in crate::live) enum Forwarded {
    Received(Received),
    /// What the outlet has left.
    Unsent(Vec<Bytes>),
}

/// A registration in the hub, which ends when this is dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
}

impl Subscription {
    pub(super) fn new(hub: Arc<Hub>, subscriber: Arc<Subscriber>) -> Self {
        Self { hub, subscriber }
    }

    pub fn feeds(&self) -> &[FeedName] {
        self.subscriber.feeds()
    }

    /// Whose states it gets.
    pub fn reader(&self) -> &ReaderName {
        self.subscriber.reader()
    }

    /// The kinds of entries that it gets. Empty: all kinds.
    pub fn kinds(&self) -> &[Kind] {
        self.subscriber.kinds()
    }

    /// Identifies the subscription in the log.
    pub fn id(&self) -> u64 {
        self.subscriber.id
    }

    /// What another stream on the same feeds has just read above `position`. If something may have been removed there, only
    /// with `kept`.
    pub(in crate::live) fn shared_page(&self, position: Version, kept: bool) -> Option<Rest> {
        let shared = self.hub.shared_pages();
        shared.above(self.subscriber.pages, position, kept)
    }

    /// Lets other streams on the same feeds, if there are any, have the entries in `range`: above its first version, and up to
    /// its second. `is_whole` says whether nothing can have been removed above the first.
    pub(in crate::live) fn share_page(
        &self,
        range: (Version, Version),
        items: &[Arc<Item>],
        is_whole: bool,
    ) {
        let is_shared = self.hub.board().is_shared(&self.subscriber);
        if is_shared && !items.is_empty() {
            let mut shared = self.hub.shared_pages();
            shared.add(self.subscriber.pages, range, items, is_whole);
        }
    }

    /// All pages are read; what follows is in the queue.
    pub(in crate::live) fn caught_up(&self) {
        self.subscriber.catch_up();
    }

    /// Waits until a round that knew of this subscription has ended, and returns its moment: the queue misses nothing
    /// above it. `None` if the node is shutting down.
    pub async fn joined(&mut self) -> Option<Version> {
        self.wait(|queue| match (queue.state, queue.joined_at) {
            (State::Closed, _) => Some(None),
            (_, Some(moment)) => Some(Some(moment)),
            (_, None) => None,
        })
        .await
    }

    /// A moment up to which nothing that is for this subscription was committed since it last received something; `None` if
    /// that is not known.
    pub(in crate::live) fn quiet_until(&self) -> Option<Version> {
        // The moment first: whatever was committed up to it is in the queue by then.
        let moment = self.hub.board().moment;
        moment.filter(|_| self.subscriber.is_up_to_date())
    }

    /// Waits for items. After [`Received::Lagged`] items are queued again.
    pub async fn receive(&mut self) -> Received {
        self.wait(received).await
    }

    /// As [`Self::receive`], but what arrives while it waits is sent by `forwarder`, if that has an outlet.
    pub(in crate::live) async fn forward(&mut self, forwarder: &mut Forwarder) -> Forwarded {
        let subscriber = &*self.subscriber;
        let lending = Lending {
            subscriber,
            forwarder,
        };
        let look = |queue: &mut Queue, forwarder: &mut Forwarder| match forwarder.is_free() {
            true => received(queue).map(Forwarded::Received),
            false => Some(Forwarded::Unsent(forwarder.take_unsent())),
        };
        poll_fn(|context| subscriber.poll_or_forward(context, lending.forwarder, look)).await
    }

    async fn wait<T>(&mut self, mut look: impl FnMut(&mut Queue) -> Option<T>) -> T {
        poll_fn(|context| self.subscriber.poll(context, &mut look)).await
    }
}

fn received(queue: &mut Queue) -> Option<Received> {
    match queue.state {
        State::Closed => Some(Received::Closed),
        State::Lagged => {
            queue.state = State::Live;
            Some(Received::Lagged)
        }
        State::Joining | State::Live => {
            let items = queue.take();
            (!items.is_empty()).then(|| Received::Items(items.into()))
        }
    }
}

/// Takes the forwarder back when the waiting ends, also if its future is dropped.
struct Lending<'a> {
    subscriber: &'a Subscriber,
    forwarder: &'a mut Forwarder,
}

impl Drop for Lending<'_> {
    fn drop(&mut self) {
        self.subscriber.take_back(self.forwarder);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut board = self.hub.board();
        self.subscriber.leave();
        board.remove(&self.subscriber, &self.hub.keys);
    }
}
