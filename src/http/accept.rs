//! The connections that come in through the listening sockets. The number of connections is bounded, each is a task of its
//! own, and all of them end with the node.

use std::{io, sync::Arc, time::Duration};

use axum::http::{HeaderValue, header};
use socket2::TcpKeepalive;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tower_http::set_header::SetResponseHeaderLayer;

use super::{
    App, Edge,
    caller::{Caller, Peer},
    connection::Protocols,
    limits::{Permit, Quotas},
    listeners::{Connection, Listeners},
    patience::Patient,
    proxies::Proxies,
    shared_socket::Shareable,
};
use crate::{live::HEARTBEAT, metrics::Metrics, tls::Tls};

/// Connections served at once; further ones wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Bytes that the kernel buffers for one connection beyond its client's receive window.
const UNSENT_BYTES_MAX: u32 = 16 * 1024;
/// How long the kernel waits for a client to acknowledge what was sent to it, to answer probes of an idle connection, or to
/// make room for more. A stream sends something every [`HEARTBEAT`], so a client whose network has failed is noticed within
/// both times together.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(35);
/// When and how often an idle connection is probed.
const PROBE_AFTER: Duration = HEARTBEAT;
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// With TLS: for a year after each answer, browsers use only https for this host.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// How long to wait after the kernel could not accept a connection.
const RETRY_AFTER: Duration = Duration::from_millis(50);

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
    /// Serves `app`. If `tls` is given, over TLS, except on unix sockets.
    pub fn new(app: &App, edge: &Edge, proxies: Arc<Proxies>, tls: Option<Arc<Tls>>) -> Self {
        let connections = Connections::default();
        let router = super::router(app.clone(), edge);
        let router = match tls {
            Some(_) => router.layer(SetResponseHeaderLayer::overriding(
                header::STRICT_TRANSPORT_SECURITY,
                HSTS,
            )),
            None => router,
        };
        Self {
            protocols: Protocols::new(
                router,
                Arc::clone(&proxies),
                Arc::clone(&edge.quotas),
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
    pub async fn run(self, listeners: &mut Listeners) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            let (socket, peer) = match listeners.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely the process is out of file descriptors. They become free as clients disconnect.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            };
            let Some(of_peer) = self.quotas.connection(peer, &self.proxies) else {
                tracing::debug!(%peer, "connection closed: its address has reached the connection limit");
                continue;
            };
            if let Either::Left(tcp) = &socket
                && let Err(error) = prepare(tcp)
            {
                tracing::debug!(%error, "connection closed before it could be served");
                continue;
            }
            self.spawn(socket, peer, (permit, of_peer));
        }
    }

    /// Serves an accepted connection in a task of its own.
    fn spawn(&self, socket: Connection, peer: Peer, permits: Permits) {
        let connections = self.connections.clone();
        let protocols = self.protocols.clone();
        let tasks = self.connections.tasks.clone();
        let cut = self.metrics.http.answers_cut.clone();
        let (socket, tls) = match (socket, &self.tls) {
            (Either::Left(socket), Some(tls)) => (Patient::new(socket, cut), Arc::clone(tls)),
            (socket, _) => {
                let socket = Patient::new(socket, cut);
                tasks.spawn(serve(protocols, socket, peer, connections, permits));
                return;
            }
        };
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
    S: AsyncRead + AsyncWrite + Shareable + Unpin + Send + 'static,
{
    let Connections { tasks, cut, .. } = connections;
    let served = cut.run_until_cancelled(protocols.serve(socket, peer));
    let Some(live) = served.await.flatten() else {
        return;
    };
    // In another task, because the future of this one is as large as hyper's connection. Boxed, because each future that
    // takes another one over has room for it twice.
    let mut live = Box::pin(live.run());
    tasks.spawn(async move {
        let permits = permits;
        tokio::select! {
            biased;
            () = &mut live => {}
            () = cut.cancelled() => {}
        }
        drop((live, permits));
    });
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    // Frames are written whole, so waiting for more to fill a packet would only delay them.
    socket.set_nodelay(true)?;
    // Data that a slow client has not received yet then waits in our bounded queues, not in megabytes of kernel
    // buffers.
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    /// `limits::dead_links` waits for it.
    #[tokio::test]
    async fn a_client_without_network_is_noticed_within_a_minute() {
        const PROMISE: Duration = Duration::from_secs(60);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("connected");
        let (socket, _) = listener.accept().await.expect("a connection");
        prepare(&socket).expect("prepared");
        let socket = SockRef::from(&socket);
        let unacknowledged = socket.tcp_user_timeout().expect("an option");
        let unacknowledged = unacknowledged.expect("a time");
        // With data under way: from the last heartbeat that arrived to the next, and then until the kernel gives up.
        assert!(HEARTBEAT + unacknowledged < PROMISE);
        // Without: the kernel gives up with the first probe after that time.
        assert!(socket.keepalive().expect("an option"));
        let every = socket.tcp_keepalive_interval().expect("an option");
        assert!(socket.tcp_keepalive_time().expect("an option") <= HEARTBEAT);
        assert!(unacknowledged + every < PROMISE);
        drop(client);
    }
}
