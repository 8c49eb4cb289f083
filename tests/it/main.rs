//! One test binary. What must hold on every engine is written once, against a [`bed::Bed`], and named in
//! [`on_every_engine!`].

mod auth;
mod bed;
mod commits;
mod contract;
#[cfg(feature = "fdb")]
mod fdb;
mod follow;
mod foundationdb;
mod fuzz;
mod gate;
mod http;
mod limits;
mod load;
mod model;
mod openapi;
mod operate;
mod paging;
mod process;
mod races;
mod raw;
mod resume;
mod sse;
mod stores;
mod transport;
mod twins;
