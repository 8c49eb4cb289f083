//! One partition of the log, as the tailer follows it.

use crate::{
    dedup::{Commit, Window},
    store::{
        Range, Result, Slice, Snapshot,
        keys::Keys,
        values::{Record, decode_records},
    },
    types::{Entry, FeedName},
    version::Version,
};

/// A record that the tailer found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) entry: Entry,
    /// The feeds of the partition in which the entry is not a twin.
    pub(super) feeds: Vec<FeedName>,
    /// All feeds of the event in order, if this is the record that exports it and it has several. Whoever follows the log
    /// needs them, also if the entry is a twin in all feeds of this partition.
    pub(super) all_feeds: Option<Vec<FeedName>>,
}

pub(super) struct Partition {
    keys: Keys,
    id: u16,
    window: Window,
    hidden: u64,
}

impl Partition {
    /// Follows the partition `id` from `moment` on.
    pub(super) fn new(keys: &Keys, id: u16, moment: Version) -> Self {
        Self {
            keys: keys.clone(),
            id,
            window: Window::of_log(keys.log(id), moment),
            hidden: 0,
        }
    }

    /// How many twins have been left out since the last call.
    pub(super) fn take_hidden(&mut self) -> u64 {
        std::mem::take(&mut self.hidden)
    }

    /// Forgets the records above `moment`, which a failed round read but did not deliver.
    pub(super) fn rewind(&mut self, moment: Version) {
        self.window.drop_above(moment);
    }

    /// The range to read next: records in `(after, until]`.
    pub(super) fn range(
        &self,
        after: Version,
        until: Version,
        limit: usize,
        bytes_max: usize,
    ) -> Range {
        self.window
            .range(Some(after), until, false, limit, bytes_max)
    }

    /// The visible records of the next slice of the log. With `all_feeds` also those that are not visible here, but name all
    /// feeds of their events.
    pub(super) async fn visible(
        &mut self,
        snapshot: &dyn Snapshot,
        slice: &Slice,
        all_feeds: bool,
    ) -> Result<Vec<Found>> {
        let mut visible = Vec::new();
        for item in &slice.items {
            let mut records = decode_records(item)?;
            let mut named = Vec::with_capacity(records.len());
            for record in &mut records {
                let is_needed = all_feeds && record.exports && record.feeds.len() > 1;
                named.push(is_needed.then(|| record.feeds.clone()));
                record.retain_partition(&self.keys, self.id);
            }
            let commits: Vec<Commit> = records.iter().map(Commit::from).collect();
            let is_news = |record: &Record| record.entry.changed().is_some();
            // News are no commits: they neither are twins nor have any. They stand in keys of their own.
            if records.iter().all(is_news) {
                visible.extend(
                    records
                        .into_iter()
                        .zip(named)
                        .map(|(record, all_feeds)| Found {
                            entry: record.entry,
                            feeds: record.feeds,
                            all_feeds,
                        }),
                );
                continue;
            }
            self.window.look_back(snapshot, &commits).await?;
            for ((record, commit), all_feeds) in records.into_iter().zip(commits).zip(named) {
                let Record {
                    entry, mut feeds, ..
                } = record;
                self.window.retain_visible(&commit, &mut feeds);
                self.window.push_newer(commit);
                if entry.is_erased() {
                    continue;
                }
                self.hidden += u64::from(feeds.is_empty());
                if !feeds.is_empty() || all_feeds.is_some() {
                    visible.push(Found {
                        entry,
                        feeds,
                        all_feeds,
                    });
                }
            }
        }
        Ok(visible)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dedup::testing::{Memory, any_history, is_twin, keys},
        store::keys::version_of,
    };

    proptest! {
        /// Rounds that end anywhere, read slices of any size, and sometimes fail and are read again, deliver what the plain
        /// rule over the whole history says.
        #[test]
        fn a_partition_delivers_what_the_plain_rule_says(
            history in any_history(),
            start in 0..20usize,
            rounds in proptest::collection::vec((1..6usize, 1..4usize, any::<bool>()), 1..12),
            look_back in 1..5usize,
        ) {
            let prefix = keys().log(0);
            let memory = Memory::of(&history);
            // Moments lie between batches.
            let batch = |record: &Record| (record.entry.version.epoch(), record.entry.version.time());
            let batches: Vec<_> = history.chunk_by(|a, b| batch(a) == batch(b)).collect();
            let moment = |index: usize| match batches.get(index) {
                Some(records) => records[0].entry.version.before(),
                None => Version::MAX,
            };
            let start = start.min(batches.len());
            let mut next = start;
            let mut at = moment(next);
            let mut partition = Partition::new(&keys(), 0, at);
            partition.window = Window::of_log(prefix, at).looking_back_by(look_back);
            let (mut delivered, mut hidden) = (Vec::new(), 0);
            let last_round = (batches.len() + 1, 2, false);
            for (length, limit, fails) in rounds.into_iter().chain([last_round]) {
                let until = moment(next + length);
                partition.rewind(at);
                let (mut after, mut round) = (at, Vec::new());
                loop {
                    let range = partition.range(after, until, limit, usize::MAX);
                    let slice = memory.slice(range);
                    let visible = partition.visible(&memory, &slice, false).now_or_never();
                    round.extend(visible.expect("ready").expect("read"));
                    match slice.items.last() {
                        Some(last) if slice.more => after = version_of(&last.key).expect("a version"),
                        _ => break,
                    }
                    if fails {
                        break;
                    }
                }
                let left_out = partition.take_hidden();
                if !fails {
                    delivered.extend(round);
                    hidden += left_out;
                    (at, next) = (until, next + length);
                }
            }
            let mut expected = batches[start..].concat();
            for record in &mut expected {
                let feeds = std::mem::take(&mut record.feeds);
                record.feeds = feeds.into_iter().filter(|feed| !is_twin(&history, &record.entry, feed)).collect();
            }
            let all = expected.len();
            expected.retain(|record| !record.feeds.is_empty());
            prop_assert_eq!(hidden, (all - expected.len()) as u64);
            let found = |record: Record| Found {
                entry: record.entry,
                feeds: record.feeds,
                all_feeds: None,
            };
            let expected: Vec<_> = expected.into_iter().map(found).collect();
            prop_assert_eq!(delivered, expected);
        }
    }
}
