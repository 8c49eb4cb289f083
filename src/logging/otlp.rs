//! Export of traces to an OpenTelemetry collector, by OTLP over HTTP. A slow or unreachable collector never affects
//! requests: spans wait in a bounded queue and are sent by a separate thread; when the queue is full, spans are dropped.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState, TracerProvider},
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::TraceParent;
use crate::outbound;

/// Maximum number of spans waiting to be sent. Further spans are dropped.
const QUEUE_SPANS_MAX: usize = 4096;
/// Maximum number of spans per request to the collector.
const BATCH_SPANS_MAX: usize = 512;
/// Maximum time a span waits before it is sent.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// Timeout of requests to the collector.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stopping service tries to send the remaining spans.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Exports to `endpoint`/v1/traces, sampling this share of the traces begun here.
    pub(super) fn start(endpoint: &str, share: f64) -> Result<Self, Box<dyn Error>> {
        let endpoint = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let url: reqwest::Url = endpoint.parse().map_err(|error| {
            format!("--otlp-endpoint must be a URL such as http://localhost:4318: {error}")
        })?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(&url)?)
            .with_endpoint(url)
            .with_timeout(SEND_TIMEOUT)
            .build()?;
        let queue = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(queue)
            .build();
        let begun_here = Sampler::TraceIdRatioBased(share);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(begun_here)))
            .with_resource(Resource::builder().with_service_name("newsfeed").build())
            .build();
        Ok(Self(provider))
    }

    /// Exports the program's own spans only: spans of the exporter's connections would create further ones.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("newsfeed"))
            .with_filter(filter_fn(|meta| {
                meta.is_span() && meta.target().starts_with("newsfeed")
            }))
    }

    pub(super) async fn finish(self) {
        let provider = self.0;
        let finish = move || provider.shutdown_with_timeout(FINISH_TIMEOUT);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(finish).await {
            tracing::warn!(%error, "some spans were not sent");
        }
    }
}

/// Makes `span` a child of the caller's span, if there is one, and gives it a name. `state` is the caller's `tracestate`.
/// Returns the id of the trace; `None` if spans are not exported.
pub fn adopt(
    span: &Span,
    name: &str,
    caller: Option<TraceParent>,
    state: Option<&str>,
) -> Option<u128> {
    let parent = caller.map_or_else(Context::new, |caller| {
        let state: Option<TraceState> = state.and_then(|state| state.parse().ok());
        let flags = TraceFlags::default().with_sampled(caller.sampled);
        let context = SpanContext::new(
            TraceId::from(caller.trace_id),
            SpanId::from(caller.span_id),
            flags,
            true,
            state.unwrap_or_default(),
        );
        Context::new().with_remote_span_context(context)
    });
    // Fails only if spans are not exported.
    span.set_parent(parent).ok()?;
    span.record("otel.name", name);
    span.record("otel.kind", "server");
    let context = span.context();
    let trace_id = context.span().span_context().trace_id();
    (trace_id != TraceId::INVALID).then(|| u128::from_be_bytes(trace_id.to_bytes()))
}

/// Sends requests on the async runtime, from any thread. Logs when the collector becomes unavailable and available again.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
    away: AtomicBool,
}

impl Client {
    fn new(url: &reqwest::Url) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            http: outbound::client(url).timeout(SEND_TIMEOUT).build()?,
            runtime: tokio::runtime::Handle::try_current()?,
            away: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let send = async move {
            let answer = http.execute(request.try_into()?).await?;
            let mut whole = Response::builder().status(answer.status());
            if let Some(headers) = whole.headers_mut() {
                headers.clone_from(answer.headers());
            }
            Ok::<_, HttpError>(whole.body(answer.bytes().await?)?)
        };
        let sent = self.runtime.spawn(send).await?;
        let failure = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let was_away = self.away.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_away => {
                tracing::warn!(
                    error,
                    "the collector does not accept spans; they are dropped"
                );
            }
            None if was_away => tracing::info!("the collector accepts spans again"),
            _ => {}
        }
        sent
    }
}
