//! Fairness among tasks: long computations on the async workers let other tasks run in between.
//!
//! A worker runs one task until it waits for something. Many futures of this program are ready at once (the embedded
//! engine answers from memory), so a computation that is long at the documented limits has to yield by itself: it spends
//! a [`WorkBudget`]. What cannot be cut, such as parsing a large body, runs on the blocking threads instead.

use tokio::task::yield_now;

/// Units of work between two yields. A unit is about a microsecond in a release build: an entry decoded or rendered, a
/// key built. So a task that spends its budget honestly holds a worker for about a millisecond.
const UNITS_BETWEEN_YIELDS: usize = 500;

/// The work that a computation may do before it yields.
#[derive(Debug, Default)]
pub struct WorkBudget {
    spent: usize,
}

impl WorkBudget {
    /// Accounts for `units` of work that have been done, and lets other tasks run if it is time.
    pub async fn spend(&mut self, units: usize) {
        self.spent += units;
        if self.spent >= UNITS_BETWEEN_YIELDS {
            self.spent = 0;
            yield_now().await;
        }
    }
}
