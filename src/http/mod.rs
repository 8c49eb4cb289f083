//! HTTP and JSON, and nobody else knows of them: routes, wire forms, status codes, SSE frames.

mod accept;
pub mod access;
mod admin;
mod body;
pub mod caller;
mod chunks;
mod connection;
pub mod cors;
mod credentials;
pub mod docs;
mod event_stream;
mod events;
mod exposition;
mod feeds;
mod frames;
mod health;
mod hijack;
pub mod limits;
mod observe;
pub mod problem;
pub mod proxies;
mod query;
mod render;
mod session;
mod sse;
mod trace_context;
pub mod web;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRef, Request},
    http::header,
    middleware::{from_fn_with_state, map_request},
    response::IntoResponse,
    routing::{MethodRouter, get, post, put},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    accept::{Acceptor, CONNECTIONS_MAX, listen},
    health::Tasks,
    trace_context::REQUEST_ID_BYTES_MAX,
};
use self::{
    cors::Cors,
    limits::Callers,
    problem::{Code, Problem},
};
use crate::{
    append::Appender,
    auth::Auth,
    clock::AtClock,
    feed::Feeds,
    live::Hub,
    logging::LogControl,
    metrics::Metrics,
    store::{Store, keys::Keys},
    types::{Delivery, Kind},
};

/// Transients on their way to the store; one more is answered 503.
const TRANSIENTS_IN_FLIGHT_MAX: usize = 1024;

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    /// `None`: there are no keys, and everybody may do everything.
    pub auth: Option<Arc<Auth>>,
    pub store: Arc<dyn Store>,
    pub keys: Keys,
    pub clock: Arc<AtClock>,
    pub appender: Appender,
    pub feeds: Feeds,
    pub hub: Arc<Hub>,
    pub deliveries: Arc<Deliveries>,
    pub transients: Arc<Semaphore>,
    pub callers: Arc<Callers>,
    pub cors: Cors,
    /// Work that outlives its request; the shutdown waits for it.
    pub tracker: TaskTracker,
    /// The node is not ready any more, but serves.
    pub leaving: CancellationToken,
    /// What has no end ends.
    pub stopping: CancellationToken,
    pub metrics: Arc<Metrics>,
    /// What must run for the node to be healthy.
    pub tasks: Tasks,
    /// A node whose live delivery is further behind is not ready.
    pub ready_lag_max: Duration,
    /// The filter of the process's log, if it can be changed.
    pub log: Option<LogControl>,
}

impl App {
    /// The bound on transients under way.
    pub fn transient_permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(TRANSIENTS_IN_FLIGHT_MAX))
    }
}

/// Handlers share one `App`; those that keep it may have their own.
impl FromRef<Arc<App>> for App {
    fn from_ref(app: &Arc<App>) -> Self {
        Self::clone(app)
    }
}

/// What each kind does; kinds that are not named are [`Delivery::Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliveries(HashMap<Kind, Delivery>);

impl Deliveries {
    pub fn new(kinds: impl IntoIterator<Item = (Kind, Delivery)>) -> Self {
        Self(kinds.into_iter().collect())
    }

    pub fn of(&self, kind: &Kind) -> Delivery {
        self.0.get(kind).copied().unwrap_or(Delivery::Entry)
    }
}

/// Every path and the methods it has; `openapi.yaml` describes the same (a test holds them against each other).
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/events", &["post"]),
    ("/v1/transient", &["post"]),
    ("/v1/entries", &["get"]),
    ("/v1/live", &["get"]),
    ("/v1/feeds/{feed}", &["get"]),
    ("/v1/feeds/{feed}/entries", &["get"]),
    ("/v1/feeds/{feed}/live", &["get"]),
    ("/v1/feeds/{feed}/markers/{marker}", &["put"]),
    ("/v1/tickets", &["post"]),
    ("/v1/session", &["post", "delete"]),
    ("/v1/admin/log", &["get", "put"]),
    ("/metrics", &["get"]),
    ("/healthz", &["get"]),
    ("/readyz", &["get"]),
    ("/openapi.yaml", &["get"]),
];

fn handler(path: &str) -> MethodRouter<Arc<App>> {
    match path {
        "/v1/events" => post(events::append),
        "/v1/transient" => post(events::transient),
        "/v1/entries" => get(feeds::merged),
        "/v1/live" => get(sse::merged),
        "/v1/feeds/{feed}" => get(feeds::head),
        "/v1/feeds/{feed}/entries" => get(feeds::entries),
        "/v1/feeds/{feed}/live" => get(sse::live),
        "/v1/feeds/{feed}/markers/{marker}" => put(feeds::move_marker),
        "/v1/tickets" => post(session::ticket),
        "/v1/session" => post(session::log_in).delete(session::log_out),
        "/v1/admin/log" => get(admin::log).put(admin::set_log),
        "/metrics" => get(exposition::metrics),
        "/healthz" => get(health::healthz),
        "/readyz" => get(health::readyz),
        "/openapi.yaml" => get(openapi),
        other => unreachable!("{other} is in ROUTES without a handler"),
    }
}

/// What a request passes, from without: observation, CORS, the care for its body, credentials, limits, its handler.
pub fn router(app: App) -> Router {
    let observed = from_fn_with_state(Arc::clone(&app.metrics), observe::observe);
    let (callers, cors) = (Arc::clone(&app.callers), app.cors.layer());
    let router = ROUTES.iter().fold(Router::new(), |router, (path, _)| {
        router.route(path, handler(path))
    });
    // From here on each layer is outside those before it.
    let mut router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&callers), limits::admit));
    if let Some(auth) = &app.auth {
        let state = (Arc::clone(auth), Arc::clone(&app.callers));
        router = router.layer(from_fn_with_state(state, access::guard));
    }
    // The page and the documentation need no credentials.
    let page = web::routes()
        .merge(docs::routes())
        .layer(from_fn_with_state(callers, limits::admit));
    let router = router
        .merge(page)
        .layer(map_request(async |request: Request| {
            request.map(body::lingering)
        }));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(observed).with_state(Arc::new(app))
}

async fn not_found() -> Problem {
    Problem::new(
        Code::NotFound,
        "there is nothing at this path; GET /openapi.yaml describes what there is",
    )
}

async fn method_not_allowed(request: Request) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!(
            "{} is not among this path's methods; see the Allow header",
            request.method()
        ),
    )
}

async fn openapi() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/yaml")],
        include_str!("../../openapi.yaml"),
    )
}
