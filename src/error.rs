//! Errors of the domain. They know nothing of HTTP; `http::problem` maps them to a status and a message for clients.

use crate::{
    auth::Denied,
    store,
    types::{EventId, FeedName, Kind},
    version::Version,
};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("event id {id:?} was already used with different content")]
    IdReused {
        id: EventId,
        /// The version of the first event with the id; `None` if the caller must not know it.
        version: Option<Version>,
    },
    #[error("feed {feed} is not at the expected version")]
    VersionConflict {
        /// The event whose condition it is, if it belongs to one.
        id: Option<EventId>,
        feed: FeedName,
        current: Option<Version>,
    },
    #[error("version {asked} has not been reached yet; the current version is {current}")]
    VersionAhead { asked: Version, current: Version },
    /// The version is not of this life of the store.
    #[error("version {asked} is not of this store; the current version is {current}")]
    CursorUnknown { asked: Version, current: Version },
    /// Retention may have removed something above the version.
    #[error(
        "version {asked} lies below what is kept; the oldest version to continue from is {oldest}"
    )]
    CursorExpired {
        asked: Version,
        oldest: Version,
        current: Version,
    },
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("no event has the id {0:?}")]
    EventNotFound(EventId),
    /// The feed shows no entry at this version.
    #[error("the feed has no entry at version {0}")]
    EntryNotFound(Version),
    /// Entries of this kind do not count as unread.
    #[error("entries of kind {0} have no state")]
    NotNotify(Kind),
    /// The reader wrote the entry, and so has read it.
    #[error("an entry is never unread for whoever wrote it")]
    OwnEntry,
    #[error("the event {0:?} was erased")]
    EventErased(EventId),
    #[error("event {id:?} has another revision than the expected one")]
    RevisionConflict { id: EventId, current: Version },
    /// The bytes of the new data, multiplied by the number of feeds.
    #[error("the data is too large for the number of feeds: {0} bytes in all")]
    FanoutTooLarge(usize),
    #[error("too many changes are under way on this node")]
    ChangesBusy,
    #[error("too many erasures are under way")]
    TooManyErasures,
    /// What an erasure has left for a few seconds cannot be removed yet.
    #[error("twins may still be committed")]
    TwinsMayCome,
    #[error("the append queue is full")]
    Busy,
    #[error("appends are waiting too long in the queue")]
    Late,
    #[error("too many reads are waiting")]
    ReadsBusy,
    #[error("too many streams and long polls are open")]
    TooManyStreams,
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Store(#[from] store::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The stable, machine-readable code of the error: in problems sent to clients and in metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::IdReused { .. } => "id_reused",
            Self::VersionConflict { .. } => "version_conflict",
            Self::VersionAhead { .. } => "version_ahead",
            Self::CursorUnknown { .. } => "cursor_unknown",
            Self::CursorExpired { .. } => "cursor_expired",
            Self::Denied(_) => "forbidden",
            Self::EventNotFound(_) => "event_not_found",
            Self::EntryNotFound(_) => "entry_not_found",
            Self::NotNotify(_) => "not_notify",
            Self::OwnEntry => "own_entry",
            Self::EventErased(_) => "event_erased",
            Self::RevisionConflict { .. } => "revision_conflict",
            Self::FanoutTooLarge(_) => "invalid_event",
            Self::TooManyErasures => "too_many_erasures",
            Self::TwinsMayCome => "internal",
            Self::ChangesBusy => "busy",
            Self::Busy | Self::Late | Self::ReadsBusy => "busy",
            Self::TooManyStreams => "too_many_streams",
            Self::ShuttingDown | Self::Store(store::Error::Closed) => "shutting_down",
            Self::Store(
                store::Error::Corrupt { .. } | store::Error::Damaged(_) | store::Error::Open(_),
            ) => "internal",
            Self::Store(store::Error::Full) => "storage_full",
            Self::Store(_) => "store_unavailable",
        }
    }
}

impl store::RetryableError for Error {
    fn into_store_error(self) -> std::result::Result<store::Error, Self> {
        match self {
            Self::Store(error) => Ok(error),
            other => Err(other),
        }
    }
}
