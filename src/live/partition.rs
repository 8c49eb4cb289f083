//! One partition of the log as the tailer follows it.

use crate::{
    dedup::{LookBack, Passed, window},
    store::{
        KeyValue, Range, Result, Slice, Snapshot, keys,
        values::{Record, decode_records},
    },
    version::Version,
};

pub(super) struct Partition {
    log: LookBack,
    hidden: u64,
}

impl Partition {
    /// Follows the log at `prefix` from `moment` on.
    pub(super) fn new(prefix: Vec<u8>, moment: Version) -> Self {
        Self {
            log: LookBack::new(prefix, moment, decode_passed),
            hidden: 0,
        }
    }

    /// How many twins were left out since the last call.
    pub(super) fn take_hidden(&mut self) -> u64 {
        std::mem::take(&mut self.hidden)
    }

    /// Forgets what a round passed above `moment` and then did not deliver.
    pub(super) fn rewind(&mut self, moment: Version) {
        self.log.rewind(moment);
    }

    pub(super) fn range(
        &self,
        after: Version,
        until: Version,
        limit: usize,
        bytes_max: usize,
    ) -> Range {
        keys::range(
            self.log.prefix(),
            Some(after),
            until,
            false,
            limit,
            bytes_max,
        )
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
            let windows = records
                .iter()
                .map(|record| window(record.entry.version, record.entry.read_at));
            if let Some(oldest) = windows.min() {
                self.log.reach(snapshot, oldest).await?;
            }
            for record in records {
                visible.extend(self.pass(record));
            }
        }
        self.log.forget();
        Ok(visible)
    }

    /// Notes the record as passed; what is left of it has the feeds in which it is no twin.
    fn pass(&mut self, record: Record) -> Option<Record> {
        let Record { entry, mut feeds } = record;
        let passed = Passed {
            version: entry.version,
            id: entry.id.clone(),
            feeds: feeds.clone(),
        };
        for first in self.log.firsts_of(&entry.id, entry.version, entry.read_at) {
            feeds.retain(|feed| !first.feeds.contains(feed));
        }
        self.log.pass(passed);
        self.hidden += u64::from(feeds.is_empty());
        (!feeds.is_empty()).then_some(Record { entry, feeds })
    }
}

fn decode_passed(item: &KeyValue) -> Result<Vec<Passed>> {
    let passed = |Record { entry, feeds }: Record| Passed {
        version: entry.version,
        id: entry.id,
        feeds,
    };
    Ok(decode_records(item)?.into_iter().map(passed).collect())
}
