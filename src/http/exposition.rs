//! `GET /metrics`: the node's counters, and gauges that are read for each request.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

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
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{
    App,
    limits::Limited,
    problem::{Code, Problem, Result},
};
use crate::{procfs::Own, store::Figure};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Memory that the answer is expected to need, until its size is known.
const TYPICAL_BYTES: usize = 32 * 1024;

/// Runs off the async runtime, because it reads files in /proc and the engine's figures may wait for the disk.
pub async fn metrics(State(app): State<Arc<App>>, request: Request) -> Result<Response> {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let (parts, _) = request.into_parts();
    let mut reserved = Limited::of(&parts)?.answer();
    reserved.grow(TYPICAL_BYTES)?;
    let encoded = tokio::task::spawn_blocking(move || encode(&app, open)).await;
    let Ok(Ok(body)) = encoded else {
        return Err(Problem::new(
            Code::Internal,
            "the metrics could not be collected",
        ));
    };
    let media = match open {
        true => OPEN_METRICS,
        false => prometheus_text::CONTENT_TYPE,
    };
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, reserved.hold(body.into_bytes())).into_response())
}

fn encode(app: &App, open: bool) -> std::result::Result<String, fmt::Error> {
    let registry = registry(app);
    let mut out = String::with_capacity(TYPICAL_BYTES);
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
    projection_lags(app, node);
    retention_backlog(app, node);
    store_errors(app, node);
    for figure in app.health.store().figures() {
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
    registry.register(
        "build",
        "Version of the running program",
        Info::new(version),
    );
    for figure in [
        gauge(
            "append_queue_kibibytes",
            "Size in KiB of the events in the append queue, including those being committed",
            app.appender.queue_kib() as f64,
        ),
        gauge(
            "append_queue_oldest_seconds",
            "Time that the oldest append in the queue has waited for its batch to begin",
            app.appender.queue_age().as_secs_f64(),
        ),
        gauge(
            "live_subscribers",
            "Live streams and long polls that are open",
            app.hub.subscribers() as f64,
        ),
        gauge(
            "tail_lag_seconds",
            "Time for which there may have been commits that live delivery has not read; 0 while it waits for commits",
            app.metrics.tail.lag().as_secs_f64(),
        ),
        gauge(
            "tail_lag_ticks",
            "Lag of live delivery in ticks of the store (a million per second); 0 while it waits for commits",
            app.metrics.tail.lag_ticks() as f64,
        ),
    ] {
        add(registry, figure);
    }
}

fn retention_backlog(app: &App, registry: &mut Registry) {
    let now = app.wall.micros();
    let Some(backlog) = app.metrics.retention.backlog(now) else {
        return;
    };
    let gauge: Gauge<f64, AtomicU64> = Gauge::default();
    gauge.set(Duration::from_micros(backlog).as_secs_f64());
    registry.register_with_unit(
        "retention_backlog",
        "Age of the last complete pass of retention: everything that was due before it began has been removed",
        Unit::Seconds,
        gauge,
    );
}

fn projection_lags(app: &App, registry: &mut Registry) {
    type Lags = Family<[(&'static str, &'static str); 1], Gauge<f64, AtomicU64>>;
    let [seconds, ticks, events] = [(); 3].map(|()| Lags::default());
    for (name, lag) in app.metrics.projections.lags() {
        let labels = [("projection", name)];
        let time = lag.time.as_secs_f64();
        seconds.get_or_create(&labels).set(time);
        ticks.get_or_create(&labels).set(lag.ticks as f64);
        events.get_or_create(&labels).set(lag.events as f64);
    }
    registry.register_with_unit(
        "projection_lag",
        "Time for which there may have been commits that are not projected; 0 while the projection waits for commits",
        Unit::Seconds,
        seconds,
    );
    registry.register(
        "projection_lag_ticks",
        "How far the checkpoint was behind after the last step, in ticks of the store (a million per second); 0 if everything was projected",
        ticks,
    );
    registry.register(
        "projection_lag_events",
        "Events that are not projected, counted every 15 seconds while there are some, up to 100,000",
        events,
    );
}

fn store_errors(app: &App, registry: &mut Registry) {
    let failed = app.health.store().errors();
    let attempts = Family::<[(&str, &str); 2], Counter>::default();
    for ((transaction, code), count) in failed.failed_attempts() {
        let labels = [("transaction", transaction), ("code", code)];
        attempts.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "store_retries",
        "Failed attempts of transactions, each retried unless it was the last, by what the transaction is for and error code of the store",
        attempts,
    );
    let errors = Family::<[(&str, &str); 2], Counter>::default();
    for ((operation, code), count) in failed.by_operation() {
        let labels = [("operation", operation.name()), ("code", code)];
        errors.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "store_errors",
        "Failed reads and commits, by operation and error code of the store",
        errors,
    );
}

fn process(registry: &mut Registry) {
    // Only systems with /proc have these figures.
    let Ok(own) = Own::now() else { return };
    for figure in [
        counter(
            "cpu_seconds",
            "CPU time used by the process, user and system",
            own.usage.cpu.as_secs_f64(),
        ),
        gauge(
            "resident_memory_bytes",
            "Resident memory of the process",
            own.usage.resident_bytes as f64,
        ),
        gauge("open_fds", "Open file descriptors", own.open_files as f64),
        gauge(
            "max_fds",
            "Limit of open file descriptors",
            own.open_files_max as f64,
        ),
        gauge(
            "start_time_seconds",
            "Start time of the process, in seconds since 1970",
            own.began,
        ),
    ] {
        add(registry, figure);
    }
}
