//! Which events of the log a reader wants, and what it may see of them.

use super::LogEvent;
use crate::{
    auth::Patterns,
    types::{Actor, Entry, Kind},
};

/// Every condition must hold. Equal filters are shared by live subscribers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filter {
    /// Empty: any.
    pub kinds: Vec<Kind>,
    /// Empty: any, and none at all.
    pub actors: Vec<Actor>,
    /// One of the event's feeds must be in it.
    pub feeds: Option<Patterns>,
    pub shard: Option<Shard>,
    /// The feeds that the reader may know of; `None`: all. Of an event with others, it sees the event without them.
    pub readable: Option<Patterns>,
}

/// One of `of` parts of the log. Each event is in exactly one of them, by its first feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Below `of`.
    pub index: u32,
    /// Not 0.
    pub of: u32,
}

impl Filter {
    /// Whether `event` is for this reader. If so, only what the reader may see is left of it.
    pub fn apply(&self, event: &mut LogEvent) -> bool {
        if !self.is_about(event) {
            return false;
        }
        if let Some(readable) = &self.readable {
            event.feeds.retain(|feed| readable.holds(feed));
        }
        match &self.feeds {
            None => !event.feeds.is_empty(),
            Some(feeds) => event.feeds.iter().any(|feed| feeds.holds(feed)),
        }
    }

    /// The part of the filter that does not depend on what the reader may see.
    pub(crate) fn is_about(&self, event: &LogEvent) -> bool {
        let shard = |Shard { index, of }: Shard| {
            event.first_feed_hash % u64::from(of.max(1)) == u64::from(index)
        };
        is_of(&event.entry, &self.kinds, &self.actors) && self.shard.is_none_or(shard)
    }
}

/// Whether the entry is of one of the kinds and of one of the actors. An empty list means all.
pub fn is_of(entry: &Entry, kinds: &[Kind], actors: &[Actor]) -> bool {
    let is_by = |actor: &Actor| actors.contains(actor);
    // Whose event was erased is not known any more: everybody is told.
    let is_for_all = actors.is_empty() || entry.is_erasure();
    (kinds.is_empty() || kinds.contains(&entry.kind))
        && (is_for_all || entry.actor.as_ref().is_some_and(is_by))
}
