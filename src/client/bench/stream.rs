//! A stream of server-sent events on a socket of its own. Between two frames it holds no buffer but for half a frame,
//! and no task or timer: tens of thousands of them fit in one process.

use std::io;

use memchr::memmem;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{chunked::Chunked, http, target::Node};
use crate::client::{Error, wire::problem};

/// On the stack while bytes are there to be read; enough for a burst.
pub const READ_BYTES: usize = 16 * 1024;
/// Of the heads and problems that we look at.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What an idle stream may keep.
const IDLE_BYTES_MAX: usize = 2 * 1024;

pub struct Stream {
    socket: TcpStream,
    /// `None`: the body is everything up to the end of the connection.
    chunked: Option<Chunked>,
    /// The beginning of a frame.
    pending: Vec<u8>,
}

/// One event of a stream, in the service's words.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    pub event: &'a str,
    pub id: Option<&'a str>,
    pub data: &'a str,
}

impl Stream {
    /// Over the connection to `node` that `socket` will be.
    pub async fn open(
        node: &Node,
        socket: impl Future<Output = io::Result<TcpStream>>,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<Self, Error> {
        let unreachable = |error: io::Error| Error::Unreachable {
            url: node.base_url.clone(),
            cause: error.to_string(),
        };
        let mut request = format!(
            "GET {}{path} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n",
            node.prefix, node.host
        );
        if let Some(id) = last_event_id {
            request.push_str(&format!("last-event-id: {id}\r\n"));
        }
        request.push_str("\r\n");

        let mut socket = socket.await.map_err(unreachable)?;
        let sent = socket.write_all(request.as_bytes()).await;
        sent.map_err(unreachable)?;
        let mut received = Vec::new();
        let head = loop {
            read(&socket, &mut received).await.map_err(unreachable)?;
            match http::head(&received).map_err(unreachable)? {
                Some(head) => break head,
                None if received.len() > HEAD_BYTES_MAX => {
                    let endless = io::Error::other("an endless head");
                    return Err(unreachable(endless));
                }
                None => {}
            }
        };
        if head.status != 200 {
            // A problem is small: what came with the head, or is all that follows it.
            if received.len() == head.bytes {
                let _ = read(&socket, &mut received).await;
            }
            let call = format!("GET {path}");
            let body = &received[head.bytes..];
            return Err(problem(head.status, body, call, &node.base_url));
        }
        let mut stream = Self {
            socket,
            chunked: head.chunked.then(Chunked::default),
            pending: Vec::new(),
        };
        stream
            .decode(&received[head.bytes..])
            .map_err(unreachable)?;
        Ok(stream)
    }

    /// What the kernel may hold for it, from now on.
    pub fn receive_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(set_socket_recv_buffer_size(&self.socket, bytes)?)
    }

    /// Waits for bytes, takes at most `bytes_max` (up to [`READ_BYTES`]) and hands over the frames they complete;
    /// `false` at the end of the stream. Nothing is lost when this is dropped while it waits.
    pub async fn next(
        &mut self,
        bytes_max: usize,
        take: impl FnMut(Frame<'_>),
    ) -> io::Result<bool> {
        // The first frames may have come with the head.
        let complete = memmem::find(&self.pending, b"\n\n").is_some();
        let goes_on = complete || self.receive(bytes_max).await?;
        self.frames(take);
        Ok(goes_on)
    }

    async fn receive(&mut self, bytes_max: usize) -> io::Result<bool> {
        loop {
            self.socket.readable().await?;
            match self.receive_now(bytes_max) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    fn receive_now(&mut self, bytes_max: usize) -> io::Result<bool> {
        let mut bytes = [0; READ_BYTES];
        let length = self.socket.try_read(&mut bytes[..bytes_max])?;
        self.decode(&bytes[..length])?;
        Ok(length > 0 && self.chunked.as_ref().is_none_or(|chunked| !chunked.ended()))
    }

    fn decode(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.chunked {
            Some(chunked) => chunked.decode(bytes, &mut self.pending),
            None => {
                self.pending.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn frames(&mut self, mut take: impl FnMut(Frame<'_>)) {
        let mut rest = &self.pending[..];
        while let Some(end) = memmem::find(rest, b"\n\n") {
            if let Some(frame) = std::str::from_utf8(&rest[..end]).ok().and_then(parse) {
                take(frame);
            }
            rest = &rest[end + 2..];
        }
        let used = self.pending.len() - rest.len();
        self.pending.drain(..used);
        if self.pending.is_empty() && self.pending.capacity() > IDLE_BYTES_MAX {
            self.pending = Vec::new();
        }
    }
}

/// `None` for a block without an event, such as `retry`.
fn parse(block: &str) -> Option<Frame<'_>> {
    let (mut event, mut id, mut data) = (None, None, None);
    for line in block.split('\n') {
        match line.split_once(": ") {
            Some(("event", value)) => event = Some(value),
            Some(("id", value)) => id = Some(value),
            Some(("data", value)) => data = Some(value),
            _ => {}
        }
    }
    Some(Frame {
        event: event?,
        id,
        data: data?,
    })
}

async fn read(socket: &TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    loop {
        socket.readable().await?;
        into.reserve(1024);
        match socket.try_read_buf(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_frame_if_it_has_an_event() {
        assert_eq!(parse("retry: 2000"), None);
        assert_eq!(parse(": a comment"), None);
        let frame = parse("event: entry\nid: v1\ndata: {\"a\": \"b: c\"}").expect("a frame");
        assert_eq!(frame.event, "entry");
        assert_eq!(frame.id, Some("v1"));
        assert_eq!(frame.data, "{\"a\": \"b: c\"}");
        let bye = parse("event: bye\ndata: {}").expect("a frame");
        assert_eq!(bye.id, None);
    }
}
