//! Who sent a request. Limits, authorization and logs find this in the request's extensions.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::http::Extensions;

use crate::feed::Reader;

/// What is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    Ip(IpAddr),
    /// A process on this machine, through a unix socket.
    Unix,
}

impl Peer {
    /// What limits apply to: an IPv4 address, the /64 network of an IPv6 address, because one machine can use any address in
    /// it, or all processes that use unix sockets.
    pub fn party(self) -> Self {
        match self {
            Self::Ip(IpAddr::V6(address)) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self::Ip(Ipv6Addr::from_bits(network).into())
            }
            Self::Ip(IpAddr::V4(_)) | Self::Unix => self,
        }
    }

    /// Whether it is on this machine.
    pub fn is_local(self) -> bool {
        match self {
            Self::Ip(address) => address.is_loopback(),
            Self::Unix => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The subject of a request's verified credentials; `None` if they name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(pub Option<Arc<str>>);

/// The caller that a limit applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    Subject(Arc<str>),
    Party(Peer),
}

impl Caller {
    /// Whose share of the reads a request takes.
    pub fn reader(request: &Extensions) -> Reader {
        Reader::request(&Self::of(request))
    }

    /// Whose share of the reads a stream or long poll takes.
    pub fn stream_reader(request: &Extensions) -> Reader {
        Reader::stream(&Self::of(request))
    }

    /// The subject of the credentials, else the address of the peer.
    pub fn of(request: &Extensions) -> Option<Self> {
        if let Some(Subject(Some(subject))) = request.get() {
            return Some(Self::Subject(Arc::clone(subject)));
        }
        request.get().map(|peer: &Peer| Self::Party(peer.party()))
    }

    /// The IPv6 network of this many bits that the caller's address is in; `None` for any other caller.
    pub fn network(&self, bits: u8) -> Option<Self> {
        match self {
            Self::Party(Peer::Ip(IpAddr::V6(address))) => {
                let mask = u128::MAX << (128 - u32::from(bits));
                let network = Ipv6Addr::from_bits(address.to_bits() & mask);
                Some(Self::Party(Peer::Ip(network.into())))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_64_bit_network_are_one_party() {
        let party = |text: &str| Peer::Ip(text.parse().expect("an address")).party();
        assert_eq!(party("2001:db8:0:1::1"), party("2001:db8:0:1:ffff::2"));
        assert_ne!(party("2001:db8:0:1::1"), party("2001:db8:0:2::1"));
        assert_ne!(party("203.0.113.9"), party("203.0.113.8"));
    }
}
