//! An empty store of one engine, and nodes that serve it over real sockets.

use std::{
    net::SocketAddr,
    ops::Deref,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{extract::Request, middleware::map_request};
use newsfeed::{
    append::Appender,
    clock::{AtClock, WallTime},
    config::Config,
    feed::Feeds,
    http::{App, Edge, Health, PageCache, Tasks, caller::Peer, limits::Quotas, router},
    lifecycle::Lifecycle,
    live::Hub,
    logging::{Filter, LogControl},
    metrics::Metrics,
    server::{Node, Settings},
    store::{self, Store, embedded::Embedded, keys::Keys},
    tls::Tls,
};
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Makes a test of each function, an `async fn(&Bed)`, for each engine. `in one thread:` is for functions that pause
/// Tokio's clock; they run on the embedded engine only.
#[macro_export]
macro_rules! on_every_engine {
    (in one thread: $($name:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(&$crate::support::bed::Bed::embedded()).await;
                }
            )+
        }
    };
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&$crate::support::bed::Bed::embedded()).await;
                }
            )+
        }

        #[cfg(feature = "fdb")]
        mod fdb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&$crate::support::bed::Bed::fdb()).await;
                }
            )+
        }
    };
}

/// An empty store of one engine. Nodes have the default settings unless told otherwise.
pub struct Bed {
    engine: Engine,
    pub wall: WallTime,
}

enum Engine {
    Embedded {
        folder: tempfile::TempDir,
        /// The engine allows one handle at a time: all nodes share it.
        store: Mutex<Option<Arc<dyn Store>>>,
    },
    /// A key space in a cluster. Every node has its own handle.
    #[cfg(feature = "fdb")]
    Fdb {
        cluster: Arc<crate::fdb::cluster::Cluster>,
        prefix: String,
    },
}

impl Bed {
    pub fn embedded() -> Self {
        Self::embedded_at(WallTime::system(0))
    }

