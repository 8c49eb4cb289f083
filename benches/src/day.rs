//! `newsfeed-bench day`: replays a recorded list of messages in a few seconds.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use newsfeed::client::list::{self, Message};
use serde_json::json;

use super::{
    args::{Common, Events},
    error::Error,
    fleet::ReadMode,
    ledger::{Fault, FaultKind, Faults},
    pages::{Page, PageReaders},
    plan::Plan,
    run::Run,
    schedule::{Pace, Schedule},
    session::Session,
    stop::Stop,
    writers::get,
};

/// Messages on the page that is read when a chat is opened.
const CHAT_ENTRIES: u8 = 20;
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Replay a recorded list of messages faster, with a live stream per receiver and a page of the chat per message
///
/// The list has the format of `newsfeed replay`: `SENDER RECEIVER UNIX_SECONDS` on each line, plain or gzip. Messages
/// keep their senders, receivers and relative timing; all pauses are shortened by the same factor, so that the replay
/// takes --seconds.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  \
    newsfeed-bench day CollegeMsg.txt.gz --limit 20000 --seconds 60")]
pub struct DayArgs {
    /// List of messages, plain or gzip
    file: PathBuf,
    #[command(flatten)]
    common: Common,
    /// Duration of the replay, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Stop after this many lines [default: all]
    #[arg(long, value_name = "LINES")]
    limit: Option<usize>,
    #[command(flatten)]
    events: Events,
}

pub async fn run(args: DayArgs, stop: Stop) -> Result<(), Error> {
    let run = Run::new(args.common.clone(), stop)?;
    let DayArgs {
        file,
        seconds,
        limit,
        events,
        ..
    } = &args;
    let mut messages = list::read(file, *limit)?;
    // Some published lists have a few lines out of order.
    messages.sort_by_key(|message| message.sent);
    let Some((moments, times)) = compressed(&messages, *seconds) else {
        let message = format!(
            "{} contains no messages: choose another list",
            file.display()
        );
        return Err(Error::Arguments(message));
    };
    let lines = messages.len();
    let plan = Plan::day(&events.kind, events.text as usize, messages);
    let readers = plan.channels().len();
    let session = Session {
        command: "day",
        parameters: json!({
            "file": file, "lines": lines, "seconds": seconds, "times_faster": times,
            "connections": events.connections, "kind": events.kind, "text": events.text,
        }),
        plan,
        schedule: Schedule::new(Pace::At(moments.clone())),
        batch: 1,
        connections: events.connections,
        other_connections: events.connections,
        follows: (0..readers).collect(),
        idle: 0,
        log_readers: 0,
        laggards: Vec::new(),
        mode: ReadMode::Stream,
        storm: None,
        silence_max: SILENCE_MAX,
    };
    let opened = session.open(&run).await?;

    let page_schedule = Schedule::new(Pace::At(moments));
    let pages = PageReaders::new(Arc::clone(&opened.dialer), Arc::clone(&page_schedule));
    let wrong_pages = Arc::new(Mutex::new(Faults::default()));
    let path = {
        let plan = Arc::clone(&opened.plan);
        move |request| {
            let chat = chat(&plan, request);
            format!("/v1/feeds/{chat}/entries?limit={CHAT_ENTRIES}")
        }
    };
    let check = {
        let (plan, faults) = (Arc::clone(&opened.plan), Arc::clone(&wrong_pages));
        move |request, page: &Page<'_>| {
            let feed = chat(&plan, request);
            if let Some((kind, id)) = first_fault(page, &feed, &plan, lines as u64) {
                let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                faults.add(Fault {
                    kind,
                    feed,
                    id,
                    readers: 1,
                });
            }
        }
    };
    page_schedule.start();
    let reading = pages.run(events.connections, path, check);
    let reading = run.ends_early(&page_schedule, reading);
    let (mut summary, ()) = tokio::try_join!(opened.measure(&run), reading)?;

    summary.counts.extend(pages.counts());
    summary.per.push(("page", get(&pages.read)));
    summary.figures.push(("times_faster", times));
    summary.measured(&pages.page);
    let wrong_pages =
        std::mem::take(&mut *wrong_pages.lock().unwrap_or_else(PoisonError::into_inner));
    summary.faults.merge(wrong_pages);
    run.conclude(&summary)
}

/// When each message is due, and how many times faster than the original; `None` without messages.
fn compressed(messages: &[Message], seconds: u32) -> Option<(Vec<Duration>, f64)> {
    let (first, last) = (messages.first()?, messages.last()?);
    let original = last.sent.saturating_sub(first.sent).max(1) as f64;
    let times = original / f64::from(seconds);
    let due = |message: &Message| {
        let after = message.sent.saturating_sub(first.sent) as f64 / times;
        Duration::from_secs_f64(after)
    };
    Some((messages.iter().map(due).collect(), times))
}

fn chat(plan: &Plan, message: u64) -> String {
    let mut feeds = plan.feeds_of(message as u32);
    feeds.pop().unwrap_or_default()
}

/// The first entry of a page that would be wrong at any point of the run. Which entries a page must have depends on
/// what was appended when it was read, so missing entries are not detected here.
fn first_fault(
    page: &Page<'_>,
    feed: &str,
    plan: &Plan,
    events: u64,
) -> Option<(FaultKind, String)> {
    let mut below = None;
    let mut seen = Vec::new();
    for item in &page.entries {
        let fault = |kind| Some((kind, item.id.to_string()));
        match item.number(plan, events) {
            Some((_, number)) if chat(plan, number.into()) != feed => {
                return fault(FaultKind::Unexpected);
            }
            None => return fault(FaultKind::Unexpected),
            Some((_, number)) if seen.contains(&number) => return fault(FaultKind::Duplicated),
            Some((version, _)) if below.is_some_and(|below| version >= below) => {
                return fault(FaultKind::OutOfOrder);
            }
            Some((version, number)) => {
                below = Some(version);
                seen.push(number);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_list_fits_into_the_seconds() {
        let messages = [0, 50, 100].map(|sent| Message::new(1, 2, sent));
        let (moments, times) = compressed(&messages, 10).expect("messages");
        assert_eq!(moments, [0, 5, 10].map(Duration::from_secs));
        assert!((times - 10.0).abs() < 1e-9);
        assert!(compressed(&[], 10).is_none());
        let (moments, _) = compressed(&messages[..1], 10).expect("a message");
        assert_eq!(moments, [Duration::ZERO]);
    }
}
