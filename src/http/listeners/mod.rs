//! Listening sockets: TCP and unix sockets, served alike.

mod place;
mod unix;

use std::{
    fmt, future,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll, ready},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::either::Either;

pub use self::place::{Place, resolve};
use self::unix::UnixSocket;
use super::caller::Peer;

/// Connections the kernel queues until they are accepted. Linux caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How often port 0 of `localhost` is tried until a port is free for both IPv4 and IPv6.
const FREE_PORT_TRIES: usize = 16;

/// The two kinds of connections.
pub type Connection = Either<TcpStream, UnixStream>;

/// A listening socket.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Its URL with this scheme, or `unix:` and its path.
    pub fn url(&self, scheme: &str) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => format!("{scheme}://{}", listener.local_addr()?),
            Self::Unix(socket) => format!("unix:{}", socket.path().display()),
        })
    }

    /// The address, unless it is a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Connection, Peer)>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => {
                ready!(listener.poll_accept(context)).map(|(socket, address)| {
                    let peer = Peer::Ip(address.ip().to_canonical());
                    (Either::Left(socket), peer)
                })
            }
            Self::Unix(socket) => ready!(socket.listener.poll_accept(context))
                .map(|(socket, _)| (Either::Right(socket), Peer::Unix)),
        })
    }
}

/// All listening sockets of a node.
pub struct Listeners {
    listeners: Vec<Listener>,
    /// The one that is asked first, so that none is neglected while others are busy.
    next: usize,
}

impl Listeners {
    pub fn new(listeners: Vec<Listener>) -> Self {
        Self { listeners, next: 0 }
    }

    /// The next connection of any of them.
    pub async fn accept(&mut self) -> io::Result<(Connection, Peer)> {
        let Self { listeners, next } = self;
        future::poll_fn(|context| {
            let count = listeners.len();
            for index in (0..count).map(|offset| (*next + offset) % count) {
                if let Poll::Ready(accepted) = listeners[index].poll_accept(context) {
                    *next = index + 1;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Why one of the addresses cannot be used.
#[derive(Debug)]
pub struct CannotListen {
    place: String,
    reason: String,
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, reason } = self;
        write!(
            f,
            "cannot listen on {place}: {reason}; choose another address with --listen"
        )
    }
}

impl std::error::Error for CannotListen {}

/// Listens on all of `places`, which [`resolve`] returned. `mode` is for the files of unix sockets.
pub fn listen(places: &[Place], mode: u32) -> Result<Vec<Listener>, CannotListen> {
    let mut listeners = Vec::new();
    for place in places {
        let bound = match place {
            Place::Tcp(address) => {
                let apart = shares_port_with_ipv4(*address, places);
                tcp(*address, apart).map(|listener| vec![listener.into()])
            }
            Place::Localhost(port) => localhost(*port),
            Place::Everywhere(port) => everywhere(*port).map(|listener| vec![listener.into()]),
            Place::Host(..) => Err(io::Error::other("its name has not been resolved")),
            Place::Unix(path) => {
                let socket = UnixSocket::bind(path, mode);
                socket
                    .map(|socket| vec![Listener::Unix(socket)])
                    .map_err(io::Error::other)
            }
        };
        listeners.extend(bound.map_err(|error| CannotListen {
            place: place.to_string(),
            reason: error.to_string(),
        })?);
    }
    Ok(listeners)
}

/// Whether an IPv4 address with the same port is listened on separately. Otherwise, `[::]` accepts IPv4 as well, where the
/// system has it so.
fn shares_port_with_ipv4(address: SocketAddr, places: &[Place]) -> bool {
    let same = |place: &Place| matches!(place, Place::Tcp(other) if other.is_ipv4() && other.port() == address.port());
    address.is_ipv6() && address.port() != 0 && places.iter().any(same)
}

/// The backlog is large, because after a restart all clients reconnect at once.
fn tcp(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    bind(address, only_v6.then_some(true))
}

fn bind(address: SocketAddr, only_v6: Option<bool>) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if let Some(only_v6) = only_v6 {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket for IPv6 and IPv4; for IPv4 only on a machine without IPv6.
fn everywhere(port: u16) -> io::Result<TcpListener> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into(), Some(false)) {
        Err(error) if is_missing(&error) => tcp((Ipv4Addr::UNSPECIFIED, port).into(), false),
        bound => bound,
    }
}

/// Both loopback addresses, with the same port. One of them may be missing on this machine.
fn localhost(port: u16) -> io::Result<Vec<Listener>> {
    let mut tries = 0..FREE_PORT_TRIES;
    loop {
        let v4 = match tcp((Ipv4Addr::LOCALHOST, port).into(), false) {
            Ok(listener) => listener,
            Err(error) if is_missing(&error) => {
                return Ok(vec![tcp((Ipv6Addr::LOCALHOST, port).into(), false)?.into()]);
            }
            Err(error) => return Err(error),
        };
        let same = v4.local_addr()?.port();
        match tcp((Ipv6Addr::LOCALHOST, same).into(), false) {
            Ok(v6) => return Ok(vec![v4.into(), v6.into()]),
            Err(error) if is_missing(&error) => return Ok(vec![v4.into()]),
            // The port is in use with IPv6: try another one, if any will do.
            Err(error) if port != 0 || tries.next().is_none() => return Err(error),
            Err(_) => {}
        }
    }
}

/// Whether the machine does not have this address, or this kind of addresses.
fn is_missing(error: &io::Error) -> bool {
    const AFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(AFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    fn ports(listeners: &[Listener]) -> Vec<u16> {
        let ports = listeners.iter().map(|listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().expect("bound").port(),
            Listener::Unix(_) => 0,
        });
        ports.collect()
    }

    /// Nothing is served on these sockets, which are closed at once.
    #[tokio::test]
    async fn everywhere_is_ipv4_and_ipv6() {
        let listeners = listen(&[Place::Everywhere(0)], 0).expect("a free port");
        let [port] = ports(&listeners)[..] else {
            panic!("one socket")
        };
        let mut listeners = Listeners::new(listeners);
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        let local = connected.expect("IPv4").local_addr().expect("connected");
        let (_, peer) = listeners.accept().await.expect("a connection");
        assert_eq!(peer, Peer::Ip(local.ip()));
        if TcpStream::connect((Ipv6Addr::LOCALHOST, port))
            .await
            .is_ok()
        {
            let (_, peer) = listeners.accept().await.expect("a connection");
            assert_eq!(peer, Peer::Ip(Ipv6Addr::LOCALHOST.into()));
        }
    }

    #[tokio::test]
    async fn ipv4_and_ipv6_addresses_may_share_a_port() {
        let v4 = listen(&["127.0.0.1:0".parse().expect("an address")], 0).expect("a free port");
        let [port] = ports(&v4)[..] else {
            panic!("one socket")
        };
        drop(v4);
        let both = [format!("127.0.0.1:{port}"), format!("[::]:{port}")];
        let both = both.map(|text| text.parse().expect("an address"));
        let listeners = listen(&both, 0).expect("both");
        assert_eq!(ports(&listeners), [port, port]);
    }
}
