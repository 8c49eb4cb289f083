//! A store that can be held up, or out of reach, and that tells who waits for its doorbell.

use std::sync::Arc;

use async_trait::async_trait;
use newsfeed::store::{Batch, Error, Result};
use tokio::sync::watch;

use crate::support::stores::Trouble;

#[derive(Default)]
struct State {
    held: bool,
    down: bool,
    /// Calls of [`Store::changed`] so far.
    waits: usize,
    /// Commits that came to wait so far.
    held_up: usize,
}

pub struct Gate(watch::Sender<State>);

impl Gate {
    pub fn open() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(State::default())))
    }

    /// Commits wait until `held` is false again.
    pub fn hold(&self, held: bool) {
        self.0.send_modify(|state| state.held = held);
    }

    /// Whether reads and commits fail.
    pub fn fail(&self, down: bool) {
        self.0.send_modify(|state| state.down = down);
    }

    /// Resolves once a commit is being held.
    pub async fn something_is_held(&self) {
        let mut state = self.0.subscribe();
        let held = state.wait_for(|state| state.held_up > 0).await;
        held.expect("the gate holds the sender");
    }

    /// Resolves once somebody waits for commits: a tailer with a subscriber, and with nothing left to read.
    pub async fn somebody_waits(&self) {
        let mut state = self.0.subscribe();
        let waits = state.wait_for(|state| state.waits > 0).await;
        waits.expect("the gate holds the sender");
    }
}

fn check(state: &watch::Sender<State>) -> Result<()> {
    match state.borrow().down {
        true => Err(Error::Unavailable("the test took it away".into())),
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
        drop(open.expect("the gate holds the sender"));
        check(&self.0)
    }

    fn before_waiting(&self) {
        self.0.send_modify(|state| state.waits += 1);
    }
}