    /// With a wall clock that the test sets.
    pub fn embedded_at(wall: WallTime) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            engine: Engine::Embedded {
                folder,
                store: Mutex::new(None),
            },
            wall,
        }
    }

    #[cfg(feature = "fdb")]
    pub fn fdb() -> Self {
        Self::fdb_on(crate::fdb::cluster::shared())
    }

    /// In the given cluster rather than the shared one.
    #[cfg(feature = "fdb")]
    pub fn fdb_on(cluster: Arc<crate::fdb::cluster::Cluster>) -> Self {
        let prefix = crate::fdb::cluster::fresh_prefix();
        Self {
            engine: Engine::Fdb { cluster, prefix },
            wall: WallTime::system(0),
        }
    }

    pub fn prefix(&self) -> &[u8] {
        match &self.engine {
            Engine::Embedded { .. } => b"",
            #[cfg(feature = "fdb")]
            Engine::Fdb { prefix, .. } => prefix.as_bytes(),
        }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        match &self.engine {
            Engine::Embedded { folder, store } => {
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                let open = || {
                    let store = Embedded::open(folder.path(), self.wall.clone());
                    Arc::new(store.expect("the store opens"))
                };
                Arc::clone(store.get_or_insert_with(|| open()))
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { cluster, prefix } => cluster.store(prefix),
        }
    }

    /// The store as the target of a copy, which need not be a store yet.
    pub fn store_to_copy(&self) -> Arc<dyn Store> {
        match &self.engine {
            Engine::Embedded { folder, store } => {
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                let open = || {
                    let store = Embedded::open_to_copy(folder.path(), self.wall.clone(), 0);
                    Arc::new(store.expect("the place of the store opens"))
                };
                Arc::clone(store.get_or_insert_with(|| open()))
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { .. } => self.store(),
        }
    }

    /// Opens the store, which must be closed, as every command does, and closes it again.
    pub async fn try_open(&self) -> store::Result<()> {
        let store: Arc<dyn Store> = match &self.engine {
            Engine::Embedded { folder, .. } => {
                let wall = self.wall.clone();
                match Embedded::open(folder.path(), wall.clone()) {
                    Ok(store) => Arc::new(store),
                    Err(error) => {
                        let served = Embedded::open_to_serve(folder.path(), wall, 0).map(drop);
                        let served = served.expect_err("no more than another command");
                        assert_eq!(served.to_string(), error.to_string());
                        return Err(error);
                    }
                }
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { .. } => self.store(),
        };
        let keys = Keys::open_existing(&*store, self.prefix()).await;
        let created = Keys::open(&*store, self.prefix(), 1, &self.wall).await;
        store.close().await;
        assert_eq!(keys.is_ok(), created.is_ok());
        keys.map(drop)
    }

    /// Removes everything.
    pub async fn clear(&self) {
        self.close().await;
        match &self.engine {
            Engine::Embedded { folder, .. } => {
                std::fs::remove_dir_all(folder.path()).expect("removed");
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { .. } => {
                let bound = |byte| [self.prefix(), &[byte]].concat();
                let snapshot = self.store().snapshot().await.expect("a snapshot");
                let batch = newsfeed::store::Batch {
                    clears: vec![(bound(0x15), bound(0x16))],
                    ..Default::default()
                };
                snapshot.commit(batch).await.expect("committed");
            }
        }
    }

    /// Closes the store; [`Bed::store`] opens it again.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Embedded { store, .. } => {
                let store = store.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(store) = store {
                    store.close().await;
                }
            }
            #[cfg(feature = "fdb")]
            Engine::Fdb { .. } => {}
        }
    }

    pub async fn keys(&self) -> Keys {
        Keys::open(&*self.store(), self.prefix(), 16, &self.wall)
            .await
            .expect("the key space opens")
    }

    /// A node on a free loopback port.
    pub async fn node(&self) -> Served {
        self.node_on(self.store()).await
    }

    /// A node on `store`, a wrapper around the bed's store.
    pub async fn node_on(&self, store: Arc<dyn Store>) -> Served {
        let settings = Settings {
            wall: self.wall.clone(),
            log: Some(log_control()),
            ..default_settings()
        };
        self.node_as(store, settings).await
    }

    /// A node with these settings.
    pub async fn node_as(&self, store: Arc<dyn Store>, settings: Settings) -> Served {
        let node = Node::start(store, self.keys().await, settings).expect("the node starts");
        serve(|listener, shutdown| node.serve(vec![listener.into()], shutdown)).await
    }

    /// A node with the default settings changed by `tell`, over TLS if `tls` is given.
    pub async fn node_with(
        &self,
        tls: Option<Arc<Tls>>,
        tell: impl FnOnce(&mut Settings),
    ) -> Served {
        let mut settings = Settings {
            wall: self.wall.clone(),
            ..default_settings()
        };
        tell(&mut settings);
        let node = Node::start(self.store(), self.keys().await, settings).expect("the node starts");
        let node = node.over(tls);
        serve(|listener, shutdown| node.serve(vec![listener.into()], shutdown)).await
    }

    /// The HTTP side without a tailer, and its [`App`], whose limits the test can exhaust.
    pub async fn app_on(&self, store: Arc<dyn Store>) -> (App, Served) {
        self.app_with(store, default_settings()).await
    }

    /// The same with these settings. The peer of a request is the address in its `X-Forwarded-For`, if it has one.
    pub async fn app_with(&self, store: Arc<dyn Store>, settings: Settings) -> (App, Served) {
        let settings = Settings {
            wall: self.wall.clone(),
            ..settings
        };
        app_of(store, self.keys().await, settings).await
    }
}

