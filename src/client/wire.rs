//! Request and response bodies (JSON).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, temporary};

/// An event to append, or a transient. The client chooses the id, which makes retries safe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewEvent {
    pub id: String,
    pub kind: &'static str,
    pub feeds: Vec<String>,
    pub actor: String,
    /// When it happened (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    pub data: Value,
}

/// The outcome of one event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    Appended,
    /// Already stored, by an earlier run or by an attempt whose response was lost.
    Duplicate,
    /// Stored and erased before.
    Erased,
    Rejected {
        error: Rejection,
    },
}

/// Why one event of an array was not appended.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rejection {
    pub code: String,
    pub detail: String,
}

/// A problem document.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
    oldest: Option<String>,
}

/// The error for a response to `call` whose status was not a success.
pub fn problem(status: u16, body: &[u8], call: String, base_url: &str) -> Error {
    match serde_json::from_slice(body) {
        Ok(Problem {
            code,
            detail,
            oldest,
        }) => Error::Refused {
            call,
            status,
            code,
            detail,
            oldest,
        },
        // From a proxy or a content delivery network.
        Err(_) if temporary::status(status) => Error::Unavailable {
            url: base_url.to_owned(),
            status,
            call,
        },
        Err(_) => Error::NotNewsfeed {
            url: base_url.to_owned(),
            cause: format!("{status} to {call}"),
        },
    }
}

impl Rejection {
    pub fn of(self, what: String) -> Error {
        let Self { code, detail } = self;
        Error::Rejected { what, code, detail }
    }

    /// Whether a retry may succeed.
    pub fn not_now(&self) -> bool {
        temporary::code(&self.code)
    }
}

impl Outcome {
    /// The rejection, if a retry may succeed.
    pub fn not_now(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected { error } if error.not_now() => Some(error),
            _ => None,
        }
    }
}
