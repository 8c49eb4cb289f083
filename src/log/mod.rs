//! The log: all events of all feeds, each once, in commit order.
//!
//! Every event stands in the log once for each partition that has one of its feeds. The record in the partition of its
//! first feed exports it: a [`Scan`] merges the partitions, takes these records, and hides twins by the rule of
//! [`crate::dedup`], feed by feed. So the log shows an event in exactly the feeds that show it.

mod scan;

pub use self::scan::{Limits, LogEvent, Scan};
