//! A follower: history after a position, then live, as one sequence without gaps.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Item, Located, News, QUEUE_BYTES_MAX, Subscription,
    counts::Counts,
    forward::{Forwarder, Outlet},
    hub::{Forwarded, Received},
};
use crate::{
    error::{Error, Result},
    feed::{FeedState, Feeds, Order, Page, PageEntry, PageQuery},
    log::{Filter, LogPage, LogQuery},
    store::values::Mark,
    types::{Entry, FeedName, ReaderName},
    version::{Cursor, Version},
};

/// Largest catch-up page: as much as may be queued for a stream whose client does not read.
const PAGE_ENTRIES: usize = 200;
const PAGE_BYTES: usize = QUEUE_BYTES_MAX;

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bye {
    Shutdown,
    /// The store did not answer. A client that reconnects with its position loses nothing.
    Unavailable,
    /// The client's token has expired.
    TokenExpired,
}

impl Bye {
    /// The reason in `bye` frames and in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Unavailable => "unavailable",
            Self::TokenExpired => "token_expired",
        }
    }
}

/// The next part of the sequence.
#[derive(Debug)]
pub enum Update {
    Items(Vec<Arc<Item>>),
    /// What the outlet could not send at once, see [`Follower::send_through`].
    Unsent(Vec<Bytes>),
    /// The requested position is not one of this store. The sequence continues from `current`.
    Reset {
        why: Reset,
        current: Version,
    },
    Bye(Bye),
}

/// Why a stream cannot begin at the requested position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It is of another life of the store.
    CursorUnknown,
    /// The store has not reached it.
    VersionAhead,
    /// Retention may have removed something above it.
    CursorExpired,
}

enum Phase {
    Joining {
        after: Option<Cursor>,
    },
    /// Reading pages above `after`.
    CatchingUp {
        after: Cursor,
    },
    /// Pages are read; next come the marks that were made meanwhile, the feeds' states and the position.
    Arriving,
    Live,
    Ended,
}

pub struct Follower {
    feeds: Feeds,
    /// Follows the log, and what passes this filter; `None`: the feeds of the subscription.
    log: Option<Arc<Filter>>,
    subscription: Subscription,
    phase: Phase,
    /// Whether the pages on the way to live have what is kept, as for whoever begins at the beginning.
    kept: bool,
    forwarder: Forwarder,
}

impl Follower {
    /// Follows the subscription's feeds after `after`, or from now. The reader of `feeds` should be a stream.
    pub fn new(feeds: Feeds, subscription: Subscription, after: Option<Cursor>) -> Self {
        let forwarder = Forwarder {
            all_kinds: subscription.kinds().is_empty(),
            ..Forwarder::default()
        };
        Self {
            feeds,
            log: None,
            subscription,
            phase: Phase::Joining { after },
            kept: after.is_some_and(Cursor::is_beginning),
            forwarder,
        }
    }

    /// Follows the states of the subscription's feeds, from now.
    pub fn of_states(feeds: Feeds, subscription: Subscription) -> Self {
        let mut follower = Self::new(feeds, subscription, None);
        follower.forwarder.states_only = true;
        follower
    }

    /// Follows what passes `filter` in the log after `after`, or from now. The subscription must be to the log, with the same
    /// filter.
    pub fn of_log(
        feeds: Feeds,
        subscription: Subscription,
        filter: Arc<Filter>,
        after: Option<Cursor>,
    ) -> Self {
        Self {
            log: Some(filter),
            ..Self::new(feeds, subscription, after)
        }
    }

    /// Lets what arrives while [`Self::next`] waits be sent through `outlet`, so that it is not returned.
    pub fn send_through(&mut self, outlet: Box<dyn Outlet>) {
        self.forwarder.outlet = Some(outlet);
    }

    /// Everything up to this version has been returned.
    pub fn position(&self) -> Version {
        self.forwarder.position
    }

    /// Identifies the stream in the log.
    pub fn id(&self) -> u64 {
        self.subscription.id()
    }

