//! Makes a frozen store. It contains every kind of key.

use std::{collections::BTreeMap, path::Path, process::Command};

use newsfeed::{
    clock::WallTime,
    projection::{Limits, Projection, Step, Turn},
    store::{
        Batch, KeyValue, Range, Store, Versioned,
        embedded::Embedded,
        epoch,
        keys::{Keys, OWN_READER},
        transact,
        values::{
            RecordParts, encode_claim, encode_entry, encode_marker_moved, encode_notify,
            encode_records, encode_time, encode_transient,
        },
    },
    types::{Delivery, Entry, FeedName, Marker},
    version::Version,
};
use serde_json::{Value, json};

use super::{Answer, Frozen, answer, said};
use crate::process::Process;

/// The settings with which the store is made and read.
pub const SETTINGS: [&str; 5] = [
    "--partitions",
    "2",
    "--kind",
    "message=notify+indexed,visit=entry,typing=transient",
    "--index-actors",
];

const FEEDS: [&str; 4] = ["user:1", "user:2", "chat:1", "chat:2"];

fn name(text: &str) -> FeedName {
    text.parse().expect("a name")
}

fn event(id: &str, kind: &str, feeds: &[&str], actor: Option<&str>, data: Value) -> Value {
    let mut event = json!({ "id": id, "kind": kind, "feeds": feeds, "data": data });
    if let Some(actor) = actor {
        event["actor"] = actor.into();
    }
    event
}

