//! A node: what it is made of, how it serves, and the order in which it stops.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    append::{self, Appender},
    auth::Auth,
    clock::{AtClock, WallTime},
    feed::Feeds,
    http::{
        self, App, Deliveries, Protocols, Tasks,
        caller::Peer,
        cors::Cors,
        limits::{Callers, Limits, Place},
        proxies::Proxies,
    },
    live::{Hub, run_tailer, trim_transients},
    logging::LogControl,
    metrics::Metrics,
    store::{self, Store, keys::Keys},
    tls::Tls,
};

/// Connections served at once; further ones wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Connections the kernel holds for us before they are accepted; Linux takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Bytes of one connection that the kernel holds beyond what its client has room for.
const UNSENT_BYTES_MAX: u32 = 16 * 1024;

/// What a node is told to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `None`: nobody is asked for a token.
    pub auth: Option<Arc<Auth>>,
    pub deliveries: Deliveries,
    /// Wall time for `at`.
    pub wall: WallTime,
    /// Rounds of live delivery begin no closer than this.
    pub tail_gap: Duration,
    pub appends: append::Tuning,
    pub cors: Cors,
    pub proxies: Proxies,
    pub limits: Limits,
    /// A node whose live delivery is further behind is not ready.
    pub ready_lag_max: Duration,
    /// The filter of the process's log, if it can be changed.
    pub log: Option<LogControl>,
    pub drain: Drain,
}

/// How a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Between "not ready" and the end of service.
    pub delay: Duration,
    /// From there to the end of [`Node::serve`], at most.
    pub time: Duration,
}

/// A running node, apart from its listener.
pub struct Node {
    app: App,
    proxies: Arc<Proxies>,
    tls: Option<Arc<Tls>>,
    batcher: JoinHandle<()>,
    background: TaskTracker,
    stop_background: CancellationToken,
    drain: Drain,
}

impl Node {
    pub fn start(store: Arc<dyn Store>, keys: Keys, settings: Settings) -> store::Result<Self> {
        let clock = AtClock::new(settings.wall)
            .map_err(|error| store::Error::Open(format!("the clock fails: {error}")))?;
        let clock = Arc::new(clock);
        let metrics = Arc::new(Metrics::default());
        let (appender, batcher) = Appender::start(
            Arc::clone(&store),
            keys.clone(),
            Arc::clone(&clock),
            settings.appends,
            Arc::clone(&metrics),
        );
        let twins = metrics.twins.clone();
        let feeds = Feeds::counting(Arc::clone(&store), keys.clone(), twins);
        let hub = Hub::new(keys.clone(), Arc::clone(&metrics));
        let stop_background = CancellationToken::new();
        let background = TaskTracker::new();
        let tailer = background.spawn(run_tailer(
            Arc::clone(&store),
            keys.clone(),
            feeds.clone(),
            Arc::clone(&hub),
            settings.tail_gap,
            stop_background.clone(),
        ));
        let janitor = background.spawn({
            let (store, keys, stop) = (Arc::clone(&store), keys.clone(), stop_background.clone());
            async move { trim_transients(&*store, &keys, stop).await }
        });
        if let Some(auth) = settings.auth.clone() {
            let stop = stop_background.clone();
            background.spawn(async move { auth.watch(stop).await });
        }
        let callers = Callers::new(settings.limits);
        background.spawn({
            let (callers, stop) = (Arc::clone(&callers), stop_background.clone());
            async move { callers.sweep(stop).await }
        });
        let tasks = Tasks::default();
        tasks.watch("tailer", tailer.abort_handle());
        tasks.watch("janitor", janitor.abort_handle());
        let app = App {
            auth: settings.auth,
            store,
            keys,
            clock,
            appender,
            feeds,
            hub,
            deliveries: Arc::new(settings.deliveries),
            transients: App::transient_permits(),
            callers,
            cors: settings.cors,
            tracker: TaskTracker::new(),
            leaving: CancellationToken::new(),
            stopping: CancellationToken::new(),
            metrics,
            tasks,
            ready_lag_max: settings.ready_lag_max,
            log: settings.log,
        };
        Ok(Self {
            app,
            proxies: Arc::new(settings.proxies),
            tls: None,
            batcher,
            background,
            stop_background,
            drain: settings.drain,
        })
    }

    /// Serves over TLS, if there is some, and nothing else.
    pub fn over(mut self, tls: Option<Arc<Tls>>) -> Self {
        if let Some(tls) = &tls {
            let watch = Arc::clone(tls).watch(self.stop_background.clone());
            self.background.spawn(watch);
        }
        self.tls = tls;
        self
    }

