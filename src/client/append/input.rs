//! Reads lines from a file or a pipe as they arrive, with a bounded number in memory.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    thread,
};

use tokio::sync::mpsc;

use super::event::completed;
use crate::client::{Error, token::Author};

/// Maximum length of a line in bytes: the service's limit, less room for an id and an actor.
const LINE_BYTES_MAX: u64 = 256 * 1024 - 256;
/// Maximum number of lines in a request.
const BATCH_LINES_MAX: usize = 1_000;
/// Size of the read buffer in bytes. A batch holds at most this and one line.
const BUFFER_BYTES: usize = 256 * 1024;
/// Batches waiting while another one is being sent.
const BATCHES_WAITING_MAX: usize = 1;

/// One event, with an id.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// Counts from 1 and includes blank lines, like an editor.
    pub number: u64,
    pub json: Vec<u8>,
}

pub type Batch = Vec<Line>;

/// The batches of lines to send.
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

    /// Lines of `read`, completed with an id and an actor. `path` is for messages.
    pub fn of(read: impl Read + Send + 'static, path: PathBuf, author: Author) -> Self {
        let (batches, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        // Not a blocking task of the runtime: a read from a terminal or a pipe may never return, and the runtime would wait
        // for it at exit.
        thread::spawn(move || {
            let mut reader = Reader::new(read, path, author);
            while let Some(batch) = reader.next().transpose() {
                let failed = batch.is_err();
                if batches.blocking_send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The lines available, at least one; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Batch, Error>> {
        self.0.recv().await
    }
}

struct Reader<R> {
    read: BufReader<R>,
    path: PathBuf,
    author: Author,
    line: u64,
    failed: Option<Error>,
}

impl<R: Read> Reader<R> {
    fn new(read: R, path: PathBuf, author: Author) -> Self {
        Self {
            read: BufReader::with_capacity(BUFFER_BYTES, read),
            path,
            author,
            line: 0,
            failed: None,
        }
    }

    /// Waits for a line, and takes all complete lines already in the buffer with it.
    fn next(&mut self) -> Result<Option<Batch>, Error> {
        let mut batch = Batch::new();
        while self.failed.is_none() && batch.len() < BATCH_LINES_MAX {
            let whole = self.read.buffer().contains(&b'\n');
            if !batch.is_empty() && !whole {
                break;
            }
            match self.line() {
                Ok(Some(line)) => batch.extend(line),
                Ok(None) => break,
                Err(error) => self.failed = Some(error),
            }
        }
        if !batch.is_empty() {
            // Lines read before a failure are sent first.
            return Ok(Some(batch));
        }
        self.failed.take().map_or(Ok(None), Err)
    }

    /// `Some(None)` for a blank line.
    fn line(&mut self) -> Result<Option<Option<Line>>, Error> {
        let mut bytes = Vec::new();
        let count = (&mut self.read)
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| Error::Read {
                path: self.path.clone(),
                source,
            })?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        let text = bytes.trim_ascii();
        if text.len() as u64 > LINE_BYTES_MAX {
            return Err(Error::LongLine {
                line: self.line,
                bytes_max: LINE_BYTES_MAX,
            });
        }
        let line = (!text.is_empty()).then(|| Line {
            number: self.line,
            json: completed(text, &self.author).into_owned(),
        });
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};

    use super::*;

    fn reader(text: impl Into<Vec<u8>>) -> Reader<Cursor<Vec<u8>>> {
        Reader::new(Cursor::new(text.into()), "events".into(), Author::default())
    }

    fn numbers(batch: Batch) -> Vec<u64> {
        batch.into_iter().map(|line| line.number).collect()
    }

    #[test]
    fn blank_lines_count_and_the_last_line_needs_no_line_feed() {
        let mut reader = reader("{\"id\":\"a\"}\r\n\n \n{\"id\":\"b\"}");
        let batch = reader.next().expect("read").expect("lines");
        assert_eq!(batch[0].json, b"{\"id\":\"a\"}");
        assert_eq!(numbers(batch), [1]);
        let batch = reader.next().expect("read").expect("a line");
        assert_eq!(batch[0].json, b"{\"id\":\"b\"}");
        assert_eq!(numbers(batch), [4]);
        assert_eq!(reader.next().expect("read"), None);
    }

    #[test]
    fn a_batch_is_the_lines_available_up_to_the_limit_of_a_request() {
        struct Slow(u8);
        impl Read for Slow {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                let text: &[u8] = match self.0 {
                    1 => b"1\n2\n3",
                    2 => b"3\n4\n",
                    _ => b"",
                };
                out[..text.len()].copy_from_slice(text);
                Ok(text.len())
            }
        }
        let mut slow = Reader::new(Slow(0), "pipe".into(), Author::default());
        assert_eq!(numbers(slow.next().expect("read").expect("lines")), [1, 2]);
        assert_eq!(numbers(slow.next().expect("read").expect("lines")), [3, 4]);
        assert_eq!(slow.next().expect("read"), None);

        let mut many = reader("1\n".repeat(BATCH_LINES_MAX + 1));
        let batch = many.next().expect("read").expect("lines");
        assert_eq!(batch.len(), BATCH_LINES_MAX);
        assert_eq!(
            numbers(many.next().expect("read").expect("a line")),
            [1_001]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_after_the_lines_before_it() {
        let longest = "1".repeat(LINE_BYTES_MAX as usize);
        let mut reader = reader(format!("{longest}\n2\n{longest}1\n4\n"));
        assert_eq!(
            numbers(reader.next().expect("read").expect("lines")),
            [1, 2]
        );
        let error = reader.next().expect_err("too long").to_string();
        assert!(error.starts_with("line 3 is longer than"), "{error}");
    }
}
