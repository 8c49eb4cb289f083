//! What tests share: a node to test, clients of it, stores that fail on demand, and the model of what readers see.

pub mod background;
pub mod bed;
pub mod certs;
pub mod cursors;
pub mod entries;
pub mod follower;
pub mod gate;
pub mod groups;
pub mod messages;
pub mod model;
pub mod names;
pub mod needs;
pub mod patience;
pub mod protocol;
pub mod raw;
pub mod raw_commits;
pub mod sse;
pub mod stores;
pub mod turnstile;