    /// Serves `listener` until `shutdown`, then stops in order: not ready any more (and, for the drain's delay, nothing
    /// else), no new connections, streams end with `bye`, requests under way are answered, appends commit, tasks end, the
    /// store closes. Of the drain's time clients have the first half, appends the next quarter and more if clients took
    /// less; what is not done by then is left as a crash would leave it.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let end = CancellationToken::new();
        let router = http::router(self.app.clone());
        let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
        let entry = Entry {
            protocols: Protocols::new(
                router,
                Arc::clone(&self.proxies),
                end.clone(),
                Arc::clone(&self.app.metrics),
            ),
            tls: self.tls.clone(),
            callers: Arc::clone(&self.app.callers),
            proxies: Arc::clone(&self.proxies),
            end: end.clone(),
            connections: connections.clone(),
            cut: cut.clone(),
        };
        tokio::select! {
            // First: what the kernel has accepted for us is not turned away.
            biased;
            () = entry.accept(&listener) => {}
            () = self.leaves(&shutdown) => {}
        }
        drop(listener);
        let Drain { time, .. } = self.drain;
        let began = Instant::now();
        let [clients_until, appends_until, end_at] =
            [time / 2, time * 3 / 4, time].map(|t| began + t);
        tracing::info!(streams = self.app.hub.subscribers(), ?time, "stopping");

        self.app.stopping.cancel();
        self.app.hub.close();
        end.cancel();
        connections.close();
        if timeout_at(clients_until, connections.wait()).await.is_err() {
            cut.cancel();
            tracing::warn!("some clients did not take their answers; their connections are cut");
        }
        self.app.tracker.close();
        if timeout_at(appends_until, self.app.tracker.wait())
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
        if timeout_at(appends_until, self.batcher).await.is_err() {
            tracing::warn!("some appends did not commit; they were not acknowledged");
        }
        self.stop_background.cancel();
        self.background.close();
        let closed = async {
            self.background.wait().await;
            store.close().await;
        };
        match timeout_at(end_at, closed).await {
            Ok(()) => tracing::info!("stopped"),
            Err(_elapsed) => {
                tracing::warn!("the store did not close in time; what was acknowledged is in it")
            }
        }
    }

    /// Resolves when it is time to end the service.
    async fn leaves(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        self.app.leaving.cancel();
        let Drain { delay, .. } = self.drain;
        tracing::info!(?delay, "not ready any more");
        tokio::time::sleep(delay).await;
    }
}

/// A listening socket whose backlog holds a storm of clients that come back.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What a connection meets.
struct Entry {
    protocols: Protocols,
    tls: Option<Arc<Tls>>,
    callers: Arc<Callers>,
    proxies: Arc<Proxies>,
    /// Tells connections to end once what is under way is answered.
    end: CancellationToken,
    connections: TaskTracker,
    /// Ends connections at once.
    cut: CancellationToken,
}

/// What a connection takes of the node's, and of its peer's.
type Places = (Option<OwnedSemaphorePermit>, Place<IpAddr>);

impl Entry {
    /// Accepts connections; each is a task of `connections`.
    async fn accept(self, listener: &TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            let (socket, peer) = match listener.accept().await {
                Ok((socket, address)) => (socket, Peer(address.ip().to_canonical())),
                Err(error) => {
                    // Out of file descriptors, most likely: they come back as clients leave.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(peers) = self.callers.connection(peer, &self.proxies) else {
                tracing::debug!(peer = %peer.0, "it has too many connections; this one is closed");
                continue;
            };
            if let Err(error) = prepare(&socket) {
                tracing::debug!(%error, "a connection was gone before it began");
                continue;
            }
            self.admit(socket, peer, (place, peers));
        }
    }

    fn admit(&self, socket: TcpStream, peer: Peer, places: Places) {
        let (tracker, cut) = (self.connections.clone(), self.cut.clone());
        let protocols = self.protocols.clone();
        let Some(tls) = &self.tls else {
            let talk = talk(protocols, socket, peer, tracker, cut, places);
            self.connections.spawn(talk);
            return;
        };
        let (tls, end) = (Arc::clone(tls), self.end.clone());
        self.connections.spawn(async move {
            let secured = end.run_until_cancelled(tls.accept(socket)).await;
            if let Some(socket) = secured.flatten() {
                // Apart, so that the handshake's room is none of the connection's.
                let talk = talk(protocols, socket, peer, tracker.clone(), cut, places);
                tracker.spawn(talk);
            }
        });
    }
}

/// Serves a connection to its end, or at once to `cut`.
async fn talk<S>(
    protocols: Protocols,
    socket: S,
    peer: Peer,
    tracker: TaskTracker,
    cut: CancellationToken,
    places: Places,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = protocols.serve(socket, peer);
    let Some(live) = cut.run_until_cancelled(connection).await.flatten() else {
        return;
    };
    // A task of its own, because this one is as large as hyper needs it.
    tracker.spawn(async move {
        cut.run_until_cancelled_owned(live.run()).await;
        drop(places);
    });
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    // Frames are written whole; waiting for more would only delay them.
    socket.set_nodelay(true)?;
    // What a client does not take stays with us, where its bounds are known, and not in megabytes of the kernel's.
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}