    /// The next update, or `None` after [`Update::Bye`]. No snapshot is held between calls.
    pub async fn next(&mut self) -> Option<Update> {
        match self.step().await {
            Ok(update) => update,
            Err(error) => {
                tracing::warn!(%error, "stream ended: the store did not answer");
                Some(self.end(Bye::Unavailable))
            }
        }
    }

    /// What the outlet could not send. Ask for it before [`Self::end`], unless [`Self::next`] has returned since it waited.
    pub fn take_unsent(&mut self) -> Option<Vec<Bytes>> {
        let unsent = self.forwarder.take_unsent();
        (!unsent.is_empty()).then_some(unsent)
    }

    /// Ends the sequence. Returns its last update.
    pub fn end(&mut self, bye: Bye) -> Update {
        self.phase = Phase::Ended;
        Update::Bye(bye)
    }

    async fn step(&mut self) -> Result<Option<Update>> {
        loop {
            match self.phase {
                Phase::Joining { after } => {
                    let Some(moment) = self.subscription.joined().await else {
                        return Ok(Some(self.end(Bye::Shutdown)));
                    };
                    let after = after.unwrap_or(moment.into());
                    self.forwarder.marks_at = after.unchecked();
                    self.phase = self.catching_up(after);
                }
                // Boxed, here and below: a stream is mostly in `Live`, and its future should not have the size of these.
                Phase::CatchingUp { after } => {
                    if let Some(update) = Box::pin(self.catch_up(after)).await? {
                        return Ok(Some(update));
                    }
                }
                Phase::Arriving => return Box::pin(self.arrive()).await.map(Some),
                Phase::Live => match self.subscription.forward(&mut self.forwarder).await {
                    Forwarded::Unsent(bytes) => return Ok(Some(Update::Unsent(bytes))),
                    Forwarded::Received(Received::Items(items)) => {
                        let items = self.forwarder.above_position(items.into_iter());
                        if !items.is_empty() {
                            return Ok(Some(Update::Items(items)));
                        }
                    }
                    Forwarded::Received(Received::Lagged) => {
                        // Whatever was given before an entry had been told.
                        self.forwarder.marks_at =
                            self.forwarder.marks_at.max(self.forwarder.position);
                        self.phase = self.catching_up(self.forwarder.position.into());
                    }
                    Forwarded::Received(Received::Closed) => {
                        return Ok(Some(self.end(Bye::Shutdown)));
                    }
                },
                Phase::Ended => return Ok(None),
            }
        }
    }

    fn catching_up(&self, after: Cursor) -> Phase {
        match self.forwarder.states_only {
            true => Phase::Arriving,
            false => Phase::CatchingUp { after },
        }
    }

    /// Pages are shared by streams on the same feeds, if they take all kinds.
    fn shares_pages(&self) -> bool {
        self.log.is_none() && self.subscription.kinds().is_empty()
    }

    /// Goes on to what another stream has read above `after`, if one has.
    fn take_shared(&mut self, after: Cursor) -> Option<Vec<Arc<Item>>> {
        if !self.shares_pages() || !self.feeds.knows(after) {
            return None;
        }
        let (items, until) = self
            .subscription
            .shared_page(after.unchecked(), self.kept)?;
        self.forwarder.position = until;
        self.phase = Phase::CatchingUp {
            after: until.into(),
        };
        Some(items)
    }

