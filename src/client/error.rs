//! Errors of the client commands and their exit codes.

use std::{io, path::PathBuf};

use super::DEFAULT_URL;
use crate::types::NAME_BYTES_MAX;

/// Why a client command failed. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the address of a service; write it like {DEFAULT_URL}, or with https")]
    BadUrl(String),
    #[error("the token must be a single line of text: the token alone, as issued")]
    BadToken,
    #[error(
        "cannot reach {url} ({cause}): is `newsfeed serve` running there? Use --url or NEWSFEED_URL for another address"
    )]
    Unreachable { url: String, cause: String },
    /// A connection that was established broke.
    #[error("lost the connection to {url} ({cause})")]
    Lost { url: String, cause: String },
    /// A problem document from the service.
    #[error("the service answered {status} {code} to {call}: {detail}")]
    Refused {
        call: String,
        status: u16,
        code: String,
        detail: String,
    },
    /// A redirect. It is not followed, because most of them turn a POST into a GET.
    #[error("{call} was answered {status}, a redirect to {location}: {advice}")]
    Redirected {
        call: String,
        status: u16,
        location: String,
        advice: String,
    },
    /// An answer that may pass and is not from the service.
    #[error("{url} answered {status} to {call}: is the service running behind the proxy there?")]
    Unavailable {
        url: String,
        status: u16,
        call: String,
    },
    #[error("{url} does not look like a newsfeed service ({cause}): check the address")]
    NotNewsfeed { url: String, cause: String },
    #[error(
        "gave up after {seconds} s; the last failure: {last}. Run the command again when the service is available"
    )]
    GaveUp { seconds: u64, last: Box<Error> },
    #[error(
        "{last}. The service asks to wait {asked_seconds} s, longer than the command would still retry: run it again then"
    )]
    AskedToWait {
        asked_seconds: u64,
        last: Box<Error>,
    },
    /// The service accepted the request but not this event.
    #[error("{what} was rejected, {code}: {detail}")]
    Rejected {
        what: String,
        code: String,
        detail: String,
    },
    #[error("{file}, line {line}: {reason}; nothing was sent", file = file.display())]
    BadLine {
        file: PathBuf,
        line: usize,
        reason: String,
    },
    #[error("cannot write {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the name of {0:?} cannot be part of event ids, which are at most {NAME_BYTES_MAX} bytes of UTF-8 in NFC without control \
         characters: rename the file"
    )]
    FileName(PathBuf),
    /// Invalid arguments that are only detected after parsing.
    #[error("{0}")]
    Arguments(String),
    /// A usage error, worded and exited like those that clap detects.
    #[error("{0}; `newsfeed {command} --help` has examples", command = .1)]
    Usage(String, &'static str),
    #[error("{rejected} of {events} events were rejected")]
    SomeRejected { rejected: u64, events: u64 },
    /// `event` counts from 1.
    #[error(
        "{path}, line {line}, event {event}: {reason}. This event and those after it were not appended",
        path = path.display()
    )]
    Input {
        path: PathBuf,
        line: u64,
        event: u64,
        reason: String,
    },
    /// The reader of our output closed it.
    #[error("the output was closed")]
    Closed,
}

/// As clap exits after a usage error.
const EXIT_USAGE: u8 = 2;

impl Error {
    /// Whether the service does not know the version from which something was asked for.
    pub fn is_unknown_cursor(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "cursor_unknown")
    }

    /// Whether what the service keeps begins after the version from which something was asked for.
    pub fn is_expired_cursor(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "cursor_expired")
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(..) => EXIT_USAGE,
            Self::Closed => 0,
            _ => 1,
        }
    }
}
