//! Metrics of the pages that a node keeps.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Label, labelled};

/// How first pages were answered, and what keeping them takes.
#[derive(Debug, Clone)]
pub struct FirstPages {
    family: Family<Label, Counter>,
    /// With the page that was kept, because the feed had not changed.
    pub cached: Counter,
    /// From the store.
    pub read: Counter,
    pub bytes: Gauge,
}

impl Default for FirstPages {
    fn default() -> Self {
        let family = Family::default();
        let of = |result| labelled(&family, "result", result);
        Self {
            cached: of("cached"),
            read: of("read"),
            family,
            bytes: Gauge::default(),
        }
    }
}

impl FirstPages {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "first_pages",
            "Pages of the newest entries of a feed, by whether the node had kept one, and the feed has not changed since",
            self.family.clone(),
        );
        registry.register_with_unit(
            "page_cache",
            "Memory of the pages that the node keeps",
            Unit::Bytes,
            self.bytes.clone(),
        );
    }
}
