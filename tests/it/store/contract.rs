//! The engine contract: what every [`Store`] does.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use newsfeed::{
    store::{Batch, Condition, Error, KeyValue, Range, Stamped, Store, Versioned, keys},
    version::Version,
};

use crate::support::bed::Bed;

crate::on_every_engine!(
    reads_see_exactly_what_was_committed_before_the_snapshot,
    ranges_page_in_both_directions,
    versions_grow_in_commit_order,
    items_of_a_batch_are_in_index_order_under_one_commit,
    a_commit_lies_above_every_snapshot_taken_before_it,
    conditions_hold_or_nothing_is_written,
    a_condition_sees_commits_after_the_snapshot,
    clears_come_before_puts,
    stamped_values_carry_the_version_of_their_commit,
    maxima_only_grow,
    concurrent_appends_do_not_conflict,
    an_epoch_change_aborts_transactions_that_began_before_it,
    a_commit_that_notifies_wakes_waiters_and_another_does_not,
    a_closed_store_refuses_every_call,
);

/// Where a test keeps its keys: outside the key space, and apart from other tests in the same cluster.
#[derive(Clone, Copy)]
pub struct Place(u32);

impl Place {
    pub fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn key(self, name: &str) -> Vec<u8> {
        [b"\xf0test/", &self.0.to_be_bytes()[..], name.as_bytes()].concat()
    }

    pub fn put(self, name: &str, value: &str) -> Batch {
        Batch {
            puts: vec![(self.key(name), value.into())],
            ..Batch::default()
        }
    }

    pub fn versioned(self, name: &str, index: u16, value: &str) -> Versioned {
        Versioned {
            prefix: self.key(name),
            index,
            value: value.into(),
        }
    }

    async fn get(self, store: &dyn Store, name: &str) -> Option<String> {
        let snapshot = store.snapshot().await.expect("snapshot");
        let value = snapshot.get(vec![self.key(name)]).await.expect("get");
        value[0]
            .as_ref()
            .map(|value| String::from_utf8(value.to_vec()).expect("text"))
    }

    pub fn all_under(self, name: &str) -> Range {
        let (begin, end) = keys::after_until(&self.key(name), None, Version::MAX);
        Range::all(begin, end)
    }
}

pub async fn commit(store: &dyn Store, batch: Batch) -> Result<Version, Error> {
    store.snapshot().await?.commit(batch).await
}

pub async fn range(store: &dyn Store, range: Range) -> Vec<KeyValue> {
    let snapshot = store.snapshot().await.expect("snapshot");
    snapshot
        .ranges(vec![range])
        .await
        .expect("range")
        .remove(0)
        .items
}

async fn reads_see_exactly_what_was_committed_before_the_snapshot(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    commit(&*store, at.put("a", "1")).await.expect("commit");
    let before = store.snapshot().await.expect("snapshot");
    commit(&*store, at.put("a", "2")).await.expect("commit");
    commit(&*store, at.put("b", "2")).await.expect("commit");
    let old = before
        .get(vec![at.key("a"), at.key("b")])
        .await
        .expect("get");
    assert_eq!(old, [Some("1".into()), None]);
    assert_eq!(
        (at.get(&*store, "a").await, at.get(&*store, "b").await),
        (Some("2".into()), Some("2".into()))
    );
    assert_eq!(at.get(&*store, "never").await, None);
}

