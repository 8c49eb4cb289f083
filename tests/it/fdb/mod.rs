//! What only FoundationDB has: a cluster with many nodes, which can fail in many ways. (What every engine promises is
//! tested on it too, beside the embedded one.)

pub mod cluster;
mod cluster_failures;
mod commit_faults;
mod commit_order;
mod concurrent_appends;
mod epoch;
mod multi_node;
mod node_failures;
mod same_answers;
mod snapshot_age;
