//! What the lineage costs, and what a raise records.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use newsfeed::{
    error::Error,
    feed::{Feeds, Order, PAGE_BYTES_MAX, PageQuery},
    store::{
        Batch, Result,
        epoch::{self, Row},
    },
    types::{Marker, ReaderName},
    version::Version,
};

use crate::support::{
    bed::Bed,
    model::feed_name,
    stores::{Trouble, troubled},
};

crate::on_every_engine!(
    a_thousand_epochs_cost_one_read_and_neither_checks_nor_openings_read_more,
    a_raise_records_where_the_old_epoch_ended,
);

#[derive(Default)]
struct Reads(AtomicUsize);

impl Reads {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl Trouble for Reads {
    async fn before_read(&self) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn page_after(after: Version) -> PageQuery {
    PageQuery {
        feeds: vec![feed_name("a")],
        order: Order::OldestFirst {
            after,
            until: None,
            kept: false,
        },
        limit: 10,
        bytes: PAGE_BYTES_MAX,
        kinds: Vec::new(),
        states: None,
    }
}

async fn a_thousand_epochs_cost_one_read_and_neither_checks_nor_openings_read_more(bed: &Bed) {
    let (store, keys) = (bed.store(), bed.keys().await);
    let reads = Arc::new(Reads::default());
    let counted = troubled(store.clone(), Arc::clone(&reads));
    let snapshot = store.snapshot().await.expect("a snapshot");
    let first = snapshot.version();
    // On FoundationDB, a moment is known after a raise if something was stored since.
    let batch = Batch {
        puts: vec![(keys.time(1), first.to_bytes().to_vec())],
        notify: true,
        ..Batch::default()
    };
    snapshot.commit(batch).await.expect("committed");
    let feeds = Feeds::new(counted.clone(), keys.clone());
    feeds.page(&page_after(first)).await.expect("read");
    let (few, mut known) = (reads.take(), vec![first]);
    epoch::raise(&*counted, &keys, &bed.wall, None)
        .await
        .expect("raised");
    let raise = reads.take();
    // As many restarts, without their time.
    for _ in 0..10 {
        let snapshot = store.snapshot().await.expect("a snapshot");
        let mut end = snapshot.version();
        let mut puts = Vec::new();
        for number in 1..=100 {
            let epoch = snapshot.version().epoch() + number;
            let began = Version::new(epoch, snapshot.taken_at(), 0);
            let row = Row {
                epoch,
                began,
                previous_end: end,
            };
            puts.extend(row.puts(&keys));
            end = Version::moment(epoch, snapshot.taken_at());
            known.push(end);
        }
        let batch = Batch {
            puts,
            ..Batch::default()
        };
        snapshot.commit(batch).await.expect("committed");
    }
    known.push(store.snapshot().await.expect("a snapshot").version());
    assert_eq!(known.len(), 1_002);

    let feeds = Feeds::new(counted.clone(), keys.clone());
    feeds.page(&page_after(first)).await.expect("read");
    assert_eq!(reads.take(), few, "a new node reads the lineage at once");
    for version in &known {
        feeds.page(&page_after(*version)).await.expect("read");
    }
    // Of the feed; and, together with the snapshot, of what was changed or removed last.
    let of_pages = 2 * known.len();
    assert_eq!(reads.take(), of_pages, "two reads for each page");
    let feed = feed_name("a");
    let marked = feeds.move_marker(&feed, &ReaderName::OWN, Marker::Seen, known[500]);
    marked.await.expect("known");
    reads.take();
    epoch::raise(&*counted, &keys, &bed.wall, None)
        .await
        .expect("raised");
    assert_eq!(reads.take(), raise);
    for version in &known {
        feeds.page(&page_after(*version)).await.expect("read");
    }
    assert_eq!(reads.take(), of_pages + 1, "the new row is read once");
}

async fn a_raise_records_where_the_old_epoch_ended(bed: &Bed) {
    let node = bed.node().await;
    let keys = bed.keys().await;
    let feeds = Feeds::new(bed.store(), keys.clone());
    let event = serde_json::json!({ "kind": "visit", "feeds": ["a"] });
    let mut known = Vec::new();
    for _ in 0..3 {
        let answer = node.append(&event).await;
        let version: Version = answer["version"]
            .as_str()
            .expect("text")
            .parse()
            .expect("one");
        let raised = epoch::raise(&*bed.store(), &keys, &bed.wall, None).await;
        assert!(raised.expect("raised") > version.epoch());
        known.push((
            version,
            Version::moment(version.epoch(), version.time() + 10_000_000_000),
        ));
    }
    node.append(&event).await;
    for (version, beyond) in known {
        feeds.page(&page_after(version)).await.expect("known");
        for unknown in [
            beyond,
            Version::new(version.epoch(), 1, 0),
            Version::new(version.epoch() - 1, version.time(), 0),
        ] {
            match feeds.page(&page_after(unknown)).await {
                Err(Error::CursorUnknown { asked, .. }) => assert_eq!(asked, unknown),
                other => panic!("{unknown:?}: {other:?}"),
            }
        }
    }
    node.stop().await;
}
