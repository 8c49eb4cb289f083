//! Metrics of requests, by route, method and status.

use std::{sync::Arc, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Held, LATENCIES, Metrics};

/// The template of a route, and a method; `other` stands for all unknown ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    route: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    route: &'static str,
    code: &'static str,
}

#[derive(Debug)]
pub struct Http {
    answers: Family<Answer, Counter>,
    durations: Family<Operation, Histogram>,
    problems: Family<Refusal, Counter>,
    in_flight: Gauge,
    /// Answers of which the client took no byte for too long.
    pub answers_cut: Counter,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            problems: Family::default(),
            in_flight: Gauge::default(),
            answers_cut: Counter::default(),
        }
    }
}

/// The status, taken from nginx, of a request whose client disconnected before the response.
const CLIENT_LEFT: u16 = 499;

/// A request whose response has not begun.
pub struct Pending {
    metrics: Arc<Metrics>,
    operation: Operation,
    begun: Instant,
    status: u16,
    _held: Held,
}

impl Http {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests, by route, method and status; 499 means that the client disconnected before the response",
            self.answers.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to the head of its response; includes the waiting time of long polls; for streams, the time until they begin",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "http_problems",
            "Requests that failed with a problem, by route and error code",
            self.problems.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests whose response has not begun",
            self.in_flight.clone(),
        );
        registry.register(
            "http_answers_cut",
            "Connections and HTTP/2 streams that were cut because the client took no byte of its answer for 30 s",
            self.answers_cut.clone(),
        );
    }
}

impl Pending {
    pub fn begin(metrics: Arc<Metrics>, route: &'static str, method: &'static str) -> Self {
        Self {
            operation: Operation { route, method },
            begun: Instant::now(),
            status: CLIENT_LEFT,
            _held: Held::by(&metrics.http.in_flight),
            metrics,
        }
    }

    /// Notes the status of the response and, if it is a problem, its code.
    pub fn answered(&mut self, status: u16, code: Option<&'static str>) {
        self.status = status;
        if let Some(code) = code {
            let route = self.operation.route;
            let refusal = Refusal { route, code };
            self.metrics.http.problems.get_or_create(&refusal).inc();
        }
    }

    pub fn begun(&self) -> Instant {
        self.begun
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Operation { route, method } = self.operation;
        let answer = Answer {
            route,
            method,
            status: self.status,
        };
        self.metrics.http.answers.get_or_create(&answer).inc();
        let duration = self.metrics.http.durations.get_or_create(&self.operation);
        duration.observe(self.begun.elapsed().as_secs_f64());
    }
}
