//! The store: the contract that every engine fulfils, and the run of the FoundationDB suite.

mod contract;
mod foundationdb;
