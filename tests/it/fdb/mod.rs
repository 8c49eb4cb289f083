//! What only FoundationDB has: a cluster with many nodes, which can fail in many ways. (What every engine promises is
//! tested on it too, beside the embedded one.)

mod age;
mod appends;
pub mod cluster;
mod commits;
mod epoch;
mod failures;
mod forms;
mod load;
mod nodes;
mod order;
