//! Divides a stream of bytes into events: lines of JSON, objects that extend over several lines, arrays, and any mixture
//! of them.
//!
//! Only the bytes of one event and of one read are kept in memory. A line that is not JSON is an event of its own, which
//! the service rejects; a mistake in an object over several lines, or in an array, ends the input, because nothing tells
//! where the next event begins.

use super::scan::{Scan, Step, compact};

/// Maximum size of an event in bytes, without the white space of objects that extend over several lines: the service's
/// limit, less room for an id and an actor.
pub const EVENT_BYTES_MAX: usize = 256 * 1024 - 256;
/// The same with white space.
const SPACED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event as it was given.
#[derive(Debug, PartialEq)]
pub struct Piece {
    /// The line where it begins. Lines count from 1 and include blank ones, like in an editor.
    pub line: u64,
    pub json: Vec<u8>,
}

/// Why the input cannot be divided any further.
#[derive(Debug, PartialEq)]
pub struct Broken {
    pub line: u64,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Outside of an array.
    Outside,
    /// In the array that begins in `line`, before an event, or before `]` if `or_end`.
    Before { line: u64, or_end: bool },
    /// In the array that begins in `line`, after an event.
    After { line: u64 },
}

#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Where the next event begins in `buffer`, and its line.
    begin: usize,
    line: u64,
    /// The bytes from `begin` to here are scanned.
    scanned: usize,
    scan: Option<Scan>,
    /// The event is the rest of its line, which is not JSON.
    as_line: bool,
    place: Place,
}

