//! The message list: its lines, and the event made from each.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use crate::{
    client::{Error, wire::NewEvent},
    types::{EventId, NAME_BYTES_MAX},
};

const LINE_BYTES_MAX: usize = 256;
/// Maximum length of the file name in event ids: 20 digits and a colon are for the line number.
const STEM_BYTES_MAX: usize = NAME_BYTES_MAX - 21;

/// One line of the list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Message {
    pub from: u64,
    pub to: u64,
    /// Unix seconds.
    pub sent: i64,
}

impl Message {
    pub fn new(from: u64, to: u64, sent: i64) -> Self {
        Self { from, to, sent }
    }

    /// `line` counts from 1.
    pub fn event(&self, stem: &str, line: usize) -> NewEvent {
        let Self { from, to, sent } = self;
        let (low, high) = (from.min(to), from.max(to));
        NewEvent {
            id: format!("{stem}:{line}"),
            kind: "message",
            feeds: vec![format!("user:{to}"), format!("chat:{low}-{high}")],
            actor: format!("user:{from}"),
            data: serde_json::json!({ "from": from, "to": to, "sent": sent }),
        }
    }
}

/// The file's name without `.gz` and `.txt`: the first part of every event id.
pub fn event_stem(path: &Path) -> Result<String, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let stem = name.strip_suffix(".txt").unwrap_or(name);
    if stem.len() <= STEM_BYTES_MAX && stem.parse::<EventId>().is_ok() {
        Ok(stem.to_owned())
    } else {
        Err(Error::FileName(path.to_owned()))
    }
}

/// The first `limit` lines of a file, or all. Each takes 24 bytes of memory.
pub fn read(path: &Path, limit: Option<usize>) -> Result<Vec<Message>, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = open(path).map_err(failed)?;
    let mut messages = Vec::new();
    let mut line = Vec::new();
    while limit.is_none_or(|limit| messages.len() < limit) {
        line.clear();
        let read = (&mut text)
            .take(LINE_BYTES_MAX as u64)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        if read == 0 {
            break;
        }
        let message = parse(&line).map_err(|reason| Error::BadLine {
            file: path.to_owned(),
            line: messages.len() + 1,
            reason,
        })?;
        messages.push(message);
    }
    Ok(messages)
}

/// Detects gzip by its first two bytes, which no line of text starts with.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(File::open(path)?);
    Ok(if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

/// Parses `SENDER RECEIVER UNIX_SECONDS`. The error says what is wrong.
fn parse(line: &[u8]) -> Result<Message, String> {
    if line.len() == LINE_BYTES_MAX {
        return Err(format!("longer than {LINE_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(line).map_err(|_| "not text".to_owned())?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [from, to, sent] = fields[..] else {
        let count = fields.len();
        return Err(format!(
            "{count} fields instead of the 3 of `SENDER RECEIVER UNIX_SECONDS`"
        ));
    };
    Ok(Message::new(
        whole("SENDER", from)?,
        whole("RECEIVER", to)?,
        whole("UNIX_SECONDS", sent)?,
    ))
}

fn whole<T: std::str::FromStr>(name: &str, field: &str) -> Result<T, String> {
    field
        .parse()
        .map_err(|_| format!("{name} {field:?} is not a whole number"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Message>, Error> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        read(file.path(), None)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[test]
    fn a_line_is_three_whole_numbers() {
        assert_eq!(
            parse(b"1 2 1082040961\n"),
            Ok(Message::new(1, 2, 1_082_040_961))
        );
        assert_eq!(parse(b"\t1  2 -5\r\n"), Ok(Message::new(1, 2, -5)));
        for (line, reason) in [
            (&b"\n"[..], "0 fields"),
            (b"1 2", "2 fields"),
            (b"# comment of words", "4 fields"),
            (b"-1 2 3", "SENDER \"-1\""),
            (b"1 two 3", "RECEIVER \"two\""),
            (b"1 2 3.5", "UNIX_SECONDS \"3.5\""),
            (b"1 18446744073709551616 3", "RECEIVER"),
            (b"1 \xff 3", "not text"),
            (&[b'1'; LINE_BYTES_MAX], "longer than 256 bytes"),
        ] {
            let error = parse(line).expect_err("no message");
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_line_becomes_a_message_for_receiver_and_chat() {
        let event = Message::new(10, 9, 1_082_040_961).event("CollegeMsg", 7);
        assert_eq!(
            serde_json::to_value(&event).expect("JSON"),
            serde_json::json!({
                "id": "CollegeMsg:7", "kind": "message", "feeds": ["user:9", "chat:9-10"], "actor": "user:10",
                "data": {"from": 10, "to": 9, "sent": 1_082_040_961},
            })
        );
    }

    #[test]
    fn ids_start_with_the_bare_file_name() {
        for (path, stem) in [
            ("/data/CollegeMsg.txt.gz", "CollegeMsg"),
            ("a.txt", "a"),
            ("b.gz", "b"),
            ("c.v2.list", "c.v2.list"),
            ("/dev/stdin", "stdin"),
            ("grüße.txt", "grüße"),
        ] {
            assert_eq!(event_stem(Path::new(path)).expect("a name"), stem);
        }
        for path in ["/", "..", ".gz", "Zoe\u{308}.txt", &"x".repeat(235)] {
            let refused = event_stem(Path::new(path));
            assert!(matches!(refused, Err(Error::FileName(_))), "{path}");
        }
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        let text = b"1 2 3\n4 5 6\n7 8 9";
        let wanted = [
            Message::new(1, 2, 3),
            Message::new(4, 5, 6),
            Message::new(7, 8, 9),
        ];
        let two_members = [gzip(&text[..8]), gzip(&text[8..])].concat();
        for bytes in [text.to_vec(), gzip(text), two_members] {
            assert_eq!(read_bytes(&bytes).expect("a list"), wanted);
        }
        assert_eq!(read_bytes(b"").expect("a list"), []);
        assert_eq!(read_bytes(&gzip(b"")).expect("a list"), []);
    }

    #[test]
    fn a_bad_line_is_reported_and_a_truncated_gzip_file_is_an_error() {
        let error = read_bytes(b"1 2 3\nx\n4 5 6\n").expect_err("a bad line");
        assert!(error.to_string().contains(", line 2: 1 fields"), "{error}");
        let whole = gzip(&b"1 2 3\n".repeat(1_000));
        let cut = read_bytes(&whole[..whole.len() - 4]);
        assert!(matches!(cut, Err(Error::Read { .. })), "{cut:?}");
    }
}
