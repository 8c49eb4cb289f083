//! Rendered SSE frames on their way to one client. The bytes are shared with every other subscriber that gets the same
//! frames, and do not depend on the HTTP version.

use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::{IntoIter, SmallVec};

/// Frames to be sent one after the other. Nearly always there is one, which needs no allocation.
pub struct SharedFrames(IntoIter<[Bytes; 1]>);

impl FromIterator<Bytes> for SharedFrames {
    fn from_iter<I: IntoIterator<Item = Bytes>>(frames: I) -> Self {
        let frames = frames.into_iter().filter(|frame| !frame.is_empty());
        Self(frames.collect::<SmallVec<_>>().into_iter())
    }
}

impl From<Bytes> for SharedFrames {
    fn from(frame: Bytes) -> Self {
        Self::from_iter([frame])
    }
}

impl SharedFrames {
    /// The frames as one buffer. A single frame is not copied.
    pub fn into_bytes(mut self) -> Bytes {
        if let [frame] = self.0.as_mut_slice() {
            return std::mem::take(frame);
        }
        let mut joined = BytesMut::with_capacity(self.remaining());
        joined.extend(self.0);
        joined.freeze()
    }
}

/// No frame that remains is empty.
impl Buf for SharedFrames {
    fn remaining(&self) -> usize {
        self.0.as_slice().iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.as_slice().first().map_or(&[], |frame| frame)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, frame) in into.iter_mut().zip(self.0.as_slice()) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.0.as_mut_slice().first_mut();
            let first = first.expect("a writer reports no more bytes than it was given");
            if count < first.len() {
                return first.advance(count);
            }
            count -= first.len();
            self.0.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_is_shared_and_several_are_joined_in_order() {
        let frame = Bytes::from(vec![b'x'; 300]);
        let same = SharedFrames::from(frame.clone()).into_bytes();
        assert_eq!(same.as_ptr(), frame.as_ptr());
        let parts = ["a\n\n", "", "bc\n\n"].map(|part| Bytes::from_static(part.as_bytes()));
        let joined = SharedFrames::from_iter(parts).into_bytes();
        assert_eq!(joined, "a\n\nbc\n\n");
    }
}
