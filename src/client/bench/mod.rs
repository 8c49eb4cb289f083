//! `newsfeed bench`: how fast a running service is, and whether it is right while it is fast.
//!
//! # Layout
//! - [`schedule`]: when requests are due, whatever the service does (open loop). [`recorder`]: latencies from then on.
//! - [`plan`]: what is appended and who hears it. [`ledger`]: what each reader must have got.
//! - [`target`], [`patient`], [`pool`], [`connection`] ([`http1`], [`http2`]), [`http`], [`chunked`]: connections, as cheap as they can
//!   be. [`stream`], [`source`]: live streams.
//! - [`writers`], [`fleet`] and its [`reader`]s, [`pages`]: those who append, follow, and read pages.
//! - [`watch`], [`usage`], [`used`]: what CPU time and memory the processes of the service used, and this one.
//! - [`session`]: a run with readers. `append`, `live`, `page`, `day`, `overload`: the sub-commands. [`run`]: what all share.
//!   [`stop`]: Ctrl-C.
//! - [`summary`], [`report`], [`chart`]: table, JSON, HTML.

mod append;
mod args;
mod chart;
mod chunked;
mod connection;
mod day;
mod fleet;
mod http;
mod http1;
mod http2;
mod ledger;
mod live;
mod overload;
mod page;
mod pages;
mod patient;
mod plan;
mod pool;
mod reader;
mod recorder;
mod report;
mod run;
mod schedule;
mod session;
mod source;
mod stop;
mod stream;
mod summary;
mod target;
mod used;
mod watch;
mod writers;

use std::thread;

use tokio::runtime::Builder;

use self::stop::Stop;
use super::Error;

/// Measure a running service, and check that it loses, doubles and reorders nothing
///
/// Requests go out on a schedule that does not wait for answers, and latencies count from when a request was due: a
/// service that stalls cannot hide it. Every run has feeds of its own and appends to the store; use one that you can
/// throw away. The exit code is 1 if any reader did not get exactly what was appended.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Threads that make the load [default: half as many as there are CPUs, for the service may need the others]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    Append(append::AppendArgs),
    /// Deliver events to subscribers of live streams (server-sent events)
    #[command(after_help = "Examples:\n  \
        newsfeed bench live --subscribers 20000 --feeds 20000 --rate 5000 --seconds 60\n  \
        newsfeed bench live --subscribers 10000 --hot-subscribers 10000 --hot-rate 100 --rate 100   one hot feed\n  \
        newsfeed bench live --subscribers 100 --feeds 10000 --merged 100                            100 feeds as one\n  \
        newsfeed bench live --subscribers 100 --idle 20000                                          most hear nothing\n  \
        newsfeed bench live --hot-subscribers 100 --hot-rate 500 --stuck 50 --slow 50               some do not read")]
    Live(live::LiveArgs),
    /// Deliver events to readers that long poll
    #[command(after_help = "Example:\n  \
        newsfeed bench poll --subscribers 5000 --feeds 5000 --rate 500 --seconds 30")]
    Poll(live::ReaderArgs),
    /// Drop all streams at once, halfway, and see how long until everybody has everything again
    ///
    /// They come back at once with `Last-Event-ID`; those that are refused try again after 0.1 to 1 s. Events are
    /// appended all the time.
    #[command(after_help = "Example:\n  \
        newsfeed bench storm --subscribers 20000 --feeds 20000 --rate 500 --seconds 30")]
    Storm(live::ReaderArgs),
    Pages(page::PagesArgs),
    Day(day::DayArgs),
    Overload(overload::OverloadArgs),
}

/// The command; a first Ctrl-C ends its load early, a second one ends it without results.
pub async fn run(args: BenchArgs) -> Result<(), Error> {
    let stop = Stop::default();
    let threads = args.threads.map_or_else(half_of_the_cpus, usize::from);
    let load = Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Error::Arguments(format!("--threads {threads}: {error}")))?;
    let measured = load.spawn(measure(args.what, stop.clone()));
    let result = tokio::select! {
        result = measured => result.expect("a run does not panic and is not aborted"),
        () = stop.at_once() => Err(Error::Interrupted),
    };
    load.shutdown_background();
    result
}

/// Fewer threads wake each other less.
fn half_of_the_cpus() -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).max(1)
}

async fn measure(what: What, stop: Stop) -> Result<(), Error> {
    match what {
        What::Append(args) => append::run(args, stop).await,
        What::Live(args) => live::run(args, stop).await,
        What::Poll(args) => live::run_poll(args, stop).await,
        What::Storm(args) => live::run_storm(args, stop).await,
        What::Pages(args) => page::run(args, stop).await,
        What::Day(args) => day::run(args, stop).await,
        What::Overload(args) => overload::run(args, stop).await,
    }
}
