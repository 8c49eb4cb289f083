//! An incremental decoder of the chunked transfer coding (RFC 9112, section 7.1).

use std::io;

/// Larger than any chunk of the service. Keeps an invalid size from overflowing.
const CHUNK_BYTES_MAX: usize = 1 << 30;

#[derive(Debug, Default)]
pub enum Chunked {
    #[default]
    Size,
    /// After some digits of the size, which have this value.
    SizeDigits(usize),
    /// In the rest of the line after the size.
    Extension(usize),
    /// So many bytes of data are missing.
    Data(usize),
    /// In the line end after the data.
    DataEnd,
    /// After the last chunk; trailers are ignored.
    Ended,
}

impl Chunked {
    pub fn ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Decodes `coded`, which continues where the last call ended, and appends its content to `out`.
    pub fn decode(&mut self, mut coded: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while let [byte, rest @ ..] = coded {
            *self = match *self {
                Self::Ended => return Ok(()),
                Self::Data(left) => {
                    let length = left.min(coded.len());
                    out.extend_from_slice(&coded[..length]);
                    coded = &coded[length..];
                    if length < left {
                        Self::Data(left - length)
                    } else {
                        Self::DataEnd
                    }
                }
                ref state => {
                    coded = rest;
                    state.after(*byte)?
                }
            };
        }
        Ok(())
    }

    /// The state after a byte that is not data.
    fn after(&self, byte: u8) -> io::Result<Self> {
        let digit = char::from(byte).to_digit(16).map(|digit| digit as usize);
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "invalid chunked encoding");
        match (self, byte, digit) {
            (Self::Size, _, Some(digit)) => Ok(Self::SizeDigits(digit)),
            (Self::SizeDigits(size), _, Some(digit)) if *size < CHUNK_BYTES_MAX => {
                Ok(Self::SizeDigits(size * 16 + digit))
            }
            (Self::SizeDigits(size) | Self::Extension(size), b'\n', _) => Ok(match size {
                0 => Self::Ended,
                _ => Self::Data(*size),
            }),
            (Self::SizeDigits(size), b'\r' | b';' | b' ', _) | (Self::Extension(size), ..) => {
                Ok(Self::Extension(*size))
            }
            (Self::DataEnd, b'\r', _) => Ok(Self::DataEnd),
            (Self::DataEnd, b'\n', _) => Ok(Self::Size),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_does_not_depend_on_where_the_bytes_are_split() {
        let coded = b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n";
        for cut in 0..=coded.len() {
            let (mut chunked, mut out) = (Chunked::default(), Vec::new());
            for part in [&coded[..cut], &coded[cut..]] {
                chunked.decode(part, &mut out).expect("valid");
            }
            assert_eq!(out, b"hello 0123456789", "split at {cut}");
            assert!(chunked.ended());
        }
    }

    #[test]
    fn invalid_encodings_are_errors() {
        for coded in [&b"hello"[..], b"2\r\nabc", b"\r\n", b"fffffffffff\r\n"] {
            let decoded = Chunked::default().decode(coded, &mut Vec::new());
            assert!(decoded.is_err(), "{coded:?}");
        }
    }
}