/// As [`Bed::app_with`], on any store.
pub async fn app_of(store: Arc<dyn Store>, keys: Keys, settings: Settings) -> (App, Served) {
    let clock = Arc::new(AtClock::new(settings.wall.clone()).expect("the clock runs"));
    let metrics = Arc::new(Metrics::default());
    let tracker = TaskTracker::new();
    let (appender, _batcher) = Appender::start(
        Arc::clone(&store),
        keys.clone(),
        Arc::clone(&clock),
        settings.appends,
        tracker.clone(),
        Arc::clone(&metrics),
    );
    let app = App {
        auth: settings.auth,
        openapi: newsfeed::http::openapi_under(&settings.base_path),
        base_path: settings.base_path,
        deliveries: Arc::new(settings.deliveries),
        appender,
        feeds: Feeds::new(Arc::clone(&store), keys.clone()),
        pages: Arc::new(PageCache::new(metrics.pages.clone())),
        hub: Hub::new(keys.clone(), Arc::clone(&metrics)),
        lifecycle: Lifecycle::new(Arc::clone(&store), keys.clone(), Arc::clone(&metrics)),
        health: Health::new(
            Arc::clone(&store),
            keys,
            Tasks::default(),
            settings.ready_lag_max,
        ),
        metrics,
        store,
        backing_up: Arc::new(Semaphore::new(1)),
        log: None,
        wall: settings.wall,
        tracker,
        stopping: CancellationToken::new(),
    };
    let edge = Edge {
        quotas: Quotas::new(settings.limits, &app.metrics),
        cors: settings.cors,
        hosts: settings.hosts,
    };
    let router = router(app.clone(), &edge).layer(map_request(of_peer));
    let served = serve(|listener, shutdown| async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .await
            .expect("axum serves");
    });
    (app, served.await)
}

async fn serve<F>(run: impl FnOnce(TcpListener, CancellationToken) -> F) -> Served
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(listener, shutdown.clone()));
    Served {
        api: Api::at(format!("http://{address}")),
        address,
        shutdown,
        task,
    }
}

/// A log filter that can be changed. Nothing is logged.
async fn of_peer(mut request: Request) -> Request {
    let forwarded = request.headers().get("x-forwarded-for");
    let address = forwarded.and_then(|address| address.to_str().ok()?.parse().ok());
    if let Some(address) = address {
        request.extensions_mut().insert(Peer::Ip(address));
    }
    request
}

pub fn log_control() -> LogControl {
    let filter: Filter = "info".parse().expect("a filter");
    let env_filter = tracing_subscriber::EnvFilter::new(filter.as_str());
    let (layer, handle) =
        tracing_subscriber::reload::Layer::<_, tracing_subscriber::Registry>::new(env_filter);
    // The handle stops working when its layer is dropped.
    std::mem::forget(layer);
    LogControl::new(filter, handle)
}

/// The settings of `newsfeed serve` without flags, except that the node does not work on indexes: tests count what is read
/// and committed, and hold or fail it.
pub fn default_settings() -> Settings {
    settings_of(&[])
}

/// The same with these flags.
pub fn settings_of(flags: &[&str]) -> Settings {
    use clap::{Args, FromArgMatches};
    let command = Config::augment_args(clap::Command::new("serve"));
    let matches = command.get_matches_from([&["serve"], flags].concat());
    let settings = Config::from_arg_matches(&matches)
        .expect("valid flags")
        .settings(None);
    assert!(!settings.projections.projections.is_empty());
    Settings {
        projections: newsfeed::projection::Settings {
            projections: Vec::new(),
            ..settings.projections
        },
        ..settings
    }
}

/// Headers of a request with a body.
pub const JSON: (&str, &str) = ("content-type", "application/json");
pub const NDJSON: (&str, &str) = ("content-type", LINES);
/// The media type of lines of JSON.
pub const LINES: &str = "application/x-ndjson";

const CLIENT_TIME_MAX: Duration = Duration::from_secs(100);

/// A client without TLS. It does not read the authorities of the machine, which takes a debug build longer than hundreds
/// of requests.
pub fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_certs_only([])
        .timeout(CLIENT_TIME_MAX)
        .build()
        .expect("a client")
}

/// A running node.
pub struct Served {
    api: Api,
    pub address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Deref for Served {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Served {
    /// The same node, whose listener wants TLS.
    pub fn over_https(self) -> Self {
        Self {
            api: Api::at(format!("https://{}", self.address)),
            ..self
        }
    }

    /// Tells the node to stop, as SIGTERM does.
    pub fn leave(&self) {
        self.shutdown.cancel();
    }

    /// Stops the node gracefully and waits for its end. This closes the bed's store.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the node stops without a panic");
    }
}

/// A client of a service, in this process or another.
#[derive(Clone)]
pub struct Api {
    base: String,
    pub http: reqwest::Client,
}

impl Api {
    /// Connects to a unix socket.
    pub fn over(socket: &Path) -> Self {
        let http = reqwest::Client::builder()
            .tls_certs_only([])
            .unix_socket(socket.to_owned());
        Self {
            base: "http://newsfeed.test".to_owned(),
            http: http.timeout(CLIENT_TIME_MAX).build().expect("a client"),
        }
    }

