//! One test binary. What must hold on every engine is written once, against a [`bed::Bed`], and named in
//! [`on_every_engine!`].

mod bed;
mod contract;
#[cfg(feature = "fdb")]
mod fdb_cluster;
mod foundationdb;
mod gate;
mod http;
mod limits;
mod process;
mod raw;
mod sse;
