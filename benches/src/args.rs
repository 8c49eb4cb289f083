//! Arguments shared by the subcommands.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};

use newsfeed::client::{DEFAULT_URL, TokenArgs};

use super::{
    error::Error,
    plan::Number,
    schedule::{Pace, Schedule},
};

#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Base URL of a node; repeat it for several nodes, between which connections are divided evenly
    #[arg(long, env = "NEWSFEED_URL", default_value = DEFAULT_URL)]
    pub url: Vec<String>,
    #[command(flatten)]
    pub token: TokenArgs,
    /// Local address to connect from; repeat it for more than 28,000 connections to a node [default: chosen by the
    /// system; several addresses 127.0.0.x if the node is on loopback]
    #[arg(long, value_name = "ADDRESS")]
    pub source: Vec<IpAddr>,
    /// Use HTTP/2 without TLS, with prior knowledge: clients share connections, and --connections is the number of
    /// concurrent requests
    #[arg(long)]
    http2: bool,
    /// With --http2, the number of clients that share a connection; the service accepts 256 concurrent requests on one
    #[arg(long, value_name = "CLIENTS", default_value_t = 100, requires = "http2", value_parser = clap::value_parser!(u32).range(1..=256))]
    streams_per_connection: u32,
    /// Report the CPU time and memory of this process of the service, on this machine; repeat it for several processes,
    /// for example those of its database
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Write all results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report to this file: an HTML page with latency charts
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl Common {
    /// `None` for HTTP/1.1.
    pub fn streams_per_connection(&self) -> Option<u32> {
        self.http2.then_some(self.streams_per_connection)
    }
}

/// The events to append, at any rate.
#[derive(Debug, Clone, clap::Args)]
pub struct Events {
    /// Number of connections that append
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Kind of the events; `message` counts as unread unless configured otherwise in the service
    #[arg(long, default_value = "message")]
    pub kind: String,
    /// Length of the text in an event's data, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub text: u32,
}

/// How long to append, and how many events at a time.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Events per request (1 to 1000)
    #[arg(long, value_name = "EVENTS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: u16,
    /// How long to append, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    #[command(flatten)]
    pub events: Events,
}

impl Load {
    /// A closed loop, in which each connection waits for a response before it sends its next request.
    pub fn closed_loop(&self) -> Arc<Schedule> {
        closed_loop(self.seconds, self.batch)
    }

    /// An open loop at `rate` events per second.
    pub fn schedule(&self, rate: f64) -> Result<Arc<Schedule>, Error> {
        let pace = Pace::of_events(rate, self.batch, self.seconds);
        check_event_count(pace.count().saturating_mul(self.batch.into()))?;
        Ok(Schedule::new(pace))
    }

    pub fn json(&self) -> Value {
        let Self {
            batch,
            seconds,
            events,
        } = self;
        json!({
            "batch": batch, "seconds": seconds, "connections": events.connections,
            "kind": events.kind, "text": events.text,
        })
    }
}

/// A closed loop of requests with `batch` events each, limited by the number of events a run can have.
pub fn closed_loop(seconds: u32, batch: u16) -> Arc<Schedule> {
    Schedule::new(Pace::WhenFree {
        length: Duration::from_secs(seconds.into()),
        count_max: u64::from(Number::MAX) / u64::from(batch),
    })
}

/// Fails if a run cannot have so many events, because each needs a [`Number`].
pub fn check_event_count(events: u64) -> Result<(), Error> {
    if events < Number::MAX.into() {
        return Ok(());
    }
    let message = format!(
        "a run can have at most {} events, not {events}: choose fewer",
        Number::MAX - 1
    );
    Err(Error::Arguments(message))
}

pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0.01 to 10000000".to_owned()),
    }
}

pub fn parse_rate_or_none(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0.0),
        _ => parse_rate(text).map_err(|expected| format!("{expected}, or 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_checked() {
        for rate in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(parse_rate(rate).is_err(), "{rate}");
        }
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        assert_eq!(parse_rate_or_none("0.5"), Ok(0.5));
        assert_eq!(parse_rate_or_none("0"), Ok(0.0));
        assert!(parse_rate_or_none("0.001").is_err());
    }
}
