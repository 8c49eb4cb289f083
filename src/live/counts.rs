//! The states of a stream's feeds, kept up to date by what the stream is given.

use std::{mem, sync::Arc};

use smallvec::SmallVec;

use super::{Item, Located};
use crate::{
    feed::{FeedState, UNREAD_MAX, Unread},
    types::{Delivery, FeedName},
    version::Version,
};

/// The states of a stream's feeds for its reader. Empty until the stream has been told them.
#[derive(Default)]
pub(super) struct Counts {
    /// By the feeds' names.
    states: Vec<FeedState>,
    /// Whether it is a stream of states.
    notes_changes: bool,
    /// The places of those that have changed since they were taken, in a stream of states.
    changed: Vec<usize>,
}

impl Counts {
    pub(super) fn of(mut states: Vec<FeedState>, notes_changes: bool) -> Self {
        states.sort_unstable_by(|a, b| a.feed.cmp(&b.feed));
        Self {
            states,
            notes_changes,
            changed: Vec::new(),
        }
    }

    fn place(&self, feed: &FeedName) -> Option<usize> {
        let place = self.states.binary_search_by(|state| state.feed.cmp(feed));
        place.ok()
    }

    fn note_change(&mut self, place: usize) {
        if self.notes_changes {
            self.changed.push(place);
        }
    }

    /// Takes the state over, unless it is older than what is known.
    pub(super) fn take(&mut self, state: &FeedState) -> bool {
        let Some(place) = self.place(&state.feed) else {
            return true;
        };
        let known = &mut self.states[place];
        let is_news = state.version >= known.version;
        if is_news {
            known.clone_from(state);
            self.note_change(place);
        }
        is_news
    }

    /// Takes note of an entry. If it counts as unread, returns it with the counts of its feeds then.
    pub(super) fn add(&mut self, item: &Arc<Item>, located: &Located) -> Option<Arc<Item>> {
        let entry = &located.entry;
        if entry.changed().is_some() {
            return None;
        }
        let notifies = entry.delivery == Delivery::Notify;
        let one = std::slice::from_ref(&located.feed);
        let feeds = match &located.feeds[..] {
            [] => one,
            several => several,
        };
        let mut places: SmallVec<[usize; 2]> = SmallVec::new();
        for feed in feeds {
            let place = self.place(feed)?;
            places.push(place);
            let state = &mut self.states[place];
            // The state tells of it already.
            if entry.version > state.version {
                if notifies && !entry.is_by(&state.reader) {
                    count(&mut state.unread, entry.kind.as_str());
                }
                state.version = entry.version;
                state.latest = state.latest.max(Some(entry.version));
                self.note_change(place);
            }
        }
        let counts = places.iter().map(|place| &self.states[*place].unread);
        notifies.then(|| item.with_counts(counts))
    }

    /// The states that have changed, at `position` or later.
    pub(super) fn take_changed(&mut self, position: Version) -> Vec<FeedState> {
        let mut changed = mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        let changed = changed.into_iter().map(|place| {
            let state = &mut self.states[place];
            state.version = state.version.max(position);
            state.clone()
        });
        changed.collect()
    }
}

fn count(unread: &mut Unread, kind: &str) {
    if unread.total >= UNREAD_MAX || unread.more {
        unread.more = true;
        return;
    }
    unread.total += 1;
    match unread.kinds.get_mut(kind) {
        Some(count) => *count += 1,
        None => drop(unread.kinds.insert(kind.to_owned(), 1)),
    }
}
