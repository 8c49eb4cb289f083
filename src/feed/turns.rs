//! Turns: who may read next. Readers share the reads by what these cost, so nobody's expensive reads delay others for long.
//!
//! A read holds a turn while it works. There are as many turns as keep the engine and the processors busy, so a turn is free
//! at once unless the node is busy. What a read finds is charged to its reader. A free turn goes to the
//! waiting reader that has spent least, and a read that has spent a [`QUANTUM`] gives its turn to a reader that has spent
//! less. Who begins to read is treated as if it had spent as much as the reader that had the last turn: it waits for about a
//! quantum, but cannot save up. (This is start-time fair queueing.)
//!
//! A read that has spent a quantum is a long one. Long reads of one caller hold few turns, even if nobody else reads.
//! Otherwise, whoever comes next would share the processors with as many busy threads as there are turns.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{self, Semaphore, oneshot},
    time::timeout,
};

use async_trait::async_trait;

use crate::{
    error::{Error, Result},
    store::{self, Batch, Found, Reads, Slice, Snapshot, Store},
    version::Version,
};

/// Reads of requests that wait for their first turn. Beyond that, the reader with the most of them is refused.
pub const READS_WAITING_MAX: usize = 8_192;
/// How long a request waits for its first turn.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(1);

/// What a read may spend before it gives way, in units of about a microsecond.
const QUANTUM: u64 = 250;
/// What it costs to search for a key or for the beginning of a range.
const SEARCH_COST: u64 = 10;
/// Bytes that cost one unit.
const BYTES_PER_UNIT: usize = 1024;
/// What beginning or continuing a read costs.
const START_COST: u64 = 50;
/// Turns for each read that the engine and the processors can do at once, so that the next one is always ready. Otherwise
/// the engine's threads would sleep between short reads.
const TURNS_PER_READ: usize = 4;
/// Engine reads of one turn at the same time: the reads that the engine can do at once divided by this, and at least one.
const READS_PER_READ_AT_ONCE: usize = 16;

/// Whoever reads gets a share of its own: the requests of a caller, or its streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    caller: u64,
    /// A stream is never refused, however long it waits.
    is_stream: bool,
}

/// Callers are told apart by a keyed hash, so that nobody can choose to have the share of somebody else.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Reader {
    /// The requests of `caller`.
    pub fn request(caller: &impl Hash) -> Self {
        Self {
            caller: HASHER.hash_one(caller),
            is_stream: false,
        }
    }

    /// The streams and long polls of `caller`.
    pub fn stream(caller: &impl Hash) -> Self {
        Self {
            is_stream: true,
            ..Self::request(caller)
        }
    }
}

/// The turns of a node; cheap to clone.
#[derive(Clone)]
pub(super) struct Turns(Arc<Shared>);

struct Shared {
    max: Max,
    queue: Mutex<Queue>,
}

/// Turns that are held at the same time.
#[derive(Debug, Clone, Copy)]
struct Max {
    all: usize,
    /// By streams: when all of them reconnect at once, requests keep their share.
    of_streams: usize,
    /// By long reads of one caller: of its requests and its streams.
    long_of_caller: usize,
    /// Engine reads of one turn.
    at_once: usize,
}

#[derive(Default)]
struct Queue {
    /// Turns that are held.
    held: usize,
    held_by_streams: usize,
    /// Reads that count for [`READS_WAITING_MAX`].
    waiting: usize,
    /// What the reader that had the last turn had spent when it got it.
    clock: u64,
    next_ticket: u64,
    /// Readers that hold turns or wait.
    readers: HashMap<Reader, Account>,
    /// The readers that wait, by what they have spent.
    order: BTreeSet<(u64, Reader)>,
}

#[derive(Default)]
struct Account {
    spent: u64,
    held: usize,
    held_by_long: usize,
    /// Reads that begin, and long ones that continue, by ticket.
    begin: BTreeMap<u64, Waiting>,
    long: BTreeMap<u64, Waiting>,
    /// Those of them that count for [`READS_WAITING_MAX`].
    refusable: usize,
}

struct Waiting {
    grant: oneshot::Sender<Grant>,
    refusable: bool,
}

/// A turn that is held; given back when dropped.
#[derive(Debug)]
struct Grant {
    turns: Turns,
    reader: Reader,
    is_long: AtomicBool,
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    turns: &'a Turns,
    reader: Reader,
    ticket: u64,
}

