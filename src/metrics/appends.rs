//! Metrics of the append path.

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
    /// Events in the append queue that are waiting for a batch.
    pub waiting: Gauge,
    transients: Counter,
    transients_lost: [Counter; 3],
    transients_dropped: Family<Label, Counter>,
}

/// Why a transient was not delivered.
#[derive(Debug, Clone, Copy)]
pub enum TransientLoss {
    /// Refused, because too many were in flight.
    Busy,
    /// The store failed to commit it.
    Store,
    /// A subscriber was behind. Counted once per subscriber.
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
            "Stored events, by outcome: newly appended or duplicate; rejected events are in appends_rejected",
            outcomes,
        );
        registry.register(
            "appends_rejected",
            "Well-formed events that were not appended, by error code",
            self.rejected.clone(),
        );
        registry.register(
            "append_batch_events",
            "Events per batch that was committed or failed",
            self.batch_events.clone(),
        );
        registry.register_with_unit(
            "append_batch_size",
            "Size of a batch that was committed or failed, in bytes of keys and values",
            Unit::Bytes,
            self.batch_bytes.clone(),
        );
        seconds(
            registry,
            "append_commit_duration",
            "Time to commit a batch, including all retries",
            &self.commit,
        );
        registry.register(
            "append_batches_in_flight",
            "Batches being committed",
            self.batches_in_flight.clone(),
        );
        registry.register(
            "append_queue_events",
            "Events in the append queue that are waiting for a batch",
            self.waiting.clone(),
        );
        registry.register(
            "transients",
            "Committed transients",
            self.transients.clone(),
        );
        registry.register(
            "transients_dropped",
            "Transients that were not delivered: refused (busy), failed to commit (store), or dropped for a subscriber that was behind (subscriber_behind)",
            self.transients_dropped.clone(),
        );
    }
}
