//! A node: what it is made of, how it serves, and the order in which it stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::service::{Service, service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    append::{self, Appender},
    clock::{AtClock, WallTime},
    feed::Feeds,
    http::{self, App, Deliveries},
    live::{Hub, run_tailer, trim_transients},
    store::{self, Store, keys::Keys},
};

/// Connections served at once; further ones wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 50_000;
/// Longest time for the head of a request, and for a kept-alive connection to send its next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests under way on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;
/// How long a stopping node waits for its clients to take what is under way.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// What a node is told to be.
#[derive(Debug, Clone)]
pub struct Settings {
    pub deliveries: Deliveries,
    /// Wall time for `at`.
    pub wall: WallTime,
    pub appends: append::Tuning,
}

/// A running node, apart from its listener.
pub struct Node {
    app: App,
    batcher: JoinHandle<()>,
    background: TaskTracker,
    stop_background: CancellationToken,
}

impl Node {
    pub fn start(store: Arc<dyn Store>, keys: Keys, settings: Settings) -> store::Result<Self> {
        let clock = AtClock::new(settings.wall)
            .map_err(|error| store::Error::Open(format!("the clock fails: {error}")))?;
        let clock = Arc::new(clock);
        let (appender, batcher) = Appender::start(
            Arc::clone(&store),
            keys.clone(),
            Arc::clone(&clock),
            settings.appends,
        );
        let feeds = Feeds::new(Arc::clone(&store), keys.clone());
        let hub = Hub::new(keys.clone());
        let stop_background = CancellationToken::new();
        let background = TaskTracker::new();
        background.spawn(run_tailer(
            Arc::clone(&store),
            keys.clone(),
            feeds.clone(),
            Arc::clone(&hub),
            stop_background.clone(),
        ));
        background.spawn({
            let (store, keys, stop) = (Arc::clone(&store), keys.clone(), stop_background.clone());
            async move { trim_transients(&*store, &keys, stop).await }
        });
        let app = App {
            store,
            keys,
            clock,
            appender,
            feeds,
            hub,
            deliveries: Arc::new(settings.deliveries),
            transients: App::transient_permits(),
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        Ok(Self {
            app,
            batcher,
            background,
            stop_background,
        })
    }

    /// Serves `listener` until `shutdown`, then stops in order: no new connections, streams end with `bye`, requests
    /// under way are answered, appends commit, tasks end, the store closes.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let connections = GracefulShutdown::new();
        let cut = CancellationToken::new();
        accept(
            &listener,
            http::router(self.app.clone()),
            &connections,
            &shutdown,
            &cut,
        )
        .await;
        drop(listener);
        tracing::info!(streams = self.app.hub.subscribers(), "stopping");

        self.app.stopping.cancel();
        self.app.hub.close();
        if tokio::time::timeout(DRAIN_TIME_MAX, connections.shutdown())
            .await
            .is_err()
        {
            cut.cancel();
            tracing::warn!("some clients did not take their answers; their connections are cut");
        }
        self.app.tracker.close();
        if tokio::time::timeout(DRAIN_TIME_MAX, self.app.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "some requests did not end; what they were not answered may or may not be appended"
            );
        }
        let App {
            store, appender, ..
        } = self.app;
        drop(appender);
        if tokio::time::timeout(DRAIN_TIME_MAX, self.batcher)
            .await
            .is_err()
        {
            tracing::warn!("some appends did not commit; they were not acknowledged");
        }
        self.stop_background.cancel();
        self.background.close();
        self.background.wait().await;
        store.close().await;
        tracing::info!("stopped");
    }
}

async fn accept(
    listener: &TcpListener,
    router: axum::Router,
    connections: &GracefulShutdown,
    shutdown: &CancellationToken,
    cut: &CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = shutdown.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: they come back as clients leave.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let connection = converse(stream, &builder, router.clone(), connections, cut.clone());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

/// Serves one connection until it ends, stays silent, or is cut.
fn converse(
    stream: TcpStream,
    builder: &auto::Builder<TokioExecutor>,
    router: axum::Router,
    connections: &GracefulShutdown,
    cut: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    // Frames are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let service = TowerToHyperService::new(router);
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            asked.store(true, Ordering::Relaxed);
            service.call(request)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection.into_owned());
    // Hyper limits the time for the head of an HTTP/1 request, but not the time to tell that from HTTP/2, nor that to
    // begin there.
    let silence = async move {
        tokio::time::sleep(HEAD_TIMEOUT).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            },
            () = cut.cancelled() => {}
            () = silence => tracing::debug!("a connection without a request is cut"),
        }
    }
}
