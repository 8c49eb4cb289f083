//! How a node leaves.

use std::time::Duration;

use clap::Args;

use crate::server::Drain;

#[derive(Debug, Clone, Args)]
pub struct DrainConfig {
    /// After SIGTERM, time in ms in which everything is still served and only /readyz answers 503, so that load balancers
    /// turn away first.
    #[arg(long, env = "NEWSFEED_DRAIN_DELAY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub drain_delay_ms: u64,

    /// After that, time in ms in which the process ends, whatever its clients and its store do; half of it is for clients
    /// to take the answers under way.
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
