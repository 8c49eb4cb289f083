//! Metrics of edits and erasures.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Default)]
pub struct Lifecycle {
    /// Events that this node has edited.
    pub edited: Counter,
    /// Events that this node has erased.
    pub erased: Counter,
    /// Erasures in the store that are under way, when this node looked last.
    pub erasures_open: Gauge,
}

impl Lifecycle {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "events_edited",
            "Events that this node has edited",
            self.edited.clone(),
        );
        registry.register(
            "events_erased",
            "Events that this node has erased",
            self.erased.clone(),
        );
        registry.register(
            "erasures_open",
            "Erasures in the store that have not ended",
            self.erasures_open.clone(),
        );
    }
}
