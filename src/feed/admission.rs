//! How many requests read at once: the others wait, not for long and not too many of them, so that an overload of reads
//! is told to its clients and not kept in memory.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::error::{Error, Result};

/// Requests whose reads are under way.
pub const READS_AT_ONCE: usize = 256;
/// Requests that wait for their turn to read.
pub const READS_WAITING_MAX: usize = 8_192;
/// How long they wait.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Admission(Arc<Places>);

struct Places {
    /// For those that wait and those that read.
    all: Semaphore,
    reading: Semaphore,
}

/// Leave to read; given back when dropped.
pub struct Turn<'a> {
    _reading: SemaphorePermit<'a>,
    _place: SemaphorePermit<'a>,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self(Arc::new(Places {
            all: Semaphore::new(READS_AT_ONCE + READS_WAITING_MAX),
            reading: Semaphore::new(READS_AT_ONCE),
        }))
    }

    /// Waits for a turn, first come, first served; [`Error::ReadsBusy`] if there are too many or it takes too long.
    pub(super) async fn turn(&self) -> Result<Turn<'_>> {
        let place = self.0.all.try_acquire().map_err(|_| Error::ReadsBusy)?;
        // Most of the time there is room, and no timer is needed.
        let reading = match self.0.reading.try_acquire() {
            Ok(reading) => reading,
            Err(_) => match timeout(READ_WAIT_MAX, self.0.reading.acquire()).await {
                Ok(Ok(reading)) => reading,
                Ok(Err(_)) | Err(_) => return Err(Error::ReadsBusy),
            },
        };
        Ok(Turn {
            _reading: reading,
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_read_so_many_wait_for_so_long_and_one_more_is_refused() {
        let admission = Admission::new();
        let readers = join_all((0..READS_AT_ONCE).map(|_| admission.turn())).await;
        let mut readers: Vec<Turn<'_>> = readers
            .into_iter()
            .map(|turn| turn.expect("room"))
            .collect();
        let mut waiting: Vec<_> = (0..READS_WAITING_MAX)
            .map(|_| Box::pin(admission.turn()))
            .collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "nobody has left");
        }
        let refused = admission.turn().now_or_never();
        assert!(matches!(refused, Some(Err(Error::ReadsBusy))));

        readers.pop();
        let first = waiting.remove(0).await;
        readers.push(first.expect("the first in the queue has its turn"));
        let late = join_all(waiting).await;
        assert!(
            late.iter()
                .all(|turn| matches!(turn, Err(Error::ReadsBusy)))
        );
        // Places are given back.
        readers.clear();
        admission.turn().await.map(drop).expect("room");
    }
}
