//! The writes of an event: claim, entries, notify keys and log records; for a transient, only its record.

use std::collections::BTreeMap;

use crate::{
    fairness::WorkBudget,
    store::{
        Batch, Versioned,
        keys::Keys,
        values::{self, RecordParts},
    },
    types::{Delivery, Entry, Event, FeedName},
    version::Version,
};

/// The entry of `event`, accepted at `at`; see [`Entry::read_at`].
pub fn entry(event: &Event, at: i64, read_at: u64) -> Entry {
    Entry {
        // Assigned at commit.
        version: Version::ZERO,
        id: event.id.clone(),
        kind: event.kind.clone(),
        delivery: event.delivery,
        actor: event.actor.clone(),
        at,
        time: event.time.clone(),
        data: event.data.clone(),
        read_at,
        change: None,
    }
}

/// The batch that stores `entries`; the position of an entry is its index.
pub async fn of_events(keys: &Keys, entries: &[(&Event, Entry)]) -> Batch {
    let mut budget = WorkBudget::default();
    let mut versioned = Vec::with_capacity(3 * entries.len());
    let mut unread = Vec::with_capacity(entries.len());
    let mut partitions: BTreeMap<u16, Vec<RecordParts<'_>>> = BTreeMap::new();
    for (index, (event, entry)) in (0..).zip(entries) {
        let put = |prefix, value| Versioned {
            prefix,
            index,
            value,
        };
        versioned.push(put(
            keys.claim(&event.id),
            values::encode_claim(event.digest, &event.feeds),
        ));
        let mut value = values::encode_entry(entry);
        let is_unread_entry = keys.is_unread_entry(event.delivery, value.len());
        for (place, feed) in (1..).zip(&event.feeds) {
            let last = place == event.feeds.len();
            let value = match last {
                true => std::mem::take(&mut value),
                false => value.clone(),
            };
            let entry_put = put(keys.feed(feed), value);
            if is_unread_entry {
                unread.push(entry_put);
                continue;
            }
            versioned.push(entry_put);
            if event.delivery == Delivery::Notify {
                versioned.push(put(keys.notify(feed), values::encode_notify(entry)));
            }
        }
        for (partition, feeds, exports) in records(keys, &event.feeds) {
            partitions.entry(partition).or_default().push(RecordParts {
                index,
                feeds,
                exports,
                entry,
            });
        }
        // Each feed has an entry, perhaps a notify key, and a place in the log.
        budget.spend(1 + 2 * event.feeds.len()).await;
    }
    for (partition, records) in partitions {
        budget.spend(records.len()).await;
        for (index, value) in values::encode_records(&records) {
            let prefix = keys.log(partition);
            versioned.push(Versioned {
                prefix,
                index,
                value,
            });
        }
    }
    let at = entries.iter().map(|(_, entry)| entry.at).max();
    let maxima = at
        .map(|at| (keys.at(), at.to_be_bytes().to_vec()))
        .into_iter()
        .collect();
    Batch {
        versioned,
        unread,
        maxima,
        notify: true,
        ..Batch::default()
    }
}

/// The batch that makes a transient available to the tailers of all nodes.
pub fn of_transient(keys: &Keys, feeds: &[FeedName], entry: &Entry) -> Batch {
    let record = |(partition, feeds): (u16, Vec<&FeedName>)| Versioned {
        prefix: keys.transient(partition),
        index: 0,
        value: values::encode_transient(0, &feeds, entry),
    };
    let versioned = by_partition(keys, feeds).into_iter().map(record).collect();
    Batch {
        versioned,
        notify: true,
        ..Batch::default()
    }
}

