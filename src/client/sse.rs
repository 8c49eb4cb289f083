//! Parser for server-sent events as the service writes them: at most one `event`, `id` and `data` line each.

use std::time::Duration;

use memchr::memmem;

/// Capacity that an idle stream may keep.
const IDLE_BYTES_MAX: usize = 2 * 1024;

/// Splits the bytes of a stream into frames.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes of a frame that is not complete yet.
    pub pending: Vec<u8>,
    /// How long the service asked to wait before the stream is opened again.
    pub retry: Option<Duration>,
}

/// One event of a stream.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    pub event: &'a str,
    pub id: Option<&'a str>,
    pub data: &'a str,
}

impl Frames {
    pub fn complete(&self) -> bool {
        memmem::find(&self.pending, b"\n\n").is_some()
    }

    /// Passes on the complete frames and keeps the beginning of the next one.
    pub fn drain(&mut self, mut take: impl FnMut(Frame<'_>)) {
        let mut rest = &self.pending[..];
        while let Some(end) = memmem::find(rest, b"\n\n") {
            let block = std::str::from_utf8(&rest[..end]).unwrap_or_default();
            self.retry = retry(block).or(self.retry);
            if let Some(frame) = parse(block) {
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

fn retry(block: &str) -> Option<Duration> {
    let ms = block
        .lines()
        .find_map(|line| line.strip_prefix("retry: "))?;
    ms.parse().ok().map(Duration::from_millis)
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

    #[test]
    fn the_frames_are_the_same_wherever_the_bytes_are_cut() {
        let stream = b"retry: 2000\nid: v0\n\nevent: entry\nid: v1\ndata: \"\xc3\xa9\"\n\nevent: bye\ndata: {}\n\nev";
        for cut in 0..=stream.len() {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                frames.pending.extend_from_slice(part);
                frames.drain(|frame| got.push(format!("{} {}", frame.event, frame.data)));
            }
            assert_eq!(got, ["entry \"é\"", "bye {}"], "cut at {cut}");
            assert_eq!(frames.pending, b"ev");
            assert_eq!(frames.retry, Some(Duration::from_secs(2)));
        }
    }
}