    async fn catch_up(&mut self, after: Cursor) -> Result<Option<Update>> {
        let some = |items: Vec<_>| (!items.is_empty()).then_some(Update::Items(items));
        if let Some(items) = self.take_shared(after) {
            return Ok(some(items));
        }
        // Most streams that reconnect have missed nothing.
        if self.log.is_none()
            && let Some(now) = (self.feeds).moment_if_nothing_new(self.subscription.feeds(), after)
        {
            self.forwarder.position = now;
            self.phase = Phase::Arriving;
            return Ok(None);
        }
        let feeds = self.feeds.turn().await?;
        // While this stream waited for its turn, others had theirs.
        if let Some(items) = self.take_shared(after) {
            return Ok(some(items));
        }
        let page = match &self.log {
            None => self.page(&feeds, self.above(after)).await,
            Some(filter) => log_page(&feeds, self.above(after), filter).await,
        };
        let CaughtUp {
            version,
            mut items,
            next,
            is_whole,
        } = match page {
            Ok(page) => page,
            Err(Error::VersionAhead { current, .. }) => {
                return Ok(Some(self.reset(Reset::VersionAhead, current)));
            }
            Err(Error::CursorUnknown { current, .. }) => {
                return Ok(Some(self.reset(Reset::CursorUnknown, current)));
            }
            Err(Error::CursorExpired { current, .. }) => {
                return Ok(Some(self.reset(Reset::CursorExpired, current)));
            }
            Err(error) => return Err(error),
        };
        self.forwarder.position = next.unwrap_or(version);
        self.phase = match next {
            None => Phase::Arriving,
            Some(next) => Phase::CatchingUp { after: next.into() },
        };
        if self.shares_pages() {
            // The page has checked it.
            let after = after.unchecked();
            let range = (after, self.forwarder.position);
            self.subscription.share_page(range, &items, is_whole);
        }
        if items.is_empty() && self.log.is_some() {
            // There can be very much that does not pass the filter: the client should not begin with it again.
            items.push(Item::new(News::Moment(self.forwarder.position)));
        }
        Ok(some(items))
    }

    fn above(&self, after: Cursor) -> Order<Cursor> {
        Order::OldestFirst {
            after,
            until: None,
            kept: self.kept,
        }
    }

    async fn page(&self, feeds: &Feeds, order: Order<Cursor>) -> Result<CaughtUp> {
        let query = PageQuery {
            feeds: self.subscription.feeds().to_vec(),
            order,
            limit: PAGE_ENTRIES,
            bytes: PAGE_BYTES,
            kinds: self.subscription.kinds().to_vec(),
            states: None,
        };
        let page = feeds.page(&query).await?;
        Ok(CaughtUp {
            version: page.version,
            next: page.next,
            is_whole: page.is_whole,
            items: items_of(page, &query.feeds),
        })
    }

    fn reset(&mut self, why: Reset, current: Version) -> Update {
        self.forwarder.position = current;
        self.forwarder.marks_at = current;
        let after = current.into();
        self.phase = Phase::CatchingUp { after };
        self.kept = false;
        Update::Reset { why, current }
    }

    /// Returns the marks and the feeds' states, which may have changed since the client last saw them, and then the position.
    async fn arrive(&mut self) -> Result<Update> {
        let mut items = Vec::new();
        if let feeds @ [_, ..] = self.subscription.feeds() {
            let (feeds, reader) = (feeds.to_vec(), self.subscription.reader().clone());
            let turn = self.feeds.turn().await?;
            if !self.forwarder.states_only {
                items = self.marks(&turn, &feeds, &reader).await?;
            }
            let states = turn.states(&feeds, &reader).await?;
            drop(turn);
            let whole = |state: &FeedState| News::Whole(Box::new(state.clone()));
            items.extend(states.iter().map(|state| match self.forwarder.states_only {
                true => Item::new(whole(state)),
                false => Item::new(News::State(state.clone())),
            }));
            if self.forwarder.states_only {
                let oldest = states.iter().map(|state| state.version).min();
                self.forwarder.position = oldest.unwrap_or(self.forwarder.position);
            }
            self.forwarder.counts = Counts::of(states, self.forwarder.states_only);
        }
        items.push(Item::new(News::Moment(self.forwarder.position)));
        self.subscription.caught_up();
        self.phase = Phase::Live;
        self.kept = false;
        Ok(Update::Items(items))
    }

    /// The marks of entries that the reader made since those that were returned.
    async fn marks(
        &mut self,
        turn: &Feeds,
        feeds: &[FeedName],
        reader: &ReaderName,
    ) -> Result<Vec<Arc<Item>>> {
        let found = turn
            .marks_since(feeds, reader, self.forwarder.marks_at)
            .await?;
        self.forwarder.marks_at = found.version;
        let marks = feeds.iter().zip(found.marks).flat_map(|(feed, marks)| {
            let news = |mark: Option<(Version, Mark)>, version| {
                let (feed, reader) = (feed.clone(), reader.clone());
                Item::new(News::Marked {
                    feed,
                    reader,
                    mark,
                    version,
                })
            };
            match marks {
                Some(marks) => marks
                    .into_iter()
                    .map(|(entry, mark)| news(Some((entry, mark)), mark.marked))
                    .collect(),
                None => vec![news(None, found.version)],
            }
        });
        Ok(marks.collect())
    }
}

