//! Commits that bypass the appender.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use newsfeed::{
    append::writes,
    clock::WallTime,
    store::{
        Batch, Store, Versioned,
        epoch::Row,
        keys::Keys,
        values::{self, RecordParts},
    },
    types::{Delivery, Entry, FeedName},
    version::Version,
};

use crate::support::{
    bed::Bed,
    model::{Commit, delivery},
};

/// An event that is not committed yet.
pub fn uncommitted(id: &str, kind: &str, feeds: &[FeedName], read_at: u64) -> Commit {
    Commit {
        version: Version::ZERO,
        id: id.into(),
        kind: kind.into(),
        feeds: feeds.into(),
        data: "null".into(),
        read_at,
    }
}

/// Commits entries without reading claims: as a second node does whose snapshot does not show the first node's commit.
pub struct Raw {
    pub store: Arc<dyn Store>,
    pub keys: Keys,
    pub wall: WallTime,
    /// How many transactions there were. Every second one writes as in a store of format 2.
    transactions: AtomicUsize,
}

impl Raw {
    pub async fn new(bed: &Bed) -> Self {
        Self {
            store: bed.store(),
            keys: bed.keys().await,
            wall: bed.wall.clone(),
            transactions: AtomicUsize::new(0),
        }
    }

    /// The time of a new snapshot, in ticks.
    pub async fn now(&self) -> u64 {
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        snapshot.version().time()
    }

    /// Commits `commits` in one transaction and sets their versions. If the wall clock is manual and `at` (in ticks) is
    /// ahead of it, the commit happens at `at`.
    pub async fn commit(&self, at: u64, commits: &mut [Commit]) {
        self.wall.set(at - 1);
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        self.wall.set(at);
        let version = snapshot.commit(self.batch(commits)).await;
        let version = version.expect("a blind write commits");
        for (commit, index) in commits.iter_mut().zip(0..) {
            commit.version = version.at_index(index);
        }
    }

    fn batch(&self, commits: &[Commit]) -> Batch {
        let is_old = self.transactions.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let (mut versioned, mut unread) = (Vec::new(), Vec::new());
        let put = |puts: &mut Vec<Versioned>, prefix, index, value| {
            puts.push(Versioned {
                prefix,
                index,
                value,
            })
        };
        let entries: Vec<Entry> = commits.iter().map(entry).collect();
        for ((commit, entry), index) in commits.iter().zip(&entries).zip(0..) {
            let claim = values::encode_claim(0, &commit.feeds);
            put(&mut versioned, self.keys.claim(&entry.id), index, claim);
            for feed in &commit.feeds {
                let (key, value) = (self.keys.feed(feed), values::encode_entry(entry));
                if entry.delivery == Delivery::Notify && !is_old {
                    put(&mut unread, key, index, value);
                    continue;
                }
                put(&mut versioned, key, index, value);
                if entry.delivery == Delivery::Notify {
                    let (key, value) = (self.keys.notify(feed), values::encode_notify(entry));
                    put(&mut versioned, key, index, value);
                }
            }
        }
        for partition in 0..self.keys.partitions() {
            let mut records = Vec::new();
            for ((commit, entry), index) in commits.iter().zip(&entries).zip(0..) {
                let of_event = writes::records(&self.keys, &commit.feeds);
                let here = of_event.into_iter().filter(|record| record.0 == partition);
                records.extend(here.map(|(_, feeds, exports)| RecordParts {
                    index,
                    feeds,
                    exports,
                    entry,
                }));
            }
            for (index, value) in values::encode_records(&records) {
                put(&mut versioned, self.keys.log(partition), index, value);
            }
        }
        Batch {
            versioned,
            unread,
            notify: true,
            ..Batch::default()
        }
    }

    /// Raises the epoch by one. Everything up to now remains known.
    pub async fn raise_epoch(&self) {
        let snapshot = self.store.snapshot().await.expect("a snapshot");
        let (now, taken_at) = (snapshot.version(), snapshot.taken_at());
        let row = Row {
            epoch: now.epoch() + 1,
            began: Version::new(now.epoch() + 1, taken_at, 0),
            previous_end: now,
        };
        let batch = Batch {
            puts: row.puts(&self.keys),
            notify: true,
            ..Batch::default()
        };
        snapshot.commit(batch).await.expect("the epoch is raised");
    }
}

fn entry(commit: &Commit) -> Entry {
    Entry {
        version: Version::ZERO,
        id: commit.id.parse().expect("an id"),
        kind: commit.kind.parse().expect("a kind"),
        delivery: delivery(&commit.kind),
        actor: None,
        at: 0,
        time: None,
        data: commit.data.clone().into(),
        read_at: commit.read_at,
        change: None,
    }
}
