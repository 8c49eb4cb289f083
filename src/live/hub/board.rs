//! The hub's tables: subscribers by audience and by heartbeat, and audiences by feed.
//!
//! An audience is all subscribers who listen to the same feeds in the same order for the same reader, or to the log with the
//! same filter, so that an entry is matched once for all of them. It exists from the registration of its first subscriber until the last one has left. Its members are those
//! who have joined; while it has any, it stands in the lists of its feeds.
//!
//! Nobody joins while a round is dispatched: the tailer does one after the other. So a dispatch may unlock the board
//! between two slices of its work. Meanwhile subscribers can only leave, and walking on above the last id misses nobody.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use super::subscriber::{Listening, Subscriber};
use crate::{
    log::Filter,
    store::keys::Keys,
    types::{FeedName, ReaderName},
    version::Version,
};

/// Number of groups in which subscribers get their heartbeats, so that they do not all get them at once.
pub(super) const HEARTBEAT_GROUPS: usize = 16;

/// Subscribers by id, so that the cost of removing one hardly depends on how many there are.
pub(super) type Listeners = BTreeMap<u64, Arc<Subscriber>>;

/// Identifies an audience. Never reused.
pub(super) type AudienceId = u64;

/// Identifies those who listen to the same feeds in the same order. Never reused.
pub(super) type PagesId = u64;

/// Names a table of subscribers who have joined.
#[derive(Clone, Copy)]
pub(super) enum ListenersOf {
    Audience(AudienceId),
    HeartbeatGroup(usize),
}

/// An audience of the log, and the events it wants.
pub(in crate::live) type LogAudience = (Arc<Filter>, AudienceId);

/// The audiences that listen to a feed, with the place of the feed among the feeds of each.
pub(super) type Audiences = BTreeMap<AudienceId, usize>;

#[derive(Default)]
struct Audience {
    members: Listeners,
    /// All its subscribers, whether they have joined or not. Not 0.
    subscribers: usize,
    /// Whose state they are told.
    reader: ReaderName,
}

/// The audiences of the same feeds.
struct SameFeeds {
    pages: PagesId,
    by_reader: BTreeMap<ReaderName, AudienceId>,
    /// Of all of them. Not 0.
    subscribers: usize,
}

#[derive(Default)]
pub(super) struct Board {
    /// Registered, but no round has begun since.
    joining: Listeners,
    /// All others, by heartbeat group.
    groups: [Listeners; HEARTBEAT_GROUPS],
    audiences: HashMap<AudienceId, Audience>,
    /// The same, by their feeds.
    by_feeds: HashMap<Arc<[FeedName]>, SameFeeds>,
    /// The audiences of the log, by what they want of it.
    by_filter: HashMap<Arc<Filter>, AudienceId>,
    /// The audiences with members, by feed. No list is empty.
    feeds: HashMap<FeedName, Audiences>,
    /// How many of these feeds each partition has. No count is 0.
    partitions: HashMap<u16, usize>,
    /// The group that had the last heartbeat.
    group: usize,
    /// The moment of the last round: everything up to here has been dispatched.
    pub(super) moment: Option<Version>,
    pub(super) subscribers: usize,
    /// What they count together, see [`Listening::places`].
    pub(super) places: usize,
    next_id: u64,
    /// Of audiences and of those with the same pages.
    next_group: u64,
    pub(super) closed: bool,
}

