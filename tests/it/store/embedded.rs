//! What only the embedded engine has: a wall clock that the test sets, and a folder.

use newsfeed::{
    clock::WallTime,
    store::{
        Batch, Error, KeyValue, Range, SNAPSHOT_AGE_TICKS_MAX, Store, Versioned,
        embedded::Embedded, epoch, keys,
    },
    version::Version,
};

use super::contract::{Place, commit, range};
use crate::support::bed::Bed;

#[tokio::test]
async fn a_snapshot_lives_five_seconds() {
    let at = Place::fresh();
    let wall = WallTime::manual(1_000_000_000);
    let bed = Bed::embedded_at(wall.clone());
    let store = bed.store();
    commit(&*store, at.put("a", "1")).await.expect("commit");
    for (age, lives) in [
        (SNAPSHOT_AGE_TICKS_MAX - 10, true),
        (SNAPSHOT_AGE_TICKS_MAX + 10, false),
        (3_600_000_000, false),
    ] {
        let now = wall.micros() + 1_000_000;
        wall.set(now);
        let (to_read, to_commit) = (
            store.snapshot().await.expect("snapshot"),
            store.snapshot().await.expect("snapshot"),
        );
        wall.set(now + age);
        assert_eq!(
            to_read.get(vec![at.key("a")]).await.is_ok(),
            lives,
            "read at {age}"
        );
        match to_commit.commit(at.put("a", "2")).await {
            Ok(_) if lives => {}
            Err(Error::TooOld) if !lives => {}
            other => panic!("commit at {age}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn versions_grow_over_restarts_with_the_clock_set_back() {
    let at = Place::fresh();
    let wall = WallTime::manual(9_000_000);
    let bed = Bed::embedded_at(wall.clone());
    let batch = || Batch {
        versioned: vec![at.versioned("v", 0, "x")],
        ..Batch::default()
    };
    let mut last = Version::ZERO;
    for now in [9_000_000, 8_000_000, 1, 9_500_000] {
        wall.set(now);
        let store = bed.store();
        let moment = store.snapshot().await.expect("snapshot").version();
        assert!(moment >= last, "vN fell from {last:?} to {moment:?}");
        let version = commit(&*store, batch()).await.expect("commit");
        assert!(version > moment, "{version:?} at or below vN {moment:?}");
        last = store.snapshot().await.expect("snapshot").version();
        drop(store);
        bed.close().await;
    }
    assert_eq!(range(&*bed.store(), at.all_under("v")).await.len(), 4);
}

#[tokio::test]
async fn a_folder_in_use_or_of_another_format_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let open = || Embedded::open(folder.path(), WallTime::system(0));
    let store = open().expect("opens");
    let error = open().err().expect("locked").to_string();
    assert!(error.contains("in use by another process"), "{error}");

    keys::Keys::open(&store, b"", 16, &WallTime::system(0))
        .await
        .expect("created");
    let keys = keys::Keys::open(&store, b"", 4, &WallTime::system(0))
        .await
        .expect("opened");
    assert_eq!(
        keys.partitions(),
        16,
        "an existing key space keeps its partitions"
    );
    let meta = all_keys(&store).await.remove(0).key;
    let other = [&4u32.to_be_bytes()[..], b"whatever"].concat();
    commit(
        &store,
        Batch {
            puts: vec![(meta.to_vec(), other)],
            ..Batch::default()
        },
    )
    .await
    .expect("commit");
    let error = keys::Keys::open(&store, b"", 16, &WallTime::system(0))
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("format 4") && error.contains("formats up to 3"),
        "{error}"
    );
    store.close().await;
    assert!(matches!(store.snapshot().await, Err(Error::Closed)));
    // The lock is gone. No file of a store of another format is touched, so the format is checked here as well.
    let error = open().err().expect("refused").to_string();
    assert!(error.contains("format 4"), "{error}");
}

/// A store of format 1, and one of format 2 of which a table has been lost, have the same tables.
#[tokio::test]
async fn in_a_folder_with_fewer_tables_none_is_created() {
    for (format, said) in [(1, "format 1"), (2, "contains 4 of 5 tables")] {
        let folder = tempfile::tempdir().expect("folder");
        let keys_of_meta = {
            let other = tempfile::tempdir().expect("folder");
            let store = Embedded::open(other.path(), WallTime::system(0)).expect("opens");
            keys::Keys::open(&store, b"", 16, &WallTime::system(0))
                .await
                .expect("created");
            all_keys(&store).await.remove(0).key
        };
        let database = || {
            fjall::Database::builder(folder.path())
                .open()
                .expect("opens")
        };
        let db = database();
        for name in ["claims-2", "feeds-2", "log-2", "rest-2"] {
            let table = db.keyspace(name, Default::default).expect("created");
            let meta = [&u32::to_be_bytes(format)[..], &[0, 16]].concat();
            table.insert(&keys_of_meta[..], meta).expect("written");
            table.rotate_memtable_and_wait().expect("flushed");
        }
        drop(db);
        let error = Embedded::open(folder.path(), WallTime::system(0)).err();
        let error = error.expect("refused").to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(database().list_keyspace_names().len(), 4);
    }
}

#[tokio::test]
async fn on_a_full_disk_a_new_life_of_the_store_begins_no_epoch_and_its_version_is_that_of_the_last_life()
 {
    let folder = tempfile::tempdir().expect("folder");
    let wall = WallTime::system(0);
    let serve = |reserve| Embedded::open_to_serve(folder.path(), wall.clone(), reserve);
    let (all, none) = (u64::MAX, 0);
    let refused = serve(all).expect("it opens");
    let created = keys::Keys::open(&refused, b"", 16, &wall).await;
    assert!(
        matches!(created, Err(Error::Full)),
        "a new store needs room"
    );
    refused.close().await;

    let at = Place::fresh();
    let (mut rows, mut end) = (Vec::new(), Version::ZERO);
    for (life, reserve) in [none, all, all, none, none].into_iter().enumerate() {
        let store = serve(reserve).expect("it opens");
        let keys = keys::Keys::open(&store, b"", 16, &wall).await;
        let keys = keys.expect("a key space");
        let snapshot = store.snapshot().await.expect("a snapshot");
        let shown = snapshot.version();
        let read = epoch::rows(&*snapshot, &keys, None).await.expect("rows");
        let written = snapshot.commit(at.put("a", "1")).await;
        if reserve == all {
            assert!(matches!(written, Err(Error::Full)), "{written:?}");
            assert_eq!((&read, shown), (&rows, end), "life {life}");
        } else {
            written.expect("written");
            assert_eq!(read.len(), rows.len() + 1, "life {life}");
            let row = read.last().expect("a row");
            assert_eq!(row.previous_end, end, "life {life}");
            assert_eq!(row.epoch, shown.epoch());
        }
        rows = read;
        end = store.snapshot().await.expect("a snapshot").version();
        store.close().await;
    }
}

#[tokio::test]
async fn of_concurrent_commits_of_one_unclaimed_id_only_the_first_succeeds() {
    let folder = tempfile::tempdir().expect("folder");
    let store = Embedded::open(folder.path(), WallTime::system(0)).expect("opens");
    let keys = keys::Keys::open(&store, b"", 16, &WallTime::system(0))
        .await
        .expect("created");
    let claim = |id: &str, unclaimed| Batch {
        versioned: vec![Versioned {
            prefix: keys.claim(&id.parse().expect("an id")),
            index: 0,
            value: vec![0; 16],
        }],
        unclaimed,
        ..Batch::default()
    };
    let [a, b, c, d, e] = {
        let snapshots = (0..5).map(|_| store.snapshot());
        let snapshots = futures_util::future::join_all(snapshots).await;
        let snapshots: Vec<_> = snapshots.into_iter().map(|s| s.expect("taken")).collect();
        snapshots.try_into().ok().expect("five")
    };
    assert!(a.checks_claims());
    let at_once = tokio::join!(a.commit(claim("x", true)), b.commit(claim("x", true)));
    let (first, second) = (at_once.0.expect("the first"), at_once.1);
    assert!(matches!(second, Err(Error::Conflict)), "{second:?}");
    let later = c.commit(claim("x", true)).await;
    assert!(matches!(later, Err(Error::Conflict)), "{later:?}");
    d.commit(claim("y", true)).await.expect("another id");
    // A batch without `unclaimed` commits a twin.
    let twin = e.commit(claim("x", false)).await.expect("unasked");
    let prefix = keys.claim(&"x".parse().expect("an id"));
    let all = keys::range(&prefix, None, Version::MAX, false, 9, usize::MAX);
    let versions: Vec<_> = range(&store, all).await;
    let versions = versions
        .iter()
        .map(|item| keys::version_of(&item.key).expect("a version"));
    assert_eq!(versions.collect::<Vec<_>>(), [first, twin]);
}

#[tokio::test]
async fn a_folder_of_an_earlier_layout_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let db = fjall::Database::builder(folder.path())
        .open()
        .expect("opens");
    let table = db.keyspace("newsfeed", Default::default).expect("created");
    drop((table, db));
    let error = Embedded::open(folder.path(), WallTime::system(0)).err();
    let error = error.expect("refused").to_string();
    assert!(error.contains("has another layout"), "{error}");
}

async fn all_keys(store: &dyn Store) -> Vec<KeyValue> {
    range(store, Range::all(vec![0], vec![0xff])).await
}
