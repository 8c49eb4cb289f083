//! Metrics of unread counts.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Label, labelled};

/// How unread counts were found, and what the node remembers of them; cheap to clone.
#[derive(Debug, Clone)]
pub struct UnreadCounts {
    family: Family<Label, Counter>,
    /// From what was known.
    pub cached: Counter,
    /// From the read marker.
    pub counted: Counter,
    /// Readers whose counts are remembered.
    pub readers: Gauge,
    pub bytes: Gauge,
}

impl Default for UnreadCounts {
    fn default() -> Self {
        let family = Family::default();
        let of = |result| labelled(&family, "result", result);
        Self {
            cached: of("cached"),
            counted: of("counted"),
            family,
            readers: Gauge::default(),
            bytes: Gauge::default(),
        }
    }
}

impl UnreadCounts {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "unread_reads",
            "Unread counts that were read, by whether the node went on from one that it remembered",
            self.family.clone(),
        );
        registry.register(
            "unread_cached_readers",
            "Unread counts that the node remembers, one for each feed and reader",
            self.readers.clone(),
        );
        registry.register_with_unit(
            "unread_cache",
            "Memory that these counts take",
            Unit::Bytes,
            self.bytes.clone(),
        );
    }
}
