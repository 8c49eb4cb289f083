//! A stream of server-sent events. Between two frames it holds no buffer but for half a frame, and no task or timer: tens
//! of thousands of them fit in one process.

use std::io;

use newsfeed::client::Frames;

pub use newsfeed::client::Frame;

use super::source::Source;

pub struct Stream {
    source: Source,
    frames: Frames,
}

impl Stream {
    /// `pending` came with the answer's head.
    pub fn new(source: Source, pending: Vec<u8>) -> Self {
        Self {
            source,
            frames: Frames { pending },
        }
    }

    /// Waits for bytes, takes at most `bytes_max` (up to [`READ_BYTES`]) and hands over the frames they complete;
    /// `false` at the end of the stream. Nothing is lost when this is dropped while it waits.
    pub async fn next(
        &mut self,
        bytes_max: usize,
        take: impl FnMut(Frame<'_>),
    ) -> io::Result<bool> {
        // The first frames may have come with the head.
        let goes_on = self.frames.complete()
            || self
                .source
                .receive(bytes_max, &mut self.frames.pending)
                .await?;
        self.frames.drain(take);
        Ok(goes_on)
    }

    /// What the kernel may hold for it, from now on; with HTTP/2 it is as it was.
    pub fn receive_buffer(&self, bytes: usize) -> io::Result<()> {
        self.source.receive_buffer(bytes)
    }
}
