//! Erasures of any size. Each is a row in the store, and any node takes its steps: transactions that erase some events and
//! note how far the job has got, on condition that nobody else has taken the step. So a job goes on when a node dies, and
//! nothing is done twice.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Lifecycle,
    erase::{ERASED_AT_ONCE_MAX, Erasure, Selection},
    rewrite::only,
};
use crate::{
    error::{Error, Result},
    log::{self, Scan},
    projection::{Events, Wanted},
    store::{
        self, Batch, Condition, Found, Plan, Range, Reads, Snapshot, Transaction, Versioned,
        keys::{self, Keys, next_key, version_of, versioned},
        rows::{Job, Place, What, decode_job, encode_job},
        transact,
        values::decode_entry,
    },
    types::{Actor, Entry, EventId, FeedName},
    version::{BYTES_LEN, Version},
};

/// Most erasures that are under way.
pub const JOBS_OPEN_MAX: usize = 100;
/// Ended erasures that can be asked for. Older ones are forgotten.
pub const JOBS_KEPT_MAX: usize = 1_000;

/// What a step reads at most to find events.
const STEP_KEYS_MAX: usize = 1_000;
const STEP_BYTES_MAX: usize = 1024 * 1024;

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
        let position = Position::decode(&job.position);
        let is_internal = matches!(job.what, What::Places(_));
        let next = match &job.what {
            What::Events(ids) => events(&mut erasure, ids, position).await?,
            What::Feed { feed, everywhere } => {
                let erased = (feed, *everywhere, self.id);
                of_feed(&mut erasure, erased, position).await?
            }
            What::Actor(actor) => of_actor(&mut erasure, actor, self.id, position).await?,
            What::Places(places) => clear_places(&mut erasure, places, position).await?,
            What::Nothing => None,
        };
        let (mut batch, erased) = erasure.finish();
        self.erased = erased as u64;
        job.erased += self.erased;
        match &next {
            Some(next) => job.position = next.encode(),
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

/// How far a job has got.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Position {
    /// In a list.
    Index(u32),
    /// In a feed or in the log.
    After(Version),
    /// In the log, after everything in the feed.
    LogAfter(Version),
    /// In the key space of all feeds, after everything in the log.
    Key(Vec<u8>),
}

impl Position {
    fn encode(&self) -> Bytes {
        let (tag, rest) = match self {
            Self::Index(index) => (0, index.to_be_bytes().to_vec()),
            Self::After(version) => (1, version.to_bytes().to_vec()),
            Self::LogAfter(version) => (2, version.to_bytes().to_vec()),
            Self::Key(key) => (3, key.clone()),
        };
        [&[tag][..], &rest].concat().into()
    }

    /// `None` at the beginning.
    fn decode(bytes: &Bytes) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let version = || {
            <[u8; BYTES_LEN]>::try_from(rest)
                .ok()
                .map(Version::from_bytes)
        };
        match tag {
            0 => rest
                .try_into()
                .ok()
                .map(u32::from_be_bytes)
                .map(Self::Index),
            1 => version().map(Self::After),
            2 => version().map(Self::LogAfter),
            _ => Some(Self::Key(rest.to_vec())),
        }
    }
}

/// Where a list goes on.
fn index(position: Option<Position>) -> usize {
    match position {
        Some(Position::Index(index)) => index as usize,
        _ => 0,
    }
}

async fn events(
    erasure: &mut Erasure<'_>,
    ids: &[EventId],
    position: Option<Position>,
) -> store::Result<Option<Position>> {
    let mut next = index(position);
    let end = ids.len().min(next + ERASED_AT_ONCE_MAX);
    let chunk = ids.get(next..end).unwrap_or_default();
    for (place, found) in erasure.commits(chunk).await?.into_iter().enumerate() {
        if erasure.is_full() {
            break;
        }
        // The list may name an event twice.
        if !chunk[..place].contains(&found.id) {
            erasure.add(found, &Selection::default()).await?;
        }
        next += 1;
    }
    Ok((next < ids.len()).then_some(Position::Index(next as u32)))
}

