//! The chunked transfer coding of HTTP/1.1 (RFC 9112, section 7.1), applied where a live stream writes to its socket.

use std::fmt::{self, Write};

use bytes::Bytes;

/// Ends a body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CRLF: &[u8] = b"\r\n";

/// Data as one chunk, in one buffer: whoever sends the same data shares the coding, too.
#[derive(Debug, Clone)]
pub struct Chunk(Bytes);

impl Chunk {
    /// `data` must not be empty, because an empty chunk would end the body.
    pub fn new(data: &[u8]) -> Self {
        debug_assert!(!data.is_empty(), "an empty chunk ends the body");
        let mut coded = Vec::with_capacity(SizeLine::BYTES_MAX + data.len() + CRLF.len());
        coded.extend_from_slice(SizeLine::new(data.len()).as_bytes());
        coded.extend_from_slice(data);
        coded.extend_from_slice(CRLF);
        Self(coded.into())
    }

    /// `coded` must come from [`Self::into_coded`].
    pub fn from_coded(coded: Bytes) -> Self {
        Self(coded)
    }

    /// The bytes of the chunk.
    pub fn into_coded(self) -> Bytes {
        self.0
    }

    /// The data in it, without copying them.
    pub fn into_data(self) -> Bytes {
        let end_of_size = memchr::memchr(b'\n', &self.0);
        let begin = end_of_size.map_or(0, |at| at + 1);
        let end = self.0.len() - CRLF.len();
        self.0.slice(begin..end)
    }
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
    use super::*;

    #[test]
    fn a_chunk_has_its_size_in_front_and_gives_its_data_back() {
        for (data, coded) in [
            (&b"id: 1\n\n"[..], &b"7\r\nid: 1\n\n\r\n"[..]),
            (b"\n", b"1\r\n\n\r\n"),
            (b"\r\n0\r\n\r\n", b"7\r\n\r\n0\r\n\r\n\r\n"),
        ] {
            let chunk = Chunk::new(data);
            assert_eq!(chunk.clone().into_data(), data);
            assert_eq!(chunk.into_coded(), coded);
        }
        let long = [b'x'; 300];
        let coded = Chunk::new(&long).into_coded();
        assert!(coded.starts_with(b"12c\r\nxx") && coded.ends_with(b"x\r\n"));
        let data = Chunk::from_coded(coded.clone()).into_data();
        assert_eq!(data, &long[..]);
        // It is shared.
        assert_eq!(data.as_ptr(), coded["12c\r\n".len()..].as_ptr());
    }

    #[test]
    fn a_size_line_holds_any_size() {
        assert_eq!(SizeLine::new(0).as_bytes(), b"0\r\n");
        let most = SizeLine::new(usize::MAX);
        assert_eq!(most.as_bytes(), b"ffffffffffffffff\r\n");
    }
}