/// Appends over HTTP, in two lives of the store.
async fn append(folder: &Path) {
    let process = Process::start_with(folder, &SETTINGS).await;
    let api = &process.api;
    let mut events = vec![
        event(
            "m-1",
            "message",
            &["user:1", "chat:1"],
            Some("user:2"),
            json!({ "text": "Grüße" }),
        ),
        event("v-1", "visit", &["user:1"], Some("user:3"), Value::Null),
        event(
            "id with blanks",
            "message",
            &["chat:1", "user:2"],
            None,
            json!([1, 2.5, "x"]),
        ),
        event("other-1", "other", &["chat:2"], None, json!("text")),
    ];
    events[1]["time"] = json!("2026-11-28T10:00:00.123Z");
    for event in &events {
        api.append(event).await;
    }
    // Several in one group.
    let many = (0..6).map(|n| {
        let kind = ["message", "visit"][n % 2];
        event(
            &format!("many-{n}"),
            kind,
            &FEEDS[..1 + n % 4],
            Some("user:2"),
            json!(n),
        )
    });
    api.append(&many.collect()).await;
    let version = api.version("user:1").await;
    for (marker, status) in [("seen", 200), ("read", 200)] {
        let path = format!("/v1/feeds/user:1/markers/{marker}");
        let headers = [("content-type", "application/json")];
        let body = json!({ "version": version }).to_string();
        let answer = api.send_body("PUT", &path, &headers, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    process.stop().await;
    let process = Process::start_with(folder, &SETTINGS).await;
    let later = event(
        "m-2",
        "message",
        &["user:1", "user:2"],
        Some("user:1"),
        json!({ "text": "later" }),
    );
    process.api.append(&later).await;
    process.stop().await;
}

fn versioned(prefix: Vec<u8>, index: u16, value: Vec<u8>) -> Versioned {
    Versioned {
        prefix,
        index,
        value,
    }
}

/// Commits what no request leads to on this engine: twins, an erased claim, markers of readers, rows of times.
async fn add(store: &dyn Store, keys: &Keys) {
    let feeds = [name("user:2"), name("chat:2")];
    let before = store.snapshot().await.expect("a snapshot");
    let entry = Entry {
        version: Version::ZERO,
        id: "twice".parse().expect("an id"),
        kind: "message".parse().expect("a kind"),
        delivery: Delivery::Notify,
        actor: Some("user:2".parse().expect("an actor")),
        at: 1_764_000_000_000_000,
        time: "2026-11-28T11:00:00+01:00".parse().ok(),
        data: "{\"twice\":true}".into(),
        read_at: before.taken_at(),
    };
    for _ in 0..2 {
        let mut puts = vec![versioned(keys.claim(&entry.id), 0, encode_claim(7, &feeds))];
        for feed in &feeds {
            puts.push(versioned(keys.feed(feed), 0, encode_entry(&entry)));
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
    let now = store.snapshot().await.expect("a snapshot").version();
    let second = now.time() / 1_000_000;
    let typing = Entry {
        id: "typing".parse().expect("an id"),
        kind: "typing".parse().expect("a kind"),
        delivery: Delivery::Transient,
        time: None,
        ..entry
    };
    let chat = name("chat:1");
    let transient = keys.transient(keys.partition(&chat));
    let time = |ago: u64| {
        let version = Version::moment(now.epoch(), now.time() - ago * 1_000_000);
        (keys.time((second - ago) / 10), encode_time(version))
    };
    let marker = |reader, marker, version: Version| {
        (
            keys.marker(&chat, reader, marker),
            version.to_bytes().to_vec(),
        )
    };
    let batch = Batch {
        puts: vec![time(0)],
        maxima: vec![
            marker(OWN_READER, Marker::Seen, now),
            marker("user:9", Marker::Read, now),
            marker("user:9", Marker::Seen, now),
        ],
        versioned: vec![
            versioned(keys.claim(&"erased".parse().expect("an id")), 0, Vec::new()),
            versioned(transient.clone(), 1, encode_transient(1, &[&chat], &typing)),
            versioned(transient.clone(), 2, encode_marker_moved(&chat, OWN_READER)),
            versioned(transient, 3, encode_marker_moved(&chat, "user:9")),
        ],
        ..Batch::default()
    };
    let snapshot = store.snapshot().await.expect("a snapshot");
    snapshot.commit(batch).await.expect("committed");
}

/// Writes the dump of all keys but those of the engine.
async fn dump(store: &dyn Store, to: &str) {
    let everything = Range::all(vec![0], vec![0xff]);
    let snapshot = store.snapshot().await.expect("a snapshot");
    let items = snapshot
        .ranges(vec![everything])
        .await
        .expect("read")
        .remove(0)
        .items;
    // The moment of the last commit, with code 3.
    let is_kept = |item: &&KeyValue| item.key[..] != [0x15, 3];
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let lines = items.iter().filter(is_kept);
    let lines = lines.map(|item| format!("{} {}\n", hex(&item.key), hex(&item.value)));
    std::fs::write(format!("{to}/keys.txt"), lines.collect::<String>()).expect("written");
}

/// What to ask: everything, from every side.
async fn paths(process: &Process) -> Vec<String> {
    let log = process.api.get("/v1/log?after=0&limit=100").await;
    let events = log["events"].as_array().expect("events").clone();
    let version = |index: usize| events[index]["version"].as_str().expect("text").to_owned();
    let (some, last) = (version(3), version(events.len() - 1));
    let mut paths = vec![
        "/v1/log?after=0&limit=100".to_owned(),
        "/v1/log?limit=3".into(),
        format!("/v1/log?after={some}&limit=4"),
        "/v1/log?after=0&kind=message".into(),
        "/v1/log?after=0&kind=visit&kind=other".into(),
        "/v1/log?after=0&actor=user:2".into(),
        "/v1/log?after=0&feed=chat:*".into(),
        "/v1/log?after=0&shard=0/2".into(),
        "/v1/log?after=0&shard=1/2".into(),
        "/v1/entries?feed=user:1&feed=chat:1&after=0".into(),
        "/v1/entries?feed=user:2&feed=chat:2&limit=3".into(),
        "/v1/feeds?feed=user:1&feed=user:2&feed=chat:1&feed=chat:2&feed=none".into(),
        "/v1/events/erased".into(),
        "/v1/events/none".into(),
        "/v1/versions?at=2026-01-01T00:00:00Z".into(),
    ];
    for feed in FEEDS {
        paths.push(format!("/v1/feeds/{feed}"));
        for query in [
            "after=0".to_owned(),
            "limit=2".into(),
            "kind=message".into(),
            "kind=visit&after=0".into(),
            format!("after={some}"),
            format!("until={last}&limit=3"),
        ] {
            paths.push(format!("/v1/feeds/{feed}/entries?{query}"));
        }
    }
    for event in &events {
        let id = event["id"].as_str().expect("an id").replace(' ', "%20");
        paths.push(format!("/v1/events/{id}"));
    }
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes tests/frozen/format-2 anew; see tests/README.md"]
async fn a_frozen_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("store");
    append(&data).await;
    let store = Embedded::open(&data, WallTime::system(0)).expect("opens");
    let keys = Keys::open_existing(&store, b"").await.expect("read");
    add(&store, &keys.expect("a key space")).await;
    dump(&store, super::FOLDER).await;
    let epoch = epoch::current(&store).await.expect("read");
    store.close().await;
    let packed = Command::new("tar")
        .arg("-C")
        .arg(folder.path())
        .args(["-czf", &format!("{}/store.tar.gz", super::FOLDER), "store"])
        .status();
    assert!(packed.expect("tar runs").success());

    let data = data.to_str().expect("UTF-8");
    let check = said(&["admin", "check", "--data", data]).await;
    let check = check.lines().last().expect("a line").to_owned();
    let process = Process::start_with(Path::new(data), &SETTINGS).await;
    let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
    for path in paths(&process).await {
        let answer = answer(&process.api, &path, epoch).await;
        answers.insert(path, answer);
    }
    process.stop().await;
    let frozen = Frozen {
        epoch,
        check,
        answers,
    };
    let json = serde_json::to_string_pretty(&frozen).expect("JSON");
    std::fs::write(format!("{}/answers.json", super::FOLDER), json + "\n").expect("written");
}
