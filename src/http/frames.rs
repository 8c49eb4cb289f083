//! Rendered SSE frames on their way to one client. The bytes are shared with every other subscriber that gets the same
//! frames.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::{IntoIter, SmallVec};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::chunks::Chunk;

/// Frames to be sent one after the other. Nearly always there is one, which needs no allocation.
pub struct Frames(SmallVec<[Chunk; 1]>);

impl FromIterator<Chunk> for Frames {
    fn from_iter<I: IntoIterator<Item = Chunk>>(frames: I) -> Self {
        Self(frames.into_iter().collect())
    }
}

impl From<Chunk> for Frames {
    fn from(frame: Chunk) -> Self {
        Self::from_iter([frame])
    }
}

impl Frames {
    /// The frames without the chunked coding, as one buffer. A single frame is not copied.
    pub fn into_data(mut self) -> Bytes {
        if self.0.len() == 1
            && let Some(frame) = self.0.pop()
        {
            return frame.into_data();
        }
        let frames = self.0.into_iter().map(Chunk::into_data);
        let frames: SmallVec<[Bytes; 1]> = frames.collect();
        let mut joined = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
        joined.extend(frames);
        joined.freeze()
    }

    /// What is sent of the frames, each as a chunk if `is_chunked`.
    pub fn into_buffers(self, is_chunked: bool) -> Buffers {
        let bytes = |frame: Chunk| match is_chunked {
            true => frame.into_coded(),
            false => frame.into_data(),
        };
        Buffers(self.0.into_iter().map(bytes).collect())
    }
}

/// Bytes to be sent one after the other, without copying them. No buffer is empty.
pub struct Buffers(SmallVec<[Bytes; 1]>);

impl From<Vec<Bytes>> for Buffers {
    /// No buffer may be empty.
    fn from(buffers: Vec<Bytes>) -> Self {
        Self(buffers.into())
    }
}

impl Buffers {
    /// Writes everything.
    pub async fn write(self, socket: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match &self.0[..] {
            // The system takes one buffer in less time than a list of one.
            [buffer] => socket.write_all(buffer).await,
            _ => socket.write_all_buf(&mut Queue(self.0.into_iter())).await,
        }
    }

    /// Writes what `socket` takes at once. Returns what is left.
    pub fn try_write(self, socket: &TcpStream) -> Vec<Bytes> {
        let written = match &self.0[..] {
            [buffer] => socket.try_write(buffer),
            buffers => {
                let slices = buffers.iter().take(SLICES_MAX);
                let slices: SmallVec<[_; SLICES_MAX]> = slices.map(|it| IoSlice::new(it)).collect();
                socket.try_write_vectored(&slices)
            }
        };
        let mut queue = Queue(self.0.into_iter());
        // After an error nothing is left out: the next attempt to write meets the error, too.
        queue.advance(written.unwrap_or(0));
        queue.0.collect()
    }
}

/// Buffers that are given to the system at once.
const SLICES_MAX: usize = 64;

struct Queue(IntoIter<[Bytes; 1]>);

impl Buf for Queue {
    fn remaining(&self) -> usize {
        self.0.as_slice().iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.as_slice().first().map_or(&[], |frame| frame)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, frame) in into.iter_mut().zip(self.0.as_slice()) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.0.as_mut_slice().first_mut();
            let first = first.expect("a writer reports no more bytes than it was given");
            if count < first.len() {
                return first.advance(count);
            }
            count -= first.len();
            self.0.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::{io::AsyncReadExt, net::TcpListener};

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

    fn frames(parts: &[&[u8]]) -> Frames {
        parts.iter().map(|part| Chunk::new(part)).collect()
    }

    /// What is written for `parts`, which is the same for every step size.
    async fn written(parts: &[&[u8]], is_chunked: bool) -> Vec<u8> {
        let mut all = Vec::new();
        for step in 1..400 {
            for vectored in [true, false] {
                let mut socket = Slow {
                    step,
                    vectored,
                    taken: Vec::new(),
                };
                let done = frames(parts)
                    .into_buffers(is_chunked)
                    .write(&mut socket)
                    .await;
                done.expect("the write succeeds");
                all.push(socket.taken);
            }
        }
        all.dedup();
        assert_eq!(all.len(), 1, "the step size makes no difference");
        all.remove(0)
    }

    #[tokio::test]
    async fn each_frame_is_a_chunk_even_with_partial_writes() {
        const LONG: &[u8] = &[b'x'; 300];
        assert_eq!(written(&[b"id: 1\n\n"], true).await, b"7\r\nid: 1\n\n\r\n");
        let parts: &[&[u8]] = &[b"hello ", b"wide ", b"world"];
        let several = written(parts, true).await;
        assert_eq!(several, b"6\r\nhello \r\n5\r\nwide \r\n5\r\nworld\r\n");
        assert_eq!(written(parts, false).await, b"hello wide world");
        assert_eq!(written(&[LONG], false).await, LONG);
        assert_eq!(written(&[], true).await, b"");
    }

    #[tokio::test]
    async fn what_a_socket_does_not_take_at_once_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).await.expect("connected");
        let (socket, _) = listener.accept().await.expect("a connection");
        socket.writable().await.expect("open");
        let parts: Vec<Vec<u8>> = (0..200_usize).map(|n| vec![n as u8; 1 + 500 * n]).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole: Vec<u8> = frames(&parts).into_buffers(true).0.concat();
        let left = frames(&parts).into_buffers(true).try_write(&socket);
        let left_bytes: usize = left.iter().map(Bytes::len).sum();
        assert!(left_bytes > 0 && left_bytes < whole.len(), "{left_bytes}");
        let mut socket = socket;
        let rest = tokio::spawn(async move { Buffers::from(left).write(&mut socket).await });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("received");
        rest.await.expect("no panic").expect("written");
        assert!(received == whole, "the rest follows what was taken");
        let frame = frames(&[b"one"]).into_buffers(true);
        let (gone, _) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let (gone, _) = gone.expect("a connection");
        gone.writable().await.expect("open");
        assert!(frame.try_write(&gone).is_empty(), "all of it was taken");
    }

    #[test]
    fn one_frame_is_shared_and_several_are_joined_in_order() {
        let frame = Chunk::new(&[b'x'; 300]);
        let same = Frames::from(frame.clone()).into_data();
        assert_eq!(same.as_ptr(), frame.into_data().as_ptr());
        let joined = frames(&[b"a\n\n", b"bc\n\n"]).into_data();
        assert_eq!(joined, "a\n\nbc\n\n");
    }
}
