//! Gives what a round has read to the subscribers that listen to it.
//!
//! The work for an entry is done once for each audience that it reaches, and only the push once for each subscriber.
//! Audiences that match through the same feeds share one item, which is rendered once. The board is locked for one slice
//! of the work at a time, and a [`WorkBudget`] lets other tasks run in between, among them the streams that empty their
//! queues.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    ops::Bound::{Excluded, Unbounded},
    panic::resume_unwind,
    sync::Arc,
};

use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::{
    Hub,
    board::{AudienceId, Board, ListenersOf, LogAudience},
    subscriber::Subscriber,
};
use crate::{
    fairness::WorkBudget,
    live::{Item, Located, News},
    log::LogEvent,
    types::{Entry, FeedName, ReaderName},
};

/// Steps of a walk over one of the board's tables during which the board stays locked.
const SLICE: usize = 256;
/// Steps that cost as much as a unit of work: one subscriber is given an item, or one feed of an audience is matched.
const STEPS_PER_UNIT: usize = 8;

/// Subscribers whose queues are filled before they are flushed.
const UNSENT_MAX: usize = 1_024;
/// Subscribers that are flushed by one task, at least: fewer are not worth waking a thread.
const SHARE_MIN: usize = 32;
/// A system call that sends costs as much as this many units of work.
const UNITS_PER_SEND: usize = 8;

/// Feeds of an entry, by index, with their places among the feeds of an audience. Nearly always one.
type Matches = SmallVec<[(usize, usize); 1]>;

impl Hub {
    /// Gives an entry (or, with `News::Transient`, a transient) once to each subscriber that listens to one of `feeds`,
    /// which must be distinct.
    pub(in crate::live) async fn dispatch(
        &self,
        entry: &Entry,
        feeds: &[FeedName],
        news: fn(Located) -> News,
        budget: &mut WorkBudget,
    ) {
        let (names, matched) = self.matched(feeds, budget).await;
        // By the feeds of the entry through which an audience matches, in the audience's order.
        let mut items: HashMap<SmallVec<[usize; 2]>, Arc<Item>> = HashMap::new();
        for (audience, mut matches) in matched {
            matches.sort_unstable();
            let through = matches.iter().map(|&(_, index)| index).collect();
            let item = items.entry(through).or_insert_with_key(|through| {
                let mut feeds: Vec<_> = through.iter().map(|&index| names[index].clone()).collect();
                let feed = feeds[0].clone();
                if feeds.len() == 1 {
                    feeds = Vec::new();
                }
                let entry = entry.clone();
                Item::new(news(Located { entry, feed, feeds }))
            });
            budget.spend(1 + matches.len() / STEPS_PER_UNIT).await;
            self.give(audience, item, budget).await;
        }
    }

    /// Gives `item` to the subscribers that listen to `feed` and are told the states of `reader`, or to all others.
    pub(in crate::live) async fn dispatch_of_reader(
        &self,
        feed: &FeedName,
        (reader, is_own): (&ReaderName, bool),
        item: &Arc<Item>,
        budget: &mut WorkBudget,
    ) {
        let (_, audiences) = self.matched(std::slice::from_ref(feed), budget).await;
        for audience in audiences.into_keys() {
            let is_of = self.board().reader(audience).map(|of| of == reader);
            if is_of == Some(is_own) {
                self.give(audience, item, budget).await;
            }
        }
    }

    /// Gives an event to all who follow the log and want it.
    pub(in crate::live) async fn dispatch_to_logs(
        &self,
        logs: &[LogAudience],
        event: &LogEvent,
        budget: &mut WorkBudget,
    ) {
        for (filter, audience) in logs {
            budget.spend(1).await;
            if !filter.is_about(event) {
                continue;
            }
            let mut event = event.clone();
            if filter.apply(&mut event) {
                let item = Item::new(News::Event(event));
                self.give(*audience, &item, budget).await;
            }
        }
    }

