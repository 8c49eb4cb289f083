//! Metrics of the tailer: its rounds, and how far it is behind.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{metrics::histogram::Histogram, registry::Registry};
use tokio::time::Instant;

use super::{LATENCIES, seconds};
use crate::version::{TICKS_PER_SECOND, Version};

#[derive(Debug)]
pub struct Tail {
    rounds: Histogram,
    records: Histogram,
    progress: Mutex<Progress>,
}

/// A tailer that is waiting for commits has delivered everything, however long ago its last round was. While it is not
/// waiting, versions alone do not tell the lag: nothing may have been committed for an hour between T and the newest
/// moment of the store. So the lag counts from the time at which the tailer had last delivered everything.
#[derive(Debug, Clone, Copy)]
enum Progress {
    /// Everything has been delivered, or there are no subscribers.
    Waiting,
    /// Everything committed before `since` has been delivered.
    Behind { since: Instant, ticks: u64 },
}

impl Default for Tail {
    fn default() -> Self {
        let sizes = [0.0, 1.0, 2.0, 5.0, 10.0, 100.0, 1_000.0, 10_000.0, 50_000.0];
        Self {
            rounds: Histogram::new(LATENCIES),
            records: Histogram::new(sizes),
            progress: Mutex::new(Progress::Waiting),
        }
    }
}

impl Tail {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tailer has delivered everything and is waiting for commits.
    pub fn waits(&self) {
        *self.progress() = Progress::Waiting;
    }

    /// There may be something to deliver.
    pub fn wakes(&self) {
        let mut progress = self.progress();
        if matches!(*progress, Progress::Waiting) {
            let since = Instant::now();
            *progress = Progress::Behind { since, ticks: 0 };
        }
    }

    /// A round that began at `begun` has delivered everything up to `moment`: `records` records, the first of which was
    /// committed at `oldest`.
    pub fn delivered(
        &self,
        begun: Instant,
        moment: Version,
        oldest: Option<Version>,
        records: usize,
    ) {
        let ticks = oldest.map_or(0, |oldest| moment.time().saturating_sub(oldest.time()));
        *self.progress() = Progress::Behind {
            since: begun,
            ticks,
        };
        self.rounds.observe(begun.elapsed().as_secs_f64());
        self.records.observe(records as f64);
    }

    /// For how long something may have been undelivered.
    pub fn lag(&self) -> Duration {
        match *self.progress() {
            Progress::Waiting => Duration::ZERO,
            Progress::Behind { since, .. } => since.elapsed(),
        }
    }

    /// The lag in ticks of the store: how far the oldest record of the last round was below the moment of that round, or the
    /// time since then, whichever is more.
    pub fn lag_ticks(&self) -> u64 {
        match *self.progress() {
            Progress::Waiting => 0,
            Progress::Behind { since, ticks } => {
                let elapsed = since.elapsed().as_secs_f64() * TICKS_PER_SECOND as f64;
                ticks.max(elapsed as u64)
            }
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        seconds(
            registry,
            "tail_round_duration",
            "Duration of a successful round of live delivery",
            &self.rounds,
        );
        registry.register(
            "tail_round_records",
            "Records (entries, transients, moved markers) found by a round of live delivery",
            self.records.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn the_lag_counts_from_when_everything_had_been_delivered() {
        let tail = Tail::default();
        tokio::time::advance(STEP).await;
        assert_eq!((tail.lag(), tail.lag_ticks()), (Duration::ZERO, 0));

        // Idle time does not count as lag; the time since the tailer woke up does.
        tail.wakes();
        assert_eq!(tail.lag(), Duration::ZERO);
        tokio::time::advance(STEP).await;
        tail.wakes();
        assert_eq!((tail.lag(), tail.lag_ticks()), (STEP, 3_000_000));

        // A round delivers everything up to its beginning, however long it takes.
        let begun = Instant::now();
        tokio::time::advance(STEP).await;
        let version = |time| Version::new(0, time, 0);
        tail.delivered(begun, version(9_000_000), Some(version(1_000_000)), 1);
        assert_eq!((tail.lag(), tail.lag_ticks()), (STEP, 8_000_000));
        tail.waits();
        assert_eq!((tail.lag(), tail.lag_ticks()), (Duration::ZERO, 0));
    }
}
