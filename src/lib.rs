//! A newsfeed read-model service: each feed is a sequence of entries, versioned by hybrid timestamps. A client asks for
//! the current version vN, reads history up to vN, and subscribes live from vN.
//!
//! # Map
//! Dependencies point one way: [`http`] → [`live`], [`lifecycle`], [`feed`], [`append`], [`auth`] → [`projection`] → [`log`] → [`dedup`],
//! [`lineage`] → [`store`] → [`types`], [`version`], [`clock`].
//!
//! - [`http`]: JSON, status codes, SSE frames. No other module of the service knows HTTP.
//! - [`auth`]: tokens, keys, tickets, and what they grant.
//! - [`append`]: the append queue, batching, and the deduplicating transaction.
//! - [`feed`]: pages, states (latest entry, unread counts, markers), and moving markers.
//! - [`live`]: one tailer per node, the hub, and followers, which join history to live delivery.
//! - [`log`]: all events, each once, in commit order: scans of the log.
//! - [`lifecycle`]: what happens to events after they were appended: edits, and erasures as jobs that any node continues.
//! - [`projection`]: keys that are derived from the log in the background, and reading them.
//! - [`dedup`]: the rule that decides which commits are twins, and the window that every reader judges them with.
//! - [`lineage`]: which versions are of this life of the store. Every version that a client hands in is checked there.
//! - [`times`]: which version was current at a time of the wall clock.
//! - [`store`]: the engine contract, the retry loop, the layout of keys ([`store::keys`]) and values
//!   ([`store::values`]), the engines, and copies from one to the other ([`store::copy`]).
//! - [`types`], [`version`], [`clock`]: names, events and entries; hybrid timestamps; the clocks that make them.
//!   [`error`]: what can fail above the store.
//! - [`fairness`]: long computations let other tasks run in between. [`pace`]: how fast a node works in the background.
//! - [`metrics`], [`logging`]: what operators see of a node. They do not depend on the modules that report to them.
//! - [`docs`]: the guides, which [`http`] serves at `/docs`.
//! - [`tls`]: certificates and handshakes. [`outbound`]: requests that the service itself sends.
//! - [`server`]: the parts of a node, and the order in which they stop. [`config`], [`client`]: the command line.
//!
//! # Invariants
//! - The store assigns the version of an entry at commit, and commit order is version order. Everything that a snapshot
//!   at vN does not show will have a version above vN.
//! - The first commit of an id is the entry. A later commit of the same id, its twin, is invisible. The first lies between
//!   the twin and the snapshot on which the twin's transaction looked for claims; every entry carries the time of that
//!   snapshot. [`dedup`] is the only module that decides, and every reader of versioned keys uses it.
//! - Appends are blind writes plus snapshot reads. They can conflict only with a change of the epoch, or because of a
//!   condition that the client asked for; an atomic append also if somebody else takes one of its ids, so that it is never a
//!   twin, which would replace a part of it. (The embedded engine, which commits one batch after the other, checks claims
//!   again at commit, so that its appends have no twins. Nothing else depends on the engine.)
//! - There is one retry loop for the database: [`store::transact`].
//! - An entry keeps its version for ever. It may be edited, and it may be erased; both are changes with a version of their own,
//!   and whoever continues from below that is told, once and in order ([`lifecycle`]). A change is conditional on the event's
//!   claim, so that changes of one event never mix; it does not conflict with appends.
//! - What a projection has derived is complete up to its checkpoint, and a reader takes both from one snapshot. So no read
//!   depends on how far a projection is.
//! - A snapshot is taken, read and dropped within one function call. None is held while a client reads or waits.
//! - A live entry is rendered once, as an SSE frame that all subscribers who get it through the same feeds share, over both
//!   versions of HTTP. It is matched once for all who listen to the same feeds ([`live`]). A stream over HTTP/1 takes its
//!   socket over from hyper, so that an idle stream costs a few KiB of memory.
//! - No request holds an async worker for more than a few milliseconds, at whatever limits: computations spend a
//!   [`fairness::WorkBudget`], and large bodies are parsed on the blocking threads.
//! - Every queue is bounded, with a defined behaviour at its limit: appends are refused before they enter the queue, and
//!   subscribers that are too slow go back to reading pages.
//!
//! # Absent on purpose
//! There is no leader, lease, lock or session; no stored version comes from the clock of a node (except in the embedded
//! engine, which is the only node); and readers do not have to commit positions.

pub mod append;
pub mod auth;
pub mod client;
pub mod clock;
pub mod config;
pub mod dedup;
pub mod docs;
pub mod error;
pub mod fairness;
pub mod feed;
pub mod http;
pub mod lifecycle;
pub mod lineage;
pub mod live;
pub mod log;
pub mod logging;
pub mod metrics;
pub mod outbound;
pub mod pace;
pub mod procfs;
pub mod projection;
pub mod server;
pub mod store;
pub mod times;
pub mod tls;
pub mod types;
pub mod version;
