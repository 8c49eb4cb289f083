//! The listening socket and the connections that come in through it. The number of connections is bounded, each is a task
//! of its own, and all of them end with the node.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App, Edge,
    caller::{Caller, Peer},
    connection::Protocols,
    limits::{Permit, Quotas},
    patience::Patient,
    proxies::Proxies,
};
use crate::{metrics::Metrics, tls::Tls};

/// Connections served at once; further ones wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Connections the kernel queues until they are accepted. Linux caps this at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Bytes that the kernel buffers for one connection beyond its client's receive window.
const UNSENT_BYTES_MAX: u32 = 16 * 1024;
/// How long to wait after the kernel could not accept a connection.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Binds a listening socket. Its backlog is large, because after a restart all clients reconnect at once.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The connections of a node. Clones share them.
#[derive(Clone, Default)]
pub struct Connections {
    tasks: TaskTracker,
    /// Tells connections to end once the requests in progress are answered.
    draining: CancellationToken,
    /// Ends connections at once.
    cut: CancellationToken,
}

impl Connections {
    /// Ends all connections: idle ones at once, others when their requests in progress are answered, and the rest at
    /// `deadline`. Returns whether all of them ended in time. Call it after accepting has stopped.
    pub async fn drain(self, deadline: Instant) -> bool {
        self.draining.cancel();
        self.tasks.close();
        let drained = timeout_at(deadline, self.tasks.wait()).await.is_ok();
        if !drained {
            self.cut.cancel();
        }
        drained
    }
}

/// Accepts connections and serves them.
pub struct Acceptor {
    protocols: Protocols,
    tls: Option<Arc<Tls>>,
    quotas: Arc<Quotas>,
    proxies: Arc<Proxies>,
    metrics: Arc<Metrics>,
    connections: Connections,
}

/// What a connection counts against: the limit of the node, and the limit of its peer's address.
type Permits = (Option<OwnedSemaphorePermit>, Permit<Caller>);

impl Acceptor {
    /// Serves `app`, over TLS if `tls` is given.
    pub fn new(app: &App, edge: &Edge, proxies: Arc<Proxies>, tls: Option<Arc<Tls>>) -> Self {
        let connections = Connections::default();
        Self {
            protocols: Protocols::new(
                super::router(app.clone(), edge),
                Arc::clone(&proxies),
                tls.is_some(),
                connections.draining.clone(),
                Arc::clone(&app.metrics),
            ),
            tls,
            quotas: Arc::clone(&edge.quotas),
            proxies,
            metrics: Arc::clone(&app.metrics),
            connections,
        }
    }

    /// The connections that this acceptor opens.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Accepts connections until this future is dropped.
    pub async fn run(self, listener: &TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            let (socket, peer) = match listener.accept().await {
                Ok((socket, address)) => (socket, Peer(address.ip().to_canonical())),
                Err(error) => {
                    // Most likely the process is out of file descriptors. They become free as clients disconnect.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            };
            let Some(of_peer) = self.quotas.connection(peer, &self.proxies) else {
                tracing::debug!(peer = %peer.0, "connection closed: its address has reached the connection limit");
                continue;
            };
            if let Err(error) = prepare(&socket) {
                tracing::debug!(%error, "connection closed before it could be served");
                continue;
            }
            self.spawn(socket, peer, (permit, of_peer));
        }
    }

    /// Serves an accepted connection in a task of its own.
    fn spawn(&self, socket: TcpStream, peer: Peer, permits: Permits) {
        let connections = self.connections.clone();
        let protocols = self.protocols.clone();
        let tasks = self.connections.tasks.clone();
        let socket = Patient::new(socket, self.metrics.http.answers_cut.clone());
        let Some(tls) = &self.tls else {
            tasks.spawn(serve(protocols, socket, peer, connections, permits));
            return;
        };
        let tls = Arc::clone(tls);
        tasks.spawn(async move {
            let draining = connections.draining.clone();
            let secured = draining.run_until_cancelled(tls.accept(socket)).await;
            if let Some(socket) = secured.flatten() {
                // In another task, so that the memory of the handshake's future is freed.
                let tasks = connections.tasks.clone();
                tasks.spawn(serve(protocols, socket, peer, connections, permits));
            }
        });
    }
}

/// Serves a connection until it ends or is cut.
async fn serve<S>(
    protocols: Protocols,
    socket: S,
    peer: Peer,
    connections: Connections,
    permits: Permits,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Connections { tasks, cut, .. } = connections;
    let served = cut.run_until_cancelled(protocols.serve(socket, peer));
    let Some(live) = served.await.flatten() else {
        return;
    };
    // In another task, because the future of this one is as large as hyper's connection.
    tasks.spawn(async move {
        cut.run_until_cancelled_owned(live.run()).await;
        drop(permits);
    });
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    // Frames are written whole, so waiting for more to fill a packet would only delay them.
    socket.set_nodelay(true)?;
    // Data that a slow client has not received yet then waits in our bounded queues, not in megabytes of kernel
    // buffers.
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}
