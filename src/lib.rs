//! A newsfeed read-model service: each feed is a sequence of entries versioned by hybrid timestamps; a client asks for
//! the current version vN, reads history up to vN, and subscribes live from vN.
//!
//! # Map
//! Arrows point one way: [`http`] → [`feed`], [`live`], [`append`] → [`store`] → engines.
//!
//! - [`http`]: JSON, status codes, SSE frames. Nothing else knows HTTP.
//! - [`auth`]: tokens, keys, tickets, and what they grant; [`http::access`] says which route needs what.
//! - [`append`]: admission, batching, the deduplicating transaction.
//! - [`feed`]: pages, heads, unread counts, markers, and the rule that hides twins.
//! - [`live`]: one tailer a node, the hub, followers that join history to live.
//! - [`store`]: the engine contract, the retry loop, the key and value layout ([`store::keys`] alone knows key bytes),
//!   and the engines.
//! - [`metrics`], [`logging`]: what an operator sees of a node.
//! - [`version`], [`clock`], [`types`]: hybrid timestamps, the clocks that make them, names and events.
//! - [`docs`]: the guides, which [`http`] serves at `/docs`.
//! - [`tls`]: certificates and handshakes; what is served over them is no different.
//! - [`server`]: what a node is made of and the order in which it stops. [`config`], [`client`]: the command line.
//!
//! # Invariants
//! - A stored entry's version is minted by the store at commit; commit order is version order. What a snapshot at vN
//!   does not show will be stamped above vN, for ever.
//! - The first commit of an id is the entry. A later commit of it (a twin) began before the first was visible, so the
//!   first lies between the twin's own snapshot, whose time the twin carries, and the twin; [`dedup`] is the one
//!   place that decides, and every reader goes through it.
//! - Appends are blind writes next to snapshot reads: they cannot conflict, but for an epoch change and a condition
//!   the client asked for. (The embedded engine, which commits one batch after the other, does look at the claims once
//!   more, so that its appends are no twins and say so; nothing else depends on the engine.) There is one retry loop
//!   ([`store::transact`]).
//! - A snapshot is taken, read and dropped inside one function call; none is held while a client reads or waits.
//! - A live stream over HTTP/1.1 takes its socket away from hyper, so that it costs a few KiB and no buffer. The frame
//!   that is rendered for one subscriber is shared by all, over both versions of HTTP.
//! - Every queue is bounded, and what happens at the bound is designed: appends are refused before they are admitted,
//!   a slow subscriber goes back to reading pages.
//!
//! # What is absent on purpose
//! No leader, lease, lock or session; no clock of a node in a stored version; no offset a reader must commit.

pub mod append;
pub mod auth;
pub mod client;
pub mod clock;
pub mod config;
pub mod dedup;
pub mod docs;
pub mod error;
pub mod feed;
pub mod http;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod procfs;
pub mod server;
pub mod store;
pub mod tls;
pub mod types;
pub mod version;
