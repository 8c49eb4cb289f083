//! Live delivery: one tailer per node, a hub, and followers that join history to live without a gap.
//!
//! A round of the tailer is a consistent cut. It takes a snapshot R, reads the log over (T, R] in every partition that has
//! local subscribers (in all, if somebody follows the log itself), gives the hub what it found in version order, and then sets T to R. A follower registers, waits for
//! the end of a round that knew of it, reads pages up to a later moment of its own, and then takes from the hub what lies
//! above. Whenever its bounded queue overflows, it goes back to reading pages.
//!
//! While the task of a stream waits, the tailer sends for it (see [`forward`]): it fills the queues of a round, and then
//! has each of them written to its socket, in a few tasks for all. So a delivery costs a system call, and wakes no task. Only
//! what a socket does not take at once is left to the stream's own task, as is everything of streams that are encrypted or
//! over HTTP/2.
//!
//! What a round has found is dispatched in slices, and streams send between them what they have been given. The round is a
//! cut all the same: entries reach a subscriber in version order; nobody is told that it has everything up to R before the
//! last slice; and who registers meanwhile joins with the next round.

mod counts;
mod follower;
mod forward;
mod hub;
mod janitor;
mod partition;
mod tailer;
mod throttle;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

pub use self::{
    follower::{Bye, Follower, Reset, Update, wait_for_entries},
    forward::Outlet,
    hub::{Hub, QUEUE_BYTES_MAX, QUEUE_ITEMS_MAX, STREAMS_MAX, Subscription},
    janitor::{TRANSIENT_LIFE, trim_transients},
    tailer::{HEARTBEAT, run as run_tailer},
};
use crate::{
    feed::{FeedState, ReaderMarkers, Unread},
    log::LogEvent,
    store::values::Mark,
    types::{Entry, FeedName, ReaderName},
    version::Version,
};

/// What is delivered to subscribers.
#[derive(Debug, Clone)]
pub enum News {
    Entry(Located),
    Transient(Located),
    /// An event, for a subscriber to the log.
    Event(LogEvent),
    /// An entry that counts as unread, with the unread counts of the stream's reader in its feeds. See [`Located::feeds`].
    Notify(Located, Vec<Unread>),
    /// The reader of the stream moved a marker, or something else changed what is unread: the state of the feed.
    State(FeedState),
    /// The state of a feed, for a stream of states.
    Whole(Box<FeedState>),
    /// Another reader than that of the stream moved a marker.
    Moved {
        feed: FeedName,
        markers: ReaderMarkers,
        /// The moment of the markers.
        version: Version,
    },
    /// The reader of the stream marked an entry. Without an entry: so many that they have to be read.
    Marked {
        feed: FeedName,
        reader: ReaderName,
        /// The version of the entry, and its mark.
        mark: Option<(Version, Mark)>,
        /// The version of the mark, or up to which there were many.
        version: Version,
    },
    /// The stream's position: everything up to this version has been sent.
    Moment(Version),
}

/// An entry and which of the subscriber's feeds hold it.
#[derive(Debug, Clone)]
pub struct Located {
    pub entry: Entry,
    /// The first, in the subscriber's order.
    pub feed: FeedName,
    /// All of them, if there are more than one.
    pub feeds: Vec<FeedName>,
}

impl News {
    pub fn version(&self) -> Version {
        match self {
            Self::Entry(located) | Self::Notify(located, _) | Self::Transient(located) => {
                located.entry.version
            }
            Self::Event(event) => event.entry.version,
            Self::State(state) => state.version,
            Self::Whole(state) => state.version,
            Self::Moved { version, .. } | Self::Marked { version, .. } => *version,
            Self::Moment(version) => *version,
        }
    }
}

/// A piece of news and, once it was needed, the bytes it is rendered as. Shared by all subscribers that get it.
#[derive(Debug)]
pub struct Item {
    pub news: News,
    /// The approximate size of the names of its feeds, in memory and on the wire.
    name_bytes: usize,
    rendered: OnceLock<Bytes>,
    /// Of an entry that counts as unread: the item with the counts that were asked for last. Most streams ask for the same.
    counted: Mutex<Option<Arc<Item>>>,
}

/// Size of an item or a feed's name, without the text in it.
const FIXED_BYTES: usize = 256;
const NAME_BYTES: usize = 32;

impl Item {
    pub fn new(news: News) -> Arc<Self> {
        let names: &[FeedName] = match &news {
            News::Entry(located) | News::Transient(located) => &located.feeds,
            News::Event(event) => &event.feeds,
            _ => &[],
        };
        let name_bytes = names.iter().map(|feed| feed.as_str().len() + NAME_BYTES);
        let name_bytes = name_bytes.sum();
        Arc::new(Self {
            news,
            name_bytes,
            rendered: OnceLock::new(),
            counted: Mutex::default(),
        })
    }

    /// The same entry with these counts of its feeds.
    fn with_counts<'a>(
        self: &Arc<Self>,
        counts: impl Iterator<Item = &'a Unread> + Clone,
    ) -> Arc<Self> {
        let News::Entry(located) = &self.news else {
            return Arc::clone(self);
        };
        let mut last = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |item: &&Arc<Self>| match &item.news {
            News::Notify(_, known) => known.iter().eq(counts.clone()),
            _ => false,
        };
        if let Some(same) = last.as_ref().filter(is_same) {
            return Arc::clone(same);
        }
        let counted = Self::new(News::Notify(located.clone(), counts.cloned().collect()));
        *last = Some(Arc::clone(&counted));
        counted
    }

    fn is_transient(&self) -> bool {
        matches!(self.news, News::Transient(_))
    }

    /// The approximate size in bytes that one of `subscribers` is charged for. They share the names of the feeds, which can
    /// be much longer than the rest.
    fn bytes(&self, subscribers: usize) -> usize {
        let data = match &self.news {
            News::Entry(located) | News::Transient(located) => located.entry.data.len(),
            News::Event(event) => event.entry.data.len(),
            _ => 0,
        };
        FIXED_BYTES + data + self.name_bytes / subscribers.max(1)
    }

    /// The bytes that `render` makes of the news. Every call must use the same `render`: only the first one is run.
    pub fn rendered(&self, render: impl FnOnce(&News) -> Bytes) -> Bytes {
        self.rendered.get_or_init(|| render(&self.news)).clone()
    }
}
