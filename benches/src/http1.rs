//! A minimal HTTP/1.1 client: one keep-alive connection, one request at a time, reused buffers. It is minimal so that
//! the load generator takes little CPU time from the service: hyper's client needs 38 to 84% more CPU time per request
//! (measured in `benches/README.md`).

use std::{io, sync::Arc};

use newsfeed::client::Token;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    chunked::Chunked,
    http::{Head, head},
    target::Dialer,
};

const READ_BYTES: usize = 8 * 1024;

pub struct Http1 {
    dialer: Arc<Dialer>,
    number: usize,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    received: Vec<u8>,
    decoded: Vec<u8>,
    head: Option<Head>,
}

impl Http1 {
    /// The connection is opened at the first call, and again after a failure.
    pub fn new(dialer: Arc<Dialer>, number: usize) -> Self {
        Self {
            dialer,
            number,
            stream: None,
            request: Vec::new(),
            received: Vec::new(),
            decoded: Vec::new(),
            head: None,
        }
    }

    pub async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<u16> {
        let node = self.dialer.node(self.number);
        self.head = None;
        self.request.clear();
        io::Write::write_fmt(
            &mut self.request,
            format_args!(
                "{method} {}{path} HTTP/1.1\r\nhost: {}\r\n",
                node.prefix, node.host
            ),
        )?;
        write_token(&mut self.request, &node.token);
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

        let head = self.exchange().await?;
        let status = head.status;
        self.head = Some(head);
        Ok(status)
    }

    /// The body of the last response.
    pub fn body(&self) -> &[u8] {
        match &self.head {
            Some(head) if head.chunked => &self.decoded,
            Some(head) => &self.received[head.bytes..],
            None => &[],
        }
    }

    /// True if the next call will reuse a connection.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    async fn exchange(&mut self) -> io::Result<Head> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.dialer.connect(self.number, None).await?,
        };
        let head = self.send(&mut stream).await?;
        // After a chunked body, unread trailers may remain on the connection.
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

/// Writes the `Authorization` header, if there is a token.
pub fn write_token(head: &mut Vec<u8>, token: &Token) {
    if let Some(value) = token.header() {
        head.extend_from_slice(b"authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
}

async fn receive(stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    into.reserve(READ_BYTES);
    match stream.read_buf(into).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
