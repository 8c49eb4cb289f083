//! Responses, and the parser for their heads in HTTP/1.1.

use std::{fmt, io};

use newsfeed::client::{self, problem};
use serde::Deserialize;

use super::error::Error;

const HEADERS_MAX: usize = 32;

/// The head of a response.
pub struct Head {
    pub status: u16,
    pub length: Option<usize>,
    pub chunked: bool,
    pub closes: bool,
    /// Length of the head: the offset at which the body begins.
    pub bytes: usize,
}

/// `None` while the head is incomplete.
pub fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let header = |name: &str| {
        let mut all = response.headers.iter();
        let found = all.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    Ok(Some(Head {
        status: response.code.unwrap_or_default(),
        length: header("content-length").and_then(|value| value.parse().ok()),
        chunked: header("transfer-encoding").is_some(),
        closes: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        bytes: length,
    }))
}

/// A response, in the buffer of its connection.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// True for 429 and 503, which mean that the service is overloaded or shutting down.
    pub fn refused(&self) -> bool {
        matches!(self.status, 429 | 503)
    }

    /// The error that a status other than 200 means.
    pub fn problem(&self, call: String, base_url: &str) -> client::Error {
        problem(self.status, self.body, call, base_url)
    }

    /// Parses the JSON body. Fails if the status is not 200.
    pub fn json<'b, T: Deserialize<'b>>(&'b self, call: &str, base_url: &str) -> Result<T, Error> {
        if self.status != 200 {
            return Err(self.problem(call.to_owned(), base_url).into());
        }
        let invalid = |cause: &dyn fmt::Display| client::Error::NotNewsfeed {
            url: base_url.to_owned(),
            cause: format!("{call}: {cause}"),
        };
        // Validating UTF-8 once is cheaper than for each string.
        let text = str::from_utf8(self.body).map_err(|error| invalid(&error))?;
        Ok(serde_json::from_str(text).map_err(|error| invalid(&error))?)
    }
}
