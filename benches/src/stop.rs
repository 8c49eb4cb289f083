//! Ctrl-C: the first ends the load early, so that what was measured is reported; the second ends the program at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use newsfeed::client::Interrupts;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub struct Stop {
    requested: CancellationToken,
    measuring: Arc<AtomicBool>,
}

impl Stop {
    /// From now on there are results to report, so the first Ctrl-C only ends the load.
    pub fn measuring(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// True if Ctrl-C was pressed during the load.
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Returns when the program must end at once: at the second Ctrl-C, or at the first if nothing was measured yet.
    pub async fn at_once(&self) {
        // One listener for both: the second may come before the first is handled.
        let mut interrupts = Interrupts::listen();
        interrupts.next().await;
        if self.measuring.load(Ordering::Relaxed) {
            eprintln!("stopping the load; press Ctrl-C again to exit without results");
            self.requested.cancel();
            interrupts.next().await;
        }
    }
}
