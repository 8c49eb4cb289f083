//! HTTP/1.1 as a load generator needs it: one kept-alive connection, one request at a time, buffers used again. It
//! does no more than it must, so that the service is what is measured.

use std::{io, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{chunked::Chunked, target::Dialer};
use crate::client::{Error, wire::problem};

/// Longer than any long poll.
const ANSWER_MAX: Duration = Duration::from_secs(120);
const READ_BYTES: usize = 8 * 1024;
const HEADERS_MAX: usize = 32;

/// What an answer's head says.
pub struct Head {
    pub status: u16,
    length: Option<usize>,
    pub chunked: bool,
    closes: bool,
    /// Where the body begins.
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

/// An answer, in the connection's buffer.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// "Not now": what a service says that has too much to do.
    pub fn refused(&self) -> bool {
        matches!(self.status, 429 | 503)
    }

    /// What an answer that should have been 200 means.
    pub fn problem(&self, call: String, base_url: &str) -> Error {
        problem(self.status, self.body, call, base_url)
    }

    /// The JSON of an answer that must be 200.
    pub fn json<'b, T: Deserialize<'b>>(&'b self, call: &str, base_url: &str) -> Result<T, Error> {
        if self.status != 200 {
            return Err(self.problem(call.to_owned(), base_url));
        }
        serde_json::from_slice(self.body).map_err(|error| Error::NotNewsfeed {
            url: base_url.to_owned(),
            cause: format!("{call}: {error}"),
        })
    }
}

pub struct Connection {
    dialer: Arc<Dialer>,
    number: usize,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    received: Vec<u8>,
    decoded: Vec<u8>,
}

impl Connection {
    /// Opened at its first call, and again after a failure.
    pub fn new(dialer: Arc<Dialer>, number: usize) -> Self {
        Self {
            dialer,
            number,
            stream: None,
            request: Vec::new(),
            received: Vec::new(),
            decoded: Vec::new(),
        }
    }

    pub fn base_url(&self) -> &str {
        &self.dialer.node(self.number).base_url
    }

    pub async fn get(&mut self, path: &str) -> io::Result<Answer<'_>> {
        self.call("GET", path, b"").await
    }

    pub async fn post(&mut self, path: &str, json: &[u8]) -> io::Result<Answer<'_>> {
        self.call("POST", path, json).await
    }

    /// Every call of the benchmark may be sent again (ids make appends so), and one is: the service may have closed a
    /// connection that was idle.
    async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer<'_>> {
        let node = self.dialer.node(self.number);
        self.request.clear();
        io::Write::write_fmt(
            &mut self.request,
            format_args!(
                "{method} {}{path} HTTP/1.1\r\nhost: {}\r\n",
                node.prefix, node.host
            ),
        )?;
        if !body.is_empty() {
            io::Write::write_fmt(
                &mut self.request,
                format_args!(
                    "content-type: application/json\r\ncontent-length: {}\r\n",
                    body.len()
                ),
            )?;
        }
        self.request.extend_from_slice(b"\r\n");
        self.request.extend_from_slice(body);

        let kept = self.stream.is_some();
        let mut answered = self.exchange().await;
        if kept && answered.is_err() {
            answered = self.exchange().await;
        }
        let head = answered?;
        let body = if head.chunked {
            &self.decoded[..]
        } else {
            &self.received[head.bytes..]
        };
        Ok(Answer {
            status: head.status,
            body,
        })
    }

    async fn exchange(&mut self) -> io::Result<Head> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.dialer.connect(self.number, None).await?,
        };
        let head = timeout(ANSWER_MAX, self.send(&mut stream)).await??;
        // What follows the last chunk was not looked at.
        if !head.closes && !head.chunked {
            self.stream = Some(stream);
        }
        Ok(head)
    }

    async fn send(&mut self, stream: &mut TcpStream) -> io::Result<Head> {
        stream.write_all(&self.request).await?;
        self.received.clear();
        self.decoded.clear();
        let head = loop {
            receive(stream, &mut self.received).await?;
            if let Some(head) = head(&self.received)? {
                break head;
            }
        };
        if head.chunked {
            let mut chunked = Chunked::default();
            chunked.decode(&self.received[head.bytes..], &mut self.decoded)?;
            while !chunked.ended() {
                self.received.clear();
                receive(stream, &mut self.received).await?;
                chunked.decode(&self.received, &mut self.decoded)?;
            }
        } else {
            let whole = head.bytes + head.length.unwrap_or_default();
            while self.received.len() < whole {
                receive(stream, &mut self.received).await?;
            }
        }
        Ok(head)
    }
}

async fn receive(stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    into.reserve(READ_BYTES);
    match stream.read_buf(into).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
