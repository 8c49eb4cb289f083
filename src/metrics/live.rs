//! Metrics of live delivery: subscribers, streams and connections.

use std::sync::Arc;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Held, Label, Metrics, labelled};

#[derive(Debug)]
pub struct Live {
    /// Subscribers that have gone back to reading pages and have not caught up yet.
    pub lagging: Gauge,
    pub overflows: Counter,
    pub long_polls: Gauge,
    /// Answers of lines of the log that have an end.
    pub log_exports: Gauge,
    pub streams: Gauge,
    streams_ended: Family<Label, Counter>,
    /// Open connections, by protocol.
    pub http1: Gauge,
    pub http2: Gauge,
    connections: Family<Label, Gauge>,
}

impl Default for Live {
    fn default() -> Self {
        let connections = Family::default();
        let streams_ended = Family::default();
        let _ = labelled::<Counter>(&streams_ended, "reason", StreamEnd::GONE);
        Self {
            lagging: Gauge::default(),
            overflows: Counter::default(),
            long_polls: Gauge::default(),
            log_exports: Gauge::default(),
            streams: Gauge::default(),
            streams_ended,
            http1: labelled(&connections, "protocol", "http1"),
            http2: labelled(&connections, "protocol", "http2"),
            connections,
        }
    }
}

impl Live {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "live_lagging_subscribers",
            "Subscribers whose queue overflowed and who have not caught up yet by reading pages",
            self.lagging.clone(),
        );
        registry.register(
            "live_queue_overflows",
            "How often the queue of a subscriber overflowed and was dropped; the subscriber then catches up by reading pages",
            self.overflows.clone(),
        );
        registry.register(
            "long_polls",
            "Long polls that are waiting",
            self.long_polls.clone(),
        );
        registry.register(
            "log_exports",
            "Open NDJSON answers of the log that end at a version; those with follow=true count as streams",
            self.log_exports.clone(),
        );
        registry.register("live_streams", "Open streams", self.streams.clone());
        registry.register(
            "live_streams_ended",
            "Streams that ended, by the reason in their bye event; gone means that the client disconnected or was cut off",
            self.streams_ended.clone(),
        );
        registry.register(
            "connections",
            "Open connections that have sent a request, by protocol; an HTTP/1.1 stream counts as one",
            self.connections.clone(),
        );
    }
}

/// Counts a stream from its beginning to its end, however it ends.
pub struct StreamEnd {
    metrics: Arc<Metrics>,
    _open: Held,
    reason: &'static str,
    stream: u64,
}

impl StreamEnd {
    const GONE: &str = "gone";

    /// `stream` identifies the stream in the log.
    pub fn of(metrics: &Arc<Metrics>, stream: u64) -> Self {
        Self {
            _open: Held::by(&metrics.live.streams),
            metrics: Arc::clone(metrics),
            reason: Self::GONE,
            stream,
        }
    }

    pub fn because(&mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        let ended = &self.metrics.live.streams_ended;
        ended.get_or_create(&[("reason", self.reason)]).inc();
        tracing::debug!(stream = self.stream, reason = self.reason, "a stream ended");
    }
}
