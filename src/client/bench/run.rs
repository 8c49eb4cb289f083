//! What every sub-command does: get ready, show progress, tell the results.

use std::{fs, path::Path, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{args::Common, report, summary::Summary};
use crate::client::{Error, progress::Progress};

const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Does `work` and shows how far it is: `so_far` answers a position out of `length`, and words.
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

/// Prints the table and writes the files; fails if a reader did not get exactly what was appended.
pub fn conclude(common: &Common, summary: &Summary) -> Result<(), Error> {
    println!("{summary}");
    if let Some(path) = &common.json {
        write(path, &format!("{:#}\n", summary.json()))?;
    }
    if let Some(path) = &common.report {
        write(path, &report::html(summary))?;
    }
    match summary.faults.first.first() {
        None => Ok(()),
        Some(first) => Err(Error::Inexact {
            count: summary.faults.count,
            first: first.to_string(),
        }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}
