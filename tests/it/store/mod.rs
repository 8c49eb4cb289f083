//! The store: the contract that every engine fulfils, what only the embedded engine has, removed data on its disk, and the run of the FoundationDB
//! suite.

mod contract;
mod embedded;
mod foundationdb;
mod removed;
