//! What was removed from an embedded store leaves its files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use newsfeed::{
    clock::WallTime,
    store::{Batch, Error, Store, Versioned, embedded::Embedded, keys, keys::Keys},
    version::Version,
};

use super::contract::{commit, range};
use crate::support::patience::until;

/// Found as it is in the files: nothing in it repeats, so compression leaves it.
const REMOVED: &str = "rEm0v~QxZ7";
const KEPT: &str = "kEp1t!WyU5";

/// More than a removal may stay on the disk.
const A_DAY_MICROS: u64 = 24 * 3_600 * 1_000_000;

struct Place {
    wall: WallTime,
    keys: Keys,
    store: Embedded,
}

impl Place {
    /// A store in which both texts are in each kind of key, in files of tables.
    async fn filled(folder: &Path) -> Self {
        let wall = WallTime::manual(1_800_000_000_000_000);
        let store = Embedded::open(folder, wall.clone()).expect("opens");
        let keys = Keys::open(&store, b"", 1, &wall).await.expect("created");
        let place = Self { wall, keys, store };
        for text in [REMOVED, KEPT] {
            let puts = place.prefixes(text).into_iter().map(|prefix| Versioned {
                prefix,
                index: 0,
                value: text.into(),
            });
            let batch = Batch {
                versioned: puts.collect(),
                ..Batch::default()
            };
            commit(&place.store, batch).await.expect("committed");
        }
        place
    }

    fn prefixes(&self, text: &str) -> [Vec<u8>; 5] {
        let id = match text {
            KEPT => "kept",
            _ => "removed",
        };
        let feed = id.parse().expect("a feed");
        [
            self.keys.claim(&id.parse().expect("an id")),
            self.keys.feed(&feed),
            self.keys.notify(&feed),
            self.keys.log(u16::from(text == KEPT)),
            self.keys.log_by_actor(&id.parse().expect("an actor")),
        ]
    }

    /// Clears everything with the text, except the claim, which becomes empty.
    async fn remove(&self) -> Result<Version, Error> {
        let [claim, prefixes @ ..] = self.prefixes(REMOVED);
        let claims = keys::range(&claim, None, Version::MAX, false, 1, usize::MAX);
        let claim = range(&self.store, claims).await.remove(0).key;
        let all = |prefix: &Vec<u8>| keys::after_until(prefix, None, Version::MAX);
        let batch = Batch {
            clears: prefixes.iter().map(all).collect(),
            puts: vec![(claim.to_vec(), Vec::new())],
            ..Batch::default()
        };
        commit(&self.store, batch).await
    }
}

/// The files below `folder` that contain `text`.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(bytes) = fs::read(&path)
            && memchr::memmem::find(&bytes, text.as_bytes()).is_some()
        {
            found.push(path);
        }
    }
    found
}

fn in_tables(files: &[PathBuf]) -> usize {
    let is_table = |file: &&PathBuf| file.extension().is_none();
    files.iter().filter(is_table).count()
}

async fn values(place: &Place, text: &str) -> usize {
    let mut count = 0;
    for prefix in place.prefixes(text) {
        let all = keys::range(&prefix, None, Version::MAX, false, 9, usize::MAX);
        let found = range(&place.store, all).await;
        count += found
            .iter()
            .filter(|item| item.value == text.as_bytes())
            .count();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_data_leaves_the_files_within_a_day_and_at_once_by_compacting_also_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = tempfile::tempdir().expect("a folder");
    let place = Place::filled(folder.path()).await;
    // The oldest values lie in the last level, which compactions of the engine alone would not touch again.
    tokio::task::block_in_place(|| place.store.compact()).expect("compacted");
    assert_eq!(in_tables(&files_with(folder.path(), REMOVED)), 5);
    assert!(!folder.path().join("removals").exists());

    place.remove().await.expect("removed");
    assert_eq!(values(&place, REMOVED).await, 0);
    assert_eq!(in_tables(&files_with(folder.path(), REMOVED)), 5);
    assert!(
        folder.path().join("removals").exists(),
        "it is noted on disk"
    );

    // As a crash leaves it: the folder is copied while it is open.
    let from = folder.path().join(".");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(copy.path())
        .status();
    assert!(copied.expect("runs").success());

    place.wall.set(place.wall.micros() + A_DAY_MICROS);
    let noted = folder.path().join("removals");
    until("removed data to leave the disk", async || {
        (!noted.exists()).then_some(())
    })
    .await;
    assert_eq!(files_with(folder.path(), REMOVED), Vec::<PathBuf>::new());
    assert_eq!(in_tables(&files_with(folder.path(), KEPT)), 5);
    assert_eq!(
        (values(&place, REMOVED).await, values(&place, KEPT).await),
        (0, 5)
    );
    place.store.close().await;

    assert!(!files_with(copy.path(), REMOVED).is_empty());
    let admin = |command: &str| {
        let mut newsfeed = Command::new(env!("CARGO_BIN_EXE_newsfeed"));
        let newsfeed = newsfeed.args(["admin", command, "--data"]).arg(copy.path());
        let output = newsfeed.output().expect("runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{command}: {text}");
        text
    };
    let said = admin("compact");
    assert!(said.contains("compacted"), "{said}");
    assert_eq!(files_with(copy.path(), REMOVED), Vec::<PathBuf>::new());
    assert!(!copy.path().join("removals").exists());
    let store = Embedded::open(copy.path(), place.wall.clone()).expect("opens");
    let place = Place { store, ..place };
    assert_eq!(
        (values(&place, REMOVED).await, values(&place, KEPT).await),
        (0, 5)
    );
    place.store.close().await;
}
