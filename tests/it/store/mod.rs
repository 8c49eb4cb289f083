//! The store: the contract that every engine fulfils, copies between engines, what only the embedded engine has, removed data on
//! its disk, and the run of the FoundationDB
//! suite.

mod contract;
mod copy;
mod embedded;
mod foundationdb;
mod removed;
