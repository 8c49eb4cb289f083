//! The answer of the service, part by part.

use bytes::Bytes;
use reqwest::Response;

use super::Head;
use crate::client::{Client, Error, api::root_cause};

/// Longest first line: tens of thousands of files.
const HEAD_BYTES_MAX: usize = 16 * 1024 * 1024;

pub struct Received<'a> {
    client: &'a Client,
    response: Response,
    rest: Bytes,
}

impl<'a> Received<'a> {
    pub fn new(client: &'a Client, response: Response) -> Self {
        Self {
            client,
            response,
            rest: Bytes::new(),
        }
    }

    async fn more(&mut self) -> Result<Option<Bytes>, Error> {
        self.response.chunk().await.map_err(|error| Error::Lost {
            url: self.client.base_url().to_owned(),
            cause: root_cause(&error),
        })
    }

    fn cut_off(&self) -> Error {
        Error::Lost {
            url: self.client.base_url().to_owned(),
            cause: "the backup was broken off".into(),
        }
    }

    pub async fn head(&mut self) -> Result<Head, Error> {
        let mut head = Vec::new();
        while head.len() <= HEAD_BYTES_MAX {
            let mut part = self.more().await?.ok_or_else(|| self.cut_off())?;
            if let Some(end) = memchr::memchr(b'\n', &part) {
                head.extend_from_slice(&part.split_to(end));
                self.rest = part.split_off(1);
                return serde_json::from_slice(&head)
                    .map_err(|error| self.client.not_newsfeed(error.to_string()));
            }
            head.extend_from_slice(&part);
        }
        Err(self
            .client
            .not_newsfeed("its first line is too long".into()))
    }

    /// The next bytes, at least one and at most `max`.
    pub async fn part(&mut self, max: u64) -> Result<Bytes, Error> {
        while self.rest.is_empty() {
            self.rest = self.more().await?.ok_or_else(|| self.cut_off())?;
        }
        let length = max.min(self.rest.len() as u64) as usize;
        Ok(self.rest.split_to(length))
    }

    /// Checks that nothing follows.
    pub async fn end(&mut self) -> Result<(), Error> {
        while self.rest.is_empty() {
            match self.more().await? {
                Some(more) => self.rest = more,
                None => return Ok(()),
            }
        }
        Err(self
            .client
            .not_newsfeed("more bytes follow than its files have".into()))
    }
}
