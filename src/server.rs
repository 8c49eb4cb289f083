//! A node: what it is made of, how it serves, and the order in which it stops.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    append::{self, Appender},
    clock::{AtClock, WallTime},
    feed::Feeds,
    http::{self, App, Deliveries, Protocols, caller::Peer},
    live::{Hub, run_tailer, trim_transients},
    store::{self, Store, keys::Keys},
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
    pub deliveries: Deliveries,
    /// Wall time for `at`.
    pub wall: WallTime,
    /// Rounds of live delivery begin no closer than this.
    pub tail_gap: Duration,
    pub appends: append::Tuning,
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
            settings.tail_gap,
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
            leaving: CancellationToken::new(),
            stopping: CancellationToken::new(),
        };
        Ok(Self {
            app,
            batcher,
            background,
            stop_background,
            drain: settings.drain,
        })
    }

    /// Serves `listener` until `shutdown`, then stops in order: not ready any more (and, for the drain's delay, nothing
    /// else), no new connections, streams end with `bye`, requests under way are answered, appends commit, tasks end, the
    /// store closes. Of the drain's time clients have the first half, appends the next quarter and more if clients took
    /// less; what is not done by then is left as a crash would leave it.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let end = CancellationToken::new();
        let protocols = Protocols::new(http::router(self.app.clone()), end.clone());
        tokio::select! {
            // First: what the kernel has accepted for us is not turned away.
            biased;
            () = accept(&listener, protocols, &connections, &cut) => {}
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

/// Accepts connections; each is a task of `connections`, that ends at once when `cut`.
async fn accept(
    listener: &TcpListener,
    protocols: Protocols,
    connections: &TaskTracker,
    cut: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let (socket, peer) = match listener.accept().await {
            Ok((socket, address)) => (socket, Peer(address.ip().to_canonical())),
            Err(error) => {
                // Out of file descriptors, most likely: they come back as clients leave.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if let Err(error) = prepare(&socket) {
            tracing::debug!(%error, "a connection was gone before it began");
            continue;
        }
        let (tracker, cut) = (connections.clone(), cut.clone());
        let connection = protocols.clone().serve(socket, peer);
        connections.spawn(async move {
            let Some(live) = cut.run_until_cancelled(connection).await.flatten() else {
                return;
            };
            // A task of its own, because this one is as large as hyper needs it.
            tracker.spawn(async move {
                cut.run_until_cancelled_owned(live.run()).await;
                drop(place);
            });
        });
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    // Frames are written whole; waiting for more would only delay them.
    socket.set_nodelay(true)?;
    // What a client does not take stays with us, where its bounds are known, and not in megabytes of the kernel's.
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}
