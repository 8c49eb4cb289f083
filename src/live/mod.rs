//! Live delivery: one tailer a node, a hub, and followers that join without a gap.
//!
//! A round of the tailer is a consistent cut: it takes a snapshot R, reads the log of every partition that has local
//! subscribers over (T, R], gives the hub what it found in version order, and only then sets T to R. A follower
//! registers, waits for the end of a round that knew of it, reads pages up to a moment of its own (which is later
//! than that round's), and then takes from the hub what lies above. Whenever its bounded queue overflows it goes back
//! to reading pages.

mod follower;
mod hub;
mod janitor;
mod pace;
mod partition;
mod tailer;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

pub use self::{
    follower::{Bye, Follower, Update, wait_for_entries},
    hub::{Hub, QUEUE_BYTES_MAX, QUEUE_ITEMS_MAX, STREAMS_MAX, Subscription},
    janitor::{TRANSIENT_LIFE, trim_transients},
    tailer::{HEARTBEAT, run as run_tailer},
};
use crate::{
    feed::FeedState,
    types::{Entry, FeedName},
    version::Version,
};

/// What subscribers hear.
#[derive(Debug, Clone)]
pub enum News {
    Entry(Located),
    Transient(Located),
    /// A marker moved: the state of its feed.
    State(FeedState),
    /// Everything up to here has been sent.
    Moment(Version),
}

/// An entry and which of the subscriber's feeds hold it.
#[derive(Debug, Clone)]
pub struct Located {
    pub entry: Entry,
    /// The first, in the subscriber's order.
    pub feed: FeedName,
    /// All of them, if more than one.
    pub feeds: Vec<FeedName>,
}

impl News {
    pub fn version(&self) -> Version {
        match self {
            Self::Entry(located) | Self::Transient(located) => located.entry.version,
            Self::State(state) => state.version,
            Self::Moment(version) => *version,
        }
    }
}

/// A piece of news and, once somebody needed it, its rendered form; shared by all who hear it.
#[derive(Debug)]
pub struct Item {
    pub news: News,
    rendered: OnceLock<Bytes>,
}

impl Item {
    pub fn new(news: News) -> Arc<Self> {
        Arc::new(Self {
            news,
            rendered: OnceLock::new(),
        })
    }

    fn is_transient(&self) -> bool {
        matches!(self.news, News::Transient(_))
    }

    /// About what it takes in memory, and to send.
    fn bytes(&self) -> usize {
        let data = match &self.news {
            News::Entry(located) | News::Transient(located) => located.entry.data.len(),
            News::State(_) | News::Moment(_) => 0,
        };
        data + 256
    }

    pub fn rendered(&self, render: impl FnOnce(&News) -> Bytes) -> Bytes {
        self.rendered.get_or_init(|| render(&self.news)).clone()
    }
}
