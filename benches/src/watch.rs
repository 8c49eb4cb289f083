//! Samples the CPU time and memory of processes during a run: of those given by `--pid`, and of this one, because it
//! shares the machine with them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use newsfeed::procfs::{self, Usage};
use tokio::time::sleep;

use super::{error::Error, used::Used};

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The service is idle when its processes use less than 5% of a CPU.
const QUIET_PERCENT: u128 = 5;
const QUIET_SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// If the service is not idle by then, the run begins anyway.
const QUIET_MAX: Duration = Duration::from_secs(10);

pub struct Watch {
    /// Pid and name: those of the service, then this process.
    processes: Vec<(u32, String)>,
    moments: Mutex<Moments>,
}

/// CPU time used up to a moment, and memory used at it.
#[derive(Debug, Clone)]
pub struct Moment {
    pub at: Instant,
    /// Of each process; the last sample of a process that has ended.
    pub usages: Vec<Usage>,
    pub ended: Vec<bool>,
    pub tcp_bytes: u64,
}

#[derive(Debug)]
pub struct Moments {
    /// Before the run's first connection.
    pub before: Moment,
    /// When all readers were connected and the service was idle, before the first append.
    pub ready: Option<Moment>,
    /// Every second, from when the first request was due until the last response.
    pub window: Vec<Moment>,
    window_ended: bool,
}

impl Watch {
    /// Must be called before any connection is opened. Fails if one of `pids` is not a process on this machine.
    pub fn new(pids: &[u32]) -> Result<Arc<Self>, Error> {
        let mut processes = Vec::new();
        for pid in pids {
            let name = Usage::of(*pid).and_then(|_| procfs::name(*pid));
            let name = name.map_err(|error| {
                Error::Arguments(format!(
                    "--pid {pid}: no such process on this machine, or /proc/{pid} cannot be read ({error}); \
                     `pgrep newsfeed` lists the processes of the service"
                ))
            })?;
            processes.push((*pid, name));
        }
        let own = std::process::id();
        // Fails on systems without /proc.
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

    /// Samples memory with all readers connected, after waiting until the watched processes of the service are idle.
    pub async fn ready(&self) {
        let service = self.processes.len().saturating_sub(1);
        let began = Instant::now();
        let mut before = moment(&self.processes, None);
        while service > 0 && began.elapsed() < QUIET_MAX {
            sleep(QUIET_SAMPLE_EVERY).await;
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

    /// Begins the window: the first request is due.
    pub fn begin(self: &Arc<Self>) {
        self.sample(false);
        let watch = Arc::downgrade(self);
        thread::spawn(move || every_second(&watch));
    }

    /// Ends the window: the last response has arrived.
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

/// A sample taken now. For processes that have ended, it repeats the values of `before`.
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

/// CPU time of the first `processes` processes.
fn cpu(moment: &Moment, processes: usize) -> Duration {
    moment.usages[..processes]
        .iter()
        .map(|usage| usage.cpu)
        .sum()
}
