//! Requests that the service itself sends: for keys, and with traces. What is on this machine is never asked through the
//! proxy of `http_proxy` and the like, which could see and forge it.

use std::net::IpAddr;

use reqwest::{Client, ClientBuilder, Url};

/// A client for requests to `url`.
pub fn client(url: &Url) -> ClientBuilder {
    match is_local(url) {
        true => Client::builder().no_proxy(),
        false => Client::builder(),
    }
}

/// Whether the host of a URL is this machine.
pub fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = |ip: IpAddr| ip.to_canonical().is_loopback();
    host == "localhost" || host.parse().is_ok_and(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_and_localhost_are_local() {
        let local = |text: &str| is_local(&text.parse().expect("a URL"));
        for url in [
            "http://localhost/jwks",
            "https://LOCALHOST:8443",
            "http://127.0.0.1",
            "http://127.1.2.3:80",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(local(url), "{url}");
        }
        for url in [
            "http://localhost.example.com",
            "http://10.0.0.1",
            "http://127.0.0.1.example.com",
            "http://[2001:db8::1]",
        ] {
            assert!(!local(url), "{url}");
        }
    }
}