/// A page on the way to live.
struct CaughtUp {
    version: Version,
    items: Vec<Arc<Item>>,
    next: Option<Version>,
    /// See [`Page::is_whole`].
    is_whole: bool,
}

async fn log_page(feeds: &Feeds, order: Order<Cursor>, filter: &Arc<Filter>) -> Result<CaughtUp> {
    let query = LogQuery {
        filter: Arc::clone(filter),
        order,
        limit: PAGE_ENTRIES,
        bytes: PAGE_BYTES,
    };
    let LogPage {
        version,
        events,
        next,
    } = feeds.log_page(&query).await?;
    let items = events
        .into_iter()
        .map(|event| Item::new(News::Event(event)));
    Ok(CaughtUp {
        version,
        items: items.collect(),
        next,
        // Nobody asks: pages of the log are not shared.
        is_whole: false,
    })
}

fn items_of(page: Page, feeds: &[FeedName]) -> Vec<Arc<Item>> {
    let located = |PageEntry {
                       entry,
                       feeds: held_by,
                       ..
                   }: PageEntry| locate(entry, &held_by, feeds);
    page.entries
        .into_iter()
        .filter_map(located)
        .map(|located| Item::new(News::Entry(located)))
        .collect()
}

fn locate(entry: Entry, held_by: &[usize], feeds: &[FeedName]) -> Option<Located> {
    let named: Vec<FeedName> = held_by
        .iter()
        .filter_map(|&index| feeds.get(index))
        .cloned()
        .collect();
    let feed = named.first()?.clone();
    Some(Located {
        entry,
        feed,
        feeds: if named.len() > 1 { named } else { Vec::new() },
    })
}

/// A query that a long poll repeats.
pub trait Polled: Sync {
    type Page: Send;

    /// The page of the query above `after`.
    fn read(
        &self,
        feeds: &Feeds,
        after: Version,
    ) -> impl Future<Output = Result<Self::Page>> + Send;

    /// Whether there is something to return.
    fn has_news(page: &Self::Page) -> bool;

    fn version(page: &Self::Page) -> Version;
}

/// What a poll that began with `order` reads above `after`.
fn above(order: Order<Cursor>, after: Version) -> Order<Cursor> {
    Order::OldestFirst {
        after: after.into(),
        until: None,
        kept: order.takes_what_is_kept(),
    }
}

impl Polled for PageQuery<Cursor> {
    type Page = Page;

    async fn read(&self, feeds: &Feeds, after: Version) -> Result<Page> {
        let query = Self {
            order: above(self.order, after),
            ..self.clone()
        };
        feeds.turn().await?.page(&query).await
    }

    fn has_news(page: &Page) -> bool {
        !page.entries.is_empty() || page.next.is_some()
    }

    fn version(page: &Page) -> Version {
        page.version
    }
}

impl Polled for LogQuery<Cursor> {
    type Page = LogPage;

    async fn read(&self, feeds: &Feeds, after: Version) -> Result<LogPage> {
        let query = Self {
            order: above(self.order, after),
            ..self.clone()
        };
        feeds.turn().await?.log_page(&query).await
    }

    fn has_news(page: &LogPage) -> bool {
        !page.events.is_empty() || page.next.is_some()
    }

    fn version(page: &LogPage) -> Version {
        page.version
    }
}

