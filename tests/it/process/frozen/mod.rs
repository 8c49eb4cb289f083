//! Stores that an earlier program wrote, kept in `tests/frozen`: `newsfeed admin migrate` brings them to the newest format,
//! and everything in them is answered as it was then. `tests/README.md` tells when they have to be extended.

mod make;

use std::{collections::BTreeMap, path::Path, process::Output};

use newsfeed::{
    clock::WallTime,
    store::{Batch, Store, embedded::Embedded},
    version::Version,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Process, failure, lineage::copy, run};
use crate::support::{
    bed::{Api, text},
    patience::in_time,
};

/// Folders of `tests/frozen`, with the format of each: as the first program with that format wrote it, and as the first one with
/// changes did, with edits, erasures, and a feed of which retention has removed a part.
const FOLDERS: [(&str, u32); 4] = [
    ("format-2", 2),
    ("format-2-changes", 2),
    (APPENDED, 3),
    (CHANGED, 3),
];
/// Those that this program writes.
const APPENDED: &str = "format-3";
const CHANGED: &str = "format-3-changes";

/// What `newsfeed admin migrate` says the first time, and then.
fn migration(format: u32) -> [&'static str; 2] {
    let done = "the store has format 3, the newest: nothing to migrate\n";
    match format {
        2 => ["the store had format 2 and has format 3 now\n", done],
        _ => [done; 2],
    }
}

