//! Makes a frozen store. It contains every kind of key, of three lives of the store. Its clock is set by hand, so that each run
//! makes the same store.

mod add;
mod paths;

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use newsfeed::{
    clock::WallTime,
    lifecycle::retention::{Outcome, Step},
    lineage::Lineage,
    server::Settings,
    store::{
        KeyValue, Range, Store,
        embedded::Embedded,
        epoch::{self, Row},
        keys::Keys,
        transact,
    },
    types::EventTime,
    version::Version,
};
use serde_json::{Value, json};

use super::{Answer, Frozen, answer, path_of, said};
use crate::{
    process::{Process, lineage::copy},
    support::bed::{Api, app_of, settings_of, text},
};

/// The settings with which the store is made and read.
pub const SETTINGS: [&str; 5] = [
    "--partitions",
    "2",
    "--kind",
    "message=notify+indexed,visit=entry,typing=transient",
    "--index-actors",
];

const PARTITIONS: u16 = 2;
const FEEDS: [&str; 4] = ["user:1", "user:2", "chat:1", "chat:2"];
/// Of the store with changes: the events that are erased, and the feed that is trimmed.
const ERASED: [&str; 3] = ["many-4", "m-2", "v-1"];
const TRIMMED: &str = "user:2";

fn event(id: &str, kind: &str, feeds: &[&str], actor: Option<&str>, data: Value) -> Value {
    let mut event = json!({ "id": id, "kind": kind, "feeds": feeds, "data": data });
    if let Some(actor) = actor {
        event["actor"] = actor.into();
    }
    event
}

/// What is appended in the first life, in requests.
fn first_events() -> Vec<Value> {
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
    events[1]["time"] = json!("2025-06-01T10:00:00.123Z");
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
    events.push(many.collect());
    events
}

/// An event of a later life.
fn later(id: &str) -> Value {
    let feeds = ["user:1", "user:2"];
    event(id, "message", &feeds, Some("user:1"), json!({ "of": id }))
}

/// Each event of the store, but the twins.
pub fn events() -> Vec<Value> {
    let mut events = Vec::new();
    for request in first_events() {
        match request {
            Value::Array(many) => events.extend(many),
            one => events.push(one),
        }
    }
    events.extend(["m-2", "m-3"].map(later));
    events
}

fn micros(time: &str) -> u64 {
    time.parse::<EventTime>().expect("a time").micros()
}

/// A store that is open as a service opens it, or as it was before.
struct Life {
    wall: WallTime,
    /// From one request to the next, in µs.
    step: u64,
    store: Arc<dyn Store>,
    keys: Keys,
}

impl Life {
    async fn begin(data: &Path, time: &str, step_ms: u64) -> Self {
        let wall = WallTime::manual(micros(time));
        let store = Embedded::open_to_serve(data, wall.clone(), 0);
        Self::of(store.expect("opens"), wall, step_ms).await
    }

    async fn go_on(data: &Path, time: &str) -> Self {
        let wall = WallTime::manual(micros(time));
        let store = Embedded::open_existing(data, wall.clone());
        Self::of(store.expect("opens"), wall, 0).await
    }

    async fn of(store: Embedded, wall: WallTime, step_ms: u64) -> Self {
        let keys = Keys::open(&store, b"", PARTITIONS, &wall).await;
        Self {
            wall,
            step: step_ms * 1_000,
            store: Arc::new(store),
            keys: keys.expect("a key space"),
        }
    }

    fn step(&self) {
        self.wall.set(self.wall.micros() + self.step);
    }

    /// Serves HTTP, without the tasks of a node that commit something now and then.
    async fn serve(&self, requests: impl AsyncFnOnce(&Api)) {
        let settings = Settings {
            wall: self.wall.clone(),
            ..settings_of(&SETTINGS)
        };
        let store = Arc::clone(&self.store);
        let (app, served) = app_of(store, self.keys.clone(), settings).await;
        requests(&served).await;
        drop(app);
        served.stop().await;
    }

    /// Appends the event; returns its version.
    async fn append(&self, event: &Value) -> String {
        let mut version = String::new();
        let append = async |api: &Api| {
            self.step();
            version = text(&api.append(event).await["version"]);
        };
        self.serve(append).await;
        version
    }

    async fn end(self) {
        self.store.close().await;
    }
}

