//! What the sub-commands have in common.

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
    /// Base URL of a node; repeat it for several nodes, which share the connections evenly
    #[arg(long, env = "NEWSFEED_URL", default_value = DEFAULT_URL)]
    pub url: Vec<String>,
    #[command(flatten)]
    pub token: TokenArgs,
    /// Local address to connect from; repeat it for more than 28,000 connections to a node [default: chosen by the
    /// system; to a loopback address, several of 127.0.0.x]
    #[arg(long, value_name = "ADDRESS")]
    pub source: Vec<IpAddr>,
    /// HTTP/2 without TLS and without asking first ("prior knowledge"): clients share connections, so that --connections
    /// is how many requests there are at a time
    #[arg(long)]
    http2: bool,
    /// With --http2, how many clients share a connection; the service takes 256 requests at a time on one
    #[arg(long, value_name = "CLIENTS", default_value_t = 100, requires = "http2", value_parser = clap::value_parser!(u32).range(1..=256))]
    streams_per_connection: u32,
    /// A process of the service on this machine whose CPU time and memory are to be told; repeat it for several, also
    /// for those of its database
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Write all results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report to this file: one HTML page with the curves of the latencies
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl Common {
    /// `None` for HTTP/1.1.
    pub fn streams_per_connection(&self) -> Option<u32> {
        self.http2.then_some(self.streams_per_connection)
    }
}

/// Events, whatever their pace.
#[derive(Debug, Clone, clap::Args)]
pub struct Events {
    /// Connections that append
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// Kind of the events; `message` counts as unread unless the service is configured otherwise
    #[arg(long, default_value = "message")]
    pub kind: String,
    /// Bytes of text in an event's data
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub text: u32,
}

/// For how long, and in what requests.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Events in one request (1 to 1000)
    #[arg(long, value_name = "EVENTS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: u16,
    /// How long to append
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    #[command(flatten)]
    pub events: Events,
}

impl Load {
    /// Requests that wait for the answers before them.
    pub fn closed_loop(&self) -> Arc<Schedule> {
        closed_loop(self.seconds, self.batch)
    }

    /// `rate` events a second.
    pub fn schedule(&self, rate: f64) -> Result<Arc<Schedule>, Error> {
        let pace = Pace::of_events(rate, self.batch, self.seconds);
        countable(pace.count().saturating_mul(self.batch.into()))?;
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

/// Requests of `batch` events, as many as have numbers.
pub fn closed_loop(seconds: u32, batch: u16) -> Arc<Schedule> {
    Schedule::new(Pace::WhenFree {
        length: Duration::from_secs(seconds.into()),
        count_max: u64::from(Number::MAX) / u64::from(batch),
    })
}

/// Events of a run have numbers.
pub fn countable(events: u64) -> Result<(), Error> {
    if events < Number::MAX.into() {
        return Ok(());
    }
    let message = format!(
        "{events} events are more than a run can have ({}): choose fewer",
        Number::MAX
    );
    Err(Error::Arguments(message))
}

pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.01 to 10000000".to_owned()),
    }
}

pub fn parse_rate_or_none(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0.0),
        _ => parse_rate(text).map_err(|allowed| format!("0 or {allowed}")),
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