async fn ranges_page_in_both_directions(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let puts = (0..10)
        .map(|i| (at.key(&format!("r{i}")), vec![b'0' + i; 10]))
        .collect();
    commit(
        &*store,
        Batch {
            puts,
            ..Batch::default()
        },
    )
    .await
    .expect("commit");
    let snapshot = store.snapshot().await.expect("snapshot");
    let read = |begin: &str, end: &str, reverse, limit, bytes_max| {
        let range = Range {
            reverse,
            limit,
            bytes_max,
            ..Range::all(at.key(begin), at.key(end))
        };
        let snapshot = &snapshot;
        async move {
            let slice = snapshot.ranges(vec![range]).await.expect("range").remove(0);
            let found: String = slice
                .items
                .iter()
                .map(|item| item.value[0] as char)
                .collect();
            (found, slice.more)
        }
    };
    assert_eq!(
        read("r", "s", false, 100, usize::MAX).await,
        ("0123456789".into(), false)
    );
    assert_eq!(
        read("r", "s", true, 100, usize::MAX).await,
        ("9876543210".into(), false)
    );
    assert_eq!(
        read("r3", "r6", false, 100, usize::MAX).await,
        ("345".into(), false)
    );
    assert_eq!(
        read("r3", "r6", true, 2, usize::MAX).await,
        ("54".into(), true)
    );
    // When the limit ends a range, `more` may be either.
    assert_eq!(read("r3", "r6", false, 3, usize::MAX).await.0, "345");
    // A range ends with the item that reaches `bytes_max`; it has at least one item.
    assert_eq!(read("r", "s", false, 100, 1).await, ("0".into(), true));
    let two = 2 * (at.key("r0").len() + 10);
    assert_eq!(read("r", "s", true, 100, two).await, ("98".into(), true));
    assert_eq!(
        read("r6", "r3", false, 100, usize::MAX).await,
        (String::new(), false)
    );
    // Several ranges are answered in the order of the request.
    let ranges = [("r2", "r3"), ("x", "y"), ("r7", "r9")];
    let ranges = ranges.map(|(begin, end)| Range {
        limit: 5,
        ..Range::all(at.key(begin), at.key(end))
    });
    let slices = snapshot.ranges(ranges.to_vec()).await.expect("ranges");
    assert_eq!(
        slices
            .iter()
            .map(|slice| slice.items.len())
            .collect::<Vec<_>>(),
        [1, 0, 2]
    );
}

async fn versions_grow_in_commit_order(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let mut last = Version::ZERO;
    for _ in 0..20 {
        let batch = Batch {
            versioned: vec![at.versioned("v", 0, "x")],
            ..Batch::default()
        };
        let version = commit(&*store, batch).await.expect("commit");
        assert!(version > last, "{version:?} after {last:?}");
        last = version;
    }
    let found = range(&*store, at.all_under("v")).await;
    let versions: Vec<_> = found
        .iter()
        .map(|item| keys::version_of(&item.key).expect("a version"))
        .collect();
    assert_eq!(versions.len(), 20);
    assert!(versions.is_sorted());
    assert_eq!(versions.last(), Some(&last));
}

async fn items_of_a_batch_are_in_index_order_under_one_commit(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let puts = [(3, "d"), (0, "a"), (300, "e"), (1, "b")];
    let puts = puts.map(|(index, value)| at.versioned("i", index, value));
    let version = commit(
        &*store,
        Batch {
            versioned: puts.to_vec(),
            ..Batch::default()
        },
    )
    .await
    .expect("commit");
    let found = range(&*store, at.all_under("i")).await;
    let values: Vec<_> = found.iter().map(|item| item.value[0]).collect();
    assert_eq!(values, *b"abde");
    for (item, index) in found.iter().zip([0, 1, 3, 300]) {
        assert_eq!(
            keys::version_of(&item.key).expect("a version"),
            version.at_index(index)
        );
    }
}

async fn a_commit_lies_above_every_snapshot_taken_before_it(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for _ in 0..50 {
                let snapshot = store.snapshot().await.expect("snapshot");
                let moment = snapshot.version();
                let seen = snapshot
                    .ranges(vec![at.all_under("s")])
                    .await
                    .expect("range")
                    .remove(0)
                    .items;
                // What the snapshot shows is at or below its version.
                assert!(
                    seen.iter()
                        .all(|item| keys::version_of(&item.key).expect("a version") <= moment)
                );
                let batch = Batch {
                    versioned: vec![at.versioned("s", 0, "x")],
                    ..Batch::default()
                };
                let version = snapshot.commit(batch).await.expect("commit");
                // What it does not show is above.
                assert!(version > moment, "{version:?} at a snapshot of {moment:?}");
                let after = store.snapshot().await.expect("snapshot").version();
                assert!(
                    version <= after,
                    "own commit {version:?} is not in {after:?}"
                );
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("no panic");
    }
    // No commit was lost.
    assert_eq!(range(&*store, at.all_under("s")).await.len(), 200);
}

async fn conditions_hold_or_nothing_is_written(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    commit(&*store, at.put("a", "1")).await.expect("commit");
    let equals = |value: Option<&str>| Condition::KeyEquals {
        key: at.key("a"),
        value: value.map(Into::into),
    };
    let empty = |begin: &str, end: &str| Condition::RangeEmpty {
        begin: at.key(begin),
        end: at.key(end),
    };
    let with = |conditions| Batch {
        conditions,
        ..at.put("done", "yes")
    };
    for (conditions, failing) in [
        (vec![equals(Some("2"))], 0),
        (vec![equals(None)], 0),
        (vec![equals(Some("1")), empty("a", "b")], 1),
    ] {
        match commit(&*store, with(conditions)).await {
            Err(Error::ConditionFailed(index)) => assert_eq!(index, failing),
            other => panic!("{other:?}"),
        }
        assert_eq!(at.get(&*store, "done").await, None);
    }
    commit(
        &*store,
        with(vec![equals(Some("1")), empty("b", "c"), empty("b", "a")]),
    )
    .await
    .expect("all hold");
    assert_eq!(at.get(&*store, "done").await, Some("yes".into()));
}

