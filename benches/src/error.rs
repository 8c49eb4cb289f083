//! Why a run ended early or failed.

use newsfeed::client;

/// Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service could not be reached, or its answer could not be used.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Arguments that do not go together.
    #[error("{0}")]
    Arguments(String),
    #[error(
        "{needed} open files are needed, one for each connection, but the system allows {allowed}: run \
         `ulimit -n {needed}` first (as root, or after raising the hard limit), or use fewer connections"
    )]
    FileLimit { needed: u64, allowed: u64 },
    #[error(
        "{unknown} of the events that fill the feeds were not accepted: use fewer, or a service that is less busy"
    )]
    Filling { unknown: u64 },
    /// The service must be correct while it is fast.
    #[error("{count} entries were not delivered correctly; the first: {first}")]
    Inexact { count: u64, first: String },
    /// The ways to read the log do not agree, or one of them failed.
    #[error("the log was not read correctly: {0}")]
    Log(String),
    #[cfg(feature = "fdb")]
    #[error("the bare client failed: {0}")]
    Bare(String),
    /// The service ended a stream, closed a connection, or did not deliver each event once.
    #[error("fan-out failed: {0}")]
    FanOut(String),
    /// JetStream did not store an event, or did not answer.
    #[error("appending to JetStream failed: {0}")]
    JetStream(String),
    #[error("stopped by Ctrl-C; there are no results")]
    Interrupted,
    #[error("stopped by Ctrl-C; the results cover what was done until then")]
    Stopped,
}

/// What shells report for a command that SIGINT ended.
const EXIT_INTERRUPTED: u8 = 130;

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Interrupted | Self::Stopped => EXIT_INTERRUPTED,
            _ => 1,
        }
    }
}
