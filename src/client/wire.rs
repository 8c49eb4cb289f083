//! What the commands send and what they are answered, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Error;

/// What to append or, if its kind is transient, to tell who listens now. The id is the client's, because
/// it is what makes sending it again harmless.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewEvent {
    pub id: String,
    pub kind: &'static str,
    pub feeds: Vec<String>,
    pub actor: String,
    pub data: Value,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    Appended,
    /// The store had it already: from an earlier run, or from a try of ours whose answer was lost.
    Duplicate,
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

/// What an answer to `call` means that should have been 200.
pub fn problem(status: u16, body: &[u8], call: String, base_url: &str) -> Error {
    match serde_json::from_slice(body) {
        Ok(Rejection { code, detail }) => Error::Refused {
            call,
            status,
            code,
            detail,
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

    /// The same event may well be taken in a moment.
    pub fn not_now(&self) -> bool {
        matches!(&*self.code, "store_unavailable" | "shutting_down")
    }
}

impl Outcome {
    /// Rejected for now.
    pub fn not_now(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected { error } if error.not_now() => Some(error),
            _ => None,
        }
    }
}
