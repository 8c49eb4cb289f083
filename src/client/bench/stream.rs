//! A stream of server-sent events. Between two frames it holds no buffer but for half a frame, and no task or timer: tens
//! of thousands of them fit in one process.

use std::io;

use memchr::memmem;

use super::source::Source;

/// What an idle stream may keep.
const IDLE_BYTES_MAX: usize = 2 * 1024;

pub struct Stream {
    source: Source,
    /// The beginning of a frame.
    pending: Vec<u8>,
}

/// One event of a stream, in the service's words.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    pub event: &'a str,
    pub id: Option<&'a str>,
    pub data: &'a str,
}

impl Stream {
    /// `pending` came with the answer's head.
    pub fn new(source: Source, pending: Vec<u8>) -> Self {
        Self { source, pending }
    }

    /// Waits for bytes, takes at most `bytes_max` (up to [`READ_BYTES`]) and hands over the frames they complete;
    /// `false` at the end of the stream. Nothing is lost when this is dropped while it waits.
    pub async fn next(
        &mut self,
        bytes_max: usize,
        take: impl FnMut(Frame<'_>),
    ) -> io::Result<bool> {
        // The first frames may have come with the head.
        let complete = memmem::find(&self.pending, b"\n\n").is_some();
        let goes_on = complete || self.source.receive(bytes_max, &mut self.pending).await?;
        self.frames(take);
        Ok(goes_on)
    }

    /// What the kernel may hold for it, from now on; with HTTP/2 it is as it was.
    pub fn receive_buffer(&self, bytes: usize) -> io::Result<()> {
        self.source.receive_buffer(bytes)
    }

    fn frames(&mut self, mut take: impl FnMut(Frame<'_>)) {
        let mut rest = &self.pending[..];
        while let Some(end) = memmem::find(rest, b"\n\n") {
            if let Some(frame) = std::str::from_utf8(&rest[..end]).ok().and_then(parse) {
                take(frame);
            }
            rest = &rest[end + 2..];
        }
        let used = self.pending.len() - rest.len();
        self.pending.drain(..used);
        if self.pending.is_empty() && self.pending.capacity() > IDLE_BYTES_MAX {
            self.pending = Vec::new();
        }
    }
}

/// `None` for a block without an event, such as `retry`.
fn parse(block: &str) -> Option<Frame<'_>> {
    let (mut event, mut id, mut data) = (None, None, None);
    for line in block.split('\n') {
        match line.split_once(": ") {
            Some(("event", value)) => event = Some(value),
            Some(("id", value)) => id = Some(value),
            Some(("data", value)) => data = Some(value),
            _ => {}
        }
    }
    Some(Frame {
        event: event?,
        id,
        data: data?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_frame_if_it_has_an_event() {
        assert_eq!(parse("retry: 2000"), None);
        assert_eq!(parse(": a comment"), None);
        let frame = parse("event: entry\nid: v1\ndata: {\"a\": \"b: c\"}").expect("a frame");
        assert_eq!(frame.event, "entry");
        assert_eq!(frame.id, Some("v1"));
        assert_eq!(frame.data, "{\"a\": \"b: c\"}");
        let bye = parse("event: bye\ndata: {}").expect("a frame");
        assert_eq!(bye.id, None);
    }
}
