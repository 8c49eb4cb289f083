//! Counts, times and logs every request, gives it an id, and refuses it if it is not proper HTTP or is for another host.
//! Nothing that could hold a secret is recorded: only the route template of the URL, and only ids from the headers.
//!
//! All of this is one layer, and not an `async fn`, because each layer costs every request an allocation or two.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderValue, Method, Version, header},
    response::{IntoResponse, Response},
};
use futures_util::future::Either;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument, Level, Span, field::Empty, instrument::Instrumented};

use super::{
    OPERATIONS,
    hosts::{Hosts, ThroughUnixSocket},
    limits::Quotas,
    problem::{Code, Problem},
    strict,
    trace_context::{REQUEST_ID, RequestId, caller_trace},
};
use crate::metrics::{Metrics, Pending};

/// Stands for all unknown paths and methods.
const OTHER: &str = "other";

/// What the layer works with.
pub struct Observer {
    pub metrics: Arc<Metrics>,
    pub quotas: Arc<Quotas>,
    pub hosts: Hosts,
}

/// Passes on requests that are proper HTTP and for this host.
struct Gate {
    observer: Observer,
    /// The host of the first request that named one and was passed on: nearly all others name the same.
    usual_host: OnceLock<HeaderValue>,
}

/// The layer.
#[derive(Clone)]
pub struct Observe(Arc<Gate>);

impl Observe {
    pub fn new(observer: Observer) -> Self {
        Self(Arc::new(Gate {
            observer,
            usual_host: OnceLock::new(),
        }))
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            gate: Arc::clone(&self.0),
            inner,
        }
    }
}

#[derive(Clone)]
pub struct Observed<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S: Service<Request, Response = Response>> Service<Request> for Observed<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<Either<S::Future, Ready<Result<Response, S::Error>>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let route = route(&request);
        let method = method(request.method());
        let pending = Pending::begin(Arc::clone(&self.gate.observer.metrics), route, method);
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
        let answer = match self.gate.admit(request) {
            Ok(request) => Either::Left(span.in_scope(|| self.inner.call(request))),
            Err(response) => Either::Right(ready(Ok(*response))),
        };
        Answering {
            answer: answer.instrument(span),
            pending: Some((pending, id)),
        }
    }
}

pin_project! {
    /// A request whose response has not begun.
    pub struct Answering<F> {
        #[pin]
        answer: Instrumented<F>,
        // Until there is a response.
        pending: Option<(Pending, RequestId)>,
    }
}

impl<E, F: Future<Output = Result<Response, E>>> Future for Answering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let mut answer = ready!(this.answer.as_mut().poll(context));
        if let (Ok(response), Some((pending, id))) = (&mut answer, this.pending.take()) {
            answered(response, this.answer.span(), pending, id);
        }
        Poll::Ready(answer)
    }
}

/// Notes the response to a request, and completes its headers.
fn answered(response: &mut Response, span: &Span, mut pending: Pending, id: RequestId) {
    let status = response.status();
    let code = response.extensions().get::<Code>();
    pending.answered(status.as_u16(), code.map(|code| code.name()));
    // A span that is exported keeps its status; for lines of the log, it matters only if there is one.
    if status.is_server_error() || cfg!(feature = "otlp") || tracing::enabled!(Level::DEBUG) {
        span.record("status", status.as_u16());
        let duration_ms = pending.begun().elapsed().as_micros() as f64 / 1e3;
        let _entered = span.enter();
        match status.is_server_error() {
            true => tracing::info!(duration_ms, "request failed"),
            false => tracing::debug!(duration_ms, "request completed"),
        }
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.into_header());
    // No browser guesses the type of an answer, whatever data is in it.
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
}

impl Gate {
    /// Passes the request on, unless it is not proper HTTP or is for another host.
    fn admit(&self, request: Request) -> Result<Request, Box<Response>> {
        let host = only_host(&request);
        if host.is_some() && host == self.usual_host.get() {
            return Ok(request);
        }
        let observer = &self.observer;
        if let Err(problem) = strict::check(&request) {
            let version = request.version();
            let mut response = observer.refuse(request, problem);
            // Where the next request of an HTTP/1 connection begins is in doubt.
            if version < Version::HTTP_2 {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            return Err(Box::new(response));
        }
        match observer.hosts.check(&request) {
            Ok(()) => {
                if let Some(host) = host {
                    self.usual_host.get_or_init(|| host.clone());
                }
                Ok(request)
            }
            Err(problem) => Err(Box::new(observer.refuse(request, problem))),
        }
    }
}

/// The `Host` of a request, if the checks look at nothing else.
fn only_host(request: &Request) -> Option<&HeaderValue> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let is_plain = request.uri().authority().is_none()
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && request.extensions().get::<ThroughUnixSocket>().is_none();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_plain => Some(host),
        _ => None,
    }
}

impl Observer {
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
