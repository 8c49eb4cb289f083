//! A follower: history after a position, then live, as one sequence without gaps.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Item, Located, News, QUEUE_BYTES_MAX, Subscription, hub::Received};
use crate::{
    error::{Error, Result},
    feed::{Feeds, Order, Page, PageEntry, PageQuery},
    types::{Entry, FeedName},
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
}

enum Phase {
    Joining {
        after: Option<Cursor>,
    },
    /// Reading pages above `after`.
    CatchingUp {
        after: Cursor,
    },
    /// Pages are read; next come the feeds' states and the position.
    Arriving,
    Live,
    Ended,
}

pub struct Follower {
    feeds: Feeds,
    subscription: Subscription,
    phase: Phase,
    /// Everything up to here has been returned.
    position: Version,
    /// The moment of the states that were returned last.
    state_at: Version,
}

impl Follower {
    /// Follows the subscription's feeds after `after`, or from now. The reader of `feeds` should be a stream.
    pub fn new(feeds: Feeds, subscription: Subscription, after: Option<Cursor>) -> Self {
        Self {
            feeds,
            subscription,
            phase: Phase::Joining { after },
            position: Version::ZERO,
            state_at: Version::ZERO,
        }
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
                    self.phase = Phase::CatchingUp { after };
                }
                // Boxed, here and below: a stream is mostly in `Live`, and its future should not have the size of these.
                Phase::CatchingUp { after } => {
                    if let Some(update) = Box::pin(self.catch_up(after)).await? {
                        return Ok(Some(update));
                    }
                }
                Phase::Arriving => return Box::pin(self.arrive()).await.map(Some),
                Phase::Live => match self.subscription.receive().await {
                    Received::Items(items) => {
                        let items = self.above_position(items);
                        if !items.is_empty() {
                            return Ok(Some(Update::Items(items)));
                        }
                    }
                    Received::Lagged => {
                        let after = self.position.into();
                        self.phase = Phase::CatchingUp { after };
                    }
                    Received::Closed => return Ok(Some(self.end(Bye::Shutdown))),
                },
                Phase::Ended => return Ok(None),
            }
        }
    }

    async fn catch_up(&mut self, after: Cursor) -> Result<Option<Update>> {
        let query = PageQuery {
            feeds: self.subscription.feeds().to_vec(),
            order: Order::OldestFirst { after, until: None },
            limit: PAGE_ENTRIES,
            bytes: PAGE_BYTES,
            kinds: self.subscription.kinds().to_vec(),
        };
        let feeds = self.feeds.turn().await?;
        let page = match feeds.page(&query).await {
            Ok(page) => page,
            Err(Error::VersionAhead { current, .. }) => {
                return Ok(Some(self.reset(Reset::VersionAhead, current)));
            }
            Err(Error::CursorUnknown { current, .. }) => {
                return Ok(Some(self.reset(Reset::CursorUnknown, current)));
            }
            Err(error) => return Err(error),
        };
        self.position = page.next.unwrap_or(page.version);
        self.phase = match page.next {
            None => Phase::Arriving,
            Some(next) => Phase::CatchingUp { after: next.into() },
        };
        let items = items_of(page, &query.feeds);
        Ok((!items.is_empty()).then_some(Update::Items(items)))
    }

    fn reset(&mut self, why: Reset, current: Version) -> Update {
        self.position = current;
        let after = current.into();
        self.phase = Phase::CatchingUp { after };
        Update::Reset { why, current }
    }

    /// Returns the feeds' states, which may have changed since the client last saw them, and then the position.
    async fn arrive(&mut self) -> Result<Update> {
        let feeds = self.feeds.turn().await?;
        let states = feeds.states(self.subscription.feeds()).await?;
        self.state_at = states
            .iter()
            .map(|state| state.version)
            .min()
            .unwrap_or(self.position);
        let mut items: Vec<_> = states
            .into_iter()
            .map(|state| Item::new(News::State(state)))
            .collect();
        items.push(Item::new(News::Moment(self.position)));
        self.subscription.caught_up();
        self.phase = Phase::Live;
        Ok(Update::Items(items))
    }

    /// Drops items that were in the pages already, and moves the position to the last of the others.
    fn above_position(&mut self, items: Vec<Arc<Item>>) -> Vec<Arc<Item>> {
        let mut position = self.position;
        let fresh = items.into_iter().filter(|item| match &item.news {
            News::Entry(located) => {
                let fresh = located.entry.version > position;
                position = position.max(located.entry.version);
                fresh
            }
            News::Transient(located) => located.entry.version > position,
            News::State(state) => state.version > self.state_at,
            // Heartbeats of an idle store repeat the position.
            News::Moment(moment) => {
                let fresh = *moment >= position;
                position = position.max(*moment);
                fresh
            }
        });
        let fresh = fresh.collect();
        self.position = position;
        fresh
    }
}

fn items_of(page: Page, feeds: &[FeedName]) -> Vec<Arc<Item>> {
    let located = |PageEntry {
                       entry,
                       feeds: held_by,
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

/// Long poll: the page of `query` above `after` as soon as it has an entry, at the latest at `deadline` or when the node shuts
/// down. `query` must be oldest first, and `subscription` for the entries that it is about.
///
/// What is known to have no entry of the query is not read again: every read begins above the last one, or just below the
/// first entry that the hub has found. So the page is the one that a new request would get by following `next` to its end.
pub async fn wait_for_entries(
    feeds: &Feeds,
    mut subscription: Subscription,
    query: &PageQuery<Cursor>,
    after: Version,
    deadline: Instant,
) -> Result<Page> {
    // While the store is unavailable no round ends, but the deadline still applies.
    let joined = tokio::time::timeout_at(deadline, subscription.joined()).await;
    let mut is_last = !matches!(joined, Ok(Some(_)));
    let mut position = after;
    loop {
        let order = Order::OldestFirst {
            after: position.into(),
            until: None,
        };
        let query = PageQuery {
            order,
            ..query.clone()
        };
        let page = feeds.turn().await?.page(&query).await?;
        subscription.caught_up();
        if !page.entries.is_empty() || page.next.is_some() || is_last {
            return Ok(page);
        }
        position = page.version;
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
