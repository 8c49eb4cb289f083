//! The news of changes in one feed, oldest first: what a reader who continues from a position is told besides entries.

use std::collections::VecDeque;

use crate::{
    store::{
        Range, Result, Slice,
        keys::{self, Keys, version_of},
        values::decode_change,
    },
    types::{Entry, FeedName},
    version::Version,
};

/// Most keys of one read.
const RANGE_KEYS_MAX: usize = 500;

/// The caller asks for the range to read ([`Self::wants`]), reads it, and hands the result back ([`Self::take`]), until the
/// next piece of news is ready.
pub(super) struct Changes {
    prefix: Vec<u8>,
    /// What has not been read yet: `(after, until]`.
    after: Version,
    until: Version,
    exhausted: bool,
    ready: VecDeque<Entry>,
}

impl Changes {
    pub(super) fn new(keys: &Keys, feed: &FeedName, after: Version, until: Version) -> Self {
        Self {
            prefix: keys.change(feed),
            after,
            until,
            exhausted: false,
            ready: VecDeque::new(),
        }
    }

    pub(super) fn ready(&self) -> Option<&Entry> {
        self.ready.front()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    pub(super) fn wants(&self, need: usize, bytes_max: usize) -> Option<Range> {
        let limit = need.clamp(1, RANGE_KEYS_MAX);
        let after = Some(self.after);
        (!self.exhausted && self.ready.is_empty())
            .then(|| keys::range(&self.prefix, after, self.until, false, limit, bytes_max))
    }

    pub(super) fn take(&mut self, slice: Slice) -> Result<()> {
        for item in &slice.items {
            self.ready.push_back(decode_change(item)?);
        }
        match slice.items.last() {
            Some(last) if slice.more => self.after = version_of(&last.key)?,
            _ => self.exhausted = true,
        }
        Ok(())
    }
}