/// The turn of one read.
pub(super) struct Turn {
    turns: Turns,
    reader: Reader,
    ticket: u64,
    /// `None` only if waiting for the turn again was cancelled.
    grant: sync::Mutex<Option<Arc<Grant>>>,
    /// Since the turn was granted.
    spent: AtomicU64,
    at_once: Semaphore,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} turns", self.0.max.all)
    }
}

impl Turns {
    /// `reads_at_once`: see [`Store::reads_at_once`].
    pub(super) fn new(reads_at_once: usize) -> Self {
        let all = TURNS_PER_READ * reads_at_once;
        Self::limited(Max {
            all,
            of_streams: all / 2,
            long_of_caller: reads_at_once.div_ceil(2),
            at_once: (reads_at_once / READS_PER_READ_AT_ONCE).max(1),
        })
    }

    fn limited(max: Max) -> Self {
        Self(Arc::new(Shared {
            max,
            queue: Mutex::default(),
        }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of `reader`. Requests fail with [`Error::ReadsBusy`] if too many reads are waiting, or after
    /// [`READ_WAIT_MAX`].
    pub(super) async fn begin(&self, reader: Reader) -> Result<Turn> {
        let ticket = {
            let mut queue = self.queue();
            queue.next_ticket += 1;
            queue.next_ticket
        };
        let granted = self.wait(reader, ticket, false);
        let grant = match reader.is_stream {
            true => granted.await,
            false => timeout(READ_WAIT_MAX, granted).await.unwrap_or_default(),
        };
        let grant = grant.ok_or(Error::ReadsBusy)?;
        Ok(Turn {
            turns: self.clone(),
            reader,
            ticket,
            grant: sync::Mutex::new(Some(Arc::new(grant))),
            spent: AtomicU64::new(0),
            at_once: Semaphore::new(self.0.max.at_once),
        })
    }

    /// Waits for a turn; `None` if the read is refused.
    async fn wait(&self, reader: Reader, ticket: u64, is_long: bool) -> Option<Grant> {
        let (grant, granted) = oneshot::channel();
        let refusable = !is_long && !reader.is_stream;
        let _place = self.enqueue(reader, ticket, is_long, Waiting { grant, refusable })?;
        self.grant();
        granted.await.ok()
    }

    /// Puts a read into the queue; `None` if there is no room.
    fn enqueue(
        &self,
        reader: Reader,
        ticket: u64,
        is_long: bool,
        waiting: Waiting,
    ) -> Option<Place<'_>> {
        let mut queue = self.queue();
        if waiting.refusable {
            if !queue.make_room(reader) {
                return None;
            }
            queue.waiting += 1;
        }
        let clock = queue.clock;
        let account = queue.readers.entry(reader).or_insert_with(|| Account {
            spent: clock,
            ..Account::default()
        });
        account.refusable += usize::from(waiting.refusable);
        let reads = match is_long {
            true => &mut account.long,
            false => &mut account.begin,
        };
        reads.insert(ticket, waiting);
        let spent = account.spent;
        queue.order.insert((spent, reader));
        Some(Place {
            turns: self,
            reader,
            ticket,
        })
    }

    /// Grants the turns that are free.
    fn grant(&self) {
        loop {
            let next = self.queue().next(self.0.max);
            let Some((reader, is_long, waiting)) = next else {
                return;
            };
            // Outside the lock, because a grant that nobody takes is given back at once.
            let _ = waiting.grant.send(Grant {
                turns: self.clone(),
                reader,
                is_long: is_long.into(),
            });
        }
    }
}

impl Queue {
    /// Makes room for a read of `reader`, if necessary by refusing the last one of the reader that has the most waiting.
    fn make_room(&mut self, reader: Reader) -> bool {
        if self.waiting < READS_WAITING_MAX {
            return true;
        }
        let own = self.readers.get(&reader);
        let own = own.map_or(0, |account| account.refusable);
        let most = self
            .readers
            .iter()
            .max_by_key(|(_, account)| account.refusable)
            .filter(|(_, account)| account.refusable > own + 1);
        let last = most.and_then(|(&reader, account)| {
            let mut waiting = account.begin.iter().rev();
            let (&ticket, _) = waiting.find(|(_, waiting)| waiting.refusable)?;
            Some((reader, ticket))
        });
        // Dropping its sender tells the read that it is refused.
        last.is_some_and(|(reader, ticket)| self.leave(reader, ticket).is_some())
    }

    /// The read that gets the next turn, which is then held, and whether it is a long one.
    fn next(&mut self, max: Max) -> Option<(Reader, bool, Waiting)> {
        if self.held >= max.all {
            return None;
        }
        let mut order = self.order.iter();
        let (spent, reader, ticket) = order.find_map(|&(spent, reader)| {
            let ticket = self.first_of(reader, None, max)?;
            Some((spent, reader, ticket))
        })?;
        self.held += 1;
        self.held_by_streams += usize::from(reader.is_stream);
        let account = self.readers.get_mut(&reader)?;
        let is_long = account.long.contains_key(&ticket);
        account.held += 1;
        account.held_by_long += usize::from(is_long);
        let waiting = self.leave(reader, ticket)?;
        self.clock = self.clock.max(spent);
        self.charge(reader, START_COST);
        Some((reader, is_long, waiting))
    }

    /// The first waiting read of `reader` that may have a turn: one more, or the one of `instead_of`.
    fn first_of(&self, reader: Reader, instead_of: Option<&Grant>, max: Max) -> Option<u64> {
        let given =
            |is_given: &dyn Fn(&Grant) -> bool| usize::from(instead_of.is_some_and(is_given));
        let by_streams = self.held_by_streams - given(&|grant| grant.reader.is_stream);
        if reader.is_stream && by_streams >= max.of_streams {
            return None;
        }
        let by_long = self.held_by_long(reader)
            - given(&|grant| grant.reader.caller == reader.caller && grant.is_long());
        let account = self.readers.get(&reader)?;
        let begin = account.begin.first_key_value().map(|(&ticket, _)| ticket);
        let long = account.long.first_key_value().map(|(&ticket, _)| ticket);
        let long = long.filter(|_| by_long < max.long_of_caller);
        // Who has begun a few long reads ends them first: they hold snapshots, which do not live long.
        let begin = begin.filter(|_| account.long.len() < 2 * max.long_of_caller);
        // A read that has begun continues before later ones begin.
        long.into_iter().chain(begin).min()
    }

    /// Turns that long reads of the reader's caller hold.
    fn held_by_long(&self, reader: Reader) -> usize {
        let held = [false, true].map(|is_stream| {
            let account = self.readers.get(&Reader {
                is_stream,
                ..reader
            });
            account.map_or(0, |account| account.held_by_long)
        });
        held.iter().sum()
    }

    /// Whether a read that has spent a quantum keeps its turn.
    fn keeps(&mut self, grant: &Grant, max: Max) -> bool {
        let Grant { reader, .. } = *grant;
        if !grant.is_long() {
            if self.held_by_long(reader) >= max.long_of_caller {
                return false;
            }
            if let Some(account) = self.readers.get_mut(&reader) {
                account.held_by_long += 1;
                grant.is_long.store(true, Ordering::Relaxed);
            }
        }
        !self.is_before(grant, max)
    }

    /// Removes a read from the queue, if it is there.
    fn leave(&mut self, reader: Reader, ticket: u64) -> Option<Waiting> {
        let account = self.readers.get_mut(&reader)?;
        let begin = account.begin.remove(&ticket);
        let waiting = begin.or_else(|| account.long.remove(&ticket))?;
        account.refusable -= usize::from(waiting.refusable);
        self.waiting -= usize::from(waiting.refusable);
        if !account.waits() {
            self.order.remove(&(account.spent, reader));
            self.forget_if_idle(reader);
        }
        Some(waiting)
    }

    fn give_back(&mut self, grant: &Grant) {
        let reader = grant.reader;
        self.held -= 1;
        self.held_by_streams -= usize::from(reader.is_stream);
        if let Some(account) = self.readers.get_mut(&reader) {
            account.held -= 1;
            account.held_by_long -= usize::from(grant.is_long());
        }
        self.forget_if_idle(reader);
    }

    fn forget_if_idle(&mut self, reader: Reader) {
        let account = self.readers.get(&reader);
        if account.is_some_and(|account| account.held == 0 && !account.waits()) {
            self.readers.remove(&reader);
        }
    }

    fn charge(&mut self, reader: Reader, cost: u64) {
        let Some(account) = self.readers.get_mut(&reader) else {
            return;
        };
        let before = account.spent;
        account.spent += cost;
        let after = account.spent;
        if self.order.remove(&(before, reader)) {
            self.order.insert((after, reader));
        }
    }

    /// Whether a reader that has spent less would get the turn of `grant`.
    fn is_before(&self, grant: &Grant, max: Max) -> bool {
        let own = self.readers.get(&grant.reader);
        let spent = own.map_or(0, |account| account.spent);
        let mut cheaper = self.order.iter().take_while(|&&(least, _)| least < spent);
        cheaper.any(|&(_, other)| {
            other != grant.reader && self.first_of(other, Some(grant), max).is_some()
        })
    }
}

impl Account {
    fn waits(&self) -> bool {
        !self.begin.is_empty() || !self.long.is_empty()
    }
}

impl Grant {
    fn is_long(&self) -> bool {
        self.is_long.load(Ordering::Relaxed)
    }
}

impl Turn {
    /// Before each engine read: gives way if it is time, and waits for the turn again. The turn counts as held until what is
    /// returned has been dropped, too.
    async fn pass(&self) -> store::Result<Arc<Grant>> {
        let mut grant = self.grant.lock().await;
        let has_spent = self.spent.load(Ordering::Relaxed) >= QUANTUM;
        let gives_way = grant
            .as_ref()
            .is_some_and(|grant| has_spent && !self.turns.queue().keeps(grant, self.turns.0.max));
        if gives_way {
            *grant = None;
        }
        if let Some(grant) = &*grant {
            return Ok(Arc::clone(grant));
        }
        let again = self.turns.wait(self.reader, self.ticket, true).await;
        let again = again.ok_or(store::Error::Closed)?;
        self.spent.store(0, Ordering::Relaxed);
        Ok(Arc::clone(grant.insert(Arc::new(again))))
    }

    /// Charges work to the reader.
    fn charge(&self, cost: u64) {
        self.spent.fetch_add(cost, Ordering::Relaxed);
        self.turns.queue().charge(self.reader, cost);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.turns.queue().give_back(self);
        self.turns.grant();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // The sender is dropped after the lock has been released.
        let _left = self.turns.queue().leave(self.reader, self.ticket);
    }
}

/// A snapshot that is read in turns.
pub(super) struct InTurn {
    pub(super) snapshot: Box<dyn Snapshot>,
    pub(super) turn: Arc<Turn>,
}

impl InTurn {
    /// Takes a snapshot and performs its first reads.
    pub(super) async fn begin(
        store: &dyn Store,
        turn: &Arc<Turn>,
        mut reads: Reads,
    ) -> store::Result<(Self, Found)> {
        let _one = turn.at_once.acquire().await;
        reads.held = Some(turn.pass().await?);
        turn.charge(SEARCH_COST * reads.searches() as u64);
        let (snapshot, found) = store.begin(reads).await?;
        let turn = Arc::clone(turn);
        Ok((Self { snapshot, turn }, found))
    }
}

#[async_trait]
impl Snapshot for InTurn {
    fn version(&self) -> Version {
        self.snapshot.version()
    }

    fn taken_at(&self) -> u64 {
        self.snapshot.taken_at()
    }

    async fn read(&self, mut reads: Reads) -> store::Result<Found> {
        let Self { snapshot, turn } = self;
        // The semaphore is never closed.
        let _one = turn.at_once.acquire().await;
        reads.held = Some(turn.pass().await?);
        // Searches are charged even if nobody waits for the result.
        turn.charge(SEARCH_COST * reads.searches() as u64);
        let found = snapshot.read(reads).await?;
        turn.charge(found.slices.iter().map(cost).sum());
        Ok(found)
    }

    async fn commit(self: Box<Self>, batch: Batch) -> store::Result<Version> {
        self.snapshot.commit(batch).await
    }
}

fn cost(slice: &Slice) -> u64 {
    let bytes = slice.items.iter().map(|item| item.value.len());
    (slice.items.len() + bytes.sum::<usize>() / BYTES_PER_UNIT) as u64
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::{FutureExt, future::join_all};

    use super::*;
    use crate::dedup::testing::Memory;

    fn reader(name: &str) -> Reader {
        Reader::request(&name)
    }

    fn limited(all: usize) -> Turns {
        Turns::limited(Max {
            all,
            of_streams: all,
            long_of_caller: all.div_ceil(2),
            at_once: 1,
        })
    }

    fn all_waiting<F: Future>(waiting: &mut [Pin<Box<F>>]) -> bool {
        let mut waiting = waiting.iter_mut();
        waiting.all(|read| read.as_mut().now_or_never().is_none())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_up_to_the_limits_and_the_next_one_is_refused() {
        let turns = limited(4);
        let begin = || turns.begin(reader("a"));
        let held = join_all((0..4).map(|_| begin())).await;
        let mut held: Vec<Turn> = held.into_iter().map(|turn| turn.expect("free")).collect();
        let mut waiting: Vec<_> = (0..READS_WAITING_MAX).map(|_| Box::pin(begin())).collect();
        assert!(all_waiting(&mut waiting), "no turn is free");
        let refused = begin().now_or_never();
        assert!(matches!(refused, Some(Err(Error::ReadsBusy))));

        held.pop();
        let first = waiting.remove(0).await;
        held.push(first.expect("the first in the queue gets the turn"));
        // A stream waits, however long it takes.
        let mut stream = Box::pin(turns.begin(Reader::stream(&"a")));
        assert!(stream.as_mut().now_or_never().is_none());
        let late = join_all(waiting).await;
        assert!(
            late.iter()
                .all(|turn| matches!(turn, Err(Error::ReadsBusy)))
        );
        assert!(stream.as_mut().now_or_never().is_none());
        // Turns that were given back can be had again, and nobody is remembered.
        held.clear();
        drop(stream.await.expect("never refused"));
        begin().await.map(drop).expect("a turn is free");
        let queue = turns.queue();
        assert_eq!((queue.held, queue.waiting), (0, 0));
        assert!(queue.readers.is_empty() && queue.order.is_empty());
    }

    #[tokio::test]
    async fn who_waits_with_most_reads_is_refused_first() {
        let turns = limited(1);
        let held = turns.begin(reader("a")).await.expect("free");
        let begin = |name| Box::pin(turns.begin(reader(name)));
        let mut waiting: Vec<_> = (0..READS_WAITING_MAX).map(|_| begin("a")).collect();
        assert!(all_waiting(&mut waiting));
        let mut other = begin("b");
        assert!(other.as_mut().now_or_never().is_none(), "there is room");
        let last = waiting.pop().expect("many").now_or_never();
        assert!(matches!(last, Some(Err(Error::ReadsBusy))));
        drop(held);
        assert!(other.now_or_never().expect("next").is_ok());
    }

    #[tokio::test]
    async fn readers_share_turns_by_cost_and_the_next_turn_is_for_who_has_spent_least() {
        let turns = limited(1);
        let mut held = Some(turns.begin(reader("costly")).await.expect("free"));
        let begin = |name: &'static str| {
            let turn = turns.begin(reader(name));
            Box::pin(async move { (name, turn.await.expect("granted")) })
        };
        let mut waiting: Vec<_> = (0..100).map(|_| begin("costly")).collect();
        assert!(all_waiting(&mut waiting));
        // Somebody who comes later and reads little.
        let mut cheap: Vec<_> = (0..50).map(|_| begin("cheap")).collect();
        assert!(all_waiting(&mut cheap));
        waiting.append(&mut cheap);
        let mut order = Vec::new();
        while let Some(turn) = held.take() {
            turn.charge(if turn.reader == reader("costly") {
                950
            } else {
                50
            });
            drop(turn);
            // Tokio lets a task receive only so often before it yields.
            tokio::task::yield_now().await;
            let next = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(index, read)| Some((index, read.as_mut().now_or_never()?)));
            if let Some((index, (name, turn))) = next {
                drop(waiting.remove(index));
                order.push(name);
                held = Some(turn);
            }
        }
        assert_eq!(order.len(), 150);
        // 1,000 units against 100, each with the start.
        let costly = |turns: &[&str]| turns.iter().filter(|name| **name == "costly").count();
        assert_eq!(order[0], "cheap");
        for (first, expected) in [(22, 1..=3), (33, 2..=4), (55, 4..=6)] {
            let costly = costly(&order[..first]);
            assert!(expected.contains(&costly), "{costly} of {first}: {order:?}");
        }
    }

    #[tokio::test]
    async fn a_read_gives_way_once_it_has_spent_its_quantum_and_continues_before_later_ones() {
        let turns = limited(1);
        let long = turns.begin(reader("a")).await.expect("free");
        let mut later = Box::pin(turns.begin(reader("a")));
        assert!(later.as_mut().now_or_never().is_none());
        long.charge(10 * QUANTUM);
        assert!(
            long.pass().now_or_never().is_some(),
            "only its own reads wait"
        );
        let mut other = Box::pin(turns.begin(reader("b")));
        assert!(other.as_mut().now_or_never().is_none());
        let mut pass = Box::pin(long.pass());
        assert!(pass.as_mut().now_or_never().is_none(), "the other is next");
        let other = other.now_or_never().expect("granted").expect("a turn");
        drop(other);
        assert!(later.as_mut().now_or_never().is_none());
        assert!(pass.as_mut().now_or_never().is_some());
        drop(pass);
        drop(long);
        assert!(later.now_or_never().is_some());
    }

    #[tokio::test]
    async fn long_reads_of_a_caller_hold_few_turns() {
        let turns = limited(4);
        let begin = |reader| Box::pin(turns.begin(reader));
        let granted = |read: Option<Result<Turn>>| read.expect("at once").expect("a turn");
        let held = [reader("a"), reader("a"), Reader::stream(&"a"), reader("a")];
        let held = held.map(|reader| granted(begin(reader).now_or_never()));
        held.iter().for_each(|turn| turn.charge(QUANTUM));
        let mut passes: Vec<_> = held.iter().map(|turn| Box::pin(turn.pass())).collect();
        let passed = passes
            .iter_mut()
            .map(|pass| pass.as_mut().now_or_never().is_some());
        let passed: Vec<bool> = passed.collect();
        assert_eq!(passed, [true, true, false, false]);
        // The turns that were given up are for reads that begin, of this caller or another.
        let begun = [reader("a"), reader("b")].map(|reader| begin(reader).now_or_never());
        let [own, other] = begun.map(granted);
        // Long reads of another caller have a half of their own, and need not give way to whoever has no right to the turn.
        other.charge(10 * QUANTUM);
        assert!(other.pass().now_or_never().is_some());
        drop((own, other));
        assert!(passes[2].as_mut().now_or_never().is_none());
        drop(passes);
        drop(held);
        let queue = turns.queue();
        assert_eq!(
            (queue.held, queue.readers.len(), queue.order.len()),
            (0, 0, 0)
        );
    }

    #[tokio::test]
    async fn a_cancelled_read_leaves_the_queue_but_holds_its_turn_while_the_engine_works() {
        let turns = limited(1);
        let turn = Arc::new(turns.begin(reader("a")).await.expect("free"));
        let mut waiting = vec![Box::pin(turns.begin(reader("a")))];
        assert!(all_waiting(&mut waiting));
        drop(waiting);
        assert_eq!(turns.queue().waiting, 0);
        let engine = turn.pass().await.expect("granted");
        drop(turn);
        let mut next = Box::pin(turns.begin(reader("b")));
        assert!(next.as_mut().now_or_never().is_none());
        drop(engine);
        let granted = next.as_mut().now_or_never();
        drop(granted.expect("granted"));
        // What was granted to a read that is cancelled before it notices is given back.
        let held = turns.begin(reader("a")).await.expect("free");
        let mut next = Box::pin(turns.begin(reader("b")));
        assert!(next.as_mut().now_or_never().is_none());
        drop(held);
        drop(next);
        assert!(turns.begin(reader("c")).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_a_read_finds_is_charged_to_its_reader() {
        let feed = crate::dedup::testing::feed("a");
        let history = crate::dedup::testing::long_history(1_000, std::slice::from_ref(&feed));
        let turns = limited(1);
        let turn = Arc::new(turns.begin(reader("a")).await.expect("free"));
        let snapshot = InTurn {
            snapshot: Box::new(Memory::of(&history)),
            turn: Arc::clone(&turn),
        };
        let spent = || turn.spent.load(Ordering::Relaxed);
        let range = |limit| {
            let prefix = crate::dedup::testing::keys().feed(&feed);
            store::keys::entries(&prefix, None, Version::MAX, false, limit, usize::MAX)
        };
        snapshot.ranges(vec![range(700)]).await.expect("read");
        let one = spent();
        assert!((700..1_000).contains(&one), "{one}");
        // A read that is cancelled before it is done costs something, too.
        drop(
            Box::pin(snapshot.ranges(vec![range(1); 100]))
                .as_mut()
                .now_or_never(),
        );
        assert!(spent() >= one + 100 * SEARCH_COST);
    }
}
