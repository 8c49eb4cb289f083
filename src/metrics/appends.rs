//! The append path.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{LATENCIES, Label, labelled, seconds};

#[derive(Debug)]
pub struct Appends {
    appended: Counter,
    duplicate: Counter,
    rejected: Family<Label, Counter>,
    batch_events: Histogram,
    batch_bytes: Histogram,
    commit: Histogram,
    pub batches_in_flight: Gauge,
    /// Events admitted that wait for their batch to begin.
    pub waiting: Gauge,
    transients: Counter,
    transients_lost: [Counter; 3],
    transients_dropped: Family<Label, Counter>,
}

/// Why somebody did not hear a transient.
#[derive(Debug, Clone, Copy)]
pub enum TransientLoss {
    /// Refused, because too many were under way.
    Busy,
    /// The store did not take it.
    Store,
    /// A subscriber was behind; one for each subscriber.
    Behind,
}

impl Default for Appends {
    fn default() -> Self {
        let dropped = Family::default();
        Self {
            appended: Counter::default(),
            duplicate: Counter::default(),
            rejected: Family::default(),
            batch_events: Histogram::new([
                1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0,
            ]),
            batch_bytes: Histogram::new((0..8).map(|step| f64::from(256 << (2 * step)))),
            commit: Histogram::new(LATENCIES),
            batches_in_flight: Gauge::default(),
            waiting: Gauge::default(),
            transients: Counter::default(),
            transients_lost: ["busy", "store", "subscriber_behind"]
                .map(|reason| labelled(&dropped, "reason", reason)),
            transients_dropped: dropped,
        }
    }
}

impl Appends {
    /// Counts events that are stored: new ones and duplicates.
    pub fn note_stored(&self, appended: u64, duplicate: u64) {
        self.appended.inc_by(appended);
        self.duplicate.inc_by(duplicate);
    }

    /// Counts well-formed events that were rejected with the error code `code`.
    pub fn note_rejected(&self, code: &'static str, events: u64) {
        let label = [("code", code)];
        self.rejected.get_or_create(&label).inc_by(events);
    }

    pub fn note_batch(&self, events: usize, bytes: usize, took: Duration) {
        self.batch_events.observe(events as f64);
        self.batch_bytes.observe(bytes as f64);
        self.commit.observe(took.as_secs_f64());
    }

    pub fn note_transient(&self) {
        self.transients.inc();
    }

    pub fn note_transients_lost(&self, why: TransientLoss, count: u64) {
        self.transients_lost[why as usize].inc_by(count);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let outcomes = Family::<Label, Counter>::default();
        for (outcome, counter) in [("appended", &self.appended), ("duplicate", &self.duplicate)] {
            labelled(&outcomes, "outcome", outcome).inc_by(counter.get());
        }
        registry.register(
            "appends",
            "Events that are stored, by whether they were new; what was refused is appends_rejected",
            outcomes,
        );
        registry.register(
            "appends_rejected",
            "Well-formed events that were not appended, by code",
            self.rejected.clone(),
        );
        registry.register(
            "append_batch_events",
            "Events of a batch that was committed or given up",
            self.batch_events.clone(),
        );
        registry.register_with_unit(
            "append_batch_size",
            "Size of a batch that was committed or given up, in bytes of keys and values",
            Unit::Bytes,
            self.batch_bytes.clone(),
        );
        seconds(
            registry,
            "append_commit_duration",
            "Time of a batch in the store, with every attempt",
            &self.commit,
        );
        registry.register(
            "append_batches_in_flight",
            "Batches on their way to the store",
            self.batches_in_flight.clone(),
        );
        registry.register(
            "append_queue_events",
            "Events admitted that wait for a batch to take them",
            self.waiting.clone(),
        );
        registry.register(
            "transients",
            "Transients that the store took",
            self.transients.clone(),
        );
        registry.register(
            "transients_dropped",
            "Transients that were not heard: refused (busy), not taken (store), or missed by a subscriber that was behind",
            self.transients_dropped.clone(),
        );
    }
}
