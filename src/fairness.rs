//! Fairness among tasks: long computations on the async workers let other tasks run in between.
//!
//! A worker runs one task until it waits for something. Many futures of this program are ready at once (the embedded
//! engine answers from memory), so a computation that is long at the documented limits has to yield by itself: it spends
//! a [`WorkBudget`]. What cannot be cut, such as parsing a large body, runs on the blocking threads instead.

use std::panic::resume_unwind;

use tokio::{
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
};

/// Units of work between two yields. A unit is about a microsecond in a release build: an entry decoded or rendered, a
/// key built. So a task that spends its budget honestly holds a worker for about a millisecond.
const UNITS_BETWEEN_YIELDS: usize = 500;

/// The work that a computation may do before it yields.
#[derive(Debug)]
pub struct WorkBudget {
    spent: usize,
    between_yields: usize,
}

impl Default for WorkBudget {
    fn default() -> Self {
        Self::yielding_every(UNITS_BETWEEN_YIELDS)
    }
}

impl WorkBudget {
    pub(crate) fn yielding_every(units: usize) -> Self {
        Self {
            spent: 0,
            between_yields: units,
        }
    }

    /// Accounts for `units` of work that have been done, and lets other tasks run if it is time.
    pub async fn spend(&mut self, units: usize) {
        self.spent += units;
        if self.spent >= self.between_yields {
            self.spent = 0;
            yield_now().await;
        }
    }
}

/// Input of up to this many bytes is parsed where it arrives.
pub const INLINE_BYTES_MAX: usize = 32 * 1024;

/// Parsers on the blocking threads at the same time. The store reads on these threads, too.
const BLOCKING_PARSERS_MAX: usize = 4;

static BLOCKING_PARSERS: Semaphore = Semaphore::const_new(BLOCKING_PARSERS_MAX);

/// Runs `parse` on input of `bytes` bytes: on a blocking thread if the input is large.
pub async fn parse<T: Send + 'static>(
    bytes: usize,
    parse: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= INLINE_BYTES_MAX {
        return parse();
    }
    // The semaphore is never closed.
    let _permit = BLOCKING_PARSERS.acquire().await;
    match spawn_blocking(parse).await {
        Ok(parsed) => parsed,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Runs `work` beside another task; returns how often that task got its turn meanwhile. Must be called on a runtime of
    /// one thread. If everything that `work` waits for is ready, the other task gets its turns only when `work` yields.
    pub(crate) async fn turns<T>(work: impl Future<Output = T>) -> (T, usize) {
        let count = Arc::new(AtomicUsize::new(0));
        let other = tokio::spawn({
            let count = Arc::clone(&count);
            async move {
                loop {
                    count.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                }
            }
        });
        yield_now().await;
        let before = count.load(Ordering::Relaxed);
        let output = work.await;
        other.abort();
        (output, count.load(Ordering::Relaxed) - before)
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::turns, *};

    #[tokio::test]
    async fn work_yields_after_a_fixed_amount() {
        let work = async |units: usize| {
            let mut budget = WorkBudget::default();
            for _ in 0..units {
                budget.spend(1).await;
            }
        };
        let ((), none) = turns(work(UNITS_BETWEEN_YIELDS - 1)).await;
        assert_eq!(none, 0);
        let ((), some) = turns(work(10 * UNITS_BETWEEN_YIELDS)).await;
        assert!(some >= 10, "{some}");
    }

    #[tokio::test]
    async fn large_input_is_parsed_on_another_thread() {
        let thread = || std::thread::current().id();
        let here = thread();
        assert_eq!(parse(INLINE_BYTES_MAX, thread).await, here);
        assert_ne!(parse(INLINE_BYTES_MAX + 1, thread).await, here);
    }
}
