//! Connections to the nodes: target addresses, source addresses, and the limit on open files.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hyper::http::uri::Authority;
use newsfeed::client::{self, Client, Token, Trust};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};

use super::error::Error;

/// Enough for the kernel to retry a handshake that a full backlog dropped, which it does after 1, 3, 7 and 15 s.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Connections from one loopback address to one node. Far below the 28,232 ephemeral ports that Linux has by default,
/// because the ports of closed connections stay in use for a minute, and because the fewer ports are free, the longer
/// the kernel searches for one.
const CONNECTIONS_PER_SOURCE: usize = 8_000;
/// Number of loopback addresses, 127.0.0.x, which are used in turn.
const SOURCES: usize = 250;
/// Other open files of the process: standard streams, the runtime, the probe.
const OTHER_FILES: u64 = 64;

#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    pub host: String,
    pub authority: Authority,
    /// The path that precedes `/v1`.
    pub prefix: String,
    pub base_url: String,
    pub token: Token,
}

/// Opens connections. Connection `n` goes to node `n` modulo the number of nodes.
#[derive(Debug)]
pub struct Dialer {
    nodes: Vec<Node>,
    sources: Vec<IpAddr>,
    /// The first loopback address that this run uses. Random, because ports of the previous run may be in TIME_WAIT.
    first_source: usize,
    /// Number of clients that share a connection with HTTP/2; `None` for HTTP/1.1.
    pub streams_per_connection: Option<u32>,
}

impl Dialer {
    /// Fails if a node cannot be reached, or if the limit on open files is too low for the connections of `clients`.
    pub async fn new(
        urls: &[String],
        token: Token,
        sources: &[IpAddr],
        clients: usize,
        streams_per_connection: Option<u32>,
    ) -> Result<Self, Error> {
        let mut nodes = Vec::new();
        for url in urls {
            let client = Client::new(url, token.clone(), &Trust::default())?;
            nodes.push(Node::resolve(url, token.clone()).await?);
            client.probe().await?;
        }
        let connections = clients.div_ceil(streams_per_connection.unwrap_or(1) as usize);
        raise_file_limit(connections as u64 + OTHER_FILES)?;
        Ok(Self {
            nodes,
            sources: sources.to_vec(),
            first_source: rand::random_range(0..SOURCES),
            streams_per_connection,
        })
    }

    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number % self.nodes.len()]
    }

    /// `receive_bytes` is the size of the socket's receive buffer; `None` leaves it to the kernel.
    pub async fn connect(
        &self,
        number: usize,
        receive_bytes: Option<u32>,
    ) -> io::Result<TcpStream> {
        let address = self.node(number).address;
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(bytes) = receive_bytes {
            // Before connecting, because it limits the window that the handshake offers.
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source(number, address) {
            socket
                .bind(SocketAddr::new(source, 0))
                .map_err(with_advice)?;
        }
        let connected = timeout(CONNECT_MAX, socket.connect(address)).await?;
        let stream = connected.map_err(with_advice)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// On loopback, uses several addresses 127.0.0.x, so that a node can have more connections than one address has
    /// ports.
    fn source(&self, number: usize, to: SocketAddr) -> Option<IpAddr> {
        let of_node = number / self.nodes.len();
        if !self.sources.is_empty() {
            return Some(self.sources[of_node % self.sources.len()]);
        }
        match to.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                let source = self.first_source + of_node / CONNECTIONS_PER_SOURCE;
                let last = (source % SOURCES) as u8 + 1;
                Some(Ipv4Addr::new(127, 0, 0, last).into())
            }
            _ => None,
        }
    }
}

impl Node {
    /// `url` must be one that [`Client`] accepts.
    async fn resolve(url: &str, token: Token) -> Result<Self, Error> {
        let bad = || client::Error::BadUrl(url.to_owned());
        let parsed = reqwest::Url::parse(url).map_err(|_| bad())?;
        if parsed.scheme() == "https" {
            let advice =
                "newsfeed-bench measures without TLS: use an http:// address of the service";
            return Err(Error::Arguments(advice.to_owned()));
        }
        let host = parsed.host_str().ok_or_else(bad)?;
        let port = parsed.port_or_known_default().ok_or_else(bad)?;
        let unreachable = |cause: String| client::Error::Unreachable {
            url: url.to_owned(),
            cause,
        };
        let name = format!("{host}:{port}");
        let address = lookup_host(&name)
            .await
            .map_err(|error| unreachable(error.to_string()))?
            .next()
            .ok_or_else(|| unreachable("the host name has no address".to_owned()))?;
        Ok(Self {
            address,
            authority: name.parse().map_err(|_| bad())?,
            host: name,
            prefix: parsed.path().trim_end_matches('/').to_owned(),
            base_url: url.to_owned(),
            token,
        })
    }
}

/// Adds advice to the errors for an address that this machine does not have, or that has no free port.
fn with_advice(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => io::Error::new(
            error.kind(),
            format!("{error}; add addresses of this machine with --source"),
        ),
        _ => error,
    }
}

/// Each connection is an open file. Also raises the hard limit, if permitted.
fn raise_file_limit(needed: u64) -> Result<(), Error> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let has = getrlimit(Resource::Nofile);
    if has.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let limit = Rlimit {
        current: Some(needed),
        maximum: has.maximum.map(|maximum| maximum.max(needed)),
    };
    setrlimit(Resource::Nofile, limit).map_err(|_| Error::FileLimit {
        needed,
        allowed: has.maximum.unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(nodes: usize, sources: &[&str]) -> Dialer {
        let node = |number| Node {
            address: SocketAddr::from(([127, 0, 0, 1], 8080 + number)),
            host: String::new(),
            authority: Authority::from_static("here"),
            prefix: String::new(),
            base_url: String::new(),
            token: Token::default(),
        };
        Dialer {
            nodes: (0..nodes as u16).map(node).collect(),
            sources: sources
                .iter()
                .map(|ip| ip.parse().expect("an address"))
                .collect(),
            first_source: 248,
            streams_per_connection: None,
        }
    }

    #[test]
    fn loopback_sources_change_before_their_ports_run_out() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 8080));
        let source =
            |dialer: &Dialer, number| dialer.source(number, loopback).map(|ip| ip.to_string());
        let one = dialer(1, &[]);
        assert_eq!(source(&one, 7_999).as_deref(), Some("127.0.0.249"));
        assert_eq!(source(&one, 8_000).as_deref(), Some("127.0.0.250"));
        assert_eq!(source(&one, 16_000).as_deref(), Some("127.0.0.1"));
        let two = dialer(2, &[]);
        assert_eq!(source(&two, 15_999).as_deref(), Some("127.0.0.249"));
        let elsewhere = SocketAddr::from(([10, 0, 0, 1], 80));
        assert_eq!(one.source(25_000, elsewhere), None);
        let given = dialer(1, &["127.0.0.7", "127.0.0.8"]);
        assert_eq!(source(&given, 0).as_deref(), Some("127.0.0.7"));
        assert_eq!(source(&given, 3).as_deref(), Some("127.0.0.8"));
    }
}
