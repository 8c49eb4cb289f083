//! The commands that are clients of a running service.
//!
//! # Layout
//! - [`append`], [`event`], [`edit`], [`erase`], [`tail`], [`history`], [`state`], [`mark`], [`readers`]: one call of the API each.
//!   [`replay`], [`demo`]: many calls.
//! - [`connection`], [`output`], [`names`]: arguments shared by the commands. [`line`], [`state_line`], [`text`]: output for people.
//! - [`export`]: the log, line by line. [`import`]: appends what it wrote. [`backup`]: a copy of the store.
//! - [`api`] (with [`feeds`], [`states`], [`pages`], [`wire`], [`sse`]): the calls. [`patience`], [`temporary`]: retries.
//!
//! This module uses the service over HTTP only and shares no code with the server but the rules of names, so that it tests
//! the API from the outside. Every request here is safe to repeat: events and edits carry an id, markers only move forward, what
//! is erased stays so, and a transient that is delivered twice does no harm. Hence there is one rule for failures, in `Patience`: lost connections
//! and the answers in [`temporary`] are retried, and every other failure is reported immediately.

mod api;
pub mod append;
pub mod backup;
pub mod completions;
mod connection;
pub mod demo;
pub mod edit;
pub mod erase;
mod error;
pub mod event;
pub mod export;
mod feeds;
pub mod history;
pub mod import;
mod line;
pub mod mark;
mod names;
mod output;
mod pages;
mod patience;
mod progress;
pub mod readers;
mod redirect;
pub mod replay;
mod sse;
pub mod state;
mod state_line;
mod states;
pub mod tail;
pub mod temporary;
mod text;
mod token;
mod trust;
mod wire;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::{
    api::Client,
    error::Error,
    patience::Patience,
    progress::Progress,
    replay::list,
    sse::{Frame, Frames},
    text::printable,
    token::{Token, TokenArgs},
    trust::Trust,
    wire::{Rejection, problem},
};

/// The default address of `newsfeed serve`.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Completes at the next Ctrl-C.
async fn interrupted() {
    Interrupts::listen().next().await;
}

/// Each Ctrl-C. Never completes where that signal cannot be caught.
pub struct Interrupts(Option<Signal>);

impl Interrupts {
    /// Receives signals from now on.
    pub fn listen() -> Self {
        Self(signal(SignalKind::interrupt()).ok())
    }

    pub async fn next(&mut self) {
        let signal = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if signal.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
