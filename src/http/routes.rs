//! The route table: every operation of the API with what it needs, and the router built from it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    http::{Method, header},
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::{MethodFilter, MethodRouter, on},
};
use bytes::Bytes;

use super::{
    App, access, admin, backup,
    base_path::{self, BasePath},
    body::{
        BACKUP_BODY_BYTES_MAX, BODY_BYTES_MAX, EDIT_BODY_BYTES_MAX, ERASURE_BODY_BYTES_MAX,
        SMALL_BODY_BYTES_MAX, STATES_BODY_BYTES_MAX, TICKET_BODY_BYTES_MAX,
        TRANSIENT_BODY_BYTES_MAX,
    },
    cors::{self, Cors},
    credentials::cookie_name,
    docs, erasures, events, exposition, feeds, health,
    hosts::Hosts,
    limits::{Enforce, Quotas},
    log,
    not_found::not_found,
    observe::{Observe, Observer},
    problem::{Code, Problem},
    readers, session, sse, versions, web,
};
use crate::auth::Scope;

/// What an operation requires of a request, on a service with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Nothing. Credentials are ignored.
    Open,
    /// A valid token, whatever its scopes.
    Token,
    /// A valid token with this scope.
    Scope(Scope),
    /// A valid token with one of these scopes. The first grants least, and refusals name it.
    OneOf(&'static [Scope]),
    /// A valid token with scope `read`, or a ticket, which grants that scope for the feeds it names.
    ReadOrTicket,
}

impl Right {
    /// The scopes of which a token needs one; none if it needs no scope.
    pub const fn scopes(&self) -> &[Scope] {
        match self {
            Self::Open | Self::Token => &[],
            Self::Scope(scope) => std::slice::from_ref(scope),
            Self::OneOf(scopes) => scopes,
            Self::ReadOrTicket => &[Scope::Read],
        }
    }

    pub const fn accepts_tickets(self) -> bool {
        matches!(self, Self::ReadOrTicket)
    }
}

/// One method of one path.
pub struct Operation {
    pub method: Method,
    /// The path template, as in `openapi.yaml`.
    pub path: &'static str,
    pub right: Right,
    /// Longest JSON body that the operation reads, in bytes; 0 if it reads none.
    pub body_bytes_max: usize,
    handler: fn(MethodFilter) -> MethodRouter<Arc<App>>,
}

macro_rules! operations {
    ($($method:ident $path:literal $right:expr $(, reads $body:expr)? => $handler:path,)+) => {
        &[$(Operation {
            method: Method::$method,
            path: $path,
            right: $right,
            body_bytes_max: 0 $(+ $body)?,
            handler: |method| on(method, $handler),
        },)+]
    };
}

/// Every operation of the API, with the longest JSON body that it `reads`, if it reads any. `openapi.yaml` describes the
/// same ones (a test compares them). `HEAD` comes with `GET`. The files of the web page are not operations: [`web`] serves them, without credentials.
pub static OPERATIONS: &[Operation] = operations![
    POST   "/v1/events"                          Right::Scope(Scope::Append), reads BODY_BYTES_MAX => events::append,
    GET    "/v1/events"                          Right::Scope(Scope::Read)   => events::by_query,
    GET    "/v1/events/{id}"                     Right::Scope(Scope::Read)   => events::by_path,
    PATCH  "/v1/events"                          Right::Scope(Scope::Change), reads EDIT_BODY_BYTES_MAX => events::edit_by_query,
    DELETE "/v1/events"                          Right::Scope(Scope::Change) => events::erase_by_query,
    PATCH  "/v1/events/{id}"                     Right::Scope(Scope::Change), reads EDIT_BODY_BYTES_MAX => events::edit_by_path,
    DELETE "/v1/events/{id}"                     Right::Scope(Scope::Change) => events::erase_by_path,
    POST   "/v1/erasures"                        Right::Scope(Scope::Change), reads ERASURE_BODY_BYTES_MAX => erasures::begin,
    GET    "/v1/erasures/{id}"                   Right::Scope(Scope::Change) => erasures::state,
    POST   "/v1/transient"                       Right::Scope(Scope::Append), reads TRANSIENT_BODY_BYTES_MAX => events::transient,
    GET    "/v1/entries"                         Right::Scope(Scope::Read)   => feeds::merged,
    GET    "/v1/live"                            Right::ReadOrTicket         => sse::merged,
    GET    "/v1/log"                             Right::Scope(Scope::Export) => log::log,
    GET    "/v1/log/live"                        Right::Scope(Scope::Export) => sse::log,
    GET    "/v1/state"                           Right::Scope(Scope::Read)   => feeds::state_by_query,
    GET    "/v1/state/live"                      Right::ReadOrTicket         => sse::states,
    POST   "/v1/state/live"                      Right::Scope(Scope::Read), reads STATES_BODY_BYTES_MAX => sse::states_by_body,
    GET    "/v1/readers"                         Right::Scope(Scope::Read)   => readers::readers_by_query,
    PUT    "/v1/entries/{version}/state"         Right::Scope(Scope::Mark), reads SMALL_BODY_BYTES_MAX => readers::set_state_by_query,
    GET    "/v1/versions"                        Right::Token                => versions::at,
    PUT    "/v1/markers/{marker}"                Right::Scope(Scope::Mark), reads SMALL_BODY_BYTES_MAX => readers::move_marker_by_query,
    GET    "/v1/feeds"                           Right::Scope(Scope::Read)   => feeds::states,
    POST   "/v1/feeds"                           Right::Scope(Scope::Read), reads STATES_BODY_BYTES_MAX => feeds::states_by_body,
    GET    "/v1/feeds/{feed}"                    Right::Scope(Scope::Read)   => feeds::state,
    GET    "/v1/feeds/{feed}/entries"            Right::Scope(Scope::Read)   => feeds::entries,
    GET    "/v1/feeds/{feed}/live"               Right::ReadOrTicket         => sse::live,
    PUT    "/v1/feeds/{feed}/markers/{marker}"   Right::Scope(Scope::Mark), reads SMALL_BODY_BYTES_MAX => readers::move_marker,
    PUT    "/v1/feeds/{feed}/entries/{version}/state" Right::Scope(Scope::Mark), reads SMALL_BODY_BYTES_MAX => readers::set_state,
    GET    "/v1/feeds/{feed}/readers"            Right::Scope(Scope::Read)   => readers::readers,
    POST   "/v1/tickets"                         Right::Scope(Scope::Read), reads TICKET_BODY_BYTES_MAX => session::ticket,
    POST   "/v1/session"                         Right::Token, reads SMALL_BODY_BYTES_MAX => session::log_in,
    // Open: logging out must work with an expired token.
    DELETE "/v1/session"                         Right::Open                 => session::log_out,
    GET    "/v1/admin/log"                       Right::Scope(Scope::Admin)  => admin::log,
    PUT    "/v1/admin/log"                       Right::Scope(Scope::Admin), reads SMALL_BODY_BYTES_MAX => admin::set_log,
    POST   "/v1/admin/backup"                    Right::Scope(Scope::Admin), reads BACKUP_BODY_BYTES_MAX => backup::backup,
    GET    "/metrics"                            Right::OneOf(&[Scope::Metrics, Scope::Admin]) => exposition::metrics,
    GET    "/healthz"                            Right::Open                 => health::healthz,
    GET    "/readyz"                             Right::Open                 => health::readyz,
    GET    "/openapi.yaml"                       Right::Open                 => openapi,
];

