//! Ctrl-C: the first ends the load early, so that what was measured can be told; the second ends the command.

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
    /// From now on there is something to tell.
    pub fn measuring(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// The load should end early, or should have.
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// The command must end at once: at the second Ctrl-C, or at the first if nothing is measured yet.
    pub async fn at_once(&self) {
        // Heard from here on: the second may come before the first is dealt with.
        let mut interrupts = Interrupts::listen();
        interrupts.next().await;
        if self.measuring.load(Ordering::Relaxed) {
            eprintln!("ending the load; Ctrl-C again ends without results");
            self.requested.cancel();
            interrupts.next().await;
        }
    }
}
