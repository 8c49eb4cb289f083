//! Latency histograms: over the whole run, and for each second of it.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::schedule::Schedule;

/// One hour; higher latencies count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;
pub const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99_9", 0.999),
    ("p99_99", 0.9999),
];

/// The latencies of one kind of work. A measurement belongs to the second in which the work was due, so a stall shows
/// up where it began.
pub struct Recorder {
    pub name: &'static str,
    inner: Mutex<Latencies>,
}

pub struct Latencies {
    /// Three significant digits.
    pub all: Histogram<u64>,
    /// Two significant digits, which takes a few KiB for each second of the run.
    pub seconds: Vec<Histogram<u32>>,
}

impl Recorder {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            inner: Mutex::new(Latencies::new()),
        }
    }

    pub fn record(&self, schedule: &Schedule, due: Instant, done: Instant) {
        let latency = done.saturating_duration_since(due);
        let second = due.saturating_duration_since(schedule.start_moment());
        self.record_at(second, latency);
    }

    pub fn record_at(&self, after_start: Duration, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let second = after_start.as_secs() as usize;
        let mut inner = self.latencies();
        inner.all.saturating_record(micros);
        while inner.seconds.len() <= second {
            let of_second = Histogram::new_with_max(LATENCY_US_MAX, 2);
            inner.seconds.push(of_second.expect("the bounds are valid"));
        }
        inner.seconds[second].saturating_record(micros);
    }

    pub fn latencies(&self) -> MutexGuard<'_, Latencies> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was measured, and starts again without measurements.
    pub fn take(&self) -> Latencies {
        mem::replace(&mut *self.latencies(), Latencies::new())
    }

    /// Text of the progress line.
    pub fn so_far(&self) -> String {
        let latencies = self.latencies();
        let [p50, p99] = [0.5, 0.99].map(|quantile| ms(latencies.all.value_at_quantile(quantile)));
        format!("{} p50 {p50:.1} p99 {p99:.1} ms", self.name)
    }
}

impl Latencies {
    fn new() -> Self {
        Self {
            all: Histogram::new_with_max(LATENCY_US_MAX, 3).expect("the bounds are valid"),
            seconds: Vec::new(),
        }
    }

    /// Adds the latencies of another round, second by second.
    pub fn add(&mut self, other: &Self) {
        self.all += &other.all;
        for (index, second) in other.seconds.iter().enumerate() {
            match self.seconds.get_mut(index) {
                Some(mine) => *mine += second,
                None => self.seconds.push(second.clone()),
            }
        }
    }

    pub fn json(&self) -> Value {
        let mut out = json!({
            "count": self.all.len(),
            "min_ms": ms(self.all.min()),
            "mean_ms": self.all.mean() / 1e3,
            "max_ms": ms(self.all.max()),
        });
        for (name, quantile) in QUANTILES {
            out[format!("{name}_ms")] = json!(ms(self.all.value_at_quantile(quantile)));
        }
        let seconds = self.seconds.iter().enumerate().map(|(second, latencies)| {
            let at = |quantile| ms(latencies.value_at_quantile(quantile));
            json!({
                "second": second, "count": latencies.len(),
                "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
            })
        });
        out["seconds"] = seconds.collect();
        out
    }
}

pub fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_belongs_to_the_second_it_was_due_in() {
        let recorder = Recorder::new("append");
        recorder.record_at(Duration::from_millis(999), Duration::from_secs(5));
        recorder.record_at(Duration::from_millis(2_000), Duration::from_millis(1));
        recorder.record_at(Duration::from_millis(2_001), Duration::MAX);
        let latencies = recorder.latencies();
        let counts: Vec<u64> = latencies.seconds.iter().map(Histogram::len).collect();
        assert_eq!(counts, [1, 0, 2]);
        let json = latencies.json();
        assert_eq!(json["count"], 3);
        assert_eq!(json["seconds"][2]["count"], 2);
        assert!((ms(latencies.all.min()) - 1.0).abs() < 0.01);
    }

    #[test]
    fn rounds_add_up_second_by_second() {
        let round = |seconds: &[u64]| {
            let recorder = Recorder::new("append");
            for second in seconds {
                recorder.record_at(Duration::from_secs(*second), Duration::from_millis(1));
            }
            recorder.take()
        };
        let mut all = round(&[0, 0]);
        all.add(&round(&[0, 2]));
        all.add(&round(&[]));
        let counts: Vec<u64> = all.seconds.iter().map(Histogram::len).collect();
        assert_eq!((all.all.len(), &counts[..]), (4, &[3, 0, 1][..]));
    }
}
