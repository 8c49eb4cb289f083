//! Passing on what a live stream is given: without what its client has seen already, and, if the stream has an outlet,
//! without waking the stream's task.

use std::{collections::VecDeque, mem, sync::Arc};

use bytes::Bytes;

use super::{Item, News, counts::Counts};
use crate::version::Version;

/// Where a stream sends its items.
pub trait Outlet: Send + Sync {
    /// Sends `items`, of which there is at least one, without waiting. Returns the buffers that are left: the stream has to
    /// send them before anything else.
    fn send(&mut self, items: Vec<Arc<Item>>) -> Vec<Bytes>;
}

/// What a live stream knows of what it has sent.
///
/// While the stream's task waits, this lies in the queue of its subscriber, and the tailer sends through the outlet. At any
/// other time the task has it, so that only one of them sends.
pub(super) struct Forwarder {
    /// Everything up to here has been returned.
    pub(super) position: Version,
    /// Marks of entries up to here have been returned.
    pub(super) marks_at: Version,
    /// The reader's states of the feeds, once they have been returned.
    pub(super) counts: Counts,
    /// It is a stream of states, without entries.
    pub(super) states_only: bool,
    /// It gets entries of all kinds.
    pub(super) all_kinds: bool,
    pub(super) outlet: Option<Box<dyn Outlet>>,
    /// What the outlet has left.
    pub(super) unsent: Vec<Bytes>,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            position: Version::ZERO,
            marks_at: Version::ZERO,
            counts: Counts::default(),
            states_only: false,
            all_kinds: false,
            outlet: None,
            unsent: Vec::new(),
        }
    }
}

impl Forwarder {
    /// Sends what is new among `items` through the outlet.
    pub(super) fn forward(&mut self, items: VecDeque<Arc<Item>>) {
        let items = self.above_position(items.into_iter());
        if let Some(outlet) = &mut self.outlet
            && !items.is_empty()
        {
            self.unsent = outlet.send(items);
        }
    }

    /// Whether more may be sent through the outlet.
    pub(super) fn is_free(&self) -> bool {
        self.unsent.is_empty()
    }

    pub(super) fn take_unsent(&mut self) -> Vec<Bytes> {
        mem::take(&mut self.unsent)
    }

    /// Drops items that were in the pages already, and moves the position to the last of the others.
    pub(super) fn above_position(
        &mut self,
        items: impl ExactSizeIterator<Item = Arc<Item>>,
    ) -> Vec<Arc<Item>> {
        let mut fresh = Vec::with_capacity(items.len());
        for item in items {
            let version = item.news.version();
            let (is_fresh, counted) = match &item.news {
                News::Entry(located) => {
                    let is_fresh = version > self.position;
                    // With some kinds only, the others would be missing.
                    let counts = is_fresh && self.all_kinds;
                    let counted = counts.then(|| self.counts.add(&item, located));
                    (is_fresh, counted.flatten())
                }
                News::Event(_) | News::Transient(_) => (version > self.position, None),
                News::State(state) => (self.counts.take(state), None),
                News::Marked { .. } => (version > self.marks_at, None),
                // Heartbeats of an idle store repeat the position.
                News::Moment(_) => (version >= self.position, None),
                News::Notify(..) | News::Whole(_) | News::Moved { .. } => (true, None),
            };
            if !is_fresh {
                continue;
            }
            match &item.news {
                News::Entry(_) | News::Event(_) | News::Moment(_) => {
                    self.position = self.position.max(version);
                }
                News::Marked { .. } => self.marks_at = self.marks_at.max(version),
                _ => {}
            }
            if !self.states_only {
                fresh.push(counted.unwrap_or(item));
            } else if matches!(item.news, News::Moment(_)) {
                fresh.push(item);
            }
        }
        if self.states_only {
            let changed = self.counts.take_changed(self.position);
            let whole = |state| Item::new(News::Whole(Box::new(state)));
            fresh.splice(0..0, changed.into_iter().map(whole));
        }
        fresh
    }
}
