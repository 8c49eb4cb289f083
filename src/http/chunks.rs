//! The chunked transfer coding of HTTP/1.1 (RFC 9112, section 7.1), applied where a live stream writes to its socket.

use std::{
    fmt::{self, Write},
    io,
};

use bytes::Buf;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::frames::SharedFrames;

/// Ends a body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CRLF: &[u8] = b"\r\n";

/// Writes all of `frames` as one chunk, without copying them. Without frames it writes nothing, because an empty chunk
/// would end the body.
pub async fn write_chunk<S>(socket: &mut S, frames: SharedFrames) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    if !frames.has_remaining() {
        return Ok(());
    }
    let size = SizeLine::new(frames.remaining());
    let mut chunk = size.as_bytes().chain(frames).chain(CRLF);
    socket.write_all_buf(&mut chunk).await
}

/// Appends `data`, which must not be empty, to `out` as one chunk.
pub fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(SizeLine::new(data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(CRLF);
}

/// The line in front of a chunk's data.
struct SizeLine {
    bytes: [u8; Self::BYTES_MAX],
    length: u8,
}

impl SizeLine {
    /// 16 hexadecimal digits and CRLF.
    const BYTES_MAX: usize = 18;

    fn new(size: usize) -> Self {
        let mut line = Self {
            bytes: [0; Self::BYTES_MAX],
            length: 0,
        };
        write!(line, "{size:x}\r\n").expect("the digits of a usize and CRLF fit");
        line
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }
}

impl Write for SizeLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let begin = usize::from(self.length);
        let end = begin + text.len();
        let room = self.bytes.get_mut(begin..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end as u8;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::IoSlice,
        pin::Pin,
        task::{Context, Poll},
    };

    use bytes::Bytes;

    use super::*;

    /// A socket that takes at most `step` bytes at once.
    struct Slow {
        step: usize,
        vectored: bool,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let length = self.step.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..length]);
            Poll::Ready(Ok(length))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_write(context, &bytes)
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The chunk that is written for `parts`, which is the same for every step size.
    async fn written(parts: &[&'static [u8]]) -> Vec<u8> {
        let mut all = Vec::new();
        for step in 1..400 {
            for vectored in [true, false] {
                let frames = parts.iter().map(|part| Bytes::from_static(part));
                let mut socket = Slow {
                    step,
                    vectored,
                    taken: Vec::new(),
                };
                let done = write_chunk(&mut socket, frames.collect()).await;
                done.expect("the write succeeds");
                all.push(socket.taken);
            }
        }
        all.dedup();
        assert_eq!(all.len(), 1, "the step size makes no difference");
        all.remove(0)
    }

    #[tokio::test]
    async fn frames_are_one_chunk_even_with_partial_writes() {
        const LONG: &[u8] = &[b'x'; 300];
        assert_eq!(written(&[b"id: 1\n\n"]).await, b"7\r\nid: 1\n\n\r\n");
        let several = written(&[b"hello ", b"", b"wide ", b"world"]).await;
        assert_eq!(several, b"10\r\nhello wide world\r\n");
        let mut long = Vec::new();
        push_chunk(&mut long, LONG);
        assert!(long.starts_with(b"12c\r\nxx") && long.ends_with(b"x\r\n"));
        assert_eq!(written(&[LONG]).await, long);
    }

    #[tokio::test]
    async fn without_frames_no_chunk_is_written() {
        assert_eq!(written(&[]).await, b"");
        assert_eq!(written(&[b""]).await, b"");
    }

    #[test]
    fn a_size_line_holds_any_size() {
        assert_eq!(SizeLine::new(0).as_bytes(), b"0\r\n");
        let most = SizeLine::new(usize::MAX);
        assert_eq!(most.as_bytes(), b"ffffffffffffffff\r\n");
    }
}