impl Splitter {
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            begin: 0,
            line: 1,
            scanned: 0,
            scan: None,
            as_line: false,
            place: Place::Outside,
        }
    }

    /// Adds what `read` reads into a buffer of `bytes`; returns its length.
    pub fn fill<E>(
        &mut self,
        bytes: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.buffer.drain(..self.begin);
        self.scanned -= self.begin;
        self.begin = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + bytes, 0);
        let count = read(&mut self.buffer[length..]);
        self.buffer
            .truncate(length + count.as_ref().copied().unwrap_or_default());
        count
    }

    /// The bytes that are not taken yet.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.begin..]
    }

    /// The next event; `None` if it is not complete yet or, at the `end` of the input, if there is none.
    pub fn next(&mut self, end: bool) -> Result<Option<Piece>, Broken> {
        loop {
            if self.as_line {
                return self.rest_of_line(end);
            }
            if self.scan.is_none() {
                self.skip_blank();
                let rest = self.rest();
                if !end && !rest.is_empty() && BOM.starts_with(rest) {
                    return Ok(None);
                }
            }
            let Some(&byte) = self.buffer.get(self.begin) else {
                return match self.place {
                    Place::Before { line, .. } | Place::After { line } if end => {
                        Err(self.broken(format!(
                            "the input ends, but the array that begins in line {line} does not"
                        )))
                    }
                    _ => Ok(None),
                };
            };
            let line = self.line;
            match (self.place, byte) {
                (Place::Outside, b'{') => return self.value(end),
                (Place::Outside, b'[') => {
                    self.place = Place::Before { line, or_end: true };
                    self.skip(1);
                }
                (Place::Outside, _) => self.as_line = true,
                (Place::Before { or_end: true, .. }, b']') | (Place::After { .. }, b']') => {
                    self.place = Place::Outside;
                    self.skip(1);
                }
                (Place::Before { .. }, b',' | b']' | b'}' | b':') => {
                    return Err(self.broken(format!(
                        "expected an event of the array, found `{}`",
                        char::from(byte)
                    )));
                }
                (Place::Before { line, .. }, _) => {
                    let value = self.value(end)?;
                    if value.is_some() {
                        self.place = Place::After { line };
                    }
                    return Ok(value);
                }
                (Place::After { line }, b',') => {
                    self.place = Place::Before {
                        line,
                        or_end: false,
                    };
                    self.skip(1);
                }
                (Place::After { .. }, _) => {
                    return Err(self.broken("expected `,` or `]` after an event of the array"));
                }
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.begin += bytes;
        self.scanned = self.begin;
    }

    /// White space, and byte order marks, which are between files that were put together.
    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            match rest.first() {
                Some(byte) if byte.is_ascii_whitespace() => {
                    self.line += u64::from(*byte == b'\n');
                    self.skip(1);
                }
                Some(_) if rest.starts_with(BOM) => self.skip(BOM.len()),
                _ => return,
            }
        }
    }

    /// A value that may extend over several lines.
    fn value(&mut self, end: bool) -> Result<Option<Piece>, Broken> {
        let mut scan = self.scan.take().unwrap_or_else(Scan::new);
        while let Some(&byte) = self.buffer.get(self.scanned) {
            match scan.step(byte) {
                Step::More => self.scanned += 1,
                Step::Last => return self.take(self.scanned + 1).map(Some),
                Step::Ended => return self.take(self.scanned).map(Some),
                Step::Wrong(expected) => return self.wrong(expected, end),
            }
            if self.scanned - self.begin > SPACED_BYTES_MAX {
                return Err(self.broken(format!(
                    "the event is longer than {SPACED_BYTES_MAX} bytes with its white space"
                )));
            }
        }
        if end {
            return self.wrong(scan.expected(), end);
        }
        self.scan = Some(scan);
        Ok(None)
    }

    /// The value that begins at `begin` is not JSON: `expected` is missing at `scanned`.
    fn wrong(&mut self, expected: &str, end: bool) -> Result<Option<Piece>, Broken> {
        let value = &self.buffer[self.begin..self.scanned];
        let first_line = value.iter().position(|byte| *byte == b'\n');
        if self.place == Place::Outside {
            let Some(length) = first_line else {
                self.as_line = true;
                return self.rest_of_line(end);
            };
            // A line that was cut off, among lines with an event each.
            if self.buffer.get(self.begin + length + 1) == Some(&b'{') {
                return self.take(self.begin + length).map(Some);
            }
        }
        let line = self.line + value.iter().filter(|byte| **byte == b'\n').count() as u64;
        let column = value
            .iter()
            .rev()
            .take_while(|byte| **byte != b'\n')
            .count()
            + 1;
        let found = match self.buffer.get(self.scanned) {
            Some(byte @ b' '..=b'~') => format!("found `{}`", char::from(*byte)),
            Some(b'\n' | b'\r') => "the line ends".to_owned(),
            Some(byte) => format!("found the byte 0x{byte:02x}"),
            None => "the input ends".to_owned(),
        };
        Err(Broken {
            line,
            reason: format!(
                "column {column}: expected {expected}, but {found} (the event begins in line {})",
                self.line
            ),
        })
    }

    fn rest_of_line(&mut self, end: bool) -> Result<Option<Piece>, Broken> {
        let rest = self.rest();
        let length = match rest.iter().position(|byte| *byte == b'\n') {
            Some(length) => length,
            None if end => rest.len(),
            None if rest.len() > EVENT_BYTES_MAX => return Err(self.too_long()),
            None => return Ok(None),
        };
        self.as_line = false;
        self.take(self.begin + length).map(Some)
    }

    /// Takes the bytes before `end` as an event.
    fn take(&mut self, end: usize) -> Result<Piece, Broken> {
        let json = self.buffer[self.begin..end].trim_ascii();
        let json = match json.contains(&b'\n') || json.len() > EVENT_BYTES_MAX {
            true => compact(json),
            false => json.to_vec(),
        };
        if json.len() > EVENT_BYTES_MAX {
            return Err(self.too_long());
        }
        let taken = &self.buffer[self.begin..end];
        let lines = taken.iter().filter(|byte| **byte == b'\n').count() as u64;
        let piece = Piece {
            line: self.line,
            json,
        };
        self.line += lines;
        self.skip(end - self.begin);
        Ok(piece)
    }

    fn too_long(&self) -> Broken {
        self.broken(format!("the event is longer than {EVENT_BYTES_MAX} bytes"))
    }

    fn broken(&self, reason: impl Into<String>) -> Broken {
        Broken {
            line: self.line,
            reason: reason.into(),
        }
    }
}

