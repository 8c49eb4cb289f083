//! One partition of the log as the tailer follows it: reads a round, hides twins.

use std::collections::VecDeque;

use crate::{
    feed::twins::window,
    store::{
        Range, Result, Slice, Snapshot, keys,
        values::{Record, decode_records},
    },
    types::{EventId, FeedName},
    version::Version,
};

const LOOK_BACK_KEYS: usize = 500;

/// What a twin is judged against, and how far back that is known.
pub(super) struct Partition {
    prefix: Vec<u8>,
    /// Everything passed, in version order, back to `known_from`.
    passed: VecDeque<Passed>,
    known_from: Version,
}

struct Passed {
    version: Version,
    id: EventId,
    feeds: Vec<FeedName>,
}

impl Partition {
    /// Follows the log at `prefix` from `moment` on.
    pub(super) fn new(prefix: Vec<u8>, moment: Version) -> Self {
        Self {
            prefix,
            passed: VecDeque::new(),
            known_from: moment,
        }
    }

    pub(super) fn range(
        &self,
        after: Version,
        until: Version,
        limit: usize,
        bytes_max: usize,
    ) -> Range {
        keys::range(&self.prefix, Some(after), until, false, limit, bytes_max)
    }

    /// The visible records of the next slice of the log.
    pub(super) async fn visible(
        &mut self,
        snapshot: &dyn Snapshot,
        slice: &Slice,
    ) -> Result<Vec<Record>> {
        let mut visible = Vec::new();
        for item in &slice.items {
            let records = decode_records(item)?;
            if let Some(oldest) = records
                .iter()
                .map(|record| window(record.entry.version, record.entry.read_at))
                .min()
            {
                self.look_back(snapshot, oldest).await?;
            }
            for record in records {
                visible.extend(self.pass(record));
            }
        }
        self.forget();
        Ok(visible)
    }

    /// Notes the record as passed; what is left of it has the feeds in which it is no twin.
    fn pass(&mut self, mut record: Record) -> Option<Record> {
        let entry = &record.entry;
        let window = window(entry.version, entry.read_at);
        let feeds = record.feeds.clone();
        for earlier in self
            .passed
            .iter()
            .rev()
            .take_while(|passed| passed.version > window)
        {
            if earlier.id == entry.id {
                record.feeds.retain(|feed| !earlier.feeds.contains(feed));
            }
        }
        self.passed.push_back(Passed {
            version: entry.version,
            id: entry.id.clone(),
            feeds,
        });
        (!record.feeds.is_empty()).then_some(record)
    }

    async fn look_back(&mut self, snapshot: &dyn Snapshot, oldest: Version) -> Result<()> {
        while oldest < self.known_from {
            let range = keys::range(
                &self.prefix,
                Some(oldest),
                self.known_from,
                true,
                LOOK_BACK_KEYS,
                usize::MAX,
            );
            let slice = snapshot
                .ranges(vec![range])
                .await?
                .pop()
                .unwrap_or_default();
            for item in &slice.items {
                for Record { entry, feeds } in decode_records(item)?.into_iter().rev() {
                    self.passed.push_front(Passed {
                        version: entry.version,
                        id: entry.id,
                        feeds,
                    });
                }
            }
            self.known_from = match slice.items.last() {
                Some(last) if slice.more => keys::version_of(&last.key)?.before(),
                _ => oldest,
            };
        }
        Ok(())
    }

    fn forget(&mut self) {
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
