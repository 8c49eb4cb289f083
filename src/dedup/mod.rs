//! Which commits are twins: the rule that carries the promise "nothing twice".
//!
//! Two nodes may commit the same id at the same time. The first commit of an id is the entry; a later one is its twin,
//! and invisible. The twin's transaction did not see the first commit when it read the claims, so the first lies above
//! the snapshot of the twin's transaction; and the store refuses commits on snapshots older than
//! [`SNAPSHOT_AGE_TICKS_MAX`](crate::store::SNAPSHOT_AGE_TICKS_MAX). Therefore a commit is a twin exactly if the same id
//! was committed to the same sequence within its [reach](Commit::reach). The reach can be told from the commit alone,
//! because each carries the time of its snapshot.
//!
//! Every reader of versioned keys judges commits with a [`Window`]: pages in both directions and the latest entry of a
//! feed (with a [`Scan`]), unread counts, live delivery, and the log.

mod scan;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod window;

pub use self::{
    scan::{Latest, Scan, latest, latest_of},
    window::{Commit, Window},
};
