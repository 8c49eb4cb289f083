//! Half an hour of appends at a constant rate, with an age of one minute, in simulated time: the disk stays as full as it is
//! after the first minutes. Takes minutes, so it is run by hand:
//! `cargo test --release --test it -- --ignored --nocapture lifecycle::soak`.

use std::{path::Path, sync::Arc, time::Duration};

use newsfeed::{
    append::writes,
    clock::WallTime,
    lifecycle::retention::{Outcome, Retention, Step},
    lineage::Lineage,
    projection::{self, Projection, Turn},
    store::{
        Batch, Store,
        audit::audit,
        embedded::Embedded,
        keys::{Keys, TIME_STEP},
        transact,
        values::encode_time,
    },
    types::{Data, Delivery, Draft, NO_TWIN},
};
use serde_json::value::RawValue;

use crate::support::bed::settings_of;

const MINUTES: u64 = 30;
const PER_SECOND: usize = 50;
/// In simulated seconds.
const SWEEP_EVERY: u64 = 2;
/// The disk after this many minutes is compared with that at the end.
const SETTLED: u64 = 8;

fn disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.filter_map(|entry| entry.ok()).map(size).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn at_a_constant_rate_the_disk_stays_constant() {
    let start = 1_000_000_000_000;
    let wall = WallTime::manual(start);
    let folder = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(folder.path(), wall.clone()).expect("opens");
    let store: Arc<dyn Store> = Arc::new(store);
    let keys = Keys::open(&*store, b"", 1, &wall).await.expect("opens");
    let retention = settings_of(&["--retention", "age=1m", "--retention-log-age", "1m"]).retention;
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(120));
    let raw = RawValue::from_string(text).expect("JSON");
    let data = Data::from_raw(&raw).expect("valid");
    let mut sizes = Vec::new();
    for second in 0..MINUTES * 60 {
        wall.set(start + second * 1_000_000);
        if second % TIME_STEP.as_secs() == 0 {
            let snapshot = store.snapshot().await.expect("a snapshot");
            let row = keys.time(wall.micros() / TIME_STEP.as_micros() as u64);
            let now = newsfeed::version::Version::moment(snapshot.version().epoch(), wall.micros());
            let puts = vec![(row, encode_time(now))];
            let batch = Batch {
                puts,
                ..Batch::default()
            };
            snapshot.commit(batch).await.expect("committed");
        }
        let events: Vec<_> = (0..PER_SECOND)
            .map(|index| {
                let number = second as usize * PER_SECOND + index;
                let feed = |name: String| name.parse().expect("a name");
                let draft = Draft {
                    id: format!("0190a7c2-7e51-7000-8000-{number:012}")
                        .parse()
                        .expect("an id"),
                    kind: "message".parse().expect("a kind"),
                    delivery: Delivery::Notify,
                    feeds: vec![
                        feed(format!("user:{}", number % 997)),
                        feed(format!("chat:{}", number % 313)),
                    ],
                    actor: Some("user:7".parse().expect("an actor")),
                    time: None,
                    data: data.clone(),
                    expect: None,
                };
                draft.check().expect("valid")
            })
            .collect();
        let entries: Vec<_> = events
            .iter()
            .map(|event| (event, writes::entry(event, 1, NO_TWIN)))
            .collect();
        let batch = writes::of_events(&keys, &entries).await;
        let snapshot = store.snapshot().await.expect("a snapshot");
        snapshot.commit(batch).await.expect("committed");
        if second % SWEEP_EVERY == 0 {
            sweep(&*store, &keys, &retention, &wall).await;
        }
        if second % 60 == 59 {
            // Compaction is the engine's own work, in real time.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let counts = audit(&*store, &keys).await.expect("undamaged");
            let size = disk(folder.path());
            println!("minute {}: {} bytes; {counts}", second / 60 + 1, size);
            sizes.push((size, counts));
        }
    }
    let (settled, counts) = sizes[SETTLED as usize - 1];
    let (last, at_end) = sizes[sizes.len() - 1];
    assert_eq!(counts, at_end, "the number of keys is constant");
    assert!(last < 2 * settled, "{settled} bytes became {last}");
    store.close().await;
}

async fn sweep(store: &dyn Store, keys: &Keys, retention: &Retention, wall: &WallTime) {
    let projections = Projection::of(true, ["message".parse().expect("a kind")]);
    loop {
        let mut step = projection::Step::new(
            keys,
            &projections,
            Turn::Last,
            projection::Limits::default(),
        );
        if transact(store, &mut step)
            .await
            .expect("a step")
            .is_complete
        {
            break;
        }
    }
    let lineage = Lineage::new(keys.clone());
    let mut pass = None;
    loop {
        let mut step = Step::new(keys, &lineage, retention, &mut pass, wall.micros());
        let progress = transact(store, &mut step).await.expect("a step");
        if progress.outcome != Outcome::GoesOn {
            return;
        }
    }
}
