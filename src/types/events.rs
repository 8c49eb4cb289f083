//! Events as producers append them, and entries as feeds hold them.

use std::{collections::HashSet, str::FromStr};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Actor, DATA_FANOUT_BYTES_MAX, Data, EVENT_FEEDS_MAX, EventId, EventTime, FeedName, Invalid,
    Kind, ReaderName, data::digest,
};
use crate::version::{Cursor, Version};

/// What happens to events of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Stored as an entry in its feeds.
    Entry,
    /// Stored as an entry that counts as unread.
    Notify,
    /// Sent to live subscribers only; not stored in any feed.
    Transient,
}

impl FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "entry" => Ok(Self::Entry),
            "notify" => Ok(Self::Notify),
            "transient" => Ok(Self::Transient),
            _ => Err(format!(
                "{text:?} is not a delivery: use entry, notify or transient"
            )),
        }
    }
}

/// The markers of a reader in a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marker {
    /// Everything up to this marker has been read, except for what was marked unread later.
    Read,
    /// Everything up to this marker has been displayed.
    Seen,
    /// Everything up to this marker that had been read when it moved is archived.
    Archived,
}

impl Marker {
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Read, Self::Seen, Self::Archived];
        all.into_iter().find(|marker| marker.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Seen => "seen",
            Self::Archived => "archived",
        }
    }
}

/// The state of an entry that counts as unread, for one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReadState {
    Unread,
    Read,
    /// Also read.
    Archived,
}

impl ReadState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Read => "read",
            Self::Archived => "archived",
        }
    }
}

/// The condition of a conditional append: `feed` has no entry above `version` (`None`: no entry at all).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    pub feed: FeedName,
    pub version: Option<Cursor>,
}

/// A valid event, ready to be appended. Created by [`Draft::check`].
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub kind: Kind,
    pub delivery: Delivery,
    pub feeds: Vec<FeedName>,
    pub actor: Option<Actor>,
    pub time: Option<EventTime>,
    /// Compact JSON.
    pub data: Bytes,
    pub expect: Option<Expect>,
    /// Hash of the content: tells a repeated append (same content) from a reused id (different content). `expect` is
    /// a condition and not part of the content.
    pub digest: u128,
}

/// An event whose fields have been checked one by one, but not yet together.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: EventId,
    pub kind: Kind,
    pub delivery: Delivery,
    pub feeds: Vec<FeedName>,
    pub actor: Option<Actor>,
    pub time: Option<EventTime>,
    pub data: Data,
    pub expect: Option<Expect>,
}

impl Draft {
    /// Removes repeated feed names and checks the rules that span several fields. An error comes with its field's name.
    pub fn check(mut self) -> Result<Event, (&'static str, Invalid)> {
        if !(1..=EVENT_FEEDS_MAX).contains(&self.feeds.len()) {
            return Err(("feeds", Invalid::FeedCount));
        }
        if self.feeds.len() > 1 {
            let mut seen = HashSet::with_capacity(self.feeds.len());
            self.feeds.retain(|feed| seen.insert(feed.clone()));
        }
        let fanout = self.data.text().len() * self.feeds.len();
        if fanout > DATA_FANOUT_BYTES_MAX {
            return Err(("data", Invalid::DataFanout(fanout)));
        }
        let digest = self.digest();
        let Self {
            id,
            kind,
            delivery,
            feeds,
            actor,
            time,
            data,
            expect,
        } = self;
        Ok(Event {
            id,
            kind,
            delivery,
            feeds,
            actor,
            time,
            data: data.text,
            expect,
            digest,
        })
    }

