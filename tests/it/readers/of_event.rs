//! The feeds of an event, found by its id and version.

use newsfeed::{
    feed::Feeds,
    store::{Batch, Versioned},
    types::FeedName,
};

use crate::{
    http::{message, visit},
    support::{
        bed::Bed,
        model::{Commit, feed_name},
        raw_commits::{Raw, uncommitted},
    },
};

crate::on_every_engine!(
    an_event_is_found_among_others_of_its_batch_with_its_feeds_in_all_partitions,
    a_twin_and_a_version_without_the_event_have_no_feeds,
    an_erased_event_has_no_feeds_and_a_retry_does_not_store_it_again,
);

/// Names that no other test uses: on FoundationDB tests share a cluster.
fn fresh(count: usize) -> (String, Vec<FeedName>) {
    let salt = format!("{:016x}", rand::random::<u64>());
    let feeds = (0..count).map(|n| feed_name(&format!("{salt}:{n}")));
    let feeds = feeds.collect();
    (salt, feeds)
}

async fn an_event_is_found_among_others_of_its_batch_with_its_feeds_in_all_partitions(bed: &Bed) {
    let raw = Raw::new(bed).await;
    let (salt, feeds) = fresh(40);
    let now = raw.now().await;
    // The ids contain one another. With 900 bytes each, the records of a partition take several values.
    let mut commits: Vec<Commit> = (0..200)
        .map(|n| Commit {
            data: "1".repeat(900),
            ..uncommitted(&format!("{salt}{}", "x".repeat(n % 50)), "visit", &[], now)
        })
        .collect();
    for (n, commit) in commits.iter_mut().enumerate() {
        commit.id.push(char::from(b'a' + (n / 50) as u8));
        commit.feeds = (0..=n % 40).rev().map(|feed| feeds[feed].clone()).collect();
    }
    raw.commit(now + 1, &mut commits).await;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    for commit in &commits {
        let id = commit.id.parse().expect("an id");
        let found = reader.of_event(&id, commit.version).await.expect("read");
        assert_eq!(found, commit.feeds, "{}", commit.id);
    }
}

async fn a_twin_and_a_version_without_the_event_have_no_feeds(bed: &Bed) {
    let raw = Raw::new(bed).await;
    let (salt, feeds) = fresh(2);
    let now = raw.now().await;
    let first = uncommitted(&salt, "visit", &feeds[..1], now);
    let second = uncommitted(&salt, "visit", &feeds[1..], now);
    let other = uncommitted(&format!("{salt}x"), "visit", &feeds, now);
    let mut commits = [[first], [second], [other]];
    for (commit, ticks) in commits.iter_mut().zip(1..) {
        raw.commit(now + ticks, commit).await;
    }
    let [[first], [second], [other]] = commits;
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    let id = salt.parse().expect("an id");
    for (version, expected) in [
        (first.version, &feeds[..1]),
        (second.version, &[]),
        (other.version, &[]),
        (first.version.before(), &[]),
    ] {
        let found = reader.of_event(&id, version).await.expect("read");
        assert_eq!(found, expected, "{version:?}");
    }
}

async fn an_erased_event_has_no_feeds_and_a_retry_does_not_store_it_again(bed: &Bed) {
    let node = bed.node().await;
    let raw = Raw::new(bed).await;
    let (id, feeds) = fresh(1);
    let snapshot = raw.store.snapshot().await.expect("a snapshot");
    let claim = Versioned {
        prefix: raw.keys.claim(&id.parse().expect("an id")),
        index: 0,
        value: Vec::new(),
    };
    let batch = Batch {
        versioned: vec![claim],
        ..Batch::default()
    };
    let version = snapshot.commit(batch).await.expect("committed");
    let reader = Feeds::new(raw.store.clone(), raw.keys.clone());
    let found = reader.of_event(&id.parse().expect("an id"), version).await;
    assert_eq!(found.expect("read"), []);
    let feed = feeds[0].as_str();
    for event in [message(&id, &[feed]), visit(&id, &[feed, "other"])] {
        let answer = node.append(&event).await;
        assert_eq!(answer["status"], "erased", "{answer}");
        assert_eq!(answer["version"], version.to_string());
    }
    assert_eq!(node.all(feed).await.len(), 0);
}
