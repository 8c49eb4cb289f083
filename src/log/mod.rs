//! The log: all events of all feeds, each once, in commit order.
//!
//! Every event stands in the log once for each partition that has one of its feeds. The record in the partition of its
//! first feed exports it: a [`Scan`] merges the partitions, takes these records, and hides twins by the rule of
//! [`crate::dedup`], feed by feed. So the log shows an event in exactly the feeds that show it.
//!
//! Readers get pages ([`LogQuery`]): each is one snapshot, so that none is held while a client reads. A [`Filter`] says
//! which events they want and may see.

mod filter;
mod lookup;
mod page;
mod scan;

pub use self::{
    filter::{Filter, Shard, is_of},
    lookup::{Place, entry_at, place_of},
    page::{LOG_PAGE_KEYS_MAX, LogPage, LogQuery, LogRead},
    scan::{Limits, LogEvent, Scan},
};
