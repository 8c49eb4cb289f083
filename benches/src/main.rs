//! `newsfeed-bench` measures how fast a running service is, and checks that it is correct while it is fast.
//!
//! # Layout
//! - [`schedule`]: when requests are due, whatever the service does (open loop). [`recorder`]: latencies from then on.
//! - [`plan`]: what is appended and who receives it. [`ledger`]: what each reader must have received.
//! - [`target`], [`timeout`], [`pool`], [`connection`] ([`http1`], [`http2`]), [`http`], [`chunked`]: connections.
//!   [`stream`], [`source`]: live streams.
//! - [`writers`], [`fleet`] and its [`reader`]s, [`pages`]: clients that append, follow feeds, and read pages.
//! - [`watch`], [`used`]: the CPU time and memory that the processes of the service used, and this one.
//! - [`session`]: a run with readers. [`append`], [`live`], [`page`], [`day`], [`log`], [`overload`], [`fairness`]: the
//!   subcommands. [`engine`]: the log, read without the service. [`run`]: what all of them share. [`stop`]: Ctrl-C. [`error`]: why a run ended early.
//! - For comparisons: [`fanout`], live streams of any service; [`jetstream`], appends to NATS JetStream; `bare` (feature `fdb`): the FoundationDB client alone.
//! - [`summary`], [`report`], [`chart`]: the results as a table, as JSON, and as HTML.
//!
//! The tests of the service compile this file as a module, so paths here are relative to it (`super::`).

mod append;
mod args;
#[cfg(feature = "fdb")]
mod bare;
mod chart;
mod chunked;
mod connection;
mod day;
mod engine;
mod error;
mod fairness;
mod fanout;
mod fleet;
mod http;
mod http1;
mod http2;
mod jetstream;
mod ledger;
mod live;
mod log;
mod overload;
mod page;
mod pages;
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
mod timeout;
mod used;
mod watch;
mod writers;

use std::{io, process::ExitCode, thread};

use clap::Parser;
use newsfeed::{client, logging};
use tokio::runtime::{self, Runtime};

use self::{error::Error, stop::Stop};

/// The allocator of the service's own program.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure a running newsfeed service, and check that it loses, duplicates and reorders nothing
///
/// Requests follow a schedule that does not wait for answers, and latencies count from when a request was due, so a
/// service that stalls cannot hide it. Every run appends to feeds of its own; use a store that you can throw away. The
/// exit code is 1 if any reader did not receive exactly what was appended.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    /// Threads that generate the load [default: half the number of CPUs, because the service may need the others]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Append(append::AppendArgs),
    /// Deliver events to subscribers of live streams (server-sent events)
    #[command(after_help = "Examples:\n  \
        newsfeed-bench live --subscribers 20000 --feeds 20000 --rate 5000 --seconds 60\n  \
        newsfeed-bench live --subscribers 10000 --hot-subscribers 10000 --hot-rate 100 --rate 100   one hot feed\n  \
        newsfeed-bench live --subscribers 100 --feeds 10000 --merged 100                            100 feeds as one\n  \
        newsfeed-bench live --subscribers 100 --idle 20000                                          most receive nothing\n  \
        newsfeed-bench live --hot-subscribers 100 --hot-rate 500 --stuck 50 --slow 50               some do not read")]
    Live(live::LiveArgs),
    /// Deliver events to readers that long poll
    #[command(after_help = "Example:\n  \
        newsfeed-bench poll --subscribers 5000 --feeds 5000 --rate 500 --seconds 30")]
    Poll(live::ReaderArgs),
    /// Drop all streams at once, halfway, and measure how long it takes until every reader has everything again
    ///
    /// Readers reconnect at once with `Last-Event-ID`; those that are refused try again after 0.1 to 1 s. Events are
    /// appended all the time.
    #[command(after_help = "Example:\n  \
        newsfeed-bench storm --subscribers 20000 --feeds 20000 --rate 500 --seconds 30")]
    Storm(live::ReaderArgs),
    Pages(page::PagesArgs),
    Day(day::DayArgs),
    Log(log::LogArgs),
    Overload(overload::OverloadArgs),
    Fairness(fairness::FairnessArgs),
    Fanout(fanout::FanoutArgs),
    Jetstream(jetstream::JetstreamArgs),
    #[cfg(feature = "fdb")]
    Bare(bare::BareArgs),
}

fn main() -> ExitCode {
    let Cli { threads, command } = Cli::parse();
    logging::init_for_commands();
    match run(threads, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The message may contain text from the service.
            eprintln!("newsfeed-bench: {}", client::printable(&error.to_string()));
            error.exit_code().into()
        }
    }
}

/// The first Ctrl-C ends the load early, a second one ends the program without results.
fn run(threads: Option<u16>, command: Command) -> Result<(), Error> {
    let threads = threads.map_or_else(half_of_the_cpus, usize::from);
    let cannot_start =
        |error: io::Error| Error::Arguments(format!("cannot start {threads} threads: {error}"));
    let load = load_runtime(threads).map_err(cannot_start)?;
    let main = runtime::Builder::new_current_thread().enable_all().build();
    let main = main.map_err(cannot_start)?;
    let stop = Stop::default();
    let measured = load.spawn(measure(command, stop.clone()));
    let result = main.block_on(async {
        tokio::select! {
            result = measured => result.expect("a run does not panic and is not aborted"),
            () = stop.at_once() => Err(Error::Interrupted),
        }
    });
    load.shutdown_background();
    result
}

fn load_runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build()
}

/// Fewer threads wake each other less.
fn half_of_the_cpus() -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).max(1)
}

async fn measure(command: Command, stop: Stop) -> Result<(), Error> {
    match command {
        Command::Append(args) => append::run(args, stop).await,
        Command::Live(args) => live::run(args, stop).await,
        Command::Poll(args) => live::run_poll(args, stop).await,
        Command::Storm(args) => live::run_storm(args, stop).await,
        Command::Pages(args) => page::run(args, stop).await,
        Command::Day(args) => day::run(args, stop).await,
        Command::Log(args) => log::run(args, stop).await,
        Command::Overload(args) => overload::run(args, stop).await,
        Command::Fairness(args) => fairness::run(args, stop).await,
        Command::Fanout(args) => fanout::run(args).await,
        Command::Jetstream(args) => jetstream::run(args).await,
        #[cfg(feature = "fdb")]
        Command::Bare(args) => bare::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_the_guide_are_understood() {
        let guide = include_str!("../README.md");
        let commands = guide
            .lines()
            .filter(|line| line.starts_with("newsfeed-bench ") && !line.contains("--help"));
        let commands: Vec<_> = commands
            .map(|line| {
                line.split(" #")
                    .next()
                    .unwrap_or(line)
                    .replace("$(pgrep -fo 'newsfeed serve')", "1")
            })
            .collect();
        assert!(commands.len() > 8, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(command.split_whitespace());
            parsed
                .map(drop)
                .unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }
}
