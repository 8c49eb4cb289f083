//! The hub's tables: subscribers by feed, by partition and by heartbeat.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::subscriber::Subscriber;
use crate::{store::keys::Keys, types::FeedName, version::Version};

/// Number of groups in which subscribers get their heartbeats, so that they do not all get them at once.
pub(super) const HEARTBEAT_GROUPS: usize = 16;

/// Subscribers by id, so that the cost of removing one does not depend on how many there are.
pub(super) type Listeners = HashMap<u64, Arc<Subscriber>>;

#[derive(Default)]
pub(super) struct Board {
    /// Registered, but no round has begun since.
    pub(super) joining: Vec<Arc<Subscriber>>,
    /// All others, by heartbeat group.
    groups: [Listeners; HEARTBEAT_GROUPS],
    /// The same, by feed. No list is empty.
    feeds: HashMap<FeedName, Listeners>,
    /// How many of these feeds each partition has. No count is 0.
    partitions: HashMap<u16, usize>,
    /// The group that had the last heartbeat.
    group: usize,
    /// The moment of the last round: everything up to here has been dispatched.
    pub(super) moment: Option<Version>,
    pub(super) subscribers: usize,
    pub(super) next_id: u64,
    pub(super) closed: bool,
}

impl Board {
    /// Adds a subscriber that joins.
    pub(super) fn add(&mut self, subscriber: &Arc<Subscriber>, keys: &Keys) {
        for feed in &subscriber.feeds {
            let listeners = self.feeds.entry(feed.clone()).or_default();
            if listeners.is_empty() {
                *self.partitions.entry(keys.partition(feed)).or_default() += 1;
            }
            listeners.insert(subscriber.id, Arc::clone(subscriber));
        }
        self.groups[group(subscriber)].insert(subscriber.id, Arc::clone(subscriber));
    }

    /// Removes a subscriber, whether it has joined or not.
    pub(super) fn remove(&mut self, subscriber: &Subscriber, keys: &Keys) {
        let id = subscriber.id;
        self.subscribers -= 1;
        if self.groups[group(subscriber)].remove(&id).is_none() {
            self.joining.retain(|joining| joining.id != id);
            return;
        }
        for feed in &subscriber.feeds {
            let Some(listeners) = self.feeds.get_mut(feed) else {
                continue;
            };
            listeners.remove(&id);
            if listeners.is_empty() {
                self.feeds.remove(feed);
                self.remove_feed_from(keys.partition(feed));
            }
        }
    }

    fn remove_feed_from(&mut self, partition: u16) {
        if let Some(feeds) = self.partitions.get_mut(&partition) {
            *feeds -= 1;
            if *feeds == 0 {
                self.partitions.remove(&partition);
            }
        }
    }

    /// The partitions of the feeds that have listeners.
    pub(super) fn partitions(&self) -> HashSet<u16> {
        self.partitions.keys().copied().collect()
    }

    /// The listeners of a feed, if it has any. The name that is returned shares its memory with the table's.
    pub(super) fn listeners(&self, feed: &FeedName) -> Option<(&FeedName, &Listeners)> {
        self.feeds.get_key_value(feed)
    }

    /// All subscribers that have joined.
    pub(super) fn joined(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        self.groups.iter().flat_map(HashMap::values)
    }

    /// The group whose heartbeat is next.
    pub(super) fn next_group(&mut self) -> impl Iterator<Item = &Arc<Subscriber>> {
        self.group = (self.group + 1) % HEARTBEAT_GROUPS;
        self.groups[self.group].values()
    }
}

fn group(subscriber: &Subscriber) -> usize {
    (subscriber.id % HEARTBEAT_GROUPS as u64) as usize
}
