//! Metrics of limits.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Exceeded = [(&'static str, &'static str); 2];

#[derive(Debug, Default)]
pub struct Limits {
    exceeded: Family<Exceeded, Counter>,
    /// Memory in use. The limits themselves count with these gauges.
    pub answer_bytes: Gauge,
    pub body_bytes: Gauge,
}

impl Limits {
    /// Counts a refusal or a wait. `of` is whose limit it is.
    pub fn exceeded(&self, limit: &'static str, of: &'static str) {
        let labels = [("limit", limit), ("of", of)];
        self.exceeded.get_or_create(&labels).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "limits_exceeded",
            "Requests and connections that were refused or slowed down because of a limit (requests, bytes, events, stored_bytes, streams, connections, http2_requests, answer_bytes, body_bytes) of a caller, an IPv6 network or the node",
            self.exceeded.clone(),
        );
        registry.register(
            "answer_bytes",
            "Memory of answers that are being made or that their clients have not read",
            self.answer_bytes.clone(),
        );
        registry.register(
            "body_bytes",
            "Memory of request bodies that have arrived in part or are being processed, apart from small ones",
            self.body_bytes.clone(),
        );
    }
}