/// Three lives of the store; returns versions of what was lost. The copy that is put back before the third life is of the
/// middle of the second one. `changes`: events are edited and erased in the third life, and a feed is trimmed.
async fn live(data: &Path, backup: &Path, changes: bool) -> Vec<String> {
    let life = Life::begin(data, "2025-06-02T09:00:00Z", 4_000).await;
    let requests = async |api: &Api| {
        for events in first_events() {
            life.step();
            api.append(&events).await;
        }
        let version = api.version("user:1").await;
        for marker in ["seen", "read"] {
            life.step();
            let path = format!("/v1/feeds/user:1/markers/{marker}");
            let headers = [("content-type", "application/json")];
            let body = json!({ "version": version }).to_string();
            let answer = api.send_body("PUT", &path, &headers, body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    life.serve(requests).await;
    life.end().await;

    let life = Life::begin(data, "2025-06-02T10:00:00Z", 4_000).await;
    life.append(&later("m-2")).await;
    life.end().await;
    copy(data, backup);
    let life = Life::go_on(data, "2025-06-02T10:00:08Z").await;
    let mut lost = vec![life.append(&later("lost-1")).await];
    life.end().await;
    let put_back = || {
        std::fs::remove_dir_all(data).expect("removed");
        copy(backup, data);
    };
    // Two lives that are lost, the last one in the second in which the third life begins.
    for (id, time) in [
        ("lost-2", "2025-06-02T10:30:00Z"),
        ("lost-3", "2025-06-02T11:00:00Z"),
    ] {
        put_back();
        let life = Life::begin(data, time, 200).await;
        lost.push(life.append(&later(id)).await);
        life.end().await;
    }
    put_back();
    let life = Life::begin(data, "2025-06-02T11:00:00.500Z", 4_000).await;
    life.append(&later("m-3")).await;
    life.wall.set(micros("2025-06-02T11:00:12Z"));
    add::to(&*life.store, &life.keys).await;
    if changes {
        change(&life).await;
    }
    life.end().await;
    lost
}

async fn change(life: &Life) {
    let requests = async |api: &Api| {
        let edits = ["m-1", "many-2", "many-2", "m-2"].into_iter().enumerate();
        for (n, id) in edits {
            life.step();
            let headers = [("content-type", "application/json")];
            let body = json!({ "data": { "edit": n }, "change": format!("edit-{n}") });
            let path = format!("/v1/events/{id}");
            let answer = api.send_body("PATCH", &path, &headers, body.to_string());
            assert_eq!(answer.await.status, 200, "{id}");
        }
        // One of them was edited before.
        let [one, other, third] = ERASED;
        for id in [one, other] {
            life.step();
            let answer = api.send("DELETE", &format!("/v1/events/{id}"), &[]).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        life.step();
        let (status, answer) = api
            .post("/v1/erasures", &json!({ "events": [third] }))
            .await;
        assert_eq!(status, 200, "{answer}");
    };
    life.serve(requests).await;
    life.wall.set(micros("2025-06-02T11:10:00Z"));
    let retention = settings_of(&["--retention", &format!("feeds={TRIMMED},entries=2")]).retention;
    let lineage = Lineage::new(life.keys.clone());
    let mut pass = None;
    loop {
        let now = life.wall.micros();
        let mut step = Step::new(&life.keys, &lineage, &retention, &mut pass, now);
        let progress = transact(&*life.store, &mut step).await.expect("a step");
        if progress.outcome == Outcome::IsComplete {
            break;
        }
    }
}

/// Writes the dump of all keys but those of the engine.
async fn dump(store: &dyn Store, to: String) {
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
    std::fs::write(to, lines.collect::<String>()).expect("written");
}

/// Writes the folder `store` in `folder`.
fn pack(folder: &Path, to: String) {
    let packed = Command::new("tar")
        .args(["--sort=name", "--mtime=2025-06-02", "--owner=0"])
        .args(["--group=0", "--numeric-owner", "-C"])
        .arg(folder)
        .args(["-czf", &to, "store"])
        .status();
    assert!(packed.expect("tar runs").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes tests/frozen/format-3 anew; see tests/README.md"]
async fn a_frozen_store() {
    make(super::APPENDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes tests/frozen/format-3-changes anew; see tests/README.md"]
async fn a_frozen_store_with_changes() {
    make(super::CHANGED).await;
}

async fn make(to: &str) {
    let changes = to == super::CHANGED;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("store");
    let lost = live(&data, &folder.path().join("backup"), changes).await;
    let lost: Vec<Version> = lost
        .iter()
        .map(|it| it.parse().expect("a version"))
        .collect();

    let store = Embedded::open(&data, WallTime::manual(0)).expect("opens");
    dump(&store, path_of(to, "keys.txt")).await;
    let snapshot = store.snapshot().await.expect("a snapshot");
    let keys = Keys::open_existing(&store, b"").await.expect("read");
    let keys = keys.expect("a key space");
    let lives: Vec<Row> = epoch::rows(&*snapshot, &keys, None).await.expect("read");
    drop(snapshot);
    store.close().await;
    let last = lives.last().expect("a life");
    assert_eq!(lives.len(), 3);
    assert_eq!(lost[2].epoch(), last.epoch, "begun in the same second");
    pack(folder.path(), path_of(to, "store.tar.gz"));

    let text = data.to_str().expect("UTF-8");
    let check = said(&["admin", "check", "--data", text]).await;
    let check = check.lines().last().expect("a line").to_owned();
    let process = Process::start_with(&data, &SETTINGS).await;
    let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
    for (path, status) in paths::all(&process.api, &lives, &lost, changes).await {
        let answer = answer(&process.api, &path, last.epoch).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        answers.insert(path, answer);
    }
    process.stop().await;
    let frozen = Frozen {
        epoch: last.epoch,
        check,
        answers,
    };
    let json = serde_json::to_string_pretty(&frozen).expect("JSON");
    std::fs::write(path_of(to, "answers.json"), json + "\n").expect("written");
}
