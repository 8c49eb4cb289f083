//! Gives what a round has read to the subscribers that listen to it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Hub, board::Listeners, subscriber::Subscriber};
use crate::{
    live::{Item, Located, News},
    types::{Entry, FeedName},
};

impl Hub {
    /// Gives an entry (or, with `News::Transient`, a transient) once to each subscriber that listens to one of `feeds`.
    pub(in crate::live) fn dispatch(
        &self,
        entry: &Entry,
        feeds: &[FeedName],
        news: fn(Located) -> News,
    ) {
        let board = self.board();
        let listened_to: Vec<(&FeedName, &Listeners)> = feeds
            .iter()
            .filter_map(|feed| board.listeners(feed))
            .collect();
        let item = |feed: &FeedName, feeds: Vec<FeedName>| {
            Item::new(news(Located {
                entry: entry.clone(),
                feed: feed.clone(),
                feeds,
            }))
        };
        let through_several = through_several(&listened_to);
        // Nearly all subscribers listen to one of the feeds. They share one item, which is rendered once.
        for (feed, listeners) in &listened_to {
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

    /// Gives `item` to all subscribers that listen to `feed`.
    pub(in crate::live) fn dispatch_state(&self, feed: &FeedName, item: &Arc<Item>) {
        let board = self.board();
        let listeners = board.listeners(feed).into_iter();
        for subscriber in listeners.flat_map(|(_, listeners)| listeners.values()) {
            subscriber.push(item);
        }
    }
}

/// The subscribers that listen to more than one of the `listened_to` feeds, by id, with those feeds.
fn through_several<'a>(
    listened_to: &[(&'a FeedName, &'a Listeners)],
) -> HashMap<u64, (&'a Arc<Subscriber>, HashSet<&'a FeedName>)> {
    let mut found = HashMap::new();
    if listened_to.len() > 1 {
        for &(feed, listeners) in listened_to {
            for subscriber in listeners.values() {
                if subscriber.feeds.len() > 1 {
                    let (_, feeds) = found
                        .entry(subscriber.id)
                        .or_insert_with(|| (subscriber, HashSet::new()));
                    feeds.insert(feed);
                }
            }
        }
        found.retain(|_, (_, feeds)| feeds.len() > 1);
    }
    found
}