/// What the beginning of the input is, if it is not text in UTF-8. `None` also if that is unknown so far.
pub fn foreign(beginning: &[u8]) -> Option<&'static str> {
    match beginning {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("text in UTF-32"),
        [0, 0, ..] => Some("binary, or text in UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => Some("text in UTF-16"),
        [0x1f, 0x8b, ..] => Some("compressed with gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("compressed with zstd"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of `text`, which arrives in parts of `step` bytes, and what ends them.
    fn split(text: &str, step: usize) -> (Vec<(u64, String)>, Option<Broken>) {
        let (mut splitter, mut pieces) = (Splitter::new(), Vec::new());
        let mut chunks = text.as_bytes().chunks(step);
        let mut end = false;
        loop {
            match splitter.next(end) {
                Ok(Some(Piece { line, json })) => {
                    pieces.push((line, String::from_utf8(json).expect("UTF-8")));
                }
                Ok(None) if end => return (pieces, None),
                Ok(None) => {
                    let chunk = chunks.next().unwrap_or_default();
                    end = chunk.is_empty();
                    let filled = splitter.fill(step, |buffer| {
                        buffer[..chunk.len()].copy_from_slice(chunk);
                        Ok::<_, ()>(chunk.len())
                    });
                    assert_eq!(filled, Ok(chunk.len()));
                }
                Err(broken) => return (pieces, Some(broken)),
            }
        }
    }

    /// `text` gives these events, wherever its bytes are divided.
    #[track_caller]
    fn gives(text: &str, wanted: &[(u64, &str)], broken: Option<(u64, &str)>) {
        for step in [1, 2, 3, 7, 10_000] {
            let (pieces, ended) = split(text, step);
            let pieces: Vec<_> = pieces.iter().map(|(line, json)| (*line, &**json)).collect();
            assert_eq!(pieces, wanted, "in parts of {step}: {ended:?}");
            let ended = ended.map(|broken| (broken.line, broken.reason));
            let ended = ended.as_ref().map(|(line, reason)| (*line, &**reason));
            assert_eq!(ended, broken, "in parts of {step}");
        }
    }

    #[test]
    fn lines_objects_over_several_lines_and_arrays_are_divided_into_events() {
        let (a, b) = (r#"{"a":1}"#, r#"{"b":[2]}"#);
        gives("", &[], None);
        gives(&format!("{a}\r\n\n \n{b}"), &[(1, a), (4, b)], None);
        gives(
            "\u{feff}{\"a\":1}\n\u{feff}{\"b\":[2]}\n",
            &[(1, a), (2, b)],
            None,
        );
        gives(
            "{\n  \"a\": 1\n}\n{\n  \"b\": [\n    2\n  ]\n}\n",
            &[(1, a), (4, b)],
            None,
        );
        gives(&format!("[{a},{b}]"), &[(1, a), (1, b)], None);
        gives(
            "[\n  {\n    \"a\": 1\n  },\n  {\"b\":[2]}\n]\n",
            &[(2, a), (5, b)],
            None,
        );
        gives(
            &format!("[]\n[\n]\n{a}{b} {a}"),
            &[(4, a), (4, b), (4, a)],
            None,
        );
        gives(
            &format!("[1,\"x\",[{a}]]"),
            &[(1, "1"), (1, "\"x\""), (1, "[{\"a\":1}]")],
            None,
        );
        gives("{\"a\": 1 }\n", &[(1, "{\"a\": 1 }")], None);
    }

    #[test]
    fn a_line_that_is_not_json_is_an_event_and_the_next_line_another() {
        let (a, b) = (r#"{"a":1}"#, r#"{"b":[2]}"#);
        gives(
            &format!("{a}\nnonsense {{\n{b}"),
            &[(1, a), (2, "nonsense {"), (3, b)],
            None,
        );
        for cut in [
            r#"{"a":"x"#,
            r#"{"a":[1,"#,
            r#"{"a":"#,
            r#"{"a":1"#,
            "{",
            r#"{"a":1,"#,
            "{]",
        ] {
            let text = format!("{cut}\n{b}\n{b}\n");
            gives(&text, &[(1, cut), (2, b), (3, b)], None);
        }
        gives(&format!("{a}\n{{\"a\":"), &[(1, a), (2, r#"{"a":"#)], None);
    }

    #[test]
    fn a_mistake_is_reported_with_its_line() {
        let a = r#"{"a":1}"#;
        let in_object =
            "column 3: expected `,` or `}`, but found `\"` (the event begins in line 2)";
        gives(
            "{\"a\":1}\n{\n  \"a\": 1\n  \"b\": 2\n}\n",
            &[(1, a)],
            Some((4, in_object)),
        );
        let cut = "column 1: expected `,` or `}`, but the input ends (the event begins in line 1)";
        gives("{\n \"a\": 1\n", &[], Some((3, cut)));
        gives(
            "[{\"a\":1}\n{\"a\":1}]",
            &[(1, a)],
            Some((2, "expected `,` or `]` after an event of the array")),
        );
        gives(
            "[{\"a\":1},\n]",
            &[(1, a)],
            Some((2, "expected an event of the array, found `]`")),
        );
        let unclosed = "the input ends, but the array that begins in line 1 does not";
        gives("[{\"a\":1},\n", &[(1, a)], Some((2, unclosed)));
        gives("[{\"a\":1}", &[(1, a)], Some((1, unclosed)));
    }

    #[test]
    fn the_size_of_an_event_is_limited_without_and_with_white_space() {
        let event = |data: usize, spaces: usize| {
            format!("{{\n\"a\":{}\"{}\"}}", " ".repeat(spaces), "x".repeat(data))
        };
        let most = EVENT_BYTES_MAX - r#"{"a":""}"#.len();
        for (data, spaces, fits) in [
            (most, 0, true),
            (most, 100_000, true),
            (most + 1, 0, false),
            (1, SPACED_BYTES_MAX, false),
        ] {
            let text = format!("{{}}\n{}\n{{}}", event(data, spaces));
            let (pieces, broken) = split(&text, 65_536);
            assert_eq!(pieces.len(), if fits { 3 } else { 1 });
            let reason = broken.map(|broken| (broken.line, broken.reason));
            assert_eq!(reason.is_none(), fits, "{reason:?}");
            if let Some((line, reason)) = reason {
                assert!(
                    line == 2 && reason.starts_with("the event is longer than"),
                    "{reason}"
                );
            }
        }
        let (_, broken) = split(&"x".repeat(EVENT_BYTES_MAX * 2), 65_536);
        assert!(broken.is_some());
    }

    #[test]
    fn other_encodings_are_recognised_by_their_beginning() {
        let utf16 = |text: &str, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(order).collect()
        };
        for text in ["\u{feff}{\"a\":1}", "{\"a\":1}"] {
            for bytes in [utf16(text, u16::to_le_bytes), utf16(text, u16::to_be_bytes)] {
                assert_eq!(foreign(&bytes), Some("text in UTF-16"), "{bytes:?}");
            }
            assert_eq!(foreign(text.as_bytes()), None);
        }
        assert_eq!(foreign(b"\xff\xfe\0\0{\0\0\0"), Some("text in UTF-32"));
        assert_eq!(foreign(b"\x1f\x8b\x08\0"), Some("compressed with gzip"));
        for short in [&b""[..], b"{", b"1", b"\xff", b"\0"] {
            assert_eq!(foreign(short), None);
        }
    }
}
