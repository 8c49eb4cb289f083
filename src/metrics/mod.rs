//! Metrics of a node, for `GET /metrics`.
//!
//! Each node has its own [`Metrics`]; there is no global registry. On the append and delivery paths every counter is an
//! atomic that is created when the node starts, without a lookup by labels. Values of labels come from fixed sets: text
//! from clients never becomes a label.

mod appends;
mod http;
mod lifecycle;
mod limits;
mod live;
mod pages;
mod projections;
mod retention;
mod tail;
mod unread;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

pub use self::{
    appends::{Appends, TransientLoss},
    http::{Http, Pending},
    lifecycle::Lifecycle,
    limits::Limits,
    live::{Live, StreamEnd},
    pages::FirstPages,
    projections::{ProjectionLag, Projections},
    retention::Retention,
    tail::Tail,
    unread::UnreadCounts,
};

/// Bucket bounds in s: from a commit on a fast disk up to the 60 s of a long poll.
const LATENCIES: [f64; 17] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0,
    60.0,
];

/// A label and its value.
type Label = [(&'static str, &'static str); 1];

#[derive(Debug, Default)]
pub struct Metrics {
    pub appends: Appends,
    pub live: Live,
    pub tail: Tail,
    pub lifecycle: Lifecycle,
    pub projections: Projections,
    pub retention: Retention,
    pub twins: TwinsHidden,
    pub unread: UnreadCounts,
    pub pages: FirstPages,
    pub http: Http,
    pub limits: Limits,
}

impl Metrics {
    /// Registers all metrics of this node.
    pub fn register(&self, registry: &mut Registry) {
        self.appends.register(registry);
        self.live.register(registry);
        self.tail.register(registry);
        self.lifecycle.register(registry);
        self.projections.register(registry);
        self.retention.register(registry);
        self.twins.register(registry);
        self.unread.register(registry);
        self.pages.register(registry);
        self.http.register(registry);
        self.limits.register(registry);
    }
}

/// Twins that readers left out. Reading a twin again counts it again.
#[derive(Debug, Clone)]
pub struct TwinsHidden {
    family: Family<Label, Counter>,
    pub page: Counter,
    pub unread: Counter,
    pub live: Counter,
    pub log: Counter,
}

impl Default for TwinsHidden {
    fn default() -> Self {
        let family = Family::default();
        let of = |reader| labelled(&family, "reader", reader);
        Self {
            page: of("page"),
            unread: of("unread"),
            live: of("live"),
            log: of("log"),
            family,
        }
    }
}

impl TwinsHidden {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "twins_hidden",
            "Twins (second commits of an event id) that readers found and left out, by kind of read",
            self.family.clone(),
        );
    }
}

/// Counts one in a gauge while it exists.
#[derive(Debug)]
pub struct Held(Gauge);

impl Held {
    pub fn by(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The member of `family` with this label, created now, so that it is exposed before it is first incremented.
fn labelled<M: Clone + Default>(
    family: &Family<Label, M>,
    name: &'static str,
    value: &'static str,
) -> M {
    family.get_or_create_owned(&[(name, value)])
}

fn seconds(registry: &mut Registry, name: &str, help: &str, histogram: &Histogram) {
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
}
