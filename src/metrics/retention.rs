//! Metrics of retention: what this node has removed, and how far the sweep has got.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{Label, labelled};

#[derive(Debug)]
pub struct Retention {
    steps: Family<Label, Counter>,
    won: Counter,
    lost: Counter,
    entries: Counter,
    events: Counter,
    /// In µs since 1970; 0 if this node does not know.
    done_until: AtomicU64,
}

impl Default for Retention {
    fn default() -> Self {
        let steps = Family::default();
        let of = |outcome| labelled(&steps, "outcome", outcome);
        Self {
            won: of("won"),
            lost: of("lost"),
            steps,
            entries: Counter::default(),
            events: Counter::default(),
            done_until: AtomicU64::new(0),
        }
    }
}

impl Retention {
    /// This node has taken a step.
    pub fn won(&self) {
        self.won.inc();
    }

    /// Another node has taken the step first, or what it was going to remove was changed.
    pub fn lost(&self) {
        self.lost.inc();
    }

    /// Entries of feeds and events of the log were removed.
    pub fn removed(&self, entries: u64, events: u64) {
        self.entries.inc_by(entries);
        self.events.inc_by(events);
    }

    /// Everything that was due at this time, in µs since 1970, has been removed.
    pub fn done_until(&self, micros: u64) {
        self.done_until.store(micros, Ordering::Relaxed);
    }

    /// How long ago that was, in µs, if this node knows.
    pub fn backlog(&self, now: u64) -> Option<u64> {
        match self.done_until.load(Ordering::Relaxed) {
            0 => None,
            done => Some(now.saturating_sub(done)),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "retention_steps",
            "Steps of retention that this node has taken (won), or that another node or a change of an event prevented (lost)",
            self.steps.clone(),
        );
        registry.register(
            "retention_entries_removed",
            "Entries that this node has removed from feeds because of retention",
            self.entries.clone(),
        );
        registry.register(
            "retention_events_removed",
            "Events that this node has removed from the log because of retention",
            self.events.clone(),
        );
    }
}
