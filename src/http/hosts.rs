//! Which hosts requests may be for. Without keys, a service on loopback is open to every program on the machine, and a
//! browser is one: a web site can let its own name resolve to 127.0.0.1 while its page is open (DNS rebinding), and for the
//! browser that page and this service are then of the same origin. But the requests still name the site's host.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use axum::{
    extract::Request,
    http::{header, uri::Authority},
};

use super::problem::{Code, Problem, Result};

/// A host, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// In lower case.
    Name(Box<str>),
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let form = || {
            "write it like feeds.example.com or 192.0.2.7, without a scheme, port or path"
                .to_owned()
        };
        let bare = text.trim_matches(['[', ']']);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let url = reqwest::Url::parse(&format!("http://{text}/")).map_err(|_| form())?;
        match url.host_str() {
            // Of anything but a name, a part would not be in the host.
            Some(host) if host == text.to_ascii_lowercase() && !text.contains('*') => {
                Ok(Self::Name(host.into()))
            }
            _ => Err(form()),
        }
    }
}

/// The hosts that requests may be for, besides those of this machine.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    allowed: Vec<Host>,
    listening: Vec<IpAddr>,
    /// Without it, requests may be for any host.
    checked: bool,
}

impl Hosts {
    /// These hosts, and no others if there are any.
    pub fn new(allowed: Vec<Host>) -> Self {
        Self {
            checked: !allowed.is_empty(),
            allowed,
            listening: Vec::new(),
        }
    }

    /// Tells where the node listens, and whether it has keys. Without keys and on loopback only, hosts are checked even if
    /// none is allowed by name.
    pub fn listening(&mut self, addresses: impl Iterator<Item = SocketAddr>, has_keys: bool) {
        let ip = |address: SocketAddr| address.ip().to_canonical();
        self.listening = addresses.map(ip).collect();
        self.checked |= !has_keys && self.listening.iter().all(IpAddr::is_loopback);
    }

    fn accepts(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let allowed = |host: Host| self.allowed.contains(&host);
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            let address = address.to_canonical();
            // A service on all addresses does not know them, but no other site can be of the origin of an address.
            let own = |ip: &IpAddr| *ip == address || ip.is_unspecified();
            return address.is_loopback()
                || self.listening.iter().any(own)
                || allowed(Host::Address(address));
        }
        let host = host.to_ascii_lowercase();
        host == "localhost" || host.ends_with(".localhost") || allowed(Host::Name(host.into()))
    }

    /// Refuses requests for other hosts.
    pub fn check(&self, request: &Request) -> Result<()> {
        let local = request.extensions().get::<ThroughUnixSocket>().is_some();
        if local || !self.checked || self.accept(request) {
            return Ok(());
        }
        tracing::debug!(
            "request refused: it is for a host that this service does not accept (see --allow-host)"
        );
        Err(Problem::new(
            Code::HostNotAllowed,
            "this service does not accept requests for this host: use its address, such as http://127.0.0.1:8080, or ask its \
             operator to allow the host (the guide to security, at /docs/security, says how)",
        ))
    }

    /// Whether every host that the request names is accepted. A request without a host is: browsers always name it.
    fn accept(&self, request: &Request) -> bool {
        let named = request.headers().get_all(header::HOST).iter();
        let named = named.map(|value| Authority::try_from(value.as_bytes()).ok());
        // Of HTTP/2, and of requests in the form for proxies.
        let target = request.uri().authority().cloned().map(Some);
        named.chain(target).all(|authority| {
            let plain = authority.filter(|authority| !authority.as_str().contains('@'));
            plain.is_some_and(|authority| self.accepts(authority.host()))
        })
    }
}

/// In the extensions of a request that came through a unix socket. No browser connects to one, so its host does not matter.
#[derive(Clone, Copy)]
pub struct ThroughUnixSocket;

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(allowed: &[&str], listen: &[&str], has_keys: bool) -> Hosts {
        let allowed = allowed.iter().map(|text| text.parse().expect("a host"));
        let listen: Vec<_> = listen
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        let mut hosts = Hosts::new(allowed.collect());
        hosts.listening(listen.into_iter(), has_keys);
        hosts
    }

    #[test]
    fn hosts_of_this_machine_and_allowed_ones_are_accepted() {
        let allowed = ["Feeds.Example", "192.0.2.7", "2001:db8::1"];
        let hosts = hosts(&allowed, &["127.0.0.1:80"], false);
        for host in [
            "localhost",
            "LocalHost",
            "localhost.",
            "app.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "feeds.example",
            "FEEDS.example.",
            "192.0.2.7",
            "[2001:db8::1]",
        ] {
            assert!(hosts.accepts(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "a.feeds.example",
            "192.0.2.8",
            "0.0.0.0",
            "[::]",
            "2130706433",
            "[::2]",
        ] {
            assert!(!hosts.accepts(host), "{host}");
        }
    }

    #[test]
    fn hosts_are_checked_without_keys_on_loopback_and_with_a_list() {
        for (allowed, listen, has_keys, checked) in [
            (&[][..], &["127.0.0.1:80"][..], false, true),
            (&[], &["127.0.0.1:80", "[::1]:80"], false, true),
            (&[], &["127.0.0.1:80"], true, false),
            (&[], &["0.0.0.0:80"], false, false),
            (&[], &["127.0.0.1:80", "10.0.0.1:80"], false, false),
            (&["a.example"], &["0.0.0.0:80"], true, true),
        ] {
            let hosts = hosts(allowed, listen, has_keys);
            assert_eq!(hosts.checked, checked, "{allowed:?} {listen:?} {has_keys}");
        }
        let everywhere = hosts(&["a.example"], &["0.0.0.0:80"], true);
        assert!(everywhere.accepts("192.0.2.9") && !everywhere.accepts("b.example"));
    }

    #[test]
    fn an_allowed_host_is_a_name_or_an_address() {
        for text in [
            "localhost",
            "feeds.example",
            "a-b.example",
            "192.0.2.1",
            "::1",
            "[::1]",
        ] {
            text.parse::<Host>().expect(text);
        }
        for text in [
            "",
            "http://a.example",
            "a.example:80",
            "a.example/",
            "a b",
            "user@a",
            "*",
            "*.example",
            "a?b",
            "a#",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
