//! Snapshots of the embedded engine.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{
    readers::Readers,
    shared::{Health, Shared},
    tables::Tables,
    writer::Request,
};
use crate::{
    store::{Batch, Error, Found, Range, Reads, Result, SNAPSHOT_AGE_TICKS_MAX, Slice, Snapshot},
    version::Version,
};

/// How long after a failed write a commit in flight still waits for its result.
const FAILED_ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) struct View {
    tables: Arc<Tables>,
    view: fjall::Snapshot,
    version: Version,
    /// The tick from which the age of the snapshot counts.
    taken_at: u64,
    shared: Arc<Shared>,
    queue: mpsc::WeakSender<Request>,
    readers: Arc<Readers>,
}

impl View {
    /// The view that is published now.
    pub(super) fn of(
        shared: &Arc<Shared>,
        queue: mpsc::WeakSender<Request>,
        readers: &Arc<Readers>,
    ) -> Result<Self> {
        let mut state = shared.state();
        let state = state.as_mut().ok_or(Error::Closed)?;
        let Some(open) = &state.open else {
            return Err(Error::Unavailable("the database is being reopened".into()));
        };
        let taken_at = match state.committing {
            // The group being written may contain the first commit of an id, of which a commit on this snapshot would
            // be a twin. The snapshot therefore counts as taken before that group.
            Some(tick) => tick - 1,
            None => state
                .clock
                .tick()
                .map_err(|error| Error::Unavailable(error.to_string()))?,
        };
        Ok(Self {
            tables: Arc::clone(&open.tables),
            view: open.view.clone(),
            version: state.visible,
            taken_at,
            shared: Arc::clone(shared),
            queue,
            readers: Arc::clone(readers),
        })
    }
}

#[async_trait]
impl Snapshot for View {
    fn version(&self) -> Version {
        self.version
    }

    fn taken_at(&self) -> u64 {
        self.taken_at
    }

    async fn read(&self, reads: Reads) -> Result<Found> {
        if self.shared.wall.micros().saturating_sub(self.taken_at) >= SNAPSHOT_AGE_TICKS_MAX {
            return Err(Error::TooOld);
        }
        let is_empty = |range: &Range| self.tables.recent.is_empty(range);
        if reads.keys.is_empty() && reads.ranges.iter().all(is_empty) {
            return Ok(Found {
                slices: vec![Slice::default(); reads.ranges.len()],
                values: Vec::new(),
            });
        }
        let (tables, view) = (Arc::clone(&self.tables), self.view.clone());
        let found = self.readers.read(tables, view, reads).await;
        if let Err(Error::Damaged(_)) = found {
            self.shared.find_damage();
        }
        found
    }

    fn checks_claims(&self) -> bool {
        true
    }

    async fn commit(self: Box<Self>, batch: Batch) -> Result<Version> {
        let Self {
            version,
            taken_at,
            queue,
            shared,
            tables,
            view,
            ..
        } = *self;
        // The database cannot be reopened while these are held.
        drop((view, tables));
        shared.refusal()?;
        let queue = queue.upgrade().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            batch,
            epoch: version.epoch(),
            taken_at,
            reply,
        };
        queue.send(request).await.map_err(|_| Error::Closed)?;
        drop(queue);
        let mut health = shared.health.subscribe();
        let failed = async {
            let _ = health.wait_for(|&health| health != Health::Well).await;
            // The writer may be blocked inside the engine, waiting for a flush that failed.
            tokio::time::sleep(FAILED_ANSWER_WAIT_MAX).await;
        };
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or(Err(Error::Unknown)),
            () = failed => Err(Error::Unknown),
        }
    }
}
