//! HTTP and JSON, and nobody else knows of them: routes, wire forms, status codes, SSE frames.

mod body;
pub mod caller;
mod chunks;
mod connection;
mod events;
mod feeds;
pub mod problem;
mod query;
mod render;
mod sse;
mod takeover;
pub mod web;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRef, Request, State},
    http::header,
    middleware::map_request,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post, put},
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::connection::Protocols;
use self::problem::{Code, Problem};
use crate::{
    append::Appender,
    clock::AtClock,
    feed::Feeds,
    live::Hub,
    store::{Store, keys::Keys},
    types::{Delivery, Kind},
};

/// Transients on their way to the store; one more is answered 503.
const TRANSIENTS_IN_FLIGHT_MAX: usize = 1024;

/// The store must answer `/readyz` within this.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    pub store: Arc<dyn Store>,
    pub keys: Keys,
    pub clock: Arc<AtClock>,
    pub appender: Appender,
    pub feeds: Feeds,
    pub hub: Arc<Hub>,
    pub deliveries: Arc<Deliveries>,
    pub transients: Arc<Semaphore>,
    /// Work that outlives its request; the shutdown waits for it.
    pub tracker: TaskTracker,
    pub stopping: CancellationToken,
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

/// What each kind does; kinds that are not named are [`Delivery::Feed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliveries(HashMap<Kind, Delivery>);

impl Deliveries {
    pub fn new(kinds: impl IntoIterator<Item = (Kind, Delivery)>) -> Self {
        Self(kinds.into_iter().collect())
    }

    pub fn of(&self, kind: &Kind) -> Delivery {
        self.0.get(kind).copied().unwrap_or(Delivery::Feed)
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
        "/healthz" => get(healthz),
        "/readyz" => get(readyz),
        "/openapi.yaml" => get(openapi),
        other => unreachable!("{other} is in ROUTES without a handler"),
    }
}

pub fn router(app: App) -> Router {
    let router = ROUTES.iter().fold(Router::new(), |router, (path, _)| {
        router.route(path, handler(path))
    });
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(map_request(async |request: Request| {
            request.map(body::lingering)
        }))
        .merge(web::routes())
        .with_state(Arc::new(app))
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

/// The process runs.
async fn healthz() -> Response {
    (
        [(header::CACHE_CONTROL, "no-store")],
        Json(json!({ "status": "ok" })),
    )
        .into_response()
}

/// The process can serve: it is not stopping and its store answers.
async fn readyz(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    if app.stopping.is_cancelled() || !app.appender.is_open() {
        return Err(crate::error::Error::ShuttingDown.into());
    }
    let answers = async {
        let snapshot = app.store.snapshot().await?;
        snapshot.get(vec![app.keys.epoch()]).await
    };
    match tokio::time::timeout(READY_TIMEOUT, answers).await {
        Ok(Ok(_)) => Ok((
            [(header::CACHE_CONTROL, "no-store")],
            Json(json!({ "status": "ready" })),
        )
            .into_response()),
        Ok(Err(error)) => Err(crate::error::Error::Store(error).into()),
        Err(_elapsed) => Err(Problem::new(
            Code::StoreUnavailable,
            "the store did not answer in time",
        )),
    }
}

async fn openapi() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/yaml")],
        include_str!("../../openapi.yaml"),
    )
}
