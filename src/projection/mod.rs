//! Projections: keys that are derived from the log in the background, by any node.
//!
//! A step is one transaction. It reads the checkpoint C of a projection and the log in (C, C'], writes what the projection
//! derives from these events, and moves the checkpoint to C' on condition that it is still C. So each step happens once,
//! whichever nodes try, and nobody owns a projection. C' is not above the moment of the step's snapshot, below which
//! nothing can be committed any more. Twins are left out by the [`Scan`](crate::log::Scan) of the log, which looks back
//! below C where it has to.
//!
//! A reader is exact at its snapshot, however far a projection lags behind: it takes the checkpoint from the same
//! snapshot, reads the derived keys up to the checkpoint, and the log (or the feed) itself above. That is also how it
//! reads while a projection builds itself from the beginning of the log, and after it has been switched off: then the
//! checkpoint stays where it is. A projection without a checkpoint has derived nothing.
//!
//! Erasures and retention remove derived keys together with what they were derived from. So that a step in flight does not
//! derive keys from what has just been removed, it has two more conditions: that nothing was changed
//! ([`Keys::changed`](crate::store::keys::Keys::changed)) or swept meanwhile.
//!
//! Retention may remove events from the log before they are projected, which feeds still hold: when a projection is new, or was
//! switched off for long. Then its checkpoint says from where on it is complete ([`Checkpoint::from`]), and readers of a feed
//! by kind read the feed itself below that.
//!
//! Nothing here conflicts with appends, which neither read nor write any of this, and no append has a condition about derived
//! keys.

mod behind;
mod derived;
mod events;
mod step;
mod worker;

use std::collections::HashSet;

pub use self::{
    behind::events_above,
    derived::Derived,
    events::{Events, Wanted},
    step::{Limits, Progress, Step, Turn},
    worker::{Settings, run},
};
use crate::{
    log::LogEvent,
    store::{
        Result, Snapshot,
        keys::{Keys, versioned},
        values::{Checkpoint, decode_checkpoint, encode_indexed},
    },
    types::{FeedName, Kind},
    version::Version,
};

/// What is derived from the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Projection {
    /// The events of each kind.
    LogByKind,
    /// The events of each actor.
    LogByActor,
    /// The entries of this kind in each feed.
    FeedByKind(Kind),
}

impl Projection {
    /// The projections of a node: the log by kind, the log by actor if asked for, and feeds by each kind of `kinds`.
    pub fn of(by_actor: bool, kinds: impl IntoIterator<Item = Kind>) -> Vec<Self> {
        let mut seen = HashSet::new();
        let kinds = kinds.into_iter().filter(|kind| seen.insert(kind.clone()));
        let actor = by_actor.then_some(Self::LogByActor);
        let logs = std::iter::once(Self::LogByKind).chain(actor);
        logs.chain(kinds.map(Self::FeedByKind)).collect()
    }

    /// Its name in the store, and in metrics, where the projections of all kinds count as one.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LogByKind => "log_by_kind",
            Self::LogByActor => "log_by_actor",
            Self::FeedByKind(_) => "feed_by_kind",
        }
    }

    /// The key of its checkpoint.
    pub fn key(&self, keys: &Keys) -> Vec<u8> {
        let kind = match self {
            Self::FeedByKind(kind) => Some(kind),
            Self::LogByKind | Self::LogByActor => None,
        };
        keys.projection(self.name(), kind)
    }

    /// Adds the keys that it derives from `event`, which retention has not removed from the feeds `held`, with their values.
    fn derive(
        &self,
        keys: &Keys,
        event: &LogEvent,
        held: &[FeedName],
        puts: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) {
        let entry = &event.entry;
        let mut put =
            |prefix: Vec<u8>, value| puts.push((versioned(&prefix, entry.version), value));
        let is_change = entry.changed().is_some();
        let feeds = || encode_indexed(&event.feeds, event.first_feed_hash, is_change);
        match self {
            Self::LogByKind => put(keys.log_by_kind(&entry.kind), feeds()),
            Self::LogByActor => {
                if entry.is_erasure() {
                    put(keys.log_of_erasures(), feeds());
                } else if let Some(actor) = &entry.actor {
                    put(keys.log_by_actor(actor), feeds());
                }
            }
            // News of changes are few, and are read from a range of their own.
            Self::FeedByKind(kind) if *kind == entry.kind && !is_change => {
                for feed in held {
                    put(keys.feed_by_kind(feed, kind), Vec::new());
                }
            }
            Self::FeedByKind(_) => {}
        }
    }
}

/// The checkpoints of `projections` in a snapshot: what they derive is complete up to there. Zero for those that have not
/// begun.
pub async fn checkpoints(
    snapshot: &dyn Snapshot,
    keys: &Keys,
    projections: &[Projection],
) -> Result<Vec<Version>> {
    let of: Vec<_> = projections.iter().map(|it| it.key(keys)).collect();
    let values = snapshot.get(of.clone()).await?;
    let read = of.iter().zip(&values);
    read.map(|(key, value)| Ok(decode_checkpoint(key, value.as_ref())?.until))
        .collect()
}

/// The versions between which the entries of all `kinds` are indexed in every feed.
pub async fn indexed(snapshot: &dyn Snapshot, keys: &Keys, kinds: &[Kind]) -> Result<Checkpoint> {
    let of = kinds.iter().cloned().map(Projection::FeedByKind);
    let of: Vec<_> = of.map(|projection| projection.key(keys)).collect();
    let values = snapshot.get(of.clone()).await?;
    let mut all: Option<Checkpoint> = None;
    for (key, value) in of.iter().zip(&values) {
        let Checkpoint { from, until } = decode_checkpoint(key, value.as_ref())?;
        let all = all.get_or_insert(Checkpoint { from, until });
        all.from = all.from.max(from);
        all.until = all.until.min(until);
    }
    Ok(all.unwrap_or(NOT_INDEXED))
}

/// Nothing is indexed.
pub const NOT_INDEXED: Checkpoint = Checkpoint {
    from: Version::ZERO,
    until: Version::ZERO,
};

/// The entries of `kinds` in `feed` that are indexed in `(after, until]`, see [`indexed`].
pub fn of_feed(
    keys: &Keys,
    feed: &FeedName,
    kinds: &[Kind],
    (after, until): (Version, Version),
    newest_first: bool,
) -> Derived {
    let prefixes = kinds.iter().map(|kind| keys.feed_by_kind(feed, kind));
    Derived::new(prefixes, after, until, newest_first)
}

#[cfg(test)]
mod tests;
