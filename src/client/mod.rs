//! The client side: the commands that speak to a running service.
//!
//! # Layout
//! - [`append`], [`tail`], [`history`], [`head`], [`mark`]: a call of the API each, made comfortable. [`replay`],
//!   [`demo`]: many of them.
//! - [`connection`], [`output`], [`names`]: arguments that they share. [`line`], [`text`]: what people are shown.
//! - [`api`] (with [`feeds`], [`pages`], [`wire`], [`sse`]): the calls. [`patience`]: when they fail.
//!
//! It speaks HTTP only and knows nothing of the server's modules, so that it proves the API from outside.
//! Every call here may be sent again: events carry their id, markers only move forward, a transient heard
//! twice does no harm. So there is one rule for failures, kept by `Patience`: no connection and "not now"
//! (503, 429) are waited out, everything else is told at once.

mod api;
pub mod append;
pub mod completions;
mod connection;
pub mod demo;
mod error;
mod feeds;
pub mod head;
pub mod history;
mod line;
pub mod mark;
mod names;
mod output;
mod pages;
mod patience;
mod progress;
pub mod replay;
mod sse;
pub mod tail;
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

/// Where `newsfeed serve` listens unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Ends at the next Ctrl-C.
async fn interrupted() {
    Interrupts::listen().next().await;
}

/// Ctrl-C, each time; never, where that signal cannot be caught.
pub struct Interrupts(Option<Signal>);

impl Interrupts {
    /// Hears those that come from now on.
    pub fn listen() -> Self {
        Self(signal(SignalKind::interrupt()).ok())
    }

    pub async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
