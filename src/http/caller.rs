//! Who sent a request, as extensions of it: what limits, rights and logs go by.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::http::Extensions;

/// The address at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// What one party has for itself: an address, or with IPv6 a network of 64 bits, of which any machine may take
    /// addresses as it likes.
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

/// Whom a request's credentials name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(pub Arc<str>);

/// Whom a limit is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    Subject(Arc<str>),
    Party(IpAddr),
}

impl Caller {
    /// Whoever the credentials name, else whoever is at the other end.
    pub fn of(request: &Extensions) -> Option<Self> {
        if let Some(Subject(subject)) = request.get() {
            return Some(Self::Subject(Arc::clone(subject)));
        }
        request.get().map(|peer: &Peer| Self::Party(peer.party()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_network_of_64_bits_are_one_party_and_others_are_another() {
        let party = |text: &str| Peer(text.parse().expect("an address")).party();
        assert_eq!(party("2001:db8:0:1::1"), party("2001:db8:0:1:ffff::2"));
        assert_ne!(party("2001:db8:0:1::1"), party("2001:db8:0:2::1"));
        assert_ne!(party("203.0.113.9"), party("203.0.113.8"));
    }
}
