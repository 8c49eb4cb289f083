//! `GET /metrics`: what was counted, and what can be read off at the time.

use std::{fmt, sync::Arc};

use axum::{
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        info::Info,
    },
    registry::Registry,
};

use super::{
    App,
    problem::{Code, Problem, Result},
};
use crate::{procfs::Own, store::Figure};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Off the async runtime: it reads files of /proc, and the engine's figures may wait for the disk.
pub async fn metrics(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let encoded = tokio::task::spawn_blocking(move || encode(&app, open)).await;
    let Ok(Ok(body)) = encoded else {
        return Err(Problem::new(Code::Internal, "the metrics cannot be told"));
    };
    let media = match open {
        true => OPEN_METRICS,
        false => prometheus_text::CONTENT_TYPE,
    };
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, body).into_response())
}

fn encode(app: &App, open: bool) -> std::result::Result<String, fmt::Error> {
    let registry = registry(app);
    let mut out = String::with_capacity(32 * 1024);
    match open {
        true => text::encode(&mut out, &registry)?,
        false => prometheus_text::encode(&mut out, &registry)?,
    }
    Ok(out)
}

fn registry(app: &App) -> Registry {
    let mut all = Registry::default();
    let node = all.sub_registry_with_prefix("newsfeed");
    app.metrics.register(node);
    sample(app, node);
    retries(app, node);
    for figure in app.store.figures() {
        add(node, figure);
    }
    process(all.sub_registry_with_prefix("process"));
    all
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Figure {
    Figure {
        name,
        help,
        value,
        is_counter: false,
    }
}

fn counter(name: &'static str, help: &'static str, value: f64) -> Figure {
    Figure {
        is_counter: true,
        ..gauge(name, help, value)
    }
}

fn add(registry: &mut Registry, figure: Figure) {
    let Figure {
        name,
        help,
        value,
        is_counter,
    } = figure;
    match is_counter {
        true => registry.register(name, help, ConstCounter::new(value)),
        false => registry.register(name, help, ConstGauge::new(value)),
    }
}

fn sample(app: &App, registry: &mut Registry) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The program that runs", Info::new(version));
    for figure in [
        gauge(
            "append_queue_kibibytes",
            "KiB of events that hold a place in the append queue, those on their way to the store too",
            app.appender.queue_kib() as f64,
        ),
        gauge(
            "append_queue_oldest_seconds",
            "How long the oldest append in the queue has waited for its batch to begin",
            app.appender.queue_age().as_secs_f64(),
        ),
        gauge(
            "live_subscribers",
            "Streams and long polls in the hub",
            app.hub.subscribers() as f64,
        ),
        gauge(
            "tail_lag_seconds",
            "Since when something may be committed that live delivery has not read; 0 while it waits for commits",
            app.metrics.tail.lag().as_secs_f64(),
        ),
        gauge(
            "tail_lag_ticks",
            "How far in the store's ticks (a million a second) live delivery lies behind; 0 while it waits for commits",
            app.metrics.tail.lag_ticks() as f64,
        ),
    ] {
        add(registry, figure);
    }
}

fn retries(app: &App, registry: &mut Registry) {
    let retries = app.store.retries();
    let attempts = Family::<[(&str, &str); 1], Counter>::default();
    for (code, count) in retries.counts() {
        attempts.get_or_create(&[("code", code)]).inc_by(count);
    }
    registry.register(
        "store_retries",
        "Attempts of transactions that failed and, unless that was the last, were tried again, by the store's answer",
        attempts,
    );
    let errors = Family::<[(&str, &str); 2], Counter>::default();
    for ((operation, code), count) in retries.errors() {
        let labels = [("operation", operation.name()), ("code", code)];
        errors.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "store_errors",
        "Reads and commits that the store did not do, by what was asked of it and its answer",
        errors,
    );
}

fn process(registry: &mut Registry) {
    // Without /proc there is nothing to tell.
    let Ok(own) = Own::now() else { return };
    for figure in [
        counter(
            "cpu_seconds",
            "CPU time of the process, user and system",
            own.usage.cpu.as_secs_f64(),
        ),
        gauge(
            "resident_memory_bytes",
            "Memory of the process that is in RAM",
            own.usage.resident_bytes as f64,
        ),
        gauge(
            "open_fds",
            "Files the process has open",
            own.open_files as f64,
        ),
        gauge(
            "max_fds",
            "Files the process may have open",
            own.open_files_max as f64,
        ),
        gauge(
            "start_time_seconds",
            "When the process began, in s since 1970",
            own.began,
        ),
    ] {
        add(registry, figure);
    }
}
