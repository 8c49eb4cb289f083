//! Names and ids as elements of tuples.

use std::{borrow::Cow, io};

use bytes::Bytes;
use foundationdb_tuple::{
    PackError, PackResult, TupleDepth, TuplePack, TupleUnpack, VersionstampOffset,
};
use memchr::memchr;

use super::shared;
use crate::types::{FeedName, Invalid};

/// The code of a string, its end, and what follows a zero byte that is not the end.
const STRING: u8 = 2;
const END: u8 = 0;
const ESCAPED: u8 = 0xff;

/// A text as an element of a tuple. Unpacking it does not check that it is UTF-8: the checks of a name include that.
#[derive(Debug)]
pub(super) struct Text<'a>(Cow<'a, [u8]>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }
}

impl TuplePack for Text<'_> {
    fn pack<W: io::Write>(&self, out: &mut W, depth: TupleDepth) -> io::Result<VersionstampOffset> {
        if memchr(END, &self.0).is_some() {
            // No name has a zero byte.
            return String::from_utf8_lossy(&self.0).pack(out, depth);
        }
        out.write_all(&[STRING])?;
        out.write_all(&self.0)?;
        out.write_all(&[END])?;
        let size = self.0.len() as u32 + 2;
        Ok(VersionstampOffset::None { size })
    }
}

impl<'de: 'a, 'a> TupleUnpack<'de> for Text<'a> {
    fn unpack(input: &'de [u8], depth: TupleDepth) -> PackResult<(&'de [u8], Self)> {
        let Some((&STRING, text)) = input.split_first() else {
            return Err(PackError::Message("not a text".into()));
        };
        match memchr(END, text) {
            Some(end) if text.get(end + 1) != Some(&ESCAPED) => {
                Ok((&text[end + 1..], Self(Cow::Borrowed(&text[..end]))))
            }
            _ => {
                let (rest, text) = String::unpack(input, depth)?;
                Ok((rest, Self(Cow::Owned(text.into_bytes()))))
            }
        }
    }
}

impl Text<'_> {
    /// The name or id; it shares the memory of `value`.
    pub(super) fn named<T>(
        self,
        value: &Bytes,
        stored: fn(Bytes) -> Result<T, Invalid>,
    ) -> Result<T, String> {
        stored(shared(value, self.0)).map_err(|error| error.to_string())
    }
}

pub(super) fn names<'a>(feeds: impl IntoIterator<Item = &'a FeedName>) -> Vec<Text<'a>> {
    feeds.into_iter().map(|feed| feed.as_str().into()).collect()
}

pub(super) fn feeds_from(value: &Bytes, feeds: Vec<Text<'_>>) -> Result<Vec<FeedName>, String> {
    let feeds = feeds.into_iter();
    feeds
        .map(|feed| feed.named(value, FeedName::stored))
        .collect()
}

#[cfg(test)]
mod tests {
    use foundationdb_tuple::{pack, unpack};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any text, so also with zero bytes, is a string of the tuple encoding.
        #[test]
        fn a_text_is_a_string(before in any::<u16>(), text in ".{0,9}\0?.{0,9}", after in any::<Option<u16>>()) {
            let packed = pack(&(before, &*text, after));
            prop_assert_eq!(&pack(&(before, Text::from(&*text), after)), &packed);
            let (_, read, _): (u16, Text<'_>, Option<u16>) = unpack(&packed).expect("unpacks");
            prop_assert_eq!(&*read.0, text.as_bytes());
            let cut = &packed[..packed.len() - 1];
            let lost = unpack::<(u16, Text<'_>, Option<u16>)>(cut);
            prop_assert!(lost.is_err());
        }
    }
}