/// The settings of the layers between the sockets and the handlers.
#[derive(Clone)]
pub struct Edge {
    pub quotas: Arc<Quotas>,
    pub cors: Cors,
    pub hosts: Hosts,
}

/// The router. A request passes through these layers in order: observation with the checks that it is proper HTTP and for
/// this host, CORS, credentials, quotas. Then its handler runs. Each layer that refuses a request counts it against its caller.
pub fn router(app: App, edge: &Edge) -> Router {
    let metered = |body_bytes_max| Enforce {
        quotas: Arc::clone(&edge.quotas),
        body_bytes_max,
    };
    let mut api = Router::new();
    for operation in OPERATIONS {
        let method = MethodFilter::try_from(operation.method.clone());
        let handler = (operation.handler)(method.expect("only standard methods are in the table"));
        // Each layer is outside the one before it.
        let mut handler = handler.route_layer(metered(operation.body_bytes_max));
        if let (Some(auth), false) = (&app.auth, operation.right == Right::Open) {
            let guard = access::Guard {
                auth: Arc::clone(auth),
                quotas: Arc::clone(&edge.quotas),
                right: operation.right,
                cookie: cookie_name(auth.secure_cookies, &app.base_path),
            };
            handler = handler.route_layer(from_fn_with_state(guard, access::guard));
        }
        api = api.route(operation.path, handler);
    }
    let router = api
        .method_not_allowed_fallback(method_not_allowed.layer(metered(0)))
        .merge(
            web::routes(&app.base_path)
                .merge(docs::routes(&app.base_path))
                .layer(metered(0)),
        )
        .fallback(not_found.layer(metered(0)));
    let router = match edge.cors.layer() {
        // The CORS layer answers preflight requests itself, so nothing behind it counts them.
        Some(cors) => router.layer(cors).layer(from_fn_with_state(
            Arc::clone(&edge.quotas),
            cors::count_preflights,
        )),
        None => router,
    };
    let observed = Observe::new(Observer {
        metrics: Arc::clone(&app.metrics),
        quotas: Arc::clone(&edge.quotas),
        hosts: edge.hosts.clone(),
    });
    let base_path = app.base_path.clone();
    let router = router.layer(observed).with_state(Arc::new(app));
    if base_path == BasePath::default() {
        return router;
    }
    // A layer of the inner router would run after routing.
    let strip = from_fn_with_state(base_path, base_path::strip);
    Router::new().fallback_service(router).layer(strip)
}

pub async fn method_not_allowed(request: Request) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!(
            "this path does not support {}; the Allow header lists its methods",
            request.method()
        ),
    )
}

async fn openapi(State(app): State<Arc<App>>) -> impl IntoResponse {
    let text = app.openapi.clone();
    ([(header::CONTENT_TYPE, "application/yaml")], text)
}

/// `openapi.yaml` of a service that is published under `base`. Made once, because all answers share it.
pub fn openapi_under(base: &BasePath) -> Bytes {
    const TEXT: &str = include_str!("../../openapi.yaml");
    match base.as_str() {
        "" => Bytes::from_static(TEXT.as_bytes()),
        base => TEXT.replace(THIS_SERVER, &format!("url: {base}, ")).into(),
    }
}

/// In `openapi.yaml`, the URL of the service that serves it.
const THIS_SERVER: &str = "url: /, ";
