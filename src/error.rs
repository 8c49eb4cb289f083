//! What can go wrong in the domain. No HTTP here; `http::problem` maps it to status and code.

use crate::{
    store,
    types::{EventId, FeedName},
    version::Version,
};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("event id {id:?} was used before, with other content, at version {version}")]
    IdReused { id: EventId, version: Version },
    #[error("feed {feed} is not at the expected version")]
    VersionConflict {
        id: EventId,
        feed: FeedName,
        current: Option<Version>,
    },
    #[error("version {asked} has not been reached; the current version is {current}")]
    VersionAhead { asked: Version, current: Version },
    #[error("the append queue is full")]
    Busy,
    #[error("the append queue is late")]
    Late,
    #[error("too many reads wait")]
    ReadsBusy,
    #[error("too many streams and long polls")]
    TooManyStreams,
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Store(#[from] store::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl store::RetryableError for Error {
    fn into_store_error(self) -> std::result::Result<store::Error, Self> {
        match self {
            Self::Store(error) => Ok(error),
            other => Err(other),
        }
    }
}