/// The log records of an event with these feeds: for each partition, the feeds in its record, and whether that exports the
/// event.
pub fn records<'a>(keys: &Keys, feeds: &'a [FeedName]) -> Vec<(u16, Vec<&'a FeedName>, bool)> {
    let Some(first) = feeds.first().map(|feed| keys.partition(feed)) else {
        return Vec::new();
    };
    let mut records = vec![(first, feeds.iter().collect(), true)];
    if feeds.len() > 1 {
        let others = by_partition(keys, feeds).into_iter();
        let others = others.filter(|&(partition, _)| partition != first);
        records.extend(others.map(|(partition, feeds)| (partition, feeds, false)));
    }
    records
}

fn by_partition<'a>(keys: &Keys, feeds: &'a [FeedName]) -> BTreeMap<u16, Vec<&'a FeedName>> {
    let mut partitions: BTreeMap<u16, Vec<&FeedName>> = BTreeMap::new();
    for feed in feeds {
        partitions
            .entry(keys.partition(feed))
            .or_default()
            .push(feed);
    }
    partitions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        append::BATCH_EVENTS_MAX,
        fairness::testing::turns,
        types::{Data, Draft, EVENT_FEEDS_MAX},
    };

    proptest! {
        #[test]
        fn an_event_is_exported_by_one_record_with_its_feeds_in_order_and_each_partition_has_its_own(
            numbers in proptest::collection::hash_set(0..1_000u16, 1..20),
            partitions in 1..20u16,
        ) {
            let keys = Keys::with_partitions(partitions);
            let feeds: Vec<FeedName> = numbers.iter().map(|n| format!("f{n}").parse().expect("a name")).collect();
            let records = records(&keys, &feeds);
            let exporting: Vec<_> = records.iter().filter(|(_, _, exports)| *exports).collect();
            prop_assert_eq!(exporting.len(), 1);
            let (partition, all, _) = exporting[0];
            prop_assert_eq!(*partition, keys.partition(&feeds[0]));
            prop_assert_eq!(all, &feeds.iter().collect::<Vec<_>>());
            for partition in 0..partitions {
                let own: Vec<FeedName> = feeds.iter().filter(|feed| keys.partition(feed) == partition).cloned().collect();
                let mut here = records.iter().filter(|record| record.0 == partition);
                let read = here.next().map(|(_, feeds, exports)| {
                    let event = Draft {
                        id: "e".parse().expect("an id"),
                        kind: "message".parse().expect("a kind"),
                        delivery: Delivery::Entry,
                        feeds: own.clone(),
                        actor: None,
                        time: None,
                        data: Data::null(),
                        expect: None,
                    };
                    let event = event.check().expect("valid");
                    let mut record = values::Record {
                        entry: entry(&event, 1, 0),
                        feeds: feeds.iter().copied().cloned().collect(),
                        exports: *exports,
                    };
                    record.retain_partition(&keys, partition);
                    record.feeds
                });
                prop_assert_eq!(read.unwrap_or_default(), own);
                prop_assert!(here.next().is_none());
            }
        }
    }

    #[tokio::test]
    async fn building_a_large_batch_lets_other_tasks_run() {
        let event = |index: usize| {
            let feed = |feed: usize| format!("f{feed}").parse().expect("a name");
            let draft = Draft {
                id: format!("e{index}").parse().expect("an id"),
                kind: "message".parse().expect("a kind"),
                delivery: Delivery::Notify,
                feeds: (0..EVENT_FEEDS_MAX).map(feed).collect(),
                actor: None,
                time: None,
                data: Data::null(),
                expect: None,
            };
            draft.check().expect("valid")
        };
        let events: Vec<Event> = (0..BATCH_EVENTS_MAX / 10).map(event).collect();
        let entries: Vec<_> = events
            .iter()
            .map(|event| (event, entry(event, 1, 0)))
            .collect();
        let keys = crate::dedup::testing::keys();
        let (batch, count) = turns(of_events(&keys, &entries)).await;
        let entries_and_notify = 2 * EVENT_FEEDS_MAX * events.len();
        assert!(batch.versioned.len() + batch.unread.len() > EVENT_FEEDS_MAX * events.len());
        assert!(count >= entries_and_notify / 600, "{count}");
    }
}
