//! An answer of lines, as it arrives.

use bytes::{Buf, BytesMut};
use reqwest::{Method, Response, header};
use serde::Deserialize;

use crate::client::{
    Error, Rejection,
    api::{Client, Failure, root_cause},
    feeds::Change,
};

const MEDIA_TYPE: &str = "application/x-ndjson";
/// Far above the longest line of the service.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

pub struct Lines {
    response: Response,
    /// What has arrived and is not taken yet.
    pending: BytesMut,
    /// Length of the line that was returned last, with its line feed.
    taken: usize,
    url: String,
}

pub enum Line<'a> {
    /// An event or the news of a change, and the version at which it stands in the log.
    Event { json: &'a [u8], version: String },
    /// All events up to here stand before it.
    Cursor(String),
    /// As a cursor, and the answer is complete.
    End(String),
    /// The service breaks the answer off.
    Error(Rejection),
}

/// The members of a line that matter here.
#[derive(Deserialize)]
struct Members {
    version: Option<String>,
    change: Option<Change>,
    edited: Option<String>,
    erased: Option<String>,
    cursor: Option<String>,
    #[serde(default)]
    end: bool,
    error: Option<Rejection>,
}

impl Lines {
    pub async fn open(client: &Client, query: &[(&str, String)]) -> Result<Self, Failure> {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        let request = client.request(Method::GET, &format!("/v1/log?{query}"));
        let response = client
            .stream(request.header(header::ACCEPT, MEDIA_TYPE))
            .await?;
        let media = response.headers().get(header::CONTENT_TYPE);
        let media = media.map_or(&b""[..], |media| media.as_bytes());
        if !media.starts_with(MEDIA_TYPE.as_bytes()) {
            let media = String::from_utf8_lossy(media);
            let cause = format!("GET /v1/log answered {media} instead of {MEDIA_TYPE}");
            return Err(Failure::Final(client.not_newsfeed(cause)));
        }
        Ok(Self {
            response,
            pending: BytesMut::new(),
            taken: 0,
            url: client.base_url().to_owned(),
        })
    }

    /// Waits for bytes. The error says how the connection was lost; complete lines may have arrived before. Cancel-safe.
    pub async fn receive(&mut self) -> Result<(), String> {
        let chunk = match self.response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Err("the answer ended before it was complete".to_owned()),
            Err(error) => return Err(root_cause(&error)),
        };
        self.pending.extend_from_slice(&chunk);
        Ok(())
    }

    /// The next complete line, if it has arrived.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, Error> {
        self.pending.advance(self.taken);
        self.taken = 0;
        let not_newsfeed = |cause: String| Error::NotNewsfeed {
            url: self.url.clone(),
            cause,
        };
        let Some(length) = memchr::memchr(b'\n', &self.pending) else {
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(not_newsfeed(format!(
                    "a line of more than {LINE_BYTES_MAX} bytes"
                )));
            }
            return Ok(None);
        };
        self.taken = length + 1;
        let json = &self.pending[..length];
        let members = serde_json::from_slice(json);
        let members: Members = members.map_err(|error| not_newsfeed(error.to_string()))?;
        let line = match members {
            Members {
                error: Some(error), ..
            } => Line::Error(error),
            Members {
                cursor: Some(cursor),
                end: true,
                ..
            } => Line::End(cursor),
            Members {
                cursor: Some(cursor),
                ..
            } => Line::Cursor(cursor),
            Members {
                version: Some(version),
                change: None,
                ..
            }
            | Members {
                change: Some(Change::Edited),
                edited: Some(version),
                ..
            }
            | Members {
                change: Some(Change::Erased),
                erased: Some(version),
                ..
            } => Line::Event { json, version },
            _ => return Err(not_newsfeed("a line without version and cursor".to_owned())),
        };
        Ok(Some(line))
    }
}