    fn digest(&self) -> u128 {
        let mut feeds: SmallVec<[&str; 4]> = self.feeds.iter().map(FeedName::as_str).collect();
        feeds.sort_unstable();
        let mut text = String::with_capacity(256);
        // Names contain no line feed, so the separators are unambiguous.
        for part in [
            self.kind.as_str(),
            self.actor.as_ref().map_or("", Actor::as_str),
        ]
        .into_iter()
        .chain(feeds)
        {
            text.push_str(part);
            text.push('\n');
        }
        if let Some(time) = &self.time {
            // After an empty line, because no feed's name is empty.
            text.push_str(&format!("\n{}\n", time.instant()));
        }
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.data.digest.to_be_bytes());
        digest(&bytes)
    }
}

impl Event {
    /// Upper estimate of the bytes of keys and values that storing this event writes.
    pub fn weight(&self) -> usize {
        let time = self.time.as_ref().map_or(0, |time| time.as_str().len());
        let actor = self.actor.as_ref().map_or(0, |actor| actor.as_str().len());
        let head = self.id.as_str().len() + self.kind.as_str().len() + actor + time + 200;
        let names: usize = self.feeds.iter().map(|f| f.as_str().len() + head).sum();
        2 * (self.data.len() * self.feeds.len() + names)
    }
}

/// An event as it stands in one feed, at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub version: Version,
    pub id: EventId,
    pub kind: Kind,
    pub delivery: Delivery,
    pub actor: Option<Actor>,
    /// Wall time at which a node accepted the event, in µs since 1970. For people; it does not order anything.
    pub at: i64,
    /// When the event happened, if its producer said so.
    pub time: Option<EventTime>,
    /// Compact JSON.
    pub data: Bytes,
    /// Time (in ticks) of the snapshot on which the append looked for claims: an entry of which this one is a twin was
    /// committed after it. [`NO_TWIN`] if this entry cannot be a twin.
    pub read_at: u64,
    /// Whether the entry was changed, or is the news of a change.
    pub change: Option<Change>,
}

/// What an edit or an erasure has made of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The entry, as it was edited at this version.
    EditedAt(Version),
    /// The news, at [`Entry::version`], that the entry at this version was edited. The other fields are those of the entry as
    /// it is now.
    Edit(Version),
    /// The news, at [`Entry::version`], that the entry at this version was erased. Of the other fields, only `id` and `kind`
    /// mean something.
    Erasure(Version),
    /// The place of an erased entry, which nobody sees. It is kept for a few seconds, because a twin of the entry may still be
    /// committed, and must stay invisible. Only `id` and `read_at` mean something.
    Erased,
}

impl Entry {
    /// The version of the entry itself, if this is the news of a change.
    pub fn changed(&self) -> Option<Version> {
        match self.change {
            Some(Change::Edit(of) | Change::Erasure(of)) => Some(of),
            Some(Change::EditedAt(_) | Change::Erased) | None => None,
        }
    }

    /// Whether `reader` wrote it. Nobody writes as the feed's own reader.
    pub fn is_by(&self, reader: &ReaderName) -> bool {
        reader.is(self.actor.as_ref().map(Actor::as_str))
    }

    /// This is only the place of an erased entry, [`Change::Erased`].
    pub fn is_erased(&self) -> bool {
        self.change == Some(Change::Erased)
    }

    /// This is the news of an erasure, [`Change::Erasure`].
    pub fn is_erasure(&self) -> bool {
        matches!(self.change, Some(Change::Erasure(_)))
    }

    /// The news that this entry, which must be an entry, was erased.
    pub fn erasure(&self) -> Self {
        Self {
            change: Some(Change::Erasure(self.version)),
            ..Self::without_content(self.id.clone(), self.kind.clone(), NO_TWIN)
        }
    }

    /// An entry of which only the id, the kind and `read_at` are known.
    pub fn without_content(id: EventId, kind: Kind, read_at: u64) -> Self {
        Self {
            version: Version::ZERO,
            id,
            kind,
            delivery: Delivery::Entry,
            actor: None,
            at: 0,
            time: None,
            data: Bytes::new(),
            read_at,
            change: None,
        }
    }
}

/// [`Entry::read_at`] of an entry whose id was found unclaimed at its commit: it cannot be a twin.
pub const NO_TWIN: u64 = u64::MAX;
