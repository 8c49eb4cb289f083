//! Handshakes under way. When there are too many the oldest ends: those of honest clients take a round trip or two, and
//! those that stall are the oldest soon, so that they keep nobody out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Handshakes under way at once; each holds about 20 KiB.
pub const HANDSHAKES_MAX: usize = 4096;

#[derive(Default)]
pub struct Handshakes(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    next: u64,
    /// By age. Dropped to end one.
    ends: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Handshakes {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) -> Turn<'_> {
        let (sender, end) = oneshot::channel();
        let mut under_way = self.under_way();
        if under_way.ends.len() >= HANDSHAKES_MAX {
            under_way.ends.pop_first();
        }
        let number = under_way.next;
        under_way.next += 1;
        under_way.ends.insert(number, sender);
        Turn {
            handshakes: self,
            number,
            end,
        }
    }
}

/// A handshake's place, until it is dropped or a newer one needs it.
pub struct Turn<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    end: oneshot::Receiver<()>,
}

impl Turn<'_> {
    /// Resolves when a newer one has taken the place.
    pub async fn is_over(&mut self) {
        let _ = (&mut self.end).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.handshakes.under_way().ends.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_too_many_ends_the_oldest_that_is_still_under_way() {
        let handshakes = Handshakes::default();
        let gone = handshakes.begin();
        let mut turns: Vec<_> = (0..HANDSHAKES_MAX - 1)
            .map(|_| handshakes.begin())
            .collect();
        drop(gone);
        turns.push(handshakes.begin());
        let over = |turns: &mut [Turn<'_>]| {
            turns
                .iter_mut()
                .position(|t| t.is_over().now_or_never().is_some())
        };
        assert_eq!(over(&mut turns), None);
        turns.push(handshakes.begin());
        assert_eq!(over(&mut turns), Some(0));
        assert_eq!(over(&mut turns[1..]), None);
        drop(turns);
        assert!(handshakes.under_way().ends.is_empty());
    }
}
