//! News of changes: beside the feeds of the event, and in the log.

use std::collections::BTreeMap;

use crate::{
    append::writes,
    store::{
        Batch, Versioned,
        keys::Keys,
        values::{self, RecordParts},
    },
    types::{Entry, FeedName},
};

/// The news of one transaction.
#[derive(Default)]
pub(super) struct News {
    /// By partition.
    records: BTreeMap<u16, Vec<Record>>,
}

struct Record {
    index: u16,
    feeds: Vec<FeedName>,
    exports: bool,
    news: Entry,
}

impl News {
    /// Adds a piece of news with its index in the transaction, about an event that was appended to `feeds`. `holders` are the
    /// feeds whose readers are told.
    pub(super) fn add<'a>(
        &mut self,
        batch: &mut Batch,
        keys: &Keys,
        (index, news): (u16, Entry),
        feeds: &[FeedName],
        holders: impl Iterator<Item = &'a FeedName>,
    ) {
        let value = values::encode_change(&news);
        batch.versioned.extend(holders.map(|feed| Versioned {
            prefix: keys.change(feed),
            index,
            value: value.clone(),
        }));
        for (partition, feeds, exports) in writes::records(keys, feeds) {
            let record = Record {
                index,
                feeds: feeds.into_iter().cloned().collect(),
                exports,
                news: news.clone(),
            };
            self.records.entry(partition).or_default().push(record);
        }
    }

    /// Adds the records of the log to `batch`.
    pub(super) fn finish(self, batch: &mut Batch, keys: &Keys) {
        for (partition, records) in self.records {
            let parts = records.iter().map(|record| RecordParts {
                index: record.index,
                feeds: record.feeds.iter().collect(),
                exports: record.exports,
                entry: &record.news,
            });
            let parts: Vec<_> = parts.collect();
            let values = values::encode_records(&parts).into_iter();
            batch
                .versioned
                .extend(values.map(|(index, value)| Versioned {
                    prefix: keys.log(partition),
                    index,
                    value,
                }));
        }
    }
}