fn path_of(folder: &str, file: &str) -> String {
    format!(
        "{}/tests/frozen/{folder}/{file}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// `answers.json` of a folder.
#[derive(Serialize, Deserialize)]
struct Frozen {
    /// The last epoch of the store when it was frozen. Later versions are of the program that reads it now.
    epoch: u32,
    /// What `newsfeed admin check` says.
    check: String,
    /// The answers by path.
    answers: BTreeMap<String, Answer>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    status: u16,
    body: Value,
}

/// Removes members that answers did not have yet.
fn forget_new(answer: &mut Value, frozen: &Value) {
    match (answer, frozen) {
        (Value::Object(answer), Value::Object(frozen)) => {
            answer.retain(|name, _| frozen.contains_key(name));
            for (name, value) in answer {
                forget_new(value, &frozen[name]);
            }
        }
        (Value::Array(answer), Value::Array(frozen)) => {
            let both = answer.iter_mut().zip(frozen);
            both.for_each(|(answer, frozen)| forget_new(answer, frozen));
        }
        _ => {}
    }
}

impl Frozen {
    fn read(folder: &str) -> Self {
        let json = std::fs::read(path_of(folder, "answers.json")).expect("the frozen answers");
        serde_json::from_slice(&json).expect("as they were written")
    }

    async fn check(&self, api: &Api) {
        for (path, frozen) in &self.answers {
            let mut answer = answer(api, path, self.epoch).await;
            forget_new(&mut answer.body, &frozen.body);
            assert_eq!(answer, *frozen, "{path}");
        }
        // What is appended again is recognised by its content.
        for event in make::events() {
            let path = format!("/v1/events/{}", text(&event["id"]).replace(' ', "%20"));
            let again = api.append(&event).await;
            let stored = &self.answers[&path];
            if stored.status == 404 {
                assert_eq!(again["status"], "erased", "{path}");
                continue;
            }
            let stored = &stored.body["version"];
            assert_eq!(
                (&again["status"], &again["version"]),
                (&"duplicate".into(), stored),
                "{path}"
            );
            let mut other = event;
            other["data"] = "other".into();
            let (status, problem) = api.post("/v1/events", &other).await;
            assert_eq!((status, &problem["code"]), (409, &"id_reused".into()));
        }
        let mut erased = make::events().remove(0);
        erased["id"] = "erased".into();
        assert_eq!(api.append(&erased).await["status"], "erased");
    }
}

/// The answer to a GET, in which versions above `epoch` are `now`. Without the sentence of a problem, which may be reworded.
async fn answer(api: &Api, path: &str, epoch: u32) -> Answer {
    let answer = api.send("GET", path, &[]).await;
    let mut body = answer.json();
    if let (400.., Some(problem)) = (answer.status, body.as_object_mut()) {
        problem.remove("detail");
    }
    hide_later(&mut body, epoch);
    Answer {
        status: answer.status,
        body,
    }
}

fn hide_later(value: &mut Value, epoch: u32) {
    match value {
        Value::String(text) => {
            let is_later = |version: Version| version.epoch() > epoch;
            if text.parse().is_ok_and(is_later) {
                *text = "now".into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|it| hide_later(it, epoch)),
        Value::Object(values) => values.values_mut().for_each(|it| hide_later(it, epoch)),
        _ => {}
    }
}

/// `keys.txt` of a folder: a key and its value in each line, in hexadecimal. Without what only the embedded engine writes.
fn frozen_keys(folder: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let text = std::fs::read_to_string(path_of(folder, "keys.txt")).expect("the frozen keys");
    let lines = text.lines().map(|line| {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        (bytes(key), bytes(value))
    });
    lines.collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        panic!("an odd number of digits: {hex}");
    };
    let byte = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("hexadecimal")
    };
    pairs.iter().map(byte).collect()
}

/// Writes the frozen keys of `folder` into the empty `store`, under `prefix`.
async fn load(folder: &str, store: &dyn Store, prefix: &[u8]) {
    let keys = frozen_keys(folder).into_iter();
    let batch = Batch {
        puts: keys
            .map(|(key, value)| ([prefix, &key].concat(), value))
            .collect(),
        ..Batch::default()
    };
    let snapshot = in_time(store.snapshot()).await.expect("a snapshot");
    in_time(snapshot.commit(batch)).await.expect("written");
}

async fn said(args: &[&str]) -> String {
    let Output { status, stdout, .. } = run(args).await;
    assert!(status.success(), "{args:?}");
    String::from_utf8(stdout).expect("text")
}

/// Migrates the store in the folder `data`, and compares what is in it.
async fn migrated(frozen: &Frozen, folder: &Path, format: u32) {
    let data = folder.to_str().expect("UTF-8");
    // Without that, it answers the same.
    let as_it_is = tempfile::tempdir().expect("a temporary folder");
    let copied = as_it_is.path().join("store");
    copy(folder, &copied);
    let process = Process::start_with(&copied, &make::SETTINGS).await;
    frozen.check(&process.api).await;
    process.stop().await;
    let migrate = ["admin", "migrate", "--data", data];
    for said_then in migration(format) {
        assert_eq!(said(&migrate).await, said_then);
    }
    let check = said(&["admin", "check", "--data", data]).await;
    assert_eq!(check.lines().last(), Some(&*frozen.check));

    let process = Process::start_with(folder, &make::SETTINGS).await;
    frozen.check(&process.api).await;
    assert!(
        failure(&migrate)
            .await
            .contains("in use by another process")
    );
    // Also after the projections have taken steps, and in the next life.
    let event = serde_json::json!({ "id": "later", "kind": "other", "feeds": ["later"] });
    process.api.append(&event).await;
    process.stop().await;
    let process = Process::start(folder).await;
    let is_first_page = |path: &&String| path.starts_with("/v1/feeds/");
    for path in frozen.answers.keys().filter(is_first_page) {
        let mut now = answer(&process.api, path, frozen.epoch).await;
        forget_new(&mut now.body, &frozen.answers[path].body);
        assert_eq!(now, frozen.answers[path], "{path}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_frozen_folder_is_migrated_and_answers_as_it_did() {
    for (frozen, format) in FOLDERS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unpacked = std::process::Command::new("tar")
            .args(["-xzf", &path_of(frozen, "store.tar.gz"), "-C"])
            .arg(folder.path())
            .status();
        assert!(unpacked.expect("tar runs").success());
        let store = folder.path().join("store");
        migrated(&Frozen::read(frozen), &store, format).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_frozen_keys_are_migrated_and_answer_as_they_did() {
    for (frozen, format) in FOLDERS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Embedded::open(folder.path(), WallTime::system(0)).expect("a new store");
        load(frozen, &store, b"").await;
        store.close().await;
        migrated(&Frozen::read(frozen), folder.path(), format).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_format_is_not_migrated_and_the_message_says_what_to_do() {
    for (format, parts) in [
        (1u32, ["format 1", "append its events again"]),
        (4, ["format 4", "use the newsfeed version that wrote it"]),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let meta = [&format.to_be_bytes()[..], &[0, 16]].concat();
        super::refused_start::store_with(folder.path(), meta).await;
        let data = folder.path().to_str().expect("UTF-8");
        let message = failure(&["admin", "migrate", "--data", data]).await;
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
    let nothing = tempfile::tempdir().expect("a temporary folder");
    let data = nothing.path().to_str().expect("UTF-8");
    let message = failure(&["admin", "migrate", "--data", data]).await;
    assert!(message.contains("there is no store in"), "{message}");
}

#[cfg(feature = "fdb")]
mod fdb {
    use newsfeed::store::{epoch, keys::Keys};

    use super::*;
    use crate::fdb::cluster::{fresh_prefix, shared};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_frozen_keys_are_migrated_on_foundationdb_and_answer_as_they_did() {
        for (folder, format) in FOLDERS {
            migrated_on_foundationdb(folder, format).await;
        }
    }

    async fn migrated_on_foundationdb(folder: &str, format: u32) {
        let frozen = Frozen::read(folder);
        let (cluster, prefix) = (tokio::task::block_in_place(shared), fresh_prefix());
        let store = cluster.store(&prefix);
        load(folder, &*store, prefix.as_bytes()).await;
        // The versions of the cluster are lower, as after a restore.
        let keys = Keys::open_existing(&*store, prefix.as_bytes()).await;
        let keys = keys.expect("read").expect("a key space");
        let raised = epoch::raise(&*store, &keys, &WallTime::system(0), None).await;
        assert!(raised.expect("raised") > frozen.epoch);

        let file = cluster.file();
        let file = file.to_str().expect("UTF-8");
        let place = [
            "--store",
            "fdb",
            "--cluster-file",
            file,
            "--prefix",
            &prefix,
        ];
        let admin = |name| [&["admin", name], &place[..]].concat();
        for said_then in migration(format) {
            assert_eq!(said(&admin("migrate")).await, said_then);
        }
        assert_eq!(said(&admin("check")).await.trim(), frozen.check);
        let serve = [&["serve", "--listen", "127.0.0.1:0"], &place[..]];
        let serve = [&serve.concat()[..], &make::SETTINGS].concat();
        let process = Process::of(super::super::newsfeed(&serve)).await;
        frozen.check(&process.api).await;
        process.stop().await;
    }
}
