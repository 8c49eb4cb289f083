//! Erasures of any size. Each is a row in the store, and any node takes its steps: transactions that erase some events and
//! note how far the job has got, on condition that nobody else has taken the step. So a job goes on when a node dies, and
//! nothing is done twice.

mod walk;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Lifecycle, erasure::Erasure};
use crate::{
    error::{Error, Result},
    store::{
        self, Batch, Condition, Found, Plan, Reads, Snapshot, Transaction, Versioned,
        keys::{self, Keys, only, version_of, versioned},
        rows::{Job, What, decode_job, encode_job},
        transact,
    },
    version::Version,
};

/// Most erasures that are under way.
pub const JOBS_OPEN_MAX: usize = 100;
/// Ended erasures that can be asked for. Older ones are forgotten.
pub const JOBS_KEPT_MAX: usize = 1_000;

/// An erasure, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobState {
    /// Identifies it: the version of its beginning.
    pub id: Version,
    pub is_done: bool,
    /// The number of events that were erased so far.
    pub erased: u64,
}

impl Lifecycle {
    /// Begins an erasure. Whatever was committed before is erased by its steps.
    ///
    /// # Errors
    /// [`Error::TooManyErasures`], and those of the store.
    pub async fn begin(&self, what: What) -> Result<Version> {
        let mut begin = Begin {
            keys: &self.keys,
            what,
        };
        transact(&*self.store, &mut begin).await
    }

    /// The erasure with this id.
    pub async fn job(&self, id: Version) -> Result<Option<JobState>> {
        let key = versioned(&self.keys.job(), id);
        let snapshot = self.store.snapshot().await?;
        let value = snapshot.get(vec![key.clone()]).await?.pop().flatten();
        let Some(value) = value else {
            return Ok(None);
        };
        let key = key.into();
        let job = decode_job(&store::KeyValue { key, value })?;
        Ok(match job.what {
            What::Places(_) => None,
            _ => Some(JobState {
                id,
                is_done: job.is_done,
                erased: job.erased,
            }),
        })
    }

    /// Takes the next step of an erasure.
    pub(super) async fn step(&self, id: Version) -> Result<JobState> {
        let mut step = Step::new(self, id);
        let done = transact(&*self.store, &mut step).await?;
        self.count(&step);
        Ok(done)
    }

    pub(super) fn count(&self, step: &Step<'_>) {
        self.metrics.lifecycle.erased.inc_by(step.erased);
    }

    /// All erasures, oldest first.
    pub(super) async fn jobs(&self) -> store::Result<Vec<(Version, Job)>> {
        let snapshot = self.store.snapshot().await?;
        jobs(&*snapshot, &self.keys).await
    }
}

async fn jobs(snapshot: &dyn Snapshot, keys: &Keys) -> store::Result<Vec<(Version, Job)>> {
    let range = keys::range(
        &keys.job(),
        None,
        Version::MAX,
        false,
        usize::MAX,
        usize::MAX,
    );
    let slice = snapshot
        .ranges(vec![range])
        .await?
        .pop()
        .unwrap_or_default();
    let items = slice.items.iter();
    items
        .map(|item| Ok((version_of(&item.key)?, decode_job(item)?)))
        .collect()
}

struct Begin<'a> {
    keys: &'a Keys,
    what: What,
}

#[async_trait]
impl Transaction for Begin<'_> {
    const NAME: &'static str = "erasure_begin";

    type Output = Version;
    type Error = Error;

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        _first: Found,
        _unsure: bool,
    ) -> Result<Plan<Version>> {
        let jobs = jobs(snapshot, self.keys).await?;
        let asked_for = |(_, job): &&(Version, Job)| !matches!(job.what, What::Places(_));
        let open = jobs
            .iter()
            .filter(asked_for)
            .filter(|(_, job)| !job.is_done);
        if open.count() >= JOBS_OPEN_MAX {
            return Err(Error::TooManyErasures);
        }
        let ended: Vec<_> = jobs.iter().filter(|(_, job)| job.is_done).collect();
        let too_many = ended.len().saturating_sub(JOBS_KEPT_MAX - 1);
        let forget = |(id, _): &&(Version, Job)| only(versioned(&self.keys.job(), *id));
        Ok(Plan::Commit(Batch {
            clears: ended[..too_many].iter().map(forget).collect(),
            versioned: vec![Versioned {
                prefix: self.keys.job(),
                index: 0,
                value: encode_job(&Job::new(self.what.clone())),
            }],
            ..Batch::default()
        }))
    }

    fn committed(&mut self, version: Version) -> Version {
        version
    }
}

/// A step of an erasure.
pub(super) struct Step<'a> {
    lifecycle: &'a Lifecycle,
    id: Version,
    /// Events that the last attempt was going to erase.
    pub(super) erased: u64,
    planned: JobState,
}

impl<'a> Step<'a> {
    pub(super) fn new(lifecycle: &'a Lifecycle, id: Version) -> Self {
        Self {
            lifecycle,
            id,
            erased: 0,
            planned: JobState {
                id,
                is_done: true,
                erased: 0,
            },
        }
    }

    fn key(&self) -> Vec<u8> {
        versioned(&self.lifecycle.keys.job(), self.id)
    }
}

#[async_trait]
impl Transaction for Step<'_> {
    const NAME: &'static str = "erasure";

    type Output = JobState;
    type Error = Error;

    fn first_reads(&self) -> Reads {
        Reads {
            keys: vec![self.key()],
            ..Reads::default()
        }
    }

    async fn plan(
        &mut self,
        snapshot: &dyn Snapshot,
        first: Found,
        _unsure: bool,
    ) -> Result<Plan<JobState>> {
        self.erased = 0;
        let stored = first.values.into_iter().next().flatten();
        let Some(value) = stored else {
            // The places were removed by another node.
            return Ok(Plan::Answer(self.planned));
        };
        let key = self.key();
        let item = store::KeyValue {
            key: key.clone().into(),
            value: value.clone(),
        };
        let mut job = decode_job(&item)?;
        if job.is_done {
            self.planned.erased = job.erased;
            return Ok(Plan::Answer(self.planned));
        }
        let keys = &self.lifecycle.keys;
        let mut erasure = Erasure::new(keys, snapshot);
        let is_internal = matches!(job.what, What::Places(_));
        let next = walk::next(&mut erasure, &job, self.id).await?;
        let (mut batch, erased) = erasure.finish();
        self.erased = erased as u64;
        job.erased += self.erased;
        match next {
            Some(position) => job.position = position,
            None => {
                job.is_done = true;
                job.position = Bytes::new();
                job.what = What::Nothing;
            }
        }
        batch.conditions.push(Condition::KeyEquals {
            key: key.clone(),
            value: Some(value.to_vec()),
        });
        match is_internal && job.is_done {
            true => batch.clears.push(only(key)),
            false => batch.puts.push((key, encode_job(&job))),
        }
        self.planned = JobState {
            id: self.id,
            is_done: job.is_done,
            erased: job.erased,
        };
        Ok(Plan::Commit(batch))
    }

    fn committed(&mut self, _version: Version) -> JobState {
        self.planned
    }
}
