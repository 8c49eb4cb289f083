//! `newsfeed-bench fanout`: delivers the events of one stream to many subscribers, on any service with server-sent
//! events, so that the same code measures newsfeed and its peers. `benches/peers/compare.py` starts it, samples the
//! service's memory when it prints `subscribed`, and makes it continue by writing a line to its stdin.
//!
//! Appends are due on a schedule that does not wait for responses, and latencies count from when an append was due. The
//! run fails unless every subscriber receives every event exactly once. The order is not checked, since appends
//! overlap.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use memchr::memmem;
use serde_json::json;
use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::{
    error::Error,
    http::{Head, head},
};

/// Placeholder for an event's number in the body of an append. The service must deliver the number unchanged.
const PLACEHOLDER: &str = "{n}";
const MARK: &[u8] = b"number:";
const DIGITS: usize = 9;
const APPENDERS: u32 = 4;
/// How long after the last append a missing event counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Deliver the events of one stream to many subscribers, on any service with server-sent events
///
/// Prints `subscribed` when all streams are open, waits for a line on stdin, and prints the results as JSON.
#[derive(Debug, Clone, clap::Args)]
pub struct FanoutArgs {
    /// Address and port of the service
    #[arg(long)]
    to: SocketAddr,
    /// Path of the stream
    #[arg(long)]
    subscribe: String,
    /// Path to which events are appended
    #[arg(long)]
    append: String,
    /// JSON body of an append; must contain `number:{n}`
    #[arg(long)]
    body: String,
    /// Number of subscribers
    #[arg(long)]
    subscribers: u32,
    /// Events per second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long to append, in seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
}

/// When each event is due.
struct Schedule {
    start: OnceLock<Instant>,
    rate: u32,
    events: u32,
}

impl Schedule {
    fn due(&self, number: u32) -> Option<Instant> {
        let after = Duration::from_secs_f64(f64::from(number) / f64::from(self.rate));
        Some(*self.start.get()? + after)
    }
}

pub async fn run(args: FanoutArgs) -> Result<(), Error> {
    fan_out(args)
        .await
        .map_err(|failure| Error::FanOut(failure.to_string()))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn fan_out(args: FanoutArgs) -> Result<(), Failure> {
    let args = Arc::new(args);
    let schedule = Arc::new(Schedule {
        start: OnceLock::new(),
        rate: args.rate,
        events: args.rate * args.seconds,
    });
    let mut listeners = JoinSet::new();
    for _ in 0..args.subscribers {
        let subscriber = Subscriber::open(&args).await?;
        listeners.spawn(subscriber.listen(Arc::clone(&schedule)));
    }
    println!("subscribed");
    let go_on = tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
    if go_on.await?? == 0 {
        return Err("stdin ended before the run began".into());
    }

    let begun = schedule.start.get_or_init(Instant::now);
    let numbers = Arc::new(AtomicU32::new(0));
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|_| {
            let (args, schedule, numbers) = (args.clone(), schedule.clone(), numbers.clone());
            thread::spawn(move || append(&args, &schedule, &numbers))
        })
        .collect();
    let mut latencies = Vec::new();
    let deadline = Duration::from_secs(args.seconds.into()) + SILENCE_MAX;
    let all_heard = async {
        while let Some(heard) = listeners.join_next().await {
            latencies.extend(heard??);
        }
        Ok::<_, Failure>(())
    };
    let heard = tokio::time::timeout(deadline, all_heard).await;
    let elapsed = begun.elapsed();
    for appender in appenders {
        appender.join().map_err(|_| "an appender panicked")??;
    }
    heard.map_err(|_| "events were lost: not every subscriber received all of them")??;

    latencies.sort_unstable();
    let quantile = |share: f64| {
        let rank = (latencies.len() as f64 * share) as usize;
        f64::from(latencies[rank.min(latencies.len() - 1)]) / 1e3
    };
    let result = json!({
        "deliveries": latencies.len(), "elapsed_seconds": elapsed.as_secs_f64(),
        "p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "max_ms": quantile(1.0),
    });
    println!("{result}");
    Ok(())
}

struct Subscriber {
    socket: tokio::net::TcpStream,
    received: Vec<u8>,
}

impl Subscriber {
    /// Returns after the head of the response: from then on the service delivers new events.
    async fn open(args: &FanoutArgs) -> Result<Self, Failure> {
        let mut socket = tokio::net::TcpStream::connect(args.to).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n",
            args.subscribe, args.to
        );
        socket.write_all(request.as_bytes()).await?;
        let mut subscriber = Self {
            socket,
            received: Vec::new(),
        };
        loop {
            subscriber.receive().await?;
            match head(&subscriber.received)? {
                Some(Head { status: 200, .. }) => return Ok(subscriber),
                Some(Head { status, .. }) => {
                    return Err(format!("GET {} returned status {status}", args.subscribe).into());
                }
                None => {}
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Failure> {
        loop {
            self.socket.readable().await?;
            match self.socket.try_read_buf(&mut self.received) {
                Ok(0) => return Err("the service ended a stream".into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for all events; returns the latency of each delivery, in µs.
    async fn listen(mut self, schedule: Arc<Schedule>) -> Result<Vec<u32>, Failure> {
        let mut latencies = Vec::with_capacity(schedule.events as usize);
        let mut heard = vec![false; schedule.events as usize];
        while latencies.len() < schedule.events as usize {
            self.receive().await?;
            let now = Instant::now();
            let mut used = 0;
            while let Some(at) = memmem::find(&self.received[used..], MARK) {
                let from = used + at + MARK.len();
                let Some(digits) = self.received.get(from..from + DIGITS) else {
                    break;
                };
                let number: u32 = std::str::from_utf8(digits)?.parse()?;
                match heard.get_mut(number as usize) {
                    Some(heard) if !*heard => *heard = true,
                    Some(_) => return Err(format!("event {number} was delivered twice").into()),
                    None => return Err(format!("event {number} was never appended").into()),
                }
                let due = schedule
                    .due(number)
                    .ok_or("an event was delivered before the run")?;
                latencies.push(now.duration_since(due).as_micros() as u32);
                used = from + DIGITS;
            }
            // The last bytes may be the beginning of a mark or its number.
            let kept = (self.received.len() - used).min(MARK.len() + DIGITS - 1);
            let from = self.received.len() - kept;
            self.received.drain(..from);
        }
        Ok(latencies)
    }
}

fn append(args: &FanoutArgs, schedule: &Schedule, numbers: &AtomicU32) -> Result<(), Failure> {
    let mut socket = TcpStream::connect(args.to)?;
    socket.set_nodelay(true)?;
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if number >= schedule.events {
            return Ok(());
        }
        let body = args
            .body
            .replace(PLACEHOLDER, &format!("{number:0DIGITS$}"));
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            args.append,
            args.to,
            body.len()
        );
        let due = schedule.due(number).ok_or("the run has not started")?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        socket.write_all(request.as_bytes())?;
        let status = answer(&mut socket)?;
        if !(200..300).contains(&status) {
            return Err(format!("POST {} returned status {status}", args.append).into());
        }
    }
}

/// Reads a response to its end; returns its status.
fn answer(socket: &mut TcpStream) -> Result<u16, Failure> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match socket.read(&mut buffer)? {
            0 => return Err("the service closed a connection that appends".into()),
            length => received.extend_from_slice(&buffer[..length]),
        }
        if let Some(head) = head(&received)?
            && received.len() >= head.bytes + head.length.unwrap_or_default()
        {
            return Ok(head.status);
        }
    }
}
