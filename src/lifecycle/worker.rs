//! The task of a node that takes the steps of erasures, whoever began them.

use std::{collections::HashMap, time::Duration};

use rand::RngExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{JobState, Lifecycle, jobs::Step};
use crate::{
    error::{Error, Result},
    store::{
        self,
        rows::{Job, What, encode_job},
        transact_until,
    },
    version::Version,
};

/// How often a node looks for erasures that nobody works on, at least. Up to half as long again is drawn at random.
const POLL: Duration = Duration::from_secs(5);
/// A node rests after a step, for this many times as long as the step took.
const REST: u32 = 1;

/// Takes steps until `stop` is cancelled. Any number of nodes may do this concurrently.
pub async fn run(lifecycle: Lifecycle, stop: CancellationToken) {
    let work = async {
        // The erasures that were under way when this node looked last.
        let mut seen: HashMap<Version, Vec<u8>> = HashMap::new();
        loop {
            match lifecycle.take_steps(&mut seen).await {
                Ok(()) => {}
                Err(store::Error::Closed) => return,
                Err(error) => tracing::warn!(%error, "cannot work on erasures; trying again"),
            }
            let pause = POLL.mul_f64(rand::rng().random_range(1.0..1.5));
            tokio::select! {
                () = sleep(pause) => {}
                () = lifecycle.left.added.notified() => {
                    for id in lifecycle.left.take() {
                        lifecycle.end(id).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

impl Lifecycle {
    /// Begins an erasure, and takes its steps until it has ended. After `time`, or if the store does not answer, the rest is
    /// left to the worker.
    ///
    /// # Errors
    /// Those of [`Self::begin`], and [`Error::ChangesBusy`]. Then nothing has begun.
    pub async fn erase_all(&self, what: What, time: Duration) -> Result<JobState> {
        let _place = self.place()?;
        let id = self.begin(what).await?;
        match self.work_on(id, time).await {
            Err(error) => {
                tracing::warn!(%error, "an erasure goes on in the background");
                self.left.add(id);
                Ok(JobState {
                    id,
                    is_done: false,
                    erased: 0,
                })
            }
            state => state,
        }
    }

    /// Takes steps of an erasure until it has ended. After `time`, the rest is left to the worker.
    pub async fn work_on(&self, id: Version, time: Duration) -> Result<JobState> {
        let until = Instant::now() + time;
        loop {
            let state = self.step(id).await?;
            if state.is_done {
                return Ok(state);
            }
            if Instant::now() >= until {
                self.left.add(id);
                return Ok(state);
            }
        }
    }

    /// Takes steps of all erasures until each has ended, or cannot go on yet.
    pub async fn end_all(&self) -> store::Result<()> {
        for (id, _) in self
            .jobs()
            .await?
            .into_iter()
            .filter(|(_, job)| !job.is_done)
        {
            self.end(id).await;
        }
        Ok(())
    }

    /// Ends those erasures that nobody has worked on since this node looked last.
    async fn take_steps(&self, seen: &mut HashMap<Version, Vec<u8>>) -> store::Result<()> {
        let jobs = self.jobs().await?;
        let open = jobs.iter().filter(|(_, job)| !job.is_done);
        let open: Vec<(Version, &Job)> = open.map(|(id, job)| (*id, job)).collect();
        let asked_for = open
            .iter()
            .filter(|(_, job)| !matches!(job.what, What::Places(_)));
        self.metrics
            .lifecycle
            .erasures_open
            .set(asked_for.count() as i64);
        let before = std::mem::take(seen);
        for (id, job) in open {
            let row = encode_job(job);
            let is_left = before.get(&id) == Some(&row);
            seen.insert(id, row);
            if is_left {
                self.end(id).await;
            }
        }
        Ok(())
    }

    /// Takes steps until the erasure has ended, or another node works on it.
    async fn end(&self, id: Version) {
        loop {
            let begun = Instant::now();
            let mut step = Step::new(self, id);
            // One attempt: if it fails, another node has taken the step.
            let taken = transact_until(&*self.store, &mut step, begun).await;
            match taken {
                Ok(state) => {
                    self.count(&step);
                    if state.is_done {
                        return;
                    }
                }
                Err(Error::TwinsMayCome) => return,
                Err(Error::Store(error)) if error.is_retryable() => return,
                Err(error) => {
                    tracing::error!(%error, "an erasure cannot go on");
                    return;
                }
            }
            sleep(begun.elapsed() * REST).await;
        }
    }
}
