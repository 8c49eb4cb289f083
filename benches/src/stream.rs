//! A stream of server-sent events. It buffers only incomplete frames and has no task or timer, so that tens of
//! thousands fit in one process.

use std::io;

use newsfeed::client::Frames;

pub use newsfeed::client::Frame;

use super::source::Source;

pub struct Stream {
    source: Source,
    frames: Frames,
}

impl Stream {
    /// `pending` are the bytes that arrived with the head of the response.
    pub fn new(source: Source, pending: Vec<u8>) -> Self {
        Self {
            source,
            frames: Frames {
                pending,
                ..Frames::default()
            },
        }
    }

    /// Waits for bytes, reads at most `bytes_max` of them (up to [`READ_BYTES`](super::source::READ_BYTES)) and calls
    /// `take` with each frame that is complete; returns `false` at the end of the stream. Cancel safe.
    pub async fn next(
        &mut self,
        bytes_max: usize,
        take: impl FnMut(Frame<'_>),
    ) -> io::Result<bool> {
        // The first frames may have arrived with the head.
        let goes_on = self.frames.complete()
            || self
                .source
                .receive(bytes_max, &mut self.frames.pending)
                .await?;
        self.frames.drain(take);
        Ok(goes_on)
    }

    /// Sets the size of the socket's receive buffer. Does nothing with HTTP/2.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        self.source.set_receive_buffer(bytes)
    }
}
