//! TLS, CORS, trusted proxies, and limits per caller.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
};

use clap::{Args, builder::BoolishValueParser};

use crate::{
    http::{
        base_path::BasePath,
        cors::{Cors, Origin},
        hosts::{Host, Hosts},
        limits::{Budget, Limits, NetworkLimits, PER_S_MAX},
        proxies::{Proxies, Proxy},
    },
    tls::{self, Files, Tls},
};

/// Minimum of `--caller-bytes-per-s`: with less, uploads in progress would stall.
const BYTES_PER_S_MIN: u32 = 64 * 1024;
/// Maximum of the settings of memory, in MiB.
const MEMORY_MIB_MAX: i64 = 1024 * 1024;

#[derive(Debug, Clone, Args)]
pub struct TransportConfig {
    /// Certificate chain (PEM), the service's own certificate first. The service then serves HTTPS only (TLS 1.2 and 1.3,
    /// HTTP/1.1 and HTTP/2). The file is reloaded when it changes.
    #[arg(
        long,
        env = "NEWSFEED_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM). The file is reloaded when it changes.
    #[arg(
        long,
        env = "NEWSFEED_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// Path under which a proxy publishes the service, such as `/feeds`: links, pages and cookies then use it. Requests are
    /// served with it and without it, so the proxy may strip it or not.
    #[arg(
        long,
        env = "NEWSFEED_BASE_PATH",
        default_value = "/",
        value_name = "PATH"
    )]
    pub base_path: BasePath,

    /// Origin whose pages may use the API with cookies and tokens, such as `https://app.example.com`. `*` allows all other
    /// origins, without cookies. Can be repeated or comma-separated. By default only the service's own origin is allowed.
    #[arg(
        long = "cors-origin",
        env = "NEWSFEED_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<Origin>,

    /// Address or network of a reverse proxy whose X-Forwarded-For and X-Forwarded-Proto headers are trusted to name the
    /// client and its scheme; `unix` for a proxy that connects through a unix socket. Can be repeated or comma-separated.
    #[arg(
        long = "trusted-proxy",
        env = "NEWSFEED_TRUSTED_PROXIES",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<Proxy>,

    /// Host name or address that requests may be for, besides those of this machine and the address of --listen. Can be
    /// repeated or comma-separated. Without keys and on loopback, no others are accepted; otherwise any host is, unless this
    /// is set.
    #[arg(
        long = "allow-host",
        env = "NEWSFEED_ALLOW_HOSTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub allow_hosts: Vec<Host>,

    /// Requests per second allowed to one caller (its token's subject, else its IP address), with bursts of twice as many.
    /// Requests beyond that get 429. 0 disables this limit, as it does for the limits below.
    #[arg(long, env = "NEWSFEED_CALLER_REQUESTS_PER_S", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(..=i64::from(PER_S_MAX)))]
    pub caller_requests_per_s: u32,

    /// Bytes per second of request bodies allowed to one caller, with bursts of four times as many. Requests beyond that
    /// get 429. Bodies without Content-Length are throttled instead.
    #[arg(long, env = "NEWSFEED_CALLER_BYTES_PER_S", default_value_t = 16 * 1024 * 1024, value_parser = parse_bytes)]
    pub caller_bytes_per_s: u32,

    /// Events per second that one caller may append, with bursts of four times as many. JSON beyond that gets 429, NDJSON is
    /// slowed down.
    #[arg(long, env = "NEWSFEED_CALLER_EVENTS_PER_S", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(..=i64::from(PER_S_MAX)))]
    pub caller_events_per_s: u32,

    /// Bytes of keys and values per second that one caller's appends may write, with bursts of four times as many. An event
    /// counts once for each of its feeds, and not at all if it is not written. JSON beyond that gets 429, NDJSON is slowed
    /// down.
    #[arg(long, env = "NEWSFEED_CALLER_STORED_BYTES_PER_S", default_value_t = 32 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(..=i64::from(PER_S_MAX)))]
    pub caller_stored_bytes_per_s: u32,

    /// Live streams and long polls one caller may have open. More get 429.
    #[arg(long, env = "NEWSFEED_CALLER_STREAMS", default_value_t = 1_000)]
    pub caller_streams: u32,

    /// Connections one IP address may have open, and requests over HTTP/2 it may have under way. More connections are
    /// closed, more requests are reset.
    #[arg(long, env = "NEWSFEED_PEER_CONNECTIONS", default_value_t = 10_000)]
    pub peer_connections: u32,

    /// Memory in MiB for answers that are being made or that clients have not read. When half of it is in use, pages become
    /// shorter; when all of it is, requests for more get 503.
    #[arg(long, env = "NEWSFEED_ANSWER_MEMORY_MIB", default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..=MEMORY_MIB_MAX))]
    pub answer_memory_mib: u32,

    /// The part of this memory that one caller may use. Requests for more get 429.
    #[arg(long, env = "NEWSFEED_CALLER_ANSWER_MEMORY_MIB", default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(..=MEMORY_MIB_MAX))]
    pub caller_answer_memory_mib: u32,

    /// Memory in MiB for request bodies that have arrived in part or are being processed. Requests for more get 503.
    #[arg(long, env = "NEWSFEED_BODY_MEMORY_MIB", default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..=MEMORY_MIB_MAX))]
    pub body_memory_mib: u32,

    /// The part of this memory that one caller may use: 0, or at least 16, so that the largest body has room. Requests for
    /// more get 429.
    #[arg(long, env = "NEWSFEED_CALLER_BODY_MEMORY_MIB", default_value_t = 64, value_name = "MIB", value_parser = parse_body_memory)]
    pub caller_body_memory_mib: u32,

    /// Limits of an IPv6 network: so many times those of one caller, for all callers in it that count by address together.
    #[arg(long, env = "NEWSFEED_NETWORK_CALLERS", default_value_t = 16)]
    pub network_callers: u32,

    /// Size of such a network: the bits of its prefix.
    #[arg(long, env = "NEWSFEED_IPV6_NETWORK_BITS", default_value_t = 48, value_name = "BITS", value_parser = clap::value_parser!(u8).range(16..=63))]
    pub ipv6_network_bits: u8,

    /// Apply the limits also to callers on this machine that send no token.
    #[arg(long, env = "NEWSFEED_LIMIT_LOOPBACK", value_parser = BoolishValueParser::new())]
    pub limit_loopback: bool,
}

