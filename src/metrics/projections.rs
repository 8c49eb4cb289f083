//! Metrics of projections: the steps of this node, and how far each projection is behind.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::Instant;

use super::Label;

/// The projections of a node are known by their places in its list. Those with the same name count as one.
#[derive(Debug, Default)]
pub struct Projections {
    steps: Family<[(&'static str, &'static str); 2], Counter>,
    events: Family<Label, Counter>,
    lags: Mutex<Vec<Lag>>,
}

/// How far a projection is behind.
#[derive(Debug, Clone, Copy)]
struct Lag {
    name: &'static str,
    ticks: u64,
    events: u64,
    /// Since when there may have been something to project; `None` while it waits for commits.
    since: Option<Instant>,
}

/// The lag of a projection, in ticks of the store, in events when they were last counted, and as the time for which it has
/// not been complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectionLag {
    pub ticks: u64,
    pub events: u64,
    pub time: Duration,
}

impl Projections {
    fn locked(&self) -> MutexGuard<'_, Vec<Lag>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node has these projections.
    pub fn begin(&self, names: impl Iterator<Item = &'static str>) {
        let since = Some(Instant::now());
        let lag = |name| Lag {
            name,
            ticks: 0,
            events: 0,
            since,
        };
        let lags: Vec<_> = names.map(lag).collect();
        for lag in &lags {
            for outcome in ["won", "lost"] {
                let _ = self.steps_of(lag.name, outcome);
            }
            let _ = self.events.get_or_create_owned(&[("projection", lag.name)]);
        }
        *self.locked() = lags;
    }

    fn steps_of(&self, name: &'static str, outcome: &'static str) -> Counter {
        let labels = [("projection", name), ("outcome", outcome)];
        self.steps.get_or_create_owned(&labels)
    }

    /// The distinct names of projections.
    fn names(&self, members: &[usize]) -> Vec<&'static str> {
        let lags = self.locked();
        let mut names: Vec<_> = members.iter().map(|&member| lags[member].name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// `members` are `ticks` behind the moment of a step that has just been taken.
    pub fn reached(&self, members: &[usize], ticks: u64) {
        let mut lags = self.locked();
        for &member in members {
            let lag = &mut lags[member];
            lag.ticks = ticks;
            match ticks {
                0 => (lag.since, lag.events) = (None, 0),
                _ => _ = lag.since.get_or_insert_with(Instant::now),
            }
        }
    }

    /// So many events are not projected, by each of the projections.
    pub fn counted(&self, events: &[u64]) {
        for (lag, events) in self.locked().iter_mut().zip(events) {
            lag.events = *events;
        }
    }

    /// There may be something to project.
    pub fn wakes(&self) {
        for lag in &mut *self.locked() {
            lag.since.get_or_insert_with(Instant::now);
        }
    }

    /// A step has moved the checkpoint of `members` past this many events.
    pub fn won(&self, members: &[usize], events: usize) {
        for name in self.names(members) {
            self.steps_of(name, "won").inc();
            let counted = self.events.get_or_create_owned(&[("projection", name)]);
            counted.inc_by(events as u64);
        }
    }

    /// Another node has taken a step of `members` first.
    pub fn lost(&self, members: &[usize]) {
        for name in self.names(members) {
            self.steps_of(name, "lost").inc();
        }
    }

    /// The greatest lag of the projections of each name.
    pub fn lags(&self) -> BTreeMap<&'static str, ProjectionLag> {
        let mut lags: BTreeMap<&'static str, ProjectionLag> = BTreeMap::new();
        for Lag {
            name,
            ticks,
            events,
            since,
        } in &*self.locked()
        {
            let lag = lags.entry(name).or_default();
            lag.ticks = lag.ticks.max(*ticks);
            lag.events = lag.events.max(*events);
            let time = since.map_or(Duration::ZERO, |since| since.elapsed());
            lag.time = lag.time.max(time);
        }
        lags
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "projection_steps",
            "Steps of projections that this node has taken (won), or that another node has taken first (lost)",
            self.steps.clone(),
        );
        registry.register(
            "projection_events",
            "Events that the steps of this node have projected",
            self.events.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn the_lag_is_that_of_the_projection_that_is_furthest_behind() {
        let all = Projections::default();
        all.begin(["a", "b", "b"].into_iter());
        all.reached(&[0, 1], 0);
        all.reached(&[2], 7_000_000);
        tokio::time::advance(STEP).await;
        all.counted(&[0, 0, 70]);
        let lag = |ticks, events, time| ProjectionLag {
            ticks,
            events,
            time,
        };
        let of_b = lag(7_000_000, 70, STEP);
        let expected = [("a", lag(0, 0, Duration::ZERO)), ("b", of_b)];
        assert_eq!(all.lags(), BTreeMap::from(expected));
        all.reached(&[2], 0);
        assert_eq!(all.lags()["b"], ProjectionLag::default());
        // Something may have been committed: the lag counts from here until the next step says that nothing is left.
        all.wakes();
        tokio::time::advance(STEP).await;
        all.wakes();
        assert_eq!(all.lags()["a"], lag(0, 0, STEP));
        all.reached(&[0], 0);
        assert_eq!(all.lags()["a"], ProjectionLag::default());
    }
}
