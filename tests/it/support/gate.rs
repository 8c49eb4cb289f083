//! A store whose commits the test can hold, which the test can make unavailable, and which knows that somebody waits for
//! commits.

use std::sync::Arc;

use async_trait::async_trait;
use newsfeed::store::{Batch, Error, Result};
use tokio::sync::watch;

use crate::support::stores::Trouble;

#[derive(Default)]
struct State {
    held: bool,
    down: bool,
    /// Waits for a commit so far.
    waits: usize,
    /// Commits held so far.
    held_up: usize,
}

pub struct Gate(watch::Sender<State>);

impl Gate {
    pub fn open() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(State::default())))
    }

    /// Holds commits, or releases them.
    pub fn hold(&self, held: bool) {
        self.0.send_modify(|state| state.held = held);
    }

    /// Makes reads and commits fail, or succeed again.
    pub fn fail(&self, down: bool) {
        self.0.send_modify(|state| state.down = down);
    }

    /// Waits until a commit is held.
    pub async fn something_is_held(&self) {
        let mut state = self.0.subscribe();
        let held = state.wait_for(|state| state.held_up > 0).await;
        held.expect("the gate owns the sender");
    }

    /// Waits until a tailer waits for commits: it has a subscriber and nothing left to read.
    pub async fn somebody_waits(&self) {
        let mut state = self.0.subscribe();
        let waits = state.wait_for(|state| state.waits > 0).await;
        waits.expect("the gate owns the sender");
    }
}

fn check(state: &watch::Sender<State>) -> Result<()> {
    match state.borrow().down {
        true => Err(Error::Unavailable("made unavailable by the test".into())),
        false => Ok(()),
    }
}

#[async_trait]
impl Trouble for Gate {
    async fn before_read(&self) -> Result<()> {
        check(&self.0)
    }

    async fn before_commit(&self, _batch: &Batch) -> Result<()> {
        self.0.send_if_modified(|state| {
            state.held_up += usize::from(state.held);
            state.held
        });
        let mut state = self.0.subscribe();
        let open = state.wait_for(|state| !state.held).await;
        drop(open.expect("the gate owns the sender"));
        check(&self.0)
    }

    fn before_waiting(&self) {
        self.0.send_modify(|state| state.waits += 1);
    }
}
