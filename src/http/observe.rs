//! Counts, times and logs every request, gives it an id, and refuses it if it is not proper HTTP or is for another host.
//! Nothing that could hold a secret is recorded: only the route template of the URL, and only ids from the headers.
//!
//! All of this is one layer, because each layer costs every request an allocation or two.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument, Span, field::Empty};

use super::{
    OPERATIONS,
    hosts::Hosts,
    limits::Quotas,
    problem::{Code, Problem},
    strict,
    trace_context::{REQUEST_ID, RequestId, caller_trace},
};
use crate::metrics::Metrics;

/// Stands for all unknown paths and methods.
const OTHER: &str = "other";

/// State of [`observe`].
pub struct Observer {
    pub metrics: Arc<Metrics>,
    pub quotas: Arc<Quotas>,
    pub hosts: Hosts,
}

pub async fn observe(
    State(observer): State<Arc<Observer>>,
    request: Request,
    next: Next,
) -> Response {
    let route = route(&request);
    let method = method(request.method());
    let mut pending = observer.metrics.http.begin(route, method);
    let id = RequestId::of(request.headers());
    let span = tracing::info_span!(
        "request",
        method,
        route,
        request_id = %id,
        trace_id = Empty,
        status = Empty,
        otel.name = Empty,
        otel.kind = Empty,
    );
    if !span.is_disabled() {
        let trace_id = begin_trace(&span, route, &request);
        span.record(
            "trace_id",
            tracing::field::display(format_args!("{trace_id:032x}")),
        );
    }
    let mut response = match observer.admit(request) {
        Ok(request) => next.run(request).instrument(span.clone()).await,
        Err(response) => *response,
    };

    let status = response.status();
    let code = response.extensions().get::<Code>();
    pending.answered(status.as_u16(), code.map(|code| code.name()));
    span.record("status", status.as_u16());
    let duration_ms = pending.begun().elapsed().as_micros() as f64 / 1e3;
    let _entered = span.enter();
    match status.is_server_error() {
        true => tracing::info!(duration_ms, "request failed"),
        false => tracing::debug!(duration_ms, "request completed"),
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.into_header());
    // No browser guesses the type of an answer, whatever data is in it.
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

impl Observer {
    /// Passes the request on, unless it is not proper HTTP or is for another host.
    fn admit(&self, request: Request) -> Result<Request, Box<Response>> {
        if let Err(problem) = strict::check(&request) {
            let version = request.version();
            let mut response = self.refuse(request, problem);
            // Where the next request of an HTTP/1 connection begins is in doubt.
            if version < Version::HTTP_2 {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            return Err(Box::new(response));
        }
        match self.hosts.check(&request) {
            Ok(()) => Ok(request),
            Err(problem) => Err(Box::new(self.refuse(request, problem))),
        }
    }

    fn refuse(&self, request: Request, problem: Problem) -> Response {
        let (parts, body) = request.into_parts();
        let problem = self.quotas.refuse(&parts.extensions, body, problem, false);
        problem.into_response()
    }
}

/// The route's template and not the path, because paths contain feed names, whose number is unlimited.
fn route(request: &Request) -> &'static str {
    let matched = request.extensions().get::<MatchedPath>();
    let known = |path: &MatchedPath| {
        let mut routes = OPERATIONS.iter().map(|operation| operation.path);
        routes.find(|route| *route == path.as_str())
    };
    matched.and_then(known).unwrap_or(OTHER)
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

/// Returns the id of the trace that `span` belongs to: the caller's trace, or a new one.
fn begin_trace(span: &Span, route: &str, request: &Request) -> u128 {
    let caller = caller_trace(request.headers());
    #[cfg(feature = "otlp")]
    {
        let name = format!("{} {route}", method(request.method()));
        let state = request.headers().get("tracestate");
        let state = state.and_then(|state| state.to_str().ok());
        let exported = crate::logging::adopt(span, &name, caller, state);
        if let Some(trace_id) = exported {
            return trace_id;
        }
    }
    #[cfg(not(feature = "otlp"))]
    let _ = (span, route);
    caller.map_or_else(rand::random, |caller| caller.trace_id)
}