/// Long poll: the page of `query` above `after` as soon as it has an entry, at the latest at `deadline` or when the node shuts
/// down. `query` must be oldest first, and `subscription` for the entries that it is about.
///
/// What is known to have no entry of the query is not read again: every read begins above the last one, or just below the
/// first entry that the hub has found. So the page is the one that a new request would get by following `next` to its end.
pub async fn wait_for_entries<Q: Polled>(
    feeds: &Feeds,
    mut subscription: Subscription,
    query: &Q,
    after: Version,
    deadline: Instant,
) -> Result<Q::Page> {
    // While the store is unavailable no round ends, but the deadline still applies.
    let joined = tokio::time::timeout_at(deadline, subscription.joined()).await;
    let mut is_last = !matches!(joined, Ok(Some(_)));
    let mut position = after;
    loop {
        let page = query.read(feeds, position).await?;
        subscription.caught_up();
        if Q::has_news(&page) || is_last {
            return Ok(page);
        }
        position = Q::version(&page);
        let found = first_above(&mut subscription, position);
        match tokio::time::timeout_at(deadline, found).await {
            Ok(Found::Entry(version)) => position = version.before(),
            Ok(Found::Unknown) => {}
            Ok(Found::Closed) | Err(_) => {
                is_last = true;
                position = position.max(subscription.quiet_until().unwrap_or(position));
            }
        }
    }
}

/// What a subscription to entries finds.
enum Found {
    /// The first entry, at this version.
    Entry(Version),
    /// There may be entries; only reading can tell.
    Unknown,
    Closed,
}

/// Waits for an entry above `position`.
async fn first_above(subscription: &mut Subscription, position: Version) -> Found {
    loop {
        match subscription.receive().await {
            Received::Items(items) => {
                let versions = items.iter().map(|item| item.news.version());
                if let Some(first) = versions.filter(|&version| version > position).min() {
                    return Found::Entry(first);
                }
            }
            Received::Lagged => return Found::Unknown,
            Received::Closed => return Found::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dedup::testing::{Memory, feed, keys, long_history},
        fairness::WorkBudget,
        live::Hub,
    };

    /// The entries up to the position at which the stream is live.
    async fn history(follower: &mut Follower) -> Vec<Arc<Item>> {
        let mut entries = Vec::new();
        loop {
            let Some(Update::Items(items)) = follower.next().await else {
                panic!("the stream ended");
            };
            let is_entry = |item: &&Arc<Item>| matches!(item.news, News::Entry(_));
            let arrived = items.last().is_some_and(|item| !is_entry(&item));
            entries.extend(items.iter().filter(is_entry).cloned());
            if arrived {
                return entries;
            }
        }
    }

    /// A burst of entries in many feeds is read and rendered once, not once for each stream that missed it.
    #[tokio::test]
    async fn streams_on_the_same_feeds_share_what_one_of_them_has_read() {
        let names = [feed("a"), feed("b")];
        let record = long_history(500, &names);
        let memory = Memory::of(&record);
        let moment = memory.version;
        let feeds = Feeds::new(Arc::new(memory), keys());
        let hub = Hub::new(keys(), Arc::default());
        let follow = |names: &[FeedName], after: Version| {
            let subscription = hub.subscribe(names.to_vec()).expect("room");
            Follower::new(feeds.clone(), subscription, Some(after.into()))
        };
        let [a, b] = names.clone();
        // The position of each, as an index of the history.
        let begins = [0, 100, 100, 349, 499, 0];
        let mut followers = begins.map(|begin| follow(&names, record[begin].entry.version));
        let mut others = [
            follow(&[b, a.clone()], Version::ZERO),
            follow(&[a], Version::ZERO),
        ];
        let mut budget = WorkBudget::default();
        let (_, joining) = hub.begin_round(&mut budget).await;
        hub.end_round(joining, moment, &mut budget).await;

        let mut read: Vec<Arc<Item>> = Vec::new();
        for (follower, begin) in followers.iter_mut().zip(begins) {
            let entries = history(follower).await;
            let versions = entries.iter().map(|item| item.news.version());
            let wanted = record[begin + 1..]
                .iter()
                .map(|record| record.entry.version);
            assert!(versions.eq(wanted), "from {begin}");
            match read.get(begin..) {
                None | Some([]) => read = entries,
                Some(same) => {
                    let mut both = same.iter().zip(&entries);
                    assert!(both.all(|(one, other)| Arc::ptr_eq(one, other)), "{begin}");
                }
            }
        }
        // Streams on other feeds, or on the same ones in another order, do not share: their entries name other feeds.
        for other in &mut others {
            let entries = history(other).await;
            assert_eq!(entries.len(), record.len());
            assert!(!Arc::ptr_eq(&entries[1], &read[0]));
        }
    }
}
