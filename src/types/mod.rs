//! Names, JSON data, events and entries. Everything is parsed and checked once, at the edge; further inside, the types
//! prove that it is valid.

mod canonical;
mod data;
mod events;
mod names;
mod number;
pub mod surrogates;
mod time;

pub use self::{
    data::Data,
    events::{Change, Delivery, Draft, Entry, Event, Expect, Marker, NO_TWIN, ReadState},
    names::{Actor, EventId, FeedName, Kind, ReaderName, check_prefix},
    time::EventTime,
};

/// Maximum length of a feed name, kind, actor or event id, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Maximum number of feeds one event may name.
pub const EVENT_FEEDS_MAX: usize = 100;
/// Maximum size of an event's `data`, in bytes of compact JSON.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// Maximum of `data` bytes × feeds: limits how much one event may write.
pub const DATA_FANOUT_BYTES_MAX: usize = 1024 * 1024;
/// Maximum nesting depth of arrays and objects in `data`.
pub const DATA_DEPTH_MAX: usize = 100;
/// Maximum length of an event's `time`, in bytes: nanoseconds and an offset.
pub const TIME_BYTES_MAX: usize = 35;

/// Why a value is invalid. The text completes a sentence that begins with the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("must be 1 to {NAME_BYTES_MAX} bytes of UTF-8, but has {0}")]
    Length(usize),
    #[error("must be text in UTF-8")]
    NotUtf8,
    #[error(
        "must not contain control characters, line separators, bidirectional formatting or byte order marks, but has \
         U+{:04X}",
        u32::from(*.0)
    )]
    Character(char),
    #[error("must be in Unicode Normalization Form C: normalize it to NFC first")]
    NotNormalized,
    #[error("must not contain `*`, which stands for the rest of a name in the patterns of tokens")]
    Asterisk,
    #[error("must not be `.` or `..`, which URLs treat as path segments")]
    Dots,
    #[error("must not begin or end with a space")]
    Spaces,
    #[error("must name 1 to {EVENT_FEEDS_MAX} feeds")]
    FeedCount,
    #[error("must be at most {DATA_BYTES_MAX} bytes of compact JSON, but has {0}")]
    DataSize(usize),
    #[error(
        "multiplied by the number of feeds must be at most {DATA_FANOUT_BYTES_MAX} bytes, but is {0}"
    )]
    DataFanout(usize),
    #[error("must not be nested deeper than {DATA_DEPTH_MAX} levels")]
    DataDepth,
    #[error("is JSON by grammar but not Unicode text: it has half of a surrogate pair")]
    DataText,
    #[error(
        "must be an RFC 3339 time with seconds and an offset, such as 2026-11-29T10:53:13Z or \
         2026-11-29T11:53:13.25+01:00, of at most {TIME_BYTES_MAX} characters"
    )]
    Time,
}
