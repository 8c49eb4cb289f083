//! A timeout for operations that are started thousands of times a second. It reuses one timer, and resets it only when
//! it fires, which is rare, rather than for each operation.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

pub struct Timeout {
    limit: Duration,
    /// Fires when the current operation must end, or before.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Timeout {
    pub fn new(limit: Duration) -> Self {
        let timer = None;
        Self { limit, timer }
    }

    /// Waits for `work`. Fails with [`io::ErrorKind::TimedOut`] if it takes longer than the limit.
    pub async fn wait<T>(&mut self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let until = Instant::now() + self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(self.limit)));
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            while timer.as_mut().poll(context).is_ready() {
                if until <= Instant::now() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                timer.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limit_applies_to_each_operation() {
        let mut timeout = Timeout::new(Duration::from_secs(10));
        let began = Instant::now();
        let work = |seconds| async move {
            sleep(Duration::from_secs(seconds)).await;
            Ok(seconds)
        };
        for seconds in [1, 9, 9] {
            let done = timeout.wait(work(seconds)).await;
            assert_eq!(done.expect("in time"), seconds);
        }
        let late = timeout.wait(work(3_600)).await.expect_err("too late");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Duration::from_secs(19 + 10));
        assert_eq!(timeout.wait(work(9)).await.expect("in time"), 9);
    }
}