async fn a_condition_sees_commits_after_the_snapshot(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let late = store.snapshot().await.expect("snapshot");
    let range = at.all_under("slot");
    let batch = || Batch {
        conditions: vec![Condition::RangeEmpty {
            begin: range.begin.clone(),
            end: range.end.clone(),
        }],
        versioned: vec![at.versioned("slot", 0, "x")],
        ..Batch::default()
    };
    commit(&*store, batch()).await.expect("the first wins");
    match late.commit(batch()).await {
        Err(Error::ConditionFailed(0) | Error::Conflict) => {}
        other => panic!("{other:?}"),
    }
    // Of many at once, one wins.
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        racers.spawn(async move {
            let conditions = vec![Condition::KeyEquals {
                key: at.key("race"),
                value: None,
            }];
            commit(
                &*store,
                Batch {
                    conditions,
                    ..at.put("race", "x")
                },
            )
            .await
        });
    }
    let outcomes = racers.join_all().await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        1,
        "{outcomes:?}"
    );
}

async fn clears_come_before_puts(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    for name in ["c1", "c2", "c3"] {
        commit(&*store, at.put(name, "old")).await.expect("commit");
    }
    let clears = vec![(at.key("c1"), at.key("c3")), (at.key("c9"), at.key("c3"))];
    commit(
        &*store,
        Batch {
            clears,
            ..at.put("c2", "new")
        },
    )
    .await
    .expect("commit");
    let left = [
        at.get(&*store, "c1").await,
        at.get(&*store, "c2").await,
        at.get(&*store, "c3").await,
    ];
    assert_eq!(left, [None, Some("new".into()), Some("old".into())]);
}

async fn stamped_values_carry_the_version_of_their_commit(bed: &Bed) {
    let store = &*bed.store();
    let at = Place::fresh();
    let stamped = |name: &str, index, value: Vec<u8>, place| Stamped {
        key: at.key(name),
        index,
        value,
        at: place,
    };
    let empty = [0; 16];
    let batch = Batch {
        // In the same transaction as other writes of the keys and of others.
        clears: vec![(at.key("s1"), at.key("s2"))],
        puts: vec![at.put("s3", "plain").puts.remove(0)],
        versioned: vec![at.versioned("v", 5, "x")],
        stamped: vec![
            stamped("s1", 3, empty.to_vec(), 0),
            stamped(
                "s2",
                u16::MAX,
                [b"before", &empty[..], b"after"].concat(),
                6,
            ),
        ],
        ..Batch::default()
    };
    for _ in 0..2 {
        let version = commit(store, batch.clone()).await.expect("commits");
        let snapshot = store.snapshot().await.expect("snapshot");
        let read = snapshot
            .get(vec![at.key("s1"), at.key("s2"), at.key("s3")])
            .await;
        let read = read.expect("get");
        let of = |index| version.at_index(index).to_bytes();
        assert_eq!(read[0].as_deref(), Some(&of(3)[..]));
        let around = [b"before", &of(u16::MAX)[..], b"after"].concat();
        assert_eq!(read[1].as_deref(), Some(&around[..]));
        assert_eq!(read[2].as_deref(), Some(&b"plain"[..]));
        let items = range(store, at.all_under("v")).await;
        let last = items.last().expect("an item");
        assert_eq!(keys::version_of(&last.key).ok(), Some(version.at_index(5)));
    }
    // A condition of another commit sees the change.
    let (begun, _) = store.begin(Default::default()).await.expect("begun");
    let before = begun.get(vec![at.key("s1")]).await.expect("get").remove(0);
    commit(store, batch).await.expect("commits");
    let depends = Batch {
        conditions: vec![Condition::KeyEquals {
            key: at.key("s1"),
            value: before.map(|value| value.to_vec()),
        }],
        ..at.put("s4", "x")
    };
    let refused = begun.commit(depends).await.expect_err("it has changed");
    assert!(
        matches!(refused, Error::ConditionFailed(0) | Error::Conflict),
        "{refused:?}"
    );
}

