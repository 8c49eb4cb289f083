//! Who sent a request. Limits, authorization and logs find this in the request's extensions.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::http::Extensions;

/// The address at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// The address that limits apply to: an IPv4 address, or the /64 network of an IPv6 address, because one machine
    /// can use any address in it.
    pub fn party(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
        }
    }

    pub fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

/// The subject of a request's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(pub Arc<str>);

/// The caller that a limit applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    Subject(Arc<str>),
    Party(IpAddr),
}

impl Caller {
    /// The subject of the credentials, else the address of the peer.
    pub fn of(request: &Extensions) -> Option<Self> {
        if let Some(Subject(subject)) = request.get() {
            return Some(Self::Subject(Arc::clone(subject)));
        }
        request.get().map(|peer: &Peer| Self::Party(peer.party()))
    }

    /// The IPv6 network of this many bits that the caller's address is in; `None` for a subject or an IPv4 address.
    pub fn network(&self, bits: u8) -> Option<Self> {
        match self {
            Self::Party(IpAddr::V6(address)) => {
                let mask = u128::MAX << (128 - u32::from(bits));
                Some(Self::Party(
                    Ipv6Addr::from_bits(address.to_bits() & mask).into(),
                ))
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
        let party = |text: &str| Peer(text.parse().expect("an address")).party();
        assert_eq!(party("2001:db8:0:1::1"), party("2001:db8:0:1:ffff::2"));
        assert_ne!(party("2001:db8:0:1::1"), party("2001:db8:0:2::1"));
        assert_ne!(party("203.0.113.9"), party("203.0.113.8"));
    }
}
