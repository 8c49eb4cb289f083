//! A store around another one, which fails or waits where a test says so.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use newsfeed::{
    store::{Batch, Error, Found, Reads, Result, Snapshot, Store, StoreErrors},
    version::Version,
};

/// Failed attempts of the transactions with this name on a node's store, by reason.
pub fn failed_attempts(store: &dyn Store, name: &str) -> BTreeMap<&'static str, u64> {
    let all = store.errors().failed_attempts().into_iter();
    let of_name = all.filter(|((transaction, _), _)| *transaction == name);
    of_name.map(|((_, code), count)| (code, count)).collect()
}

/// What a wrapped store does in addition to passing calls on.
#[async_trait]
pub trait Trouble: Send + Sync + 'static {
    /// A transaction is about to begin.
    fn before_begin(&self) {}

    async fn before_read(&self) -> Result<()> {
        Ok(())
    }

    /// A read was asked for this many keys and ranges, and has found so many items.
    fn after_read(&self, _asked: usize, _found: usize) {}

    async fn before_commit(&self, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    /// Whether the store may tell what has not changed, so that it need not be read.
    fn tells_what_is_unchanged(&self) -> bool {
        false
    }

    async fn commit(&self, snapshot: Box<dyn Snapshot>, batch: Batch) -> Result<Version> {
        self.before_commit(&batch).await?;
        snapshot.commit(batch).await
    }

    /// Somebody is about to wait for a commit.
    fn before_waiting(&self) {}

    /// A snapshot that was begun is closed.
    fn after_end(&self) {}
}

/// Wraps `store` with `trouble`.
pub fn troubled<T: Trouble>(store: Arc<dyn Store>, trouble: Arc<T>) -> Arc<dyn Store> {
    Arc::new(Troubled { store, trouble })
}

struct Troubled<T> {
    store: Arc<dyn Store>,
    trouble: Arc<T>,
}

#[async_trait]
impl<T: Trouble> Store for Troubled<T> {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        self.trouble.before_begin();
        if !reads.is_empty() {
            self.trouble.before_read().await?;
        }
        let asked = reads.keys.len() + reads.ranges.len();
        let (snapshot, found) = self.store.begin(reads).await?;
        self.trouble.after_read(asked, items(&found));
        let trouble = Open(Arc::clone(&self.trouble));
        Ok((Box::new(TroubledSnapshot { snapshot, trouble }), found))
    }

    fn moment_if_unchanged(&self, prefix: &[u8], since: Version) -> Option<Version> {
        let is_asked = self.trouble.tells_what_is_unchanged();
        is_asked
            .then(|| self.store.moment_if_unchanged(prefix, since))
            .flatten()
    }

    async fn wait_for_commit(&self, seen: Version) -> Result<()> {
        self.trouble.before_waiting();
        self.store.wait_for_commit(seen).await
    }

    fn reads_at_once(&self) -> usize {
        self.store.reads_at_once()
    }

    fn errors(&self) -> &StoreErrors {
        self.store.errors()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

fn items(found: &Found) -> usize {
    let of_ranges = found.slices.iter().map(|slice| slice.items.len());
    found.values.iter().flatten().count() + of_ranges.sum::<usize>()
}

struct TroubledSnapshot<T: Trouble> {
    snapshot: Box<dyn Snapshot>,
    trouble: Open<T>,
}

/// Belongs to an open snapshot.
struct Open<T: Trouble>(Arc<T>);

impl<T: Trouble> Drop for Open<T> {
    fn drop(&mut self) {
        self.0.after_end();
    }
}

#[async_trait]
impl<T: Trouble> Snapshot for TroubledSnapshot<T> {
    fn version(&self) -> Version {
        self.snapshot.version()
    }

    fn taken_at(&self) -> u64 {
        self.snapshot.taken_at()
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        self.trouble.0.before_read().await?;
        let asked = reads.keys.len() + reads.ranges.len();
        let found = self.snapshot.read(reads).await?;
        self.trouble.0.after_read(asked, items(&found));
        Ok(found)
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self { snapshot, trouble } = *self;
        // Now and then, a node notes the version of the time. No test is about that commit.
        let is_note = batch.puts.len() == 1 && batch.conditions.len() == 1;
        if is_note && batch.versioned.is_empty() && batch.maxima.is_empty() {
            return snapshot.commit(batch).await;
        }
        trouble.0.commit(snapshot, batch).await
    }
}

/// While it is on, reads fail, more and more rarely: the 1st, the 3rd, the 6th, the 10th …
#[derive(Default)]
pub struct Flaky {
    pub on: AtomicBool,
    pub failures: AtomicUsize,
    reads_to_failure: AtomicUsize,
}

#[async_trait]
impl Trouble for Flaky {
    async fn before_read(&self) -> Result<()> {
        if !self.on.load(Ordering::SeqCst) {
            return Ok(());
        }
        let left = self.reads_to_failure.load(Ordering::SeqCst);
        if left == 0 {
            let failures = 1 + self.failures.fetch_add(1, Ordering::SeqCst);
            self.reads_to_failure.store(failures, Ordering::SeqCst);
            return Err(Error::Unavailable("the test says so".into()));
        }
        self.reads_to_failure.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}

/// Counts reads down; the read that finds 1 fails because its snapshot is too old.
#[derive(Default)]
pub struct Aging(pub AtomicUsize);

#[async_trait]
impl Trouble for Aging {
    async fn before_read(&self) -> Result<()> {
        let left = self.0.load(Ordering::SeqCst);
        self.0.store(left.saturating_sub(1), Ordering::SeqCst);
        match left {
            1 => Err(Error::TooOld),
            _ => Ok(()),
        }
    }
}
