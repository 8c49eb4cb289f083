//! Frames on their way to a client: each is rendered once, as a chunk of HTTP/1.1, and shared by all who hear it.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// What ends an HTTP/1.1 body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const LINE_END: &[u8] = b"\r\n";

/// `body` as a chunk (RFC 9112, 7.1).
pub fn chunk(body: &[u8]) -> Bytes {
    let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
    chunk.reserve_exact(body.len() + LINE_END.len());
    chunk.extend_from_slice(body);
    chunk.extend_from_slice(LINE_END);
    chunk.into()
}

/// The body of a [`chunk`], in the same memory.
pub fn body(chunk: &Bytes) -> Bytes {
    let begin = memchr::memchr(b'\n', chunk).map_or(0, |end| end + 1);
    chunk.slice(begin..chunk.len() - LINE_END.len())
}

/// Buffers written one after the other without being copied together.
#[derive(Debug, Default)]
pub struct Chunks(VecDeque<Bytes>);

impl FromIterator<Bytes> for Chunks {
    fn from_iter<I: IntoIterator<Item = Bytes>>(chunks: I) -> Self {
        let chunks = chunks.into_iter();
        Self(chunks.filter(|chunk| !chunk.is_empty()).collect())
    }
}

impl Chunks {
    /// The bodies, joined; a single one, the usual case, is shared and not copied.
    pub fn into_body(self) -> Bytes {
        let Self(chunks) = self;
        if chunks.len() == 1 {
            return body(&chunks[0]);
        }
        let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
        for chunk in &chunks {
            joined.extend_from_slice(&body(chunk));
        }
        joined.freeze()
    }
}

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.0.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, chunk) in into.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.0.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.0.pop_front();
        }
        assert_eq!(count, 0, "no more than remains is written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_its_size_and_gives_its_body_back() {
        let long = vec![b'x'; 300];
        assert_eq!(&chunk(b"id: 1\n\n")[..], b"7\r\nid: 1\n\n\r\n");
        assert_eq!(&chunk(&long)[..5], b"12c\r\n");
        for text in [&b"\n"[..], b"a\r\nb\n\n", &long] {
            assert_eq!(body(&chunk(text)), text);
        }
    }

    #[test]
    fn chunks_come_out_whole_whatever_is_written_at_once() {
        let parts = [&b"hello "[..], b"", b"wide ", b"world"];
        let whole = parts.concat();
        for step in 1..=whole.len() {
            let mut chunks: Chunks = parts.iter().map(|part| Bytes::from_static(part)).collect();
            let mut out = Vec::new();
            while chunks.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let count = chunks.chunks_vectored(&mut slices);
                let there: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
                let length = step.min(there.len());
                out.extend_from_slice(&there[..length]);
                chunks.advance(length);
            }
            assert_eq!(out, whole, "{step} at once");
        }
    }
}
