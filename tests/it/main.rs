//! The integration tests: one binary, a folder for each subject. `tests/README.md` says what is where and how to run it.
//!
//! A test of something that every engine promises is written once, as a function of a [`support::bed::Bed`], and
//! listed in [`on_every_engine!`].

mod auth;
mod docs;
#[cfg(feature = "fdb")]
mod fdb;
mod fuzz;
mod http;
mod lifecycle;
mod limits;
mod openapi;
mod operate;
mod process;
mod projections;
mod readers;
mod store;
mod support;
mod transport;