async fn maxima_only_grow(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let mut writers = tokio::task::JoinSet::new();
    for value in ["20", "70", "50", "10", "69"] {
        let store = Arc::clone(&store);
        let batch = Batch {
            maxima: vec![(at.key("m"), value.into())],
            ..Batch::default()
        };
        writers.spawn(async move { commit(&*store, batch).await });
    }
    for outcome in writers.join_all().await {
        outcome.expect("maxima never conflict");
    }
    assert_eq!(at.get(&*store, "m").await, Some("70".into()));
}

async fn concurrent_appends_do_not_conflict(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    // All read the same range, then all write into it.
    let mut snapshots = Vec::new();
    for _ in 0..10 {
        let snapshot = store.snapshot().await.expect("snapshot");
        snapshot
            .ranges(vec![at.all_under("n")])
            .await
            .expect("range");
        snapshots.push(snapshot);
    }
    for snapshot in snapshots {
        let batch = Batch {
            versioned: vec![at.versioned("n", 0, "x")],
            ..Batch::default()
        };
        snapshot.commit(batch).await.expect("no conflict");
    }
    assert_eq!(range(&*store, at.all_under("n")).await.len(), 10);
}

async fn an_epoch_change_aborts_transactions_that_began_before_it(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let keys = bed.keys().await;
    let before = store.snapshot().await.expect("snapshot");
    let old = commit(
        &*store,
        Batch {
            versioned: vec![at.versioned("e", 0, "1")],
            ..Batch::default()
        },
    )
    .await
    .expect("commit");
    let epoch = before.version().epoch() + 7;
    let raise = Batch {
        puts: vec![(keys.epoch(), epoch.to_be_bytes().to_vec())],
        ..Batch::default()
    };
    commit(&*store, raise).await.expect("raise");
    match before.commit(at.put("late", "x")).await {
        Err(Error::Conflict) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        store.snapshot().await.expect("snapshot").version().epoch(),
        epoch
    );
    let new = commit(
        &*store,
        Batch {
            versioned: vec![at.versioned("e", 0, "2")],
            ..Batch::default()
        },
    )
    .await
    .expect("commit");
    assert_eq!(new.epoch(), epoch);
    assert!(new > old);
    let values: Vec<_> = range(&*store, at.all_under("e"))
        .await
        .iter()
        .map(|item| item.value[0])
        .collect();
    assert_eq!(values, *b"12");
}

async fn a_commit_that_notifies_wakes_waiters_and_another_does_not(bed: &Bed) {
    let at = Place::fresh();
    use std::time::Duration;
    let store = bed.store();
    let seen = store.snapshot().await.expect("snapshot").version();
    let waiter = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait_for_commit(seen).await }
    });
    commit(&*store, at.put("quiet", "x")).await.expect("commit");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        !waiter.is_finished(),
        "woken by a commit that does not notify"
    );
    commit(
        &*store,
        Batch {
            notify: true,
            ..at.put("loud", "x")
        },
    )
    .await
    .expect("commit");
    tokio::time::timeout(Duration::from_secs(10), waiter)
        .await
        .expect("woken")
        .expect("no panic")
        .expect("ok");
    // Waiting for a commit that has already happened returns at once.
    tokio::time::timeout(Duration::from_secs(10), store.wait_for_commit(seen))
        .await
        .expect("at once")
        .expect("ok");
}

async fn a_closed_store_refuses_every_call(bed: &Bed) {
    let at = Place::fresh();
    let store = bed.store();
    let early = store.snapshot().await.expect("snapshot");
    let seen = early.version();
    let waiter = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.wait_for_commit(seen).await }
    });
    let (begun, under_way) = {
        let snapshot = store.snapshot().await.expect("snapshot");
        let mut commit = snapshot.commit(at.put("a", "1"));
        // Polled once, then not again until the store closes.
        (futures_util::poll!(&mut commit), commit)
    };
    let closing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.close().await }
    });
    let done = match begun {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => under_way.await,
    };
    closing.await.expect("no panic");
    done.expect("a commit under way is finished");
    for refused in [
        early.commit(at.put("a", "2")).await.err(),
        store.snapshot().await.err(),
        store.wait_for_commit(seen).await.err(),
        waiter.await.expect("no panic").err(),
    ] {
        assert!(matches!(refused, Some(Error::Closed)), "{refused:?}");
    }
}
