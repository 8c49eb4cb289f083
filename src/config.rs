//! The configuration of `newsfeed serve`: flags, or the environment.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::{
    clock::WallTime,
    http::Deliveries,
    types::{Delivery, Kind},
};

#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address to serve HTTP on; port 0 picks a free one and prints it.
    #[arg(
        long,
        env = "NEWSFEED_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS:PORT"
    )]
    pub listen: SocketAddr,

    /// Folder of the embedded store; made if it is not there.
    #[arg(
        long,
        env = "NEWSFEED_DATA",
        default_value = "./newsfeed-data",
        value_name = "FOLDER"
    )]
    pub data: PathBuf,

    /// What events of a kind do: `feed` (an entry), `notify` (an entry that counts as unread), `transient` (live
    /// only). Repeat it, or separate by commas. Kinds that are not named are `feed`.
    #[arg(
        long = "kind",
        env = "NEWSFEED_KINDS",
        value_name = "KIND=DELIVERY",
        value_delimiter = ',',
        default_value = "message=notify,flirt=feed,visit=feed,typing=transient",
        value_parser = parse_kind
    )]
    pub kinds: Vec<(Kind, Delivery)>,

    /// Log partitions of a store that is created; an existing one keeps its number.
    #[arg(long, env = "NEWSFEED_PARTITIONS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,

    /// Sets this node's wall clock off by so many seconds, to try out clocks that are wrong.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, hide = true)]
    pub wall_offset_s: i64,
}

impl Config {
    pub fn wall(&self) -> WallTime {
        WallTime::system(self.wall_offset_s.saturating_mul(1_000_000))
    }

    pub fn deliveries(&self) -> Deliveries {
        Deliveries::new(self.kinds.iter().cloned())
    }
}

fn parse_kind(text: &str) -> Result<(Kind, Delivery), String> {
    let (kind, delivery) = text.split_once('=').ok_or("write it like message=notify")?;
    Ok((
        kind.parse().map_err(|error| format!("the kind {error}"))?,
        delivery.parse()?,
    ))
}
