//! Read slots: limit how many requests read concurrently. Further requests wait for a short time, and too many are
//! refused, so that an overload of reads reaches the clients and does not pile up in memory.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::error::{Error, Result};

/// Maximum number of requests that read concurrently.
pub const READS_AT_ONCE: usize = 256;
/// Maximum number of requests that wait for a read slot.
pub const READS_WAITING_MAX: usize = 8_192;
/// How long a request waits for a read slot.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct ReadSlots(Arc<Semaphores>);

struct Semaphores {
    /// For requests that wait and those that read.
    all: Semaphore,
    reading: Semaphore,
}

/// Permission to read; released when dropped.
pub struct ReadSlot<'a> {
    _reading: SemaphorePermit<'a>,
    _all: SemaphorePermit<'a>,
}

impl ReadSlots {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphores {
            all: Semaphore::new(READS_AT_ONCE + READS_WAITING_MAX),
            reading: Semaphore::new(READS_AT_ONCE),
        }))
    }

    /// Waits for a slot, first come, first served. Fails with [`Error::ReadsBusy`] if too many requests are waiting, or
    /// after [`READ_WAIT_MAX`].
    pub(super) async fn acquire(&self) -> Result<ReadSlot<'_>> {
        let all = self.0.all.try_acquire().map_err(|_| Error::ReadsBusy)?;
        // Usually a slot is free, and no timer is needed.
        let reading = match self.0.reading.try_acquire() {
            Ok(reading) => reading,
            Err(_) => match timeout(READ_WAIT_MAX, self.0.reading.acquire()).await {
                Ok(Ok(reading)) => reading,
                Ok(Err(_)) | Err(_) => return Err(Error::ReadsBusy),
            },
        };
        Ok(ReadSlot {
            _reading: reading,
            _all: all,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_read_or_wait_up_to_the_limits_and_the_next_one_is_refused() {
        let slots = ReadSlots::new();
        let readers = join_all((0..READS_AT_ONCE).map(|_| slots.acquire())).await;
        let mut readers: Vec<ReadSlot<'_>> = readers
            .into_iter()
            .map(|slot| slot.expect("a slot is free"))
            .collect();
        let mut waiting: Vec<_> = (0..READS_WAITING_MAX)
            .map(|_| Box::pin(slots.acquire()))
            .collect();
        for slot in &mut waiting {
            assert!(slot.as_mut().now_or_never().is_none(), "no slot is free");
        }
        let refused = slots.acquire().now_or_never();
        assert!(matches!(refused, Some(Err(Error::ReadsBusy))));

        readers.pop();
        let first = waiting.remove(0).await;
        readers.push(first.expect("the first in the queue gets the slot"));
        let late = join_all(waiting).await;
        assert!(
            late.iter()
                .all(|slot| matches!(slot, Err(Error::ReadsBusy)))
        );
        // Released slots can be acquired again.
        readers.clear();
        slots.acquire().await.map(drop).expect("a slot is free");
    }
}