    /// The names of the feeds, and the audiences that listen to at least one of them. The names share their memory with the
    /// board's, and not with the record of the entry, wherever the feed has listeners.
    async fn matched(
        &self,
        feeds: &[FeedName],
        budget: &mut WorkBudget,
    ) -> (Vec<FeedName>, HashMap<AudienceId, Matches>) {
        let mut names = Vec::with_capacity(feeds.len());
        let mut matched: HashMap<AudienceId, Matches> = HashMap::new();
        for (index, feed) in feeds.iter().enumerate() {
            names.push(feed.clone());
            self.walk(
                |board| {
                    let (name, audiences) = board.audiences(feed)?;
                    names[index].clone_from(name);
                    Some(audiences)
                },
                |audience, &place| matched.entry(audience).or_default().push((place, index)),
                budget,
            )
            .await;
        }
        (names, matched)
    }

    async fn give(&self, audience: AudienceId, item: &Arc<Item>, budget: &mut WorkBudget) {
        let members = ListenersOf::Audience(audience);
        let count = self.board().listeners(members).map_or(0, BTreeMap::len);
        let bytes = item.bytes(count);
        self.push_each(members, |subscriber| subscriber.push(item, bytes), budget)
            .await;
    }

    /// Calls `push` for each of the subscribers, and has what was pushed sent, at the latest by [`Self::flush`].
    pub(super) async fn push_each(
        &self,
        listeners: ListenersOf,
        push: impl Fn(&Subscriber) -> bool,
        budget: &mut WorkBudget,
    ) {
        let push = |subscriber: &Arc<Subscriber>| {
            if push(subscriber) {
                self.unsent().push(Arc::clone(subscriber));
            }
        };
        self.each(listeners, push, budget).await;
        if self.unsent().len() >= UNSENT_MAX {
            self.flush().await;
        }
    }

    /// Sends what was pushed to subscribers whose tasks wait. What was pushed to one of them since the last time is sent
    /// together.
    pub(in crate::live) async fn flush(&self) {
        let mut unsent = mem::take(&mut *self.unsent());
        if unsent.is_empty() {
            return;
        }
        let workers = Handle::current().metrics().num_workers();
        let share = unsent.len().div_ceil(workers).max(SHARE_MIN);
        let mut others = Vec::new();
        while unsent.len() > share {
            let part = unsent.split_off(unsent.len() - share);
            others.push(tokio::spawn(forward(part)));
        }
        forward(unsent).await;
        for other in others {
            // A stream may have lost something: the tailer ends, too, and with it the health of the node.
            if let Err(error) = other.await
                && let Ok(panic) = error.try_into_panic()
            {
                resume_unwind(panic);
            }
        }
    }

    /// Calls `act` once for each of the subscribers, but not for those who leave before it is their turn.
    pub(super) async fn each(
        &self,
        listeners: ListenersOf,
        act: impl Fn(&Arc<Subscriber>),
        budget: &mut WorkBudget,
    ) {
        self.walk(
            |board| board.listeners(listeners),
            |_, subscriber| act(subscriber),
            budget,
        )
        .await;
    }

    /// Visits the items of a table of the board in slices, in the order of their ids. Ends if there is no such table (any
    /// more).
    async fn walk<T>(
        &self,
        mut table: impl FnMut(&Board) -> Option<&BTreeMap<u64, T>>,
        mut visit: impl FnMut(u64, &T),
        budget: &mut WorkBudget,
    ) {
        let mut last = None;
        loop {
            let steps = {
                let board = self.board();
                let Some(table) = table(&board) else {
                    return;
                };
                let after = last.map_or(Unbounded, Excluded);
                let mut steps = 0;
                for (&id, item) in table.range((after, Unbounded)).take(SLICE) {
                    visit(id, item);
                    last = Some(id);
                    steps += 1;
                }
                steps
            };
            budget.spend(1 + steps / STEPS_PER_UNIT).await;
            if steps < SLICE {
                return;
            }
        }
    }
}

async fn forward(subscribers: Vec<Arc<Subscriber>>) {
    let mut budget = WorkBudget::default();
    for subscriber in subscribers {
        subscriber.forward();
        budget.spend(UNITS_PER_SEND).await;
    }
}
