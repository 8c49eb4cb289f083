//! Where the bytes of a stream come from: a socket of its own or, with HTTP/2, a shared connection.

use std::io;

use bytes::Bytes;
use h2::RecvStream;
use newsfeed::client::problem;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    chunked::Chunked,
    error::Error,
    http,
    http1::write_token,
    http2::{exchange, request},
    pool::Slot,
    stream::Stream,
    target::Node,
};

/// Size of the buffer for one read, which is on the stack and enough for a burst of events.
pub const READ_BYTES: usize = 16 * 1024;
/// Limit for the head of a response.
const HEAD_BYTES_MAX: usize = 64 * 1024;

pub enum Source {
    Own {
        socket: TcpStream,
        /// `None` if the body ends with the connection.
        chunked: Option<Chunked>,
    },
    Shared {
        body: RecvStream,
        /// Received from the connection, but not yet returned.
        rest: Bytes,
    },
}

/// What a client asks for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub path: &'a str,
    /// Media type.
    pub accept: &'a str,
    pub last_event_id: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn events(path: &'a str, last_event_id: Option<&'a str>) -> Self {
        Self {
            path,
            accept: "text/event-stream",
            last_event_id,
        }
    }
}

impl Stream {
    /// Opens a stream on a connection of its own: `socket`, once it is connected to `node`.
    pub async fn open(
        node: &Node,
        socket: impl Future<Output = io::Result<TcpStream>>,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<Self, Error> {
        let wanted = Wanted::events(path, last_event_id);
        let (source, pending) = Source::open(node, socket, wanted).await?;
        Ok(Self::new(source, pending))
    }

    pub async fn open_shared(
        slot: &Slot,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<Self, Error> {
        let wanted = Wanted::events(path, last_event_id);
        let source = Source::open_shared(slot, wanted).await?;
        Ok(Self::new(source, Vec::new()))
    }
}

impl Source {
    /// Opens it on a connection of its own: `socket`, once it is connected to `node`. Also returns the bytes that arrived
    /// with the head of the response.
    pub async fn open(
        node: &Node,
        socket: impl Future<Output = io::Result<TcpStream>>,
        wanted: Wanted<'_>,
    ) -> Result<(Self, Vec<u8>), Error> {
        let Wanted {
            path,
            accept,
            last_event_id,
        } = wanted;
        let unreachable = |error: io::Error| unreachable(node, &error);
        let mut request = format!(
            "GET {}{path} HTTP/1.1\r\nhost: {}\r\naccept: {accept}\r\n",
            node.prefix, node.host
        )
        .into_bytes();
        if let Some(id) = last_event_id {
            request.extend_from_slice(format!("last-event-id: {id}\r\n").as_bytes());
        }
        write_token(&mut request, &node.token);
        request.extend_from_slice(b"\r\n");

        let mut socket = socket.await.map_err(unreachable)?;
        let sent = socket.write_all(&request).await;
        sent.map_err(unreachable)?;
        let mut received = Vec::new();
        let head = loop {
            read(&socket, &mut received).await.map_err(unreachable)?;
            match http::head(&received).map_err(unreachable)? {
                Some(head) => break head,
                None if received.len() > HEAD_BYTES_MAX => {
                    let too_long = io::Error::other("the head of the response is too long");
                    return Err(unreachable(too_long));
                }
                None => {}
            }
        };
        if head.status != 200 {
            // A problem document is small: it came with the head, or arrives with the next read.
            if received.len() == head.bytes {
                let _ = read(&socket, &mut received).await;
            }
            let call = format!("GET {path}");
            let body = &received[head.bytes..];
            return Err(problem(head.status, body, call, &node.base_url).into());
        }
        let mut chunked = head.chunked.then(Chunked::default);
        let mut pending = Vec::new();
        decode(&mut chunked, &received[head.bytes..], &mut pending).map_err(unreachable)?;
        Ok((Self::Own { socket, chunked }, pending))
    }

    pub async fn open_shared(slot: &Slot, wanted: Wanted<'_>) -> Result<Self, Error> {
        let Wanted {
            path,
            accept,
            last_event_id,
        } = wanted;
        let node = slot.node();
        let asked = async {
            let mut request = request(node, path)?.header("accept", accept);
            if let Some(id) = last_event_id {
                request = request.header("last-event-id", id);
            }
            let request = request.body(()).map_err(io::Error::other)?;
            let mut sender = slot.sender().await?;
            exchange(&mut sender, request, Bytes::new()).await
        };
        let answer = asked.await.map_err(|error| unreachable(node, &error))?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        if status != 200 {
            let mut text = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                text.extend(part);
            }
            return Err(problem(status, &text, format!("GET {path}"), &node.base_url).into());
        }
        let rest = Bytes::new();
        Ok(Self::Shared { body, rest })
    }

    /// Waits for bytes and appends at most `bytes_max` of them to `into`; returns `false` at the end of the stream.
    pub async fn receive(&mut self, bytes_max: usize, into: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Own { socket, chunked } => loop {
                socket.readable().await?;
                match receive_now(socket, chunked, bytes_max, into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            },
            Self::Shared { body, rest } => {
                if rest.is_empty() {
                    match body.data().await {
                        None => return Ok(false),
                        Some(data) => *rest = data.map_err(io::Error::other)?,
                    }
                }
                let taken = rest.split_to(rest.len().min(bytes_max));
                into.extend_from_slice(&taken);
                let released = body.flow_control().release_capacity(taken.len());
                released.map_err(io::Error::other)?;
                Ok(true)
            }
        }
    }

    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::Own { socket, .. } => Ok(set_socket_recv_buffer_size(socket, bytes)?),
            Self::Shared { .. } => Ok(()),
        }
    }
}

fn receive_now(
    socket: &TcpStream,
    chunked: &mut Option<Chunked>,
    bytes_max: usize,
    into: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut bytes = [0; READ_BYTES];
    let length = socket.try_read(&mut bytes[..bytes_max])?;
    decode(chunked, &bytes[..length], into)?;
    Ok(length > 0 && chunked.as_ref().is_none_or(|chunked| !chunked.ended()))
}

fn decode(chunked: &mut Option<Chunked>, bytes: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    match chunked {
        Some(chunked) => chunked.decode(bytes, into),
        None => {
            into.extend_from_slice(bytes);
            Ok(())
        }
    }
}

fn unreachable(node: &Node, error: &io::Error) -> Error {
    super::writers::unreachable(&node.base_url, error).into()
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
