//! The processes that are watched during a run: those of the service that the user named, and this one, since they
//! share the machine.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use newsfeed::procfs::{self, Usage};
use tokio::time::sleep;

use super::{error::Error, used::Used};

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The service is quiet when its processes use less than 5% of a CPU.
const QUIET_PERCENT: u128 = 5;
const QUIET_LOOK: Duration = Duration::from_millis(500);
/// A service that is never quiet is measured as it is.
const QUIET_MAX: Duration = Duration::from_secs(10);

pub struct Watch {
    /// Those of the service, then this one.
    processes: Vec<(u32, String)>,
    moments: Mutex<Moments>,
}

/// What was used up to a moment.
#[derive(Debug, Clone)]
pub struct Moment {
    pub at: Instant,
    /// Of each process; what it last used if it has ended.
    pub usages: Vec<Usage>,
    pub ended: Vec<bool>,
    pub tcp_bytes: u64,
}

#[derive(Debug)]
pub struct Moments {
    /// Before the run's first connection.
    pub before: Moment,
    /// All readers are there and quiet; nothing is appended yet.
    pub ready: Option<Moment>,
    /// From the first request's to the last answer's, every second.
    pub window: Vec<Moment>,
    window_ended: bool,
}

impl Watch {
    /// Before any connection is opened. Fails if one of `pids` does not run here.
    pub fn new(pids: &[u32]) -> Result<Arc<Self>, Error> {
        let mut processes = Vec::new();
        for pid in pids {
            let name = Usage::of(*pid).and_then(|_| procfs::name(*pid));
            let name = name.map_err(|error| {
                Error::Arguments(format!(
                    "--pid {pid}: no such process on this machine, or not one whose /proc/{pid} can be read \
                     ({error}); `pgrep newsfeed` lists those of the service"
                ))
            })?;
            processes.push((*pid, name));
        }
        let own = std::process::id();
        // Where there is no /proc there is nothing to tell.
        if Usage::of(own).is_ok() {
            processes.push((own, "this generator".to_owned()));
        }
        let moments = Moments {
            before: moment(&processes, None),
            ready: None,
            window: Vec::new(),
            window_ended: false,
        };
        Ok(Arc::new(Self {
            processes,
            moments: Mutex::new(moments),
        }))
    }

    /// All readers are there: waits until the processes of the service, if any are watched, are quiet.
    pub async fn ready(&self) {
        let service = self.processes.len().saturating_sub(1);
        let began = Instant::now();
        let mut before = moment(&self.processes, None);
        while service > 0 && began.elapsed() < QUIET_MAX {
            sleep(QUIET_LOOK).await;
            let now = moment(&self.processes, Some(&before));
            let used = cpu(&now, service).saturating_sub(cpu(&before, service));
            let quiet = used.as_micros() * 100 < QUIET_PERCENT * (now.at - before.at).as_micros();
            before = now;
            if quiet {
                break;
            }
        }
        self.moments().ready = Some(before);
    }

    /// The first request is due.
    pub fn begin(self: &Arc<Self>) {
        self.sample(false);
        let watch = Arc::downgrade(self);
        thread::spawn(move || every_second(&watch));
    }

    /// The last answer is there.
    pub fn end(&self) {
        self.sample(true);
    }

    /// What was used up to now.
    pub fn used(&self) -> Used {
        let moments = self.moments();
        let done = moment(&self.processes, Some(&moments.before));
        Used::new(&self.processes, &moments, &done)
    }

    fn sample(&self, last: bool) {
        let mut moments = self.moments();
        if !moments.window_ended {
            let before = moments.window.last().unwrap_or(&moments.before);
            let now = moment(&self.processes, Some(before));
            moments.window.push(now);
            moments.window_ended = last;
        }
    }

    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn every_second(watch: &Weak<Watch>) {
    loop {
        thread::sleep(SAMPLE_EVERY);
        match watch.upgrade() {
            Some(watch) if !watch.moments().window_ended => watch.sample(false),
            _ => return,
        }
    }
}

/// Now; `before` tells what processes used that have ended.
fn moment(processes: &[(u32, String)], before: Option<&Moment>) -> Moment {
    let now: Vec<_> = processes.iter().map(|(pid, _)| Usage::of(*pid)).collect();
    let last = |index: usize| before.map_or_else(Usage::default, |moment| moment.usages[index]);
    Moment {
        at: Instant::now(),
        ended: now.iter().map(Result::is_err).collect(),
        usages: now
            .into_iter()
            .enumerate()
            .map(|(index, usage)| usage.unwrap_or_else(|_| last(index)))
            .collect(),
        tcp_bytes: procfs::tcp_bytes(),
    }
}

/// Of the first `processes`.
fn cpu(moment: &Moment, processes: usize) -> Duration {
    moment.usages[..processes]
        .iter()
        .map(|usage| usage.cpu)
        .sum()
}