    /// Accepts any certificate.
    pub fn at(base: String) -> Self {
        if !base.starts_with("https:") {
            let http = http_client();
            return Self { base, http };
        }
        let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
        let http = http.timeout(CLIENT_TIME_MAX).build().expect("a client");
        Self { base, http }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The events of an answer of lines, which must be complete.
    pub async fn lines(&self, path: &str) -> Vec<Value> {
        let answer = self.send("GET", path, &[("accept", LINES)]).await;
        let text = std::str::from_utf8(&answer.body).expect("text");
        let lines = text.lines().map(serde_json::from_str);
        let mut lines: Vec<Value> = lines.map(|line| line.expect("JSON")).collect();
        assert_eq!(lines.pop().expect("an end")["end"], true, "{path}");
        lines.retain(|line| line.get("cursor").is_none());
        lines
    }

    /// Sends a request without a body; returns the whole answer.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send_body(method, path, headers, "").await
    }

    pub async fn send_body(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.expect("an answer")).await
    }

    /// GET; expects 200 and JSON.
    pub async fn get(&self, path: &str) -> Value {
        let response = self
            .http
            .get(self.url(path))
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    /// POST of JSON; returns the status and the JSON answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self
            .http
            .post(self.url(path))
            .json(body)
            .send()
            .await
            .expect("an answer");
        (
            response.status().as_u16(),
            response.json().await.expect("JSON"),
        )
    }

    /// Appends an event or an array; expects 200.
    pub async fn append(&self, events: &Value) -> Value {
        let (status, answer) = self.post("/v1/events", events).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The current version of a feed.
    pub async fn version(&self, feed: &str) -> String {
        text(&self.get(&format!("/v1/feeds/{feed}")).await["version"])
    }

    /// All entries of a feed, oldest first, page by page.
    pub async fn all(&self, feed: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let page = self
                .get(&format!("/v1/feeds/{feed}/entries?after={after}&limit=200"))
                .await;
            entries.extend(page["entries"].as_array().expect("entries").iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return entries,
            }
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole body"),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("a header of ASCII"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Checks that this answer is the problem `code` and has all that a problem must have; returns the problem, or what
    /// is wrong.
    pub fn problem(&self, status: u16, code: &str) -> Result<Value, String> {
        let body = String::from_utf8_lossy(&self.body);
        let problem: Value = serde_json::from_str(&body)
            .map_err(|error| format!("{} is not a problem: {error}: {body}", self.status))?;
        let text = |name: &str| problem[name].as_str().is_some_and(|text| !text.is_empty());
        let right = [
            (
                "status",
                self.status == status && problem["status"] == status,
            ),
            ("code", problem["code"] == code),
            (
                "content-type",
                self.header("content-type") == Some("application/problem+json"),
            ),
            ("type", problem["type"] == "about:blank"),
            ("title", text("title")),
            ("detail", text("detail")),
            ("no-store", self.header("cache-control") == Some("no-store")),
            (
                "Retry-After, with 429 and 503 only",
                self.header("retry-after")
                    .map(|seconds| seconds.parse::<u32>().is_ok_and(|s| s > 0))
                    == [429, 503].contains(&status).then_some(true),
            ),
            (
                "WWW-Authenticate, with 401 and for a scope",
                self.header("www-authenticate").is_some()
                    == (status == 401 || code == "scope_missing"),
            ),
            (
                "Allow, with 405 only",
                self.header("allow").is_some() == (status == 405),
            ),
        ];
        match right.iter().find(|(_, right)| !right) {
            Some((what, _)) => Err(format!(
                "expected {status} {code}, but {what} is wrong: {} {body}",
                self.status
            )),
            None => Ok(problem),
        }
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
