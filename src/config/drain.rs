//! How a node shuts down.

use std::time::Duration;

use clap::Args;

use crate::server::Drain;

#[derive(Debug, Clone, Args)]
pub struct DrainConfig {
    /// Time in ms after SIGTERM during which requests are still served while /readyz already answers 503, so that load
    /// balancers stop sending traffic first.
    #[arg(long, env = "NEWSFEED_DRAIN_DELAY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub drain_delay_ms: u64,

    /// Time in ms after the drain delay within which the process exits, whatever clients and the store do. Clients get
    /// half of it to receive the responses in progress.
    #[arg(long, env = "NEWSFEED_DRAIN_TIME_MS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub drain_time_ms: u64,
}

impl DrainConfig {
    pub fn drain(&self) -> Drain {
        Drain {
            delay: Duration::from_millis(self.drain_delay_ms),
            time: Duration::from_millis(self.drain_time_ms),
        }
    }
}
