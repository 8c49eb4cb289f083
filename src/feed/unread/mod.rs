//! What is unread of a feed, counted once and then kept up to date.
//!
//! What a reader has not read consists of the notify keys above the read marker, without those that the reader wrote or has
//! marked read one by one, and of the entries below that were marked unread after what the marker says. A mark of an entry has
//! a version of its own. So what has changed since a count is in three places: the notify keys above the moment of the count,
//! the marks above it, and the marker. A node that remembers a count therefore reads as much as for an empty feed, on any
//! snapshot, and whichever node made the changes. Only a removal of notify keys makes it count again.

mod cache;
mod count;
mod list;
#[cfg(test)]
mod tests;

pub use self::cache::UNREAD_CACHE_BYTES_MAX;
pub(super) use self::{
    cache::UnreadCache,
    count::{Count, Start},
};
