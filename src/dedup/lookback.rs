//! What a reader that goes forward has passed, as far back as the windows of what follows reach.

use std::collections::VecDeque;

use super::window;
use crate::{
    store::{KeyValue, Result, Snapshot, keys},
    types::{EventId, FeedName},
    version::Version,
};

/// Keys one look further back reads.
const KEYS: usize = 500;

/// An entry that was passed.
pub struct Passed {
    pub version: Version,
    pub id: EventId,
    /// Its feeds, where the sequence is of more than one.
    pub feeds: Vec<FeedName>,
}

/// The part of the sequence at `prefix` that lies before the reader.
pub struct LookBack {
    prefix: Vec<u8>,
    decode: fn(&KeyValue) -> Result<Vec<Passed>>,
    /// In version order, and complete down to `known_from` (exclusive).
    passed: VecDeque<Passed>,
    known_from: Version,
}

impl LookBack {
    /// For a reader that starts after `start`. `decode` answers what a key holds, in version order.
    pub fn new(
        prefix: Vec<u8>,
        start: Version,
        decode: fn(&KeyValue) -> Result<Vec<Passed>>,
    ) -> Self {
        Self {
            prefix,
            decode,
            passed: VecDeque::new(),
            known_from: start,
        }
    }

    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Makes everything after `oldest` known.
    pub async fn reach(&mut self, snapshot: &dyn Snapshot, oldest: Version) -> Result<()> {
        while oldest < self.known_from {
            let range = keys::range(
                &self.prefix,
                Some(oldest),
                self.known_from,
                true,
                KEYS,
                usize::MAX,
            );
            let slice = snapshot
                .ranges(vec![range])
                .await?
                .pop()
                .unwrap_or_default();
            for item in &slice.items {
                for passed in (self.decode)(item)?.into_iter().rev() {
                    self.passed.push_front(passed);
                }
            }
            self.known_from = match slice.items.last() {
                Some(last) if slice.more => keys::version_of(&last.key)?.before(),
                _ => oldest,
            };
        }
        Ok(())
    }

    /// What the entry may be a twin of: the same id in its window, which must have been reached.
    pub fn firsts_of(
        &self,
        id: &EventId,
        version: Version,
        read_at: u64,
    ) -> impl Iterator<Item = &Passed> {
        let window = window(version, read_at);
        let near = self
            .passed
            .iter()
            .rev()
            .take_while(move |passed| passed.version > window);
        near.filter(move |passed| passed.version < version && passed.id == *id)
    }

    pub fn pass(&mut self, passed: Passed) {
        self.passed.push_back(passed);
    }

    /// Forgets what was passed above `moment`, to pass it once more.
    pub fn rewind(&mut self, moment: Version) {
        while self
            .passed
            .back()
            .is_some_and(|passed| passed.version > moment)
        {
            self.passed.pop_back();
        }
        self.known_from = self.known_from.min(moment);
    }

    /// Drops what no later window reaches.
    pub fn forget(&mut self) {
        let Some(newest) = self.passed.back() else {
            return;
        };
        let horizon = window(newest.version, 0);
        while self
            .passed
            .front()
            .is_some_and(|passed| passed.version <= horizon)
        {
            if let Some(passed) = self.passed.pop_front() {
                self.known_from = self.known_from.max(passed.version);
            }
        }
    }
}
