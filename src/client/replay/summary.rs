//! Counts and latencies of a replay.

use std::{
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::HumanCount;

use crate::client::wire::Outcome;

/// One hour. Higher latencies are recorded as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Progress of a replay.
pub struct Summary {
    appended: u64,
    duplicates: u64,
    erased: u64,
    rejected: u64,
    latency_us: Histogram<u64>,
    started: Instant,
}

impl Summary {
    pub fn start() -> Self {
        Self {
            appended: 0,
            duplicates: 0,
            erased: 0,
            rejected: 0,
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("3 digits are within 0 to 5, and the greatest value is at least 2"),
            started: Instant::now(),
        }
    }

    /// `latency` is the time from sending the event (with `--pace`: from when it was due) to its response.
    pub fn record(&mut self, outcome: &Outcome, latency: Duration) {
        match outcome {
            Outcome::Appended => self.appended += 1,
            Outcome::Duplicate => self.duplicates += 1,
            Outcome::Erased => self.erased += 1,
            Outcome::Rejected { .. } => self.rejected += 1,
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(micros);
    }

    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }

    fn events_per_second(&self) -> u64 {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-6);
        (self.latency_us.len() as f64 / seconds).round() as u64
    }

    /// One line of progress.
    pub fn so_far(&self) -> String {
        let events = HumanCount(self.latency_us.len());
        let rate = HumanCount(self.events_per_second());
        let p99 = self.latency_ms(0.99);
        format!("{events} events, {rate} events/s, p99 {p99:.1} ms")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.started.elapsed().as_secs_f64();
        let [p50, p99] = [0.5, 0.99].map(|quantile| self.latency_ms(quantile));
        writeln!(f, "appended    {}", self.appended)?;
        writeln!(f, "duplicates  {}", self.duplicates)?;
        if self.erased > 0 {
            writeln!(f, "erased      {}", self.erased)?;
        }
        writeln!(f, "rejected    {}", self.rejected)?;
        writeln!(f, "elapsed     {seconds:.2} s")?;
        writeln!(f, "rate        {} events/s", self.events_per_second())?;
        write!(f, "latency     p50 {p50:.1} ms, p99 {p99:.1} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_and_latencies_keep_their_size() {
        let mut summary = Summary::start();
        for _ in 0..99 {
            summary.record(&Outcome::Appended, Duration::from_millis(20));
        }
        summary.record(&Outcome::Duplicate, Duration::from_secs(1_000_000));
        assert!((summary.latency_ms(0.5) - 20.0).abs() < 0.1);
        assert!((summary.latency_ms(1.0) - 3_600_000.0).abs() < 3_600.0);
        let text = summary.to_string();
        assert!(
            text.starts_with("appended    99\nduplicates  1\nrejected    0\n"),
            "{text}"
        );
    }
}
