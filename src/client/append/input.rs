//! Reads events from a file or a pipe as they arrive, with a bounded number in memory.

use std::{
    io::{self, Read},
    path::PathBuf,
    thread,
};

use tokio::sync::mpsc;

use super::{
    event::completed,
    split::{Broken, Piece, Splitter, foreign},
};
use crate::client::{Error, token::Author};

/// Maximum number of events in a request.
const BATCH_EVENTS_MAX: usize = 1_000;
/// Size of a read in bytes. A batch holds at most this and one event.
const READ_BYTES: usize = 256 * 1024;
/// Batches waiting while another one is being sent.
const BATCHES_WAITING_MAX: usize = 1;

/// One event, with an id, as a line of JSON.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// The line where it begins. Counts from 1 and includes blank lines, like an editor.
    pub number: u64,
    pub json: Vec<u8>,
}

pub type Batch = Vec<Line>;

/// The batches of events to send.
pub struct Lines(mpsc::Receiver<Result<Batch, Error>>);

impl Lines {
    pub fn one(json: Vec<u8>) -> Self {
        let (batches, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        let line = Line { number: 1, json };
        batches
            .try_send(Ok(vec![line]))
            .expect("the channel has room and a receiver");
        Self(receiver)
    }

    /// The events of `read`, completed with an id and an actor. `path` is for messages.
    pub fn of(read: impl Read + Send + 'static, path: PathBuf, author: Author) -> Self {
        Self::begin(Reader::new(read, path, Some(author)))
    }

    /// The events of `read`, as they are.
    pub fn unchanged(read: impl Read + Send + 'static, path: PathBuf) -> Self {
        Self::begin(Reader::new(read, path, None))
    }

    fn begin(mut reader: Reader<impl Read + Send + 'static>) -> Self {
        let (batches, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        // Not a blocking task of the runtime: a read from a terminal or a pipe may never return, and the runtime would wait
        // for it at exit.
        thread::spawn(move || {
            while let Some(batch) = reader.next().transpose() {
                let failed = batch.is_err();
                if batches.blocking_send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The events available, at least one; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Batch, Error>> {
        self.0.recv().await
    }
}

struct Reader<R> {
    read: R,
    splitter: Splitter,
    path: PathBuf,
    /// If set, completes the events.
    author: Option<Author>,
    events: u64,
    /// The beginning of the input is text in UTF-8.
    is_text: bool,
    ended: bool,
    failed: Option<Error>,
}

impl<R: Read> Reader<R> {
    fn new(read: R, path: PathBuf, author: Option<Author>) -> Self {
        Self {
            read,
            splitter: Splitter::new(),
            path,
            author,
            events: 0,
            is_text: false,
            ended: false,
            failed: None,
        }
    }

    /// Waits for an event, and takes all complete events already in memory with it.
    fn next(&mut self) -> Result<Option<Batch>, Error> {
        let mut batch = Batch::new();
        while self.failed.is_none() && batch.len() < BATCH_EVENTS_MAX {
            match self.event() {
                Ok(Some(event)) => batch.push(event),
                Ok(None) if self.ended || !batch.is_empty() => break,
                Ok(None) => self.failed = self.fill().err(),
                Err(error) => self.failed = Some(error),
            }
        }
        if !batch.is_empty() {
            // Events read before a failure are sent first.
            return Ok(Some(batch));
        }
        self.failed.take().map_or(Ok(None), Err)
    }

    /// An event that is in memory.
    fn event(&mut self) -> Result<Option<Line>, Error> {
        if !self.is_text {
            if let Some(found) = foreign(self.splitter.rest()) {
                return Err(self.unreadable(io::Error::other(format!(
                    "it is {found}; events are JSON in UTF-8: lines with an event each, objects over several lines, or arrays"
                ))));
            }
            // Text has no NUL in its first two bytes; the other encodings do, or begin with a mark of two bytes.
            if self.splitter.rest().len() < 4 && !self.ended {
                let more_needed = !matches!(self.splitter.rest(), [b'\t'..=b'~', b'\t'..=b'~', ..]);
                if more_needed {
                    return Ok(None);
                }
            }
            self.is_text = true;
        }
        match self.splitter.next(self.ended) {
            Ok(None) => Ok(None),
            Ok(Some(Piece { line, json })) => {
                self.events += 1;
                Ok(Some(Line {
                    number: line,
                    json: match &self.author {
                        Some(author) => completed(&json, author).into_owned(),
                        None => json,
                    },
                }))
            }
            Err(Broken { line, reason }) => Err(Error::Input {
                path: self.path.clone(),
                line,
                event: self.events + 1,
                reason,
            }),
        }
    }

    fn fill(&mut self) -> Result<(), Error> {
        let read = &mut self.read;
        let filled = self.splitter.fill(READ_BYTES, |buffer| {
            loop {
                match read.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    done => return done,
                }
            }
        });
        self.ended = filled.map_err(|source| self.unreadable(source))? == 0;
        Ok(())
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::Read {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};

    use super::*;

    fn reader(text: impl Into<Vec<u8>>) -> Reader<Cursor<Vec<u8>>> {
        Reader::new(
            Cursor::new(text.into()),
            "events".into(),
            Some(Author::default()),
        )
    }

    fn numbers(batch: Batch) -> Vec<u64> {
        batch.into_iter().map(|line| line.number).collect()
    }

    #[test]
    fn a_batch_is_the_events_available_up_to_the_limit_of_a_request() {
        struct Slow(u8);
        impl Read for Slow {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                let text: &[u8] = match self.0 {
                    1 => b"{}\n",
                    2 => b"{}\n{}\n{",
                    3 => b"}\n{}",
                    _ => b"",
                };
                out[..text.len()].copy_from_slice(text);
                Ok(text.len())
            }
        }
        let mut slow = Reader::new(Slow(0), "pipe".into(), Some(Author::default()));
        for wanted in [&[1][..], &[2, 3], &[4, 5]] {
            assert_eq!(numbers(slow.next().expect("read").expect("events")), wanted);
        }
        assert_eq!(slow.next().expect("read"), None);

        let mut many = reader("1\n".repeat(BATCH_EVENTS_MAX + 1));
        let batch = many.next().expect("read").expect("lines");
        assert_eq!(batch.len(), BATCH_EVENTS_MAX);
        assert_eq!(
            numbers(many.next().expect("read").expect("a line")),
            [1_001]
        );
    }

    #[test]
    fn a_mistake_is_reported_after_the_events_before_it() {
        let mut reader = reader("[{\"id\":\"a\"},\n{\"id\":\"b\"},\n{]");
        assert_eq!(
            numbers(reader.next().expect("read").expect("events")),
            [1, 2]
        );
        let error = reader.next().expect_err("a mistake").to_string();
        assert!(
            error.starts_with("events, line 3, event 3: column 2: expected"),
            "{error}"
        );
    }

    #[test]
    fn text_in_another_encoding_is_refused_and_a_byte_order_mark_is_not() {
        let mut marked = reader("\u{feff}{\"id\":\"a\"}");
        let batch = marked.next().expect("read").expect("an event");
        assert_eq!(batch[0].json, b"{\"id\":\"a\"}");
        let utf16 = "{\"id\":\"a\"}".encode_utf16().flat_map(u16::to_le_bytes);
        let utf16: Vec<u8> = utf16.collect();
        let error = reader(utf16).next().expect_err("UTF-16").to_string();
        assert!(
            error.contains("events: it is text in UTF-16; events are JSON in UTF-8"),
            "{error}"
        );
    }
}
