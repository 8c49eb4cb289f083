//! Trusted proxies, whose `X-Forwarded-For` names the client.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::caller::Peer;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client uses HTTPS. In the extensions of a request.
#[derive(Debug, Clone, Copy)]
pub struct Https;

/// The proxies in front of this node.
#[derive(Debug, Clone, Default)]
pub struct Proxies(pub Vec<Proxy>);

/// Where a proxy connects from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    Network(IpNet),
    /// The unix sockets that this node listens on.
    Unix,
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let network = text.parse::<IpNet>();
        let network = network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map(Self::Network)
            .map_err(|_| "expected an IP address, a network like 10.0.0.0/8, or unix".to_owned())
    }
}

impl Proxies {
    pub fn trust(&self, peer: Peer) -> bool {
        self.0.iter().any(|proxy| match (proxy, peer) {
            (Proxy::Network(network), Peer::Ip(address)) => network.contains(&address),
            (Proxy::Unix, Peer::Unix) => true,
            _ => false,
        })
    }

    /// The client behind a request that came from `peer`. Each proxy appends the address it received the request from, so
    /// the client is the last address that is not a trusted proxy's. Anything before that may be forged.
    pub fn peer(&self, mut peer: Peer, headers: &HeaderMap) -> Peer {
        if self.trust(peer) {
            let named = headers.get_all(&FORWARDED_FOR).iter().rev();
            let named = named.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
            for address in named.map(|text| address(text.trim())) {
                // Entries before one that is not an address cannot be trusted.
                let Some(address) = address else { break };
                peer = Peer::Ip(address);
                if !self.trust(peer) {
                    break;
                }
            }
        }
        peer
    }

    /// Whether the client uses HTTPS: with this service, if `tls`, or with the trusted proxy that the request came from,
    /// according to its `X-Forwarded-Proto`.
    pub fn https(&self, peer: Peer, tls: bool, headers: &HeaderMap) -> Option<Https> {
        let mut schemes = headers.get_all(&FORWARDED_PROTO).iter();
        let mut forwarded = || match (schemes.next(), schemes.next()) {
            (Some(scheme), None) => scheme.as_bytes().eq_ignore_ascii_case(b"https"),
            _ => false,
        };
        (tls || (self.trust(peer) && forwarded())).then_some(Https)
    }
}

/// An address with or without a port, which some proxies add.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_that_is_not_a_proxys_is_the_peer() {
        let proxies = Proxies(
            ["10.0.0.0/8", "127.0.0.1", "fd00::/8"]
                .map(|text| text.parse().expect(text))
                .into(),
        );
        for (peer, said, expected) in [
            ("10.1.2.3", &["203.0.113.9"][..], "203.0.113.9"),
            ("10.1.2.3", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            (
                "127.0.0.1",
                &["1.1.1.1, 203.0.113.9,10.0.0.7"],
                "203.0.113.9",
            ),
            (
                "127.0.0.1",
                &["1.1.1.1", "203.0.113.9", "10.0.0.7"],
                "203.0.113.9",
            ),
            ("fd00::1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("10.1.2.3", &["::ffff:203.0.113.9"], "203.0.113.9"),
            // The client is not named.
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &["1.1.1.1, unknown"], "10.1.2.3"),
            ("10.1.2.3", &["1.1.1.1, unknown, 10.0.0.7"], "10.0.0.7"),
            ("10.1.2.3", &["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
            // The header of a peer that is not a proxy is ignored.
            ("203.0.113.9", &["1.1.1.1"], "203.0.113.9"),
            ("203.0.113.9", &["10.0.0.7"], "203.0.113.9"),
            ("127.0.0.2", &["1.1.1.1"], "127.0.0.2"),
        ] {
            let mut headers = HeaderMap::new();
            for said in said {
                headers.append(FORWARDED_FOR, said.parse().expect("a value"));
            }
            let peer = Peer::Ip(peer.parse().expect("an address"));
            let found = proxies.peer(peer, &headers);
            assert_eq!(found.to_string(), expected, "{peer:?} {said:?}");
        }
        for text in ["", "10", "10.0.0.0/33", "example.com"] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_on_a_unix_socket_is_trusted_only_if_configured() {
        let client = Peer::Ip([203, 0, 113, 9].into());
        let mut headers = HeaderMap::new();
        headers.append(
            FORWARDED_FOR,
            "1.1.1.1, 203.0.113.9".parse().expect("a value"),
        );
        let networks = Proxies(vec!["0.0.0.0/0".parse().expect("a network")]);
        assert_eq!(networks.peer(Peer::Unix, &headers), Peer::Unix);
        let unix = Proxies(vec!["unix".parse().expect("unix")]);
        assert_eq!(unix.peer(Peer::Unix, &headers), client);
        assert_eq!(unix.peer(client, &headers), client);
        assert_eq!(unix.peer(Peer::Unix, &HeaderMap::new()), Peer::Unix);
    }
}