async fn clear_places(
    erasure: &mut Erasure<'_>,
    places: &[Place],
    position: Option<Position>,
) -> Result<Option<Position>> {
    let mut next = index(position);
    let end = places.len().min(next + ERASED_AT_ONCE_MAX);
    let chunk = places.get(next..end).unwrap_or_default();
    let ids: Vec<_> = chunk.iter().map(|place| place.id.clone()).collect();
    for (index, found) in erasure.commits(&ids).await?.into_iter().enumerate() {
        let place = &chunk[index];
        if erasure.twins_may_come(place.version) {
            return Err(Error::TwinsMayCome);
        }
        if erasure.is_full() {
            break;
        }
        // An event that had twins leaves several places.
        let twins = (!ids[..index].contains(&found.id)).then_some(found);
        erasure.clear_place(place, twins).await?;
        next += 1;
    }
    Ok((next < places.len()).then_some(Position::Index(next as u32)))
}

/// Erases some of what was found, in version order, and returns the version of the last one if not all was erased.
async fn some(
    erasure: &mut Erasure<'_>,
    found: &[(Version, EventId)],
    selection: &Selection,
) -> store::Result<Option<Version>> {
    let mut ids: Vec<EventId> = Vec::with_capacity(found.len());
    for (_, id) in found {
        // A twin may stand beside the first.
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    let mut done: Vec<EventId> = Vec::new();
    for commits in erasure.commits(&ids).await? {
        if erasure.is_full() {
            let is_done = |(_, id): &&(Version, EventId)| done.contains(id);
            let last = found.iter().take_while(is_done).last();
            return Ok(last.map(|(version, _)| *version));
        }
        done.push(commits.id.clone());
        erasure.add(commits, selection).await?;
    }
    Ok(None)
}

async fn of_feed(
    erasure: &mut Erasure<'_>,
    (feed, everywhere, until): (&FeedName, bool, Version),
    position: Option<Position>,
) -> store::Result<Option<Position>> {
    let selection = Selection {
        feed: (!everywhere).then(|| feed.clone()),
        ..Selection::default()
    };
    let after = match position {
        Some(Position::LogAfter(after)) => {
            let is_meant = |event: &log::LogEvent| event.feeds.contains(feed);
            let (found, next) = of_log(erasure, (after, until), is_meant).await?;
            let last = some(erasure, &found, &selection).await?;
            return Ok(last.or(next).map(Position::LogAfter));
        }
        Some(Position::After(after)) => after,
        _ => Version::ZERO,
    };
    let keys = erasure.keys();
    let prefix = keys.feed(feed);
    let range = keys::range(
        &prefix,
        Some(after),
        until,
        false,
        ERASED_AT_ONCE_MAX,
        STEP_BYTES_MAX,
    );
    let snapshot = erasure.snapshot();
    let slice = snapshot
        .ranges(vec![range])
        .await?
        .pop()
        .unwrap_or_default();
    let entries = slice.items.iter().map(decode_entry);
    let entries = entries.collect::<store::Result<Vec<Entry>>>()?;
    let shown = entries.iter().filter(|entry| !entry.is_erased());
    let found: Vec<_> = shown
        .map(|entry| (entry.version, entry.id.clone()))
        .collect();
    if let Some(last) = some(erasure, &found, &selection).await? {
        return Ok(Some(Position::After(last)));
    }
    match entries.last() {
        Some(last) if slice.more => Ok(Some(Position::After(last.version))),
        // What retention has removed from the feed may still be in the log.
        _ => {
            let trimmed = snapshot.get(vec![keys.trimmed(feed)]).await?;
            let is_trimmed = trimmed.iter().any(Option::is_some);
            Ok(is_trimmed.then_some(Position::LogAfter(Version::ZERO)))
        }
    }
}

async fn of_actor(
    erasure: &mut Erasure<'_>,
    actor: &Actor,
    until: Version,
    position: Option<Position>,
) -> store::Result<Option<Position>> {
    let selection = Selection {
        actor: Some(actor.clone()),
        ..Selection::default()
    };
    let (keys, snapshot) = (erasure.keys(), erasure.snapshot());
    let after = match position {
        Some(Position::Key(begin)) => {
            let (found, next) = of_all_feeds(erasure, begin.clone(), (actor, until)).await?;
            // In the order of keys, what is left over is found again from the same place.
            return Ok(match some(erasure, &found, &selection).await? {
                Some(_) => Some(Position::Key(begin)),
                None => next.map(Position::Key),
            });
        }
        Some(Position::After(after)) => after,
        _ => Version::ZERO,
    };
    let wanted = Wanted {
        actors: vec![actor.clone()],
        ..Wanted::default()
    };
    let mut events =
        Events::oldest_first(snapshot, keys, wanted, (after, until), step_limits()).await?;
    let mut found = Vec::new();
    while found.len() < ERASED_AT_ONCE_MAX
        && let Some(event) = events.next(snapshot).await?
    {
        if event.entry.changed().is_none() {
            found.push((event.entry.version, event.entry.id));
        }
    }
    let next = (!events.is_done()).then(|| events.position());
    if let Some(last) = some(erasure, &found, &selection).await? {
        return Ok(Some(Position::After(last)));
    }
    if let Some(next) = next {
        return Ok(Some(Position::After(next)));
    }
    // What retention has removed from the log may still be in feeds.
    let trimmed = snapshot.get(vec![keys.trimmed_log()]).await?;
    let is_trimmed = trimmed.iter().any(Option::is_some);
    Ok(is_trimmed.then(|| Position::Key(keys.feeds().0)))
}

fn step_limits() -> log::Limits {
    log::Limits {
        keys: STEP_KEYS_MAX,
        bytes: STEP_BYTES_MAX,
        events: ERASED_AT_ONCE_MAX,
    }
}

/// Events found, and where to continue.
type Part<N> = (Vec<(Version, EventId)>, Option<N>);

/// Finds events in the log in `(after, until]`.
async fn of_log(
    erasure: &Erasure<'_>,
    (after, until): (Version, Version),
    is_meant: impl Fn(&log::LogEvent) -> bool,
) -> store::Result<Part<Version>> {
    let mut scan = Scan::oldest_first(erasure.keys(), after, until, step_limits());
    let mut found = Vec::new();
    while found.len() < ERASED_AT_ONCE_MAX
        && let Some(event) = scan.next(erasure.snapshot()).await?
    {
        if event.entry.changed().is_none() && is_meant(&event) {
            found.push((event.entry.version, event.entry.id));
        }
    }
    Ok((found, (!scan.is_done()).then(|| scan.position())))
}

/// Finds the entries of an actor in all feeds, from the key `begin` on.
async fn of_all_feeds(
    erasure: &Erasure<'_>,
    begin: Vec<u8>,
    (actor, until): (&Actor, Version),
) -> store::Result<Part<Vec<u8>>> {
    let (_, end) = erasure.keys().feeds();
    let range = Range {
        limit: STEP_KEYS_MAX,
        bytes_max: STEP_BYTES_MAX,
        ..Range::all(begin, end)
    };
    let slice = erasure
        .snapshot()
        .ranges(vec![range])
        .await?
        .pop()
        .unwrap_or_default();
    let mut found = Vec::new();
    for item in &slice.items {
        let entry = decode_entry(item)?;
        let is_meant = entry.actor.as_ref() == Some(actor) && entry.version <= until;
        if is_meant && !entry.is_erased() {
            found.push((entry.version, entry.id));
        }
        if found.len() >= ERASED_AT_ONCE_MAX {
            return Ok((found, Some(next_key(item.key.to_vec()))));
        }
    }
    let last = slice.items.last().filter(|_| slice.more);
    Ok((found, last.map(|last| next_key(last.key.to_vec()))))
}
