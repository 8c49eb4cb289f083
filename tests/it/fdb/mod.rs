//! What only FoundationDB has: many nodes on one cluster, and its ways to fail. Tests of what every engine promises are in
//! the other folders and run on FoundationDB too.

mod atomic;
pub mod cluster;
mod cluster_failures;
mod commit_faults;
mod commit_order;
mod concurrent_appends;
mod epoch;
mod lineage;
mod multi_node;
mod node_failures;
mod projections;
mod same_answers;
mod snapshot_age;
