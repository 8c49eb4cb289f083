//! What the maker commits itself.

use newsfeed::{
    projection::{Limits, Projection, Step, Turn},
    store::{
        Batch, Store, Versioned,
        epoch::{self, Row},
        keys::{Keys, TIME_STEP},
        transact,
        values::{
            RecordParts, encode_claim, encode_entry, encode_marker_moved, encode_notify,
            encode_records, encode_time, encode_transient,
        },
    },
    types::{Delivery, Entry, FeedName, Marker, ReaderName},
    version::Version,
};

use super::micros;

fn name(text: &str) -> FeedName {
    text.parse().expect("a name")
}

/// Rows of times in each of the `lives`. In the second one of the first life, the version is behind the wall clock.
fn times(keys: &Keys, lives: &[Row]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let row = |(life, time, behind): (usize, &str, u64)| {
        let time = micros(&format!("2025-06-02T{time}Z"));
        let version = Version::moment(lives[life].epoch, time - behind);
        let number = time / TIME_STEP.as_micros() as u64;
        (keys.time(number), encode_time(version))
    };
    let rows = [
        (0, "09:00:10", 0),
        (0, "09:00:20", 2_500_000),
        (1, "10:00:00", 0),
        (2, "11:00:10", 0),
    ];
    rows.map(row).into()
}

fn versioned(prefix: Vec<u8>, index: u16, value: Vec<u8>) -> Versioned {
    Versioned {
        prefix,
        index,
        value,
    }
}

/// Commits what no request leads to on this engine, or not yet: twins, an erased claim, markers of readers. And what the tasks
/// of a node commit: indexes, rows of times.
pub async fn to(store: &dyn Store, keys: &Keys) {
    let feeds = [name("user:2"), name("chat:2")];
    let before = store.snapshot().await.expect("a snapshot");
    let entry = Entry {
        version: Version::ZERO,
        id: "twice".parse().expect("an id"),
        kind: "message".parse().expect("a kind"),
        delivery: Delivery::Notify,
        actor: Some("user:2".parse().expect("an actor")),
        at: 1_748_800_000_000_000,
        time: "2025-06-01T11:00:00+01:00".parse().ok(),
        data: "{\"twice\":true}".into(),
        read_at: before.taken_at(),
        change: None,
    };
    // One as a node does, the other as one does that opened the store before it was migrated.
    for is_migrated in [true, false] {
        let mut puts = vec![versioned(keys.claim(&entry.id), 0, encode_claim(7, &feeds))];
        let mut unread = Vec::new();
        for feed in &feeds {
            let put = versioned(keys.feed(feed), 0, encode_entry(&entry));
            if is_migrated {
                unread.push(put);
                continue;
            }
            puts.push(put);
            puts.push(versioned(keys.notify(feed), 0, encode_notify(&entry)));
        }
        for partition in 0..keys.partitions() {
            let exports = keys.partition(&feeds[0]) == partition;
            let of_partition = |feed: &&FeedName| exports || keys.partition(feed) == partition;
            let parts = RecordParts {
                index: 0,
                feeds: feeds.iter().filter(of_partition).collect(),
                exports,
                entry: &entry,
            };
            if !parts.feeds.is_empty() {
                let (index, value) = encode_records(&[parts]).remove(0);
                puts.push(versioned(keys.log(partition), index, value));
            }
        }
        let batch = Batch {
            versioned: puts,
            unread,
            notify: true,
            ..Batch::default()
        };
        let snapshot = store.snapshot().await.expect("a snapshot");
        snapshot.commit(batch).await.expect("committed");
    }
    let projections = Projection::of(true, ["message".parse().expect("a kind")]);
    loop {
        let mut step = Step::new(keys, &projections, Turn::Last, Limits::default());
        if transact(store, &mut step)
            .await
            .expect("a step")
            .is_complete
        {
            break;
        }
    }
    let snapshot = store.snapshot().await.expect("a snapshot");
    let now = snapshot.version();
    let lives = epoch::rows(&*snapshot, keys, None).await.expect("read");
    let typing = Entry {
        id: "typing".parse().expect("an id"),
        kind: "typing".parse().expect("a kind"),
        delivery: Delivery::Transient,
        time: None,
        ..entry
    };
    let chat = name("chat:1");
    let transient = keys.transient(keys.partition(&chat));
    let (own, nine) = (
        ReaderName::OWN,
        ReaderName::named("user:9".parse().expect("a name")),
    );
    let marker = |reader: &ReaderName, marker, version: Version| {
        (
            keys.marker(&chat, reader, marker),
            version.to_bytes().to_vec(),
        )
    };
    let batch = Batch {
        puts: times(keys, &lives),
        maxima: vec![
            marker(&own, Marker::Seen, now),
            marker(&nine, Marker::Read, now),
            marker(&nine, Marker::Seen, now),
        ],
        versioned: vec![
            versioned(keys.claim(&"erased".parse().expect("an id")), 0, Vec::new()),
            versioned(transient.clone(), 1, encode_transient(1, &[&chat], &typing)),
            versioned(transient.clone(), 2, encode_marker_moved(&chat, &own)),
            versioned(transient, 3, encode_marker_moved(&chat, &nine)),
        ],
        ..Batch::default()
    };
    let snapshot = store.snapshot().await.expect("a snapshot");
    snapshot.commit(batch).await.expect("committed");
}
