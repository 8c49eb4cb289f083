//! What all subcommands share: preparation, progress, and reporting of results.

use std::{fs, path::Path, sync::Arc, time::Duration};

use newsfeed::client::{self, Progress};
use tokio::time::{MissedTickBehavior, sleep};

use super::{
    args::Common, error::Error, report, schedule::Schedule, stop::Stop, summary::Summary,
    target::Dialer, used::Used, watch::Watch,
};

const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// A run of a subcommand.
pub struct Run {
    pub common: Common,
    watch: Arc<Watch>,
    stop: Stop,
}

impl Run {
    /// Must be called before any connection is opened, because it takes the first sample of memory use.
    pub fn new(common: Common, stop: Stop) -> Result<Self, Error> {
        let watch = Watch::new(&common.pid)?;
        Ok(Self {
            common,
            watch,
            stop,
        })
    }

    /// A dialer for so many clients.
    pub async fn dialer(&self, clients: usize) -> Result<Arc<Dialer>, Error> {
        let Common { url, source, .. } = &self.common;
        let streams = self.common.streams_per_connection();
        let token = self.common.token.read()?;
        let dialer = Dialer::new(url, token, source, clients, streams).await?;
        Ok(Arc::new(dialer))
    }

    /// Waits until the service is idle, then samples the memory that connected readers take.
    pub async fn readers_are_ready(&self) {
        self.watch.ready().await;
    }

    /// Starts the schedule, waits for `work`, and shows progress. Measures CPU time and memory meanwhile.
    pub async fn load<T>(
        &self,
        schedule: &Arc<Schedule>,
        so_far: impl Fn() -> String,
        work: impl Future<Output = T>,
    ) -> T {
        self.measured(async {
            schedule.start();
            let (_, length) = schedule.progress();
            let so_far = || (schedule.progress().0, so_far());
            let work = self.ends_early(schedule, work);
            with_progress(length, so_far, work).await
        })
        .await
    }

    /// Waits for `work`, and measures CPU time and memory meanwhile.
    pub async fn measured<T>(&self, work: impl Future<Output = T>) -> T {
        self.stop.measuring();
        self.watch.begin();
        let done = work.await;
        self.watch.end();
        done
    }

    /// Waits for `work` to complete. Ctrl-C stops `schedule`, so that it completes early.
    pub async fn ends_early<T>(&self, schedule: &Schedule, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.stop.requested() => schedule.stop(),
        }
        work.await
    }

    /// Waits for `time`; returns false if Ctrl-C came first.
    pub async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = sleep(time) => true,
            () = self.stop.requested() => false,
        }
    }

    pub fn interrupted(&self) -> bool {
        self.stop.is_requested()
    }

    pub fn used(&self) -> Used {
        self.watch.used()
    }

    /// Prints the table and writes the files. Fails if a reader did not receive exactly what was appended.
    pub fn conclude(&self, summary: &Summary) -> Result<(), Error> {
        println!("{summary}");
        if let Some(path) = &self.common.json {
            write(path, &format!("{:#}\n", summary.json()))?;
        }
        if let Some(path) = &self.common.report {
            write(path, &report::html(summary))?;
        }
        match summary.faults.first.first() {
            None if summary.interrupted => Err(Error::Stopped),
            None => Ok(()),
            Some(first) => Err(Error::Inexact {
                count: summary.faults.count,
                first: first.to_string(),
            }),
        }
    }
}

/// Waits for `work` and shows its progress: `so_far` returns a position out of `length`, and a text.
pub async fn with_progress<T>(
    length: u64,
    so_far: impl Fn() -> (u64, String),
    work: impl Future<Output = T>,
) -> T {
    let mut progress = Progress::new(Some(length));
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => {
                let (position, text) = so_far();
                progress.set(position, || text);
            }
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| {
        let path = path.to_owned();
        client::Error::Write { path, source }.into()
    })
}