impl Board {
    /// Adds a subscriber, which will join with the next round. `make` is given its id, its audience, and what it listens to,
    /// which shares its memory with that of the audience.
    pub(super) fn register(
        &mut self,
        to: Listening,
        make: impl FnOnce(u64, (AudienceId, PagesId), Listening) -> Subscriber,
    ) -> Arc<Subscriber> {
        let next = &mut self.next_group;
        let mut new = || {
            *next += 1;
            *next
        };
        let (to, audience, pages) = match to {
            Listening::Feeds(feeds, reader) => {
                let of = &mut self.by_feeds;
                let feeds = shared(of, feeds, || SameFeeds {
                    pages: new(),
                    by_reader: BTreeMap::new(),
                    subscribers: 0,
                });
                let (feeds, same) = feeds;
                same.subscribers += 1;
                let pages = same.pages;
                let audience = same.by_reader.entry(reader.clone()).or_insert_with(new);
                let audience = *audience;
                (Listening::Feeds(feeds, reader), audience, pages)
            }
            Listening::Log(filter) => {
                let (filter, audience) = shared(&mut self.by_filter, filter, &mut new);
                let audience = *audience;
                (Listening::Log(filter), audience, audience)
            }
        };
        let subscribed = self.audiences.entry(audience).or_default();
        subscribed.subscribers += 1;
        if let Listening::Feeds(_, reader) = &to {
            subscribed.reader.clone_from(reader);
        }
        self.subscribers += 1;
        self.places += to.places();
        let id = self.next_id;
        self.next_id += 1;
        let subscriber = Arc::new(make(id, (audience, pages), to));
        self.joining.insert(id, Arc::clone(&subscriber));
        subscriber
    }

    /// All subscribers who register from now on have this id or a greater one.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Makes the next subscriber with an id below `below` a member of its audience. Returns it, and how many entries this
    /// has added to the lists of feeds.
    pub(super) fn join_next(
        &mut self,
        below: u64,
        keys: &Keys,
    ) -> Option<(Arc<Subscriber>, usize)> {
        let first = self.joining.first_entry().filter(|it| *it.key() < below)?;
        let (id, subscriber) = first.remove_entry();
        let audience = self.audiences.entry(subscriber.audience).or_default();
        let is_first = audience.members.is_empty();
        audience.members.insert(id, Arc::clone(&subscriber));
        self.groups[group(&subscriber)].insert(id, Arc::clone(&subscriber));
        if !is_first {
            return Some((subscriber, 0));
        }
        for (place, feed) in subscriber.feeds().iter().enumerate() {
            let audiences = self.feeds.entry(feed.clone()).or_default();
            if audiences.is_empty() {
                *self.partitions.entry(keys.partition(feed)).or_default() += 1;
            }
            audiences.insert(subscriber.audience, place);
        }
        let added = subscriber.feeds().len();
        Some((subscriber, added))
    }

    /// Removes a subscriber, whether it has joined or not, and its audience if it was the last one.
    pub(super) fn remove(&mut self, subscriber: &Subscriber, keys: &Keys) {
        let (id, audience) = (subscriber.id, subscriber.audience);
        self.subscribers -= 1;
        self.places -= subscriber.listening.places();
        let has_joined = self.joining.remove(&id).is_none();
        let Some(left) = self.audiences.get_mut(&audience) else {
            return;
        };
        left.subscribers -= 1;
        let is_empty = left.subscribers == 0;
        if has_joined {
            self.groups[group(subscriber)].remove(&id);
            left.members.remove(&id);
            if left.members.is_empty() {
                for feed in subscriber.feeds() {
                    self.remove_from_feed(audience, feed, keys);
                }
            }
        }
        if is_empty {
            self.audiences.remove(&audience);
        }
        match &subscriber.listening {
            Listening::Feeds(feeds, reader) => self.leave_feeds(feeds, reader, is_empty),
            Listening::Log(filter) if is_empty => drop(self.by_filter.remove(filter)),
            Listening::Log(_) => {}
        }
    }

    fn leave_feeds(&mut self, feeds: &Arc<[FeedName]>, reader: &ReaderName, is_last: bool) {
        let Some(same) = self.by_feeds.get_mut(feeds) else {
            return;
        };
        same.subscribers -= 1;
        if is_last {
            same.by_reader.remove(reader);
        }
        if same.subscribers == 0 {
            self.by_feeds.remove(feeds);
        }
    }

