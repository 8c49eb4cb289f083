//! Waiting for something that must happen.

use std::time::Duration;

/// How long a test waits before it fails: far longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Pause between two looks of [`until`].
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Awaits `future`; panics after [`PATIENCE`].
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.expect("it happens in time")
}

/// Lets `duration` pass at once, on a runtime of one thread. Otherwise the clock runs as usual: a paused one would jump
/// whenever all tasks wait, also for sockets and other threads, and so faster than these on a busy machine.
pub async fn jump(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// Calls `look` until it returns something; panics with `what` after [`PATIENCE`].
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
