//! A store that can be held up, or out of reach, and that tells who waits for its doorbell.

use std::sync::Arc;

use async_trait::async_trait;
use newsfeed::{
    store::{Batch, Error, Found, Reads, Result, Retries, Snapshot, Store},
    version::Version,
};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    held: bool,
    down: bool,
    /// Calls of [`Store::changed`] so far.
    waits: usize,
    /// Commits that came to wait so far.
    held_up: usize,
}

#[derive(Clone)]
pub struct Gate {
    inner: Arc<dyn Store>,
    state: Arc<watch::Sender<State>>,
}

impl Gate {
    pub fn before(inner: Arc<dyn Store>) -> Arc<Self> {
        let state = Arc::new(watch::Sender::new(State::default()));
        Arc::new(Self { inner, state })
    }

    /// Commits wait until `held` is false again.
    pub fn hold(&self, held: bool) {
        self.state.send_modify(|state| state.held = held);
    }

    /// Whether reads and commits fail.
    pub fn fail(&self, down: bool) {
        self.state.send_modify(|state| state.down = down);
    }

    /// Resolves once a commit is being held.
    pub async fn something_is_held(&self) {
        let mut state = self.state.subscribe();
        let held = state.wait_for(|state| state.held_up > 0).await;
        held.expect("the gate holds the sender");
    }

    /// Resolves once somebody waits for commits: a tailer with a subscriber, and with nothing left to read.
    pub async fn somebody_waits(&self) {
        let mut state = self.state.subscribe();
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
impl Store for Gate {
    async fn begin(&self, reads: Reads) -> Result<(Box<dyn Snapshot>, Found)> {
        if !reads.is_empty() {
            check(&self.state)?;
        }
        let (inner, found) = self.inner.begin(reads).await?;
        let state = Arc::clone(&self.state);
        Ok((Box::new(Gated { inner, state }), found))
    }

    async fn changed(&self, seen: Version) -> Result<()> {
        self.state.send_modify(|state| state.waits += 1);
        self.inner.changed(seen).await
    }

    fn retries(&self) -> &Retries {
        self.inner.retries()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct Gated {
    inner: Box<dyn Snapshot>,
    state: Arc<watch::Sender<State>>,
}

#[async_trait]
impl Snapshot for Gated {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        check(&self.state)?;
        self.inner.read(reads).await
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        self.state.send_if_modified(|state| {
            state.held_up += usize::from(state.held);
            state.held
        });
        let mut state = self.state.subscribe();
        let open = state.wait_for(|state| !state.held).await;
        drop(open.expect("this snapshot holds the sender"));
        check(&self.state)?;
        self.inner.commit(batch).await
    }
}
