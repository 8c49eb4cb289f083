//! `newsfeed-bench append`: appends events to many feeds, one by one or in arrays.

use std::sync::Arc;

use serde_json::json;

use super::error::Error;
use super::{
    args::{Common, Load, parse_rate},
    ledger::{Acknowledged, Channel},
    pages,
    plan::Plan,
    run::Run,
    stop::Stop,
    summary::Summary,
    writers::Writers,
};

/// Append events, one by one or in arrays, then read all feeds back and check them
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    newsfeed-bench append --rate 5000 --seconds 30                  5,000 single appends per second\n  \
    newsfeed-bench append --rate 100000 --batch 100 --connections 8 arrays of 100\n  \
    newsfeed-bench append --closed-loop --connections 50            as fast as 50 clients can append\n  \
    newsfeed-bench append --url http://a:8080 --url http://b:8080   two nodes of one cluster")]
pub struct AppendArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    load: Load,
    /// Events per second
    #[arg(long, value_name = "EVENTS", default_value = "1000", value_parser = parse_rate)]
    rate: f64,
    /// Measure the highest throughput: each connection sends its next request as soon as it has a response. Latencies
    /// count from sending, so they are not comparable with those at a fixed rate
    #[arg(long, conflicts_with = "rate")]
    closed_loop: bool,
    /// Number of feeds over which the events are spread
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    feeds: u32,
}

pub async fn run(args: AppendArgs, stop: Stop) -> Result<(), Error> {
    let AppendArgs {
        common,
        load,
        rate,
        closed_loop,
        feeds,
    } = args;
    let events = &load.events;
    let run = Run::new(common, stop)?;
    let dialer = run.dialer(events.connections as usize).await?;
    let plan = Arc::new(Plan::spread(
        &events.kind,
        events.text as usize,
        feeds,
        1,
        None,
    ));
    let schedule = if closed_loop {
        load.closed_loop()
    } else {
        load.schedule(rate)?
    };
    let writers = Writers::new(
        Arc::clone(&dialer),
        Arc::clone(&plan),
        Arc::clone(&schedule),
        load.batch,
    );

    let work = writers.run(events.connections);
    let sent = run.load(&schedule, || writers.so_far(), work).await?;
    let elapsed = schedule.elapsed();

    let channels: Vec<Arc<Channel>> = channels(&plan);
    let appended = sent.len();
    let acknowledged = Acknowledged::new(&plan, channels.len(), sent);
    eprintln!("reading the feeds back");
    let all = schedule.count() * u64::from(load.batch);
    let faults = pages::audit(&dialer, &plan, &channels, &acknowledged, all).await?;
    let mut parameters = load.json();
    parameters["feeds"] = json!(feeds);
    parameters["rate"] = json!((!closed_loop).then_some(rate));
    parameters["urls"] = json!(run.common.url);
    let mut summary = Summary {
        command: "append",
        run: plan.run().to_owned(),
        parameters,
        closed_loop,
        interrupted: run.interrupted(),
        elapsed,
        counts: writers.counts(),
        figures: vec![(
            "appended_per_second",
            appended as f64 / elapsed.as_secs_f64(),
        )],
        latencies: Vec::new(),
        faults,
        used: run.used(),
        per: vec![("append", appended as u64)],
        readers: 0,
    };
    summary.measured(&writers.append);
    summary.measured(&writers.start_lag);
    run.conclude(&summary)
}

pub fn channels(plan: &Plan) -> Vec<Arc<Channel>> {
    let feeds = plan.channels().into_iter().enumerate();
    feeds
        .map(|(index, feeds)| Arc::new(Channel::new(index, feeds)))
        .collect()
}