fn parse_body_memory(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(mib) if mib == 0 || (16..=MEMORY_MIB_MAX as u32).contains(&mib) => Ok(mib),
        _ => Err(format!(
            "must be 0 or a whole number from 16 to {MEMORY_MIB_MAX}"
        )),
    }
}

/// A budget from sizes in MiB; 0 is no limit.
fn budget(total_mib: u32, caller_mib: u32) -> Budget {
    let bytes = |mib: u32| NonZeroUsize::new(mib as usize * 1024 * 1024);
    Budget {
        total_bytes: bytes(total_mib),
        caller_bytes: bytes(caller_mib),
    }
}

fn parse_bytes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes) if bytes == 0 || (BYTES_PER_S_MIN..=PER_S_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "must be 0 or a whole number from {BYTES_PER_S_MIN} to {PER_S_MAX}"
        )),
    }
}

impl TransportConfig {
    /// Reads the certificate and key if TLS is configured. Blocks.
    pub fn tls(&self) -> Result<Option<Arc<Tls>>, tls::Error> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        files
            .map(|(cert, key)| Tls::open(Files { cert, key }))
            .transpose()
    }

    pub fn cors(&self) -> Cors {
        Cors(self.cors_origins.clone())
    }

    pub fn hosts(&self) -> Hosts {
        Hosts::new(self.allow_hosts.clone())
    }

    pub fn proxies(&self) -> Proxies {
        Proxies(self.trusted_proxies.clone())
    }

    pub fn limits(&self) -> Limits {
        Limits {
            requests_per_s: NonZeroU32::new(self.caller_requests_per_s),
            bytes_per_s: NonZeroU32::new(self.caller_bytes_per_s),
            events_per_s: NonZeroU32::new(self.caller_events_per_s),
            stored_bytes_per_s: NonZeroU32::new(self.caller_stored_bytes_per_s),
            streams: NonZeroU32::new(self.caller_streams),
            connections: NonZeroU32::new(self.peer_connections),
            answers: budget(self.answer_memory_mib, self.caller_answer_memory_mib),
            bodies: budget(self.body_memory_mib, self.caller_body_memory_mib),
            network: NonZeroU32::new(self.network_callers).map(|callers| NetworkLimits {
                bits: self.ipv6_network_bits,
                callers,
            }),
            loopback: self.limit_loopback,
        }
    }
}