    fn remove_from_feed(&mut self, audience: AudienceId, feed: &FeedName, keys: &Keys) {
        let Some(audiences) = self.feeds.get_mut(feed) else {
            return;
        };
        audiences.remove(&audience);
        if !audiences.is_empty() {
            return;
        }
        self.feeds.remove(feed);
        let partition = keys.partition(feed);
        if let Some(feeds) = self.partitions.get_mut(&partition) {
            *feeds -= 1;
            if *feeds == 0 {
                self.partitions.remove(&partition);
            }
        }
    }

    /// The partitions of the feeds that have listeners; all of them if the log has.
    pub(super) fn partitions(&self, keys: &Keys) -> HashSet<u16> {
        match self.log_audiences().is_empty() {
            true => self.partitions.keys().copied().collect(),
            false => (0..keys.partitions()).collect(),
        }
    }

    /// The audiences of the log that have members.
    pub(super) fn log_audiences(&self) -> Vec<LogAudience> {
        let has_members = |audience: &AudienceId| {
            let audience = self.audiences.get(audience);
            audience.is_some_and(|audience| !audience.members.is_empty())
        };
        let audiences = self.by_filter.iter();
        let audiences = audiences.filter(|(_, audience)| has_members(audience));
        audiences
            .map(|(filter, &audience)| (Arc::clone(filter), audience))
            .collect()
    }

    /// The audiences of a feed, if it has any. The name that is returned shares its memory with the table's.
    pub(super) fn audiences(&self, feed: &FeedName) -> Option<(&FeedName, &Audiences)> {
        self.feeds.get_key_value(feed)
    }

    /// `None` if the audience has gone.
    pub(super) fn listeners(&self, of: ListenersOf) -> Option<&Listeners> {
        match of {
            ListenersOf::Audience(audience) => self.audiences.get(&audience).map(|it| &it.members),
            ListenersOf::HeartbeatGroup(group) => self.groups.get(group),
        }
    }

    /// Whose state an audience is told; `None` if it has gone.
    pub(super) fn reader(&self, audience: AudienceId) -> Option<&ReaderName> {
        self.audiences
            .get(&audience)
            .map(|audience| &audience.reader)
    }

    /// Whether other subscribers listen to the same feeds in the same order.
    pub(super) fn is_shared(&self, subscriber: &Subscriber) -> bool {
        let Listening::Feeds(feeds, _) = &subscriber.listening else {
            return false;
        };
        let same = self.by_feeds.get(feeds);
        same.is_some_and(|same| same.subscribers > 1)
    }

    /// All subscribers.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        let joined = self.groups.iter().flat_map(BTreeMap::values);
        joined.chain(self.joining.values())
    }

    /// The group whose heartbeat is next.
    pub(super) fn next_group(&mut self) -> ListenersOf {
        self.group = (self.group + 1) % HEARTBEAT_GROUPS;
        ListenersOf::HeartbeatGroup(self.group)
    }

    /// The number of audiences, and of entries in the lists of feeds.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let of_feeds = self.by_feeds.values().map(|same| same.by_reader.len());
        assert_eq!(
            self.audiences.len(),
            of_feeds.sum::<usize>() + self.by_filter.len()
        );
        let entries = self.feeds.values().map(BTreeMap::len).sum();
        (self.audiences.len(), entries)
    }
}

/// The entry of a table, and the shared copy of its key. Makes it if there is none.
fn shared<T: Eq + Hash + ?Sized, V>(
    table: &mut HashMap<Arc<T>, V>,
    key: Arc<T>,
    new: impl FnOnce() -> V,
) -> (Arc<T>, &mut V) {
    let key = match table.get_key_value(&key) {
        Some((known, _)) => Arc::clone(known),
        None => key,
    };
    let value = table.entry(Arc::clone(&key)).or_insert_with(new);
    (key, value)
}

fn group(subscriber: &Subscriber) -> usize {
    (subscriber.id % HEARTBEAT_GROUPS as u64) as usize
}
