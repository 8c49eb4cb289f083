//! The HTTP API: routes, JSON, status codes, SSE frames. No other module of the service knows HTTP.

mod accept;
pub mod access;
mod admin;
mod backup;
pub mod base_path;
mod body;
pub mod caller;
mod chunks;
mod connection;
pub mod cors;
mod credentials;
pub mod docs;
mod erasures;
mod event_stream;
mod events;
mod exposition;
mod feeds;
mod frames;
mod health;
mod hijack;
pub mod hosts;
mod http2_answers;
pub mod limits;
mod listeners;
mod log;
mod log_lines;
mod not_found;
mod observe;
mod page_cache;
mod patience;
pub mod problem;
pub mod proxies;
mod query;
mod readers;
mod render;
mod routes;
mod session;
mod shared_socket;
mod sse;
mod strict;
mod trace_context;
mod updates;
mod versions;
pub mod web;

use std::{collections::HashMap, sync::Arc};

use axum::extract::FromRef;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::base_path::BasePath;
pub use self::{
    accept::{Acceptor, CONNECTIONS_MAX},
    health::{Health, Tasks},
    listeners::{Listener, Listeners, Place, listen, resolve},
    page_cache::{PAGE_CACHE_BYTES_MAX, PageCache},
    routes::{Edge, OPERATIONS, Operation, Right, openapi_under, router},
    trace_context::REQUEST_ID_BYTES_MAX,
};
use crate::{
    append::Appender,
    auth::Auth,
    clock::WallTime,
    feed::Feeds,
    lifecycle::Lifecycle,
    live::Hub,
    logging::LogControl,
    metrics::Metrics,
    store::Store,
    types::{Delivery, Kind},
};

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    /// `None`: the service has no keys, and every operation is open to everyone.
    pub auth: Option<Arc<Auth>>,
    /// Part of the links that responses contain.
    pub base_path: BasePath,
    /// See [`openapi_under`].
    pub openapi: Bytes,
    pub deliveries: Arc<Deliveries>,
    pub appender: Appender,
    pub feeds: Feeds,
    pub pages: Arc<PageCache>,
    pub lifecycle: Lifecycle,
    pub hub: Arc<Hub>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
    /// What a backup copies.
    pub store: Arc<dyn Store>,
    /// Held by a backup: there is one at a time.
    pub backing_up: Arc<Semaphore>,
    /// The filter of the process's log, if it can be changed.
    pub log: Option<LogControl>,
    /// The wall clock, which tells whether a time is in the future.
    pub wall: WallTime,
    /// Work that outlives its request. Shutdown waits for it.
    pub tracker: TaskTracker,
    /// Set when the node stops: requests without an end of their own (NDJSON bodies) end.
    pub stopping: CancellationToken,
}

/// Handlers share one `App`; a handler that outlives its request may clone it.
impl FromRef<Arc<App>> for App {
    fn from_ref(app: &Arc<App>) -> Self {
        Self::clone(app)
    }
}

/// The delivery of each kind. Kinds that are not listed have [`Delivery::Entry`].
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
