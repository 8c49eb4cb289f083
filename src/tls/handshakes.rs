//! Bounds the number of handshakes in progress. When there are too many, the oldest is ended. Honest clients need one or two
//! round trips, so the oldest are soon those that stall, and stalling clients cannot keep others out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Handshakes in progress at once. Each takes about 20 KiB.
pub const HANDSHAKES_MAX: usize = 4096;

#[derive(Default)]
pub struct Handshakes(Mutex<InProgress>);

#[derive(Default)]
struct InProgress {
    next: u64,
    /// One sender for each handshake, oldest first. Dropping it ends the handshake.
    ends: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Handshakes {
    fn in_progress(&self) -> MutexGuard<'_, InProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a handshake, in place of the oldest if there are too many.
    pub fn begin(&self) -> Slot<'_> {
        let (sender, end) = oneshot::channel();
        let mut in_progress = self.in_progress();
        if in_progress.ends.len() >= HANDSHAKES_MAX {
            in_progress.ends.pop_first();
        }
        let number = in_progress.next;
        in_progress.next += 1;
        in_progress.ends.insert(number, sender);
        Slot {
            handshakes: self,
            number,
            end,
        }
    }
}

/// The slot of a handshake, until this is dropped or a newer handshake takes it.
pub struct Slot<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    end: oneshot::Receiver<()>,
}

impl Slot<'_> {
    /// Resolves when a newer handshake has taken the slot.
    pub async fn is_taken(&mut self) {
        let _ = (&mut self.end).await;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.handshakes.in_progress().ends.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_handshake_above_the_limit_ends_the_oldest_in_progress() {
        let handshakes = Handshakes::default();
        let finished = handshakes.begin();
        let mut slots: Vec<_> = (0..HANDSHAKES_MAX - 1)
            .map(|_| handshakes.begin())
            .collect();
        drop(finished);
        slots.push(handshakes.begin());
        let taken = |slots: &mut [Slot<'_>]| {
            slots
                .iter_mut()
                .position(|t| t.is_taken().now_or_never().is_some())
        };
        assert_eq!(taken(&mut slots), None);
        slots.push(handshakes.begin());
        assert_eq!(taken(&mut slots), Some(0));
        assert_eq!(taken(&mut slots[1..]), None);
        drop(slots);
        assert!(handshakes.in_progress().ends.is_empty());
    }
}
