use std::io;
use std::path::PathBuf;

use super::DEFAULT_URL;

/// Why a client command ended early; each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the address of a service; write it like {DEFAULT_URL}, or with https")]
    BadUrl(String),
    #[error("the token is no text of one line: it must be the token alone, as its issuer gave it")]
    BadToken,
    #[error(
        "cannot reach {url} ({cause}): is `newsfeed serve` running there? --url or NEWSFEED_URL name another address"
    )]
    Unreachable { url: String, cause: String },
    /// There was a connection.
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
    #[error("{url} does not answer like a newsfeed service ({cause}): check the address")]
    NotNewsfeed { url: String, cause: String },
    #[error(
        "gave up after {seconds} s; the last failure: {last}. Run the command again when the service is well"
    )]
    GaveUp { seconds: u64, last: Box<Error> },
    /// The service took the request but not this event.
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
        "{0:?} cannot name events: event ids are at most 128 printable ASCII bytes; rename the file"
    )]
    FileName(PathBuf),
    /// Arguments that do not go together.
    #[error("{0}")]
    Arguments(String),
    /// As clap says it of what it sees by itself.
    #[error("{0}; `newsfeed {command} --help` has examples", command = .1)]
    Usage(String, &'static str),
    #[error("{rejected} of {events} events were rejected")]
    SomeRejected { rejected: u64, events: u64 },
    #[error("line {line} is longer than {bytes_max} bytes; nothing was appended from there on")]
    LongLine { line: u64, bytes_max: u64 },
    /// Whoever read our output has enough.
    #[error("the output was closed")]
    Closed,
}

/// As clap ends a command that was used wrongly.
const EXIT_USAGE: u8 = 2;

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(..) => EXIT_USAGE,
            Self::Closed => 0,
            _ => 1,
        }
    }
}
