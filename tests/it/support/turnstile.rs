//! A store whose appending commits pass one by one, when the test says so.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use newsfeed::store::{Batch, Result};
use tokio::sync::{Semaphore, watch};

use super::stores::Trouble;

/// Holds commits of appends, in the order of their arrival, until the test lets them pass.
pub struct Turnstile {
    came: AtomicUsize,
    news: Semaphore,
    passed: watch::Sender<usize>,
}

impl Turnstile {
    pub fn closed() -> Arc<Self> {
        Arc::new(Self {
            came: AtomicUsize::new(0),
            news: Semaphore::new(0),
            passed: watch::Sender::new(0),
        })
    }

    /// Waits until `commits` more have arrived: their transactions have read, but not committed.
    pub async fn have_come(&self, commits: u32) {
        let came = self.news.acquire_many(commits).await;
        came.expect("never closed").forget();
    }

    /// Lets `commits` more pass, including those that have not arrived yet.
    pub fn let_pass(&self, commits: usize) {
        self.passed.send_modify(|passed| *passed += commits);
    }
}

#[async_trait]
impl Trouble for Turnstile {
    async fn before_commit(&self, batch: &Batch) -> Result<()> {
        if batch.notify && batch.clears.is_empty() && batch.versioned.len() > 1 {
            let turn = self.came.fetch_add(1, Ordering::SeqCst);
            self.news.add_permits(1);
            let mut passed = self.passed.subscribe();
            let passed = passed.wait_for(|&passed| passed > turn).await;
            passed.expect("never closed");
        }
        Ok(())
    }
}
