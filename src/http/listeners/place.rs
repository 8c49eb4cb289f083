//! The addresses that a service is told to listen on.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Most addresses to listen on, after host names have been resolved.
pub const PLACES_MAX: usize = 16;

const FORMS: &str = "expected ADDRESS:PORT, such as 127.0.0.1:8080, [::1]:8080 or localhost:8080; :PORT for all addresses; or unix:/PATH";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    /// The loopback addresses of IPv4 and IPv6.
    Localhost(u16),
    /// All addresses of this machine, IPv4 and IPv6.
    Everywhere(u16),
    /// The addresses that this name has when the service starts.
    Host(String, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Place {
    /// Whether only this machine can reach it. For names, only if all their addresses are known: after [`resolve`].
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Localhost(_) | Self::Unix(_) => true,
            Self::Everywhere(_) | Self::Host(..) => false,
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path).is_absolute() {
                true => Ok(Self::Unix(path.into())),
                false => {
                    Err("the path of a unix socket begins with a slash: unix:/PATH".to_owned())
                }
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
        let port = port.parse().map_err(|_| FORMS)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        match host {
            "" => Ok(Self::Everywhere(port)),
            _ if host.eq_ignore_ascii_case("localhost") => Ok(Self::Localhost(port)),
            _ if host.parse::<Ipv6Addr>().is_ok() => Err(format!(
                "an IPv6 address is written in brackets, such as [::1]:{port}"
            )),
            _ if host.bytes().all(is_name) => Ok(Self::Host(host.to_owned(), port)),
            _ => Err(FORMS.to_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::Host(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `places` with the addresses of host names in place of the names.
pub async fn resolve(places: &[Place]) -> Result<Vec<Place>, String> {
    let mut resolved = Vec::new();
    for place in places {
        let Place::Host(name, port) = place else {
            resolved.push(place.clone());
            continue;
        };
        let found = tokio::net::lookup_host((name.as_str(), *port)).await;
        let found = found.map_err(|error| {
            format!("cannot listen on {place}: the name {name} has no address ({error})")
        })?;
        for address in found.map(Place::Tcp) {
            if !resolved.contains(&address) {
                resolved.push(address);
            }
        }
    }
    match resolved.len() {
        1..=PLACES_MAX => Ok(resolved),
        count => Err(format!(
            "a service listens on 1 to {PLACES_MAX} addresses, not on {count}: give fewer with --listen"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_in_the_same_form() {
        let tcp = |text: &str| Place::Tcp(text.parse().expect(text));
        for (text, expected, local) in [
            ("127.0.0.1:8080", tcp("127.0.0.1:8080"), true),
            ("127.8.9.1:0", tcp("127.8.9.1:0"), true),
            ("[::1]:8080", tcp("[::1]:8080"), true),
            ("[::ffff:127.0.0.1]:80", tcp("[::ffff:127.0.0.1]:80"), true),
            ("0.0.0.0:80", tcp("0.0.0.0:80"), false),
            ("[::]:80", tcp("[::]:80"), false),
            ("localhost:8080", Place::Localhost(8080), true),
            (":8080", Place::Everywhere(8080), false),
            (
                "node-1.example:80",
                Place::Host("node-1.example".into(), 80),
                false,
            ),
            (
                "unix:/run/newsfeed.sock",
                Place::Unix("/run/newsfeed.sock".into()),
                true,
            ),
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!((&place, place.is_local()), (&expected, local));
            assert_eq!(place.to_string(), text);
        }
        for (text, part) in [
            ("", "ADDRESS:PORT"),
            ("8080", "ADDRESS:PORT"),
            ("127.0.0.1", "ADDRESS:PORT"),
            ("localhost", "ADDRESS:PORT"),
            ("localhost:http", "ADDRESS:PORT"),
            ("localhost:65536", "ADDRESS:PORT"),
            ("*:8080", ":PORT for all"),
            ("http://localhost:80", "ADDRESS:PORT"),
            ("::1:8080", "[::1]:8080"),
            ("[::1:8080", "ADDRESS:PORT"),
            ("unix:newsfeed.sock", "slash"),
            ("unix:", "slash"),
        ] {
            let error = text.parse::<Place>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn names_are_resolved_and_their_number_is_limited() {
        let many: Vec<Place> = (0..PLACES_MAX as u16 + 1).map(Place::Everywhere).collect();
        assert_eq!(resolve(&many[1..]).await.as_deref(), Ok(&many[1..]));
        let error = resolve(&many).await.expect_err("too many");
        assert!(error.contains("not on 17"), "{error}");
        let unknown = Place::Host("nothing.invalid".into(), 80);
        let error = resolve(&[unknown]).await.expect_err("no address");
        assert!(error.contains("nothing.invalid:80"), "{error}");
    }
}
