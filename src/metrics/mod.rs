//! What a node counts of itself, for `GET /metrics`.
//!
//! Each node has its own [`Metrics`], handed to what it counts; there is no registry of the process. Whatever is counted
//! on the append and delivery paths is an atomic of its own, found when the node starts and not looked up by labels.
//! Labels are of fixed sets: no text of a client's becomes one.

mod appends;
mod http;
mod live;
mod tail;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

pub use self::{
    appends::{Appends, TransientLoss},
    http::{Http, Pending},
    live::{Live, StreamEnd},
    tail::Tail,
};

/// In s: from a commit on a fast disk to a long poll's 60.
const LATENCIES: [f64; 17] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0,
    60.0,
];

/// One label and its value.
type Label = [(&'static str, &'static str); 1];

#[derive(Debug, Default)]
pub struct Metrics {
    pub appends: Appends,
    pub live: Live,
    pub tail: Tail,
    pub twins: TwinsHidden,
    pub http: Http,
}

impl Metrics {
    /// Everything that is counted as it happens.
    pub fn register(&self, registry: &mut Registry) {
        self.appends.register(registry);
        self.live.register(registry);
        self.tail.register(registry);
        self.twins.register(registry);
        self.http.register(registry);
    }
}

/// Twins that readers left out. A reader that comes upon one again counts it again.
#[derive(Debug, Clone)]
pub struct TwinsHidden {
    family: Family<Label, Counter>,
    pub page: Counter,
    pub unread: Counter,
    pub live: Counter,
}

impl Default for TwinsHidden {
    fn default() -> Self {
        let family = Family::default();
        let of = |reader| labelled(&family, "reader", reader);
        Self {
            page: of("page"),
            unread: of("unread"),
            live: of("live"),
            family,
        }
    }
}

impl TwinsHidden {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "twins_hidden",
            "Second commits of an event id that a reader came upon and left out, by what it read",
            self.family.clone(),
        );
    }
}

/// One in a gauge, while it lives.
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

/// The member of `family` with this label, made at once so that it is exposed before it first counts.
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
