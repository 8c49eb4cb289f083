//! The walk of an erasure through the events that it erases, from step to step.

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    lifecycle::erasure::{ERASED_AT_ONCE_MAX, Erasure, Selection},
    log::{self, Scan},
    projection::{Events, Wanted},
    store::{
        self, Range,
        keys::{self, next_key},
        rows::{Job, Place, What},
        values::decode_entry,
    },
    types::{Actor, Entry, EventId, FeedName},
    version::{BYTES_LEN, Version},
};

/// What a step reads at most to find events.
const STEP_KEYS_MAX: usize = 1_000;
const STEP_BYTES_MAX: usize = 1024 * 1024;

/// Erases what comes next of a job that began at `began`. Returns where it goes on; `None` at the end.
pub(super) async fn next(
    erasure: &mut Erasure<'_>,
    job: &Job,
    began: Version,
) -> Result<Option<Bytes>> {
    let position = Position::decode(&job.position);
    let next = match &job.what {
        What::Events(ids) => events(erasure, ids, position).await?,
        What::Feed { feed, everywhere } => {
            of_feed(erasure, (feed, *everywhere, began), position).await?
        }
        What::Actor(actor) => of_actor(erasure, actor, began, position).await?,
        What::Places(places) => clear_places(erasure, places, position).await?,
        What::Nothing => None,
    };
    Ok(next.map(|next| next.encode()))
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
    let range = keys::entries(
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
