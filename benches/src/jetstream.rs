//! `newsfeed-bench jetstream`: appends to a stream of NATS JetStream, for comparisons. `benches/peers/compare.py` starts
//! it.
//!
//! A closed loop: each writer has a connection of its own, publishes `--batch` events at once, each with an id that
//! JetStream checks for duplicates, and waits until all of them are acknowledged. The run fails unless every event is
//! acknowledged as new and the stream then holds as many more messages.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use memchr::memmem;
use rand::RngExt;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{
    args::closed_loop,
    error::Error,
    recorder::{Recorder, ms},
    schedule::Schedule,
};

const STREAM: &str = "newsfeed-bench";
/// How long an unanswered request counts as in progress.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// JetStream forgets an id after this time: its default.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Append to a stream of NATS JetStream, and print the results as JSON
///
/// The run creates the stream unless an earlier one has.
#[derive(Debug, Clone, clap::Args)]
pub struct JetstreamArgs {
    /// Address and port of the server
    #[arg(long)]
    to: SocketAddr,
    /// Number of writers, each with a connection of its own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    writers: u32,
    /// Events that a writer publishes before it waits for their acknowledgements
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Number of feeds, each of which is a subject
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    feeds: u32,
    /// Length of the text in an event's data, in bytes
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    text: u32,
    /// How long to append, in seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
}

pub async fn run(args: JetstreamArgs) -> Result<(), Error> {
    append(args)
        .await
        .map_err(|failure| Error::JetStream(failure.to_string()))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn append(args: JetstreamArgs) -> Result<(), Failure> {
    let mut control = Connection::open(args.to).await?;
    let before = control.ask("CREATE", &stream()).await?.state.messages;
    let args = Arc::new(args);
    let schedule = closed_loop(args.seconds, args.batch);
    let latency = Arc::new(Recorder::new("append"));
    let mut connections = Vec::new();
    for _ in 0..args.writers {
        connections.push(Connection::open(args.to).await?);
    }
    schedule.start();
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for connection in connections {
        let (args, schedule, latency) = (args.clone(), schedule.clone(), latency.clone());
        writers.spawn(write(connection, args, schedule, latency));
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let elapsed = began.elapsed();

    let appended = schedule.handed_out() * u64::from(args.batch);
    let stored = control.ask("INFO", "").await?.state.messages - before;
    if stored != appended {
        let message = format!("{appended} events were acknowledged, but {stored} are stored");
        return Err(message.into());
    }
    let latencies = latency.take().all;
    let result = json!({
        "appended": appended, "elapsed_seconds": elapsed.as_secs_f64(),
        "p50_ms": ms(latencies.value_at_quantile(0.5)), "p99_ms": ms(latencies.value_at_quantile(0.99)),
    });
    println!("{result}");
    Ok(())
}

/// Part of event ids, so that runs do not share ids.
fn run_number() -> u64 {
    static RUN: OnceLock<u64> = OnceLock::new();
    *RUN.get_or_init(rand::random)
}

/// Everything in files and nothing discarded; one replica.
fn stream() -> String {
    let stream = json!({
        "name": STREAM, "subjects": ["feed.>"], "retention": "limits", "storage": "file", "num_replicas": 1,
        "duplicate_window": DUPLICATE_WINDOW.as_nanos() as u64,
    });
    stream.to_string()
}

async fn write(
    mut connection: Connection,
    args: Arc<JetstreamArgs>,
    schedule: Arc<Schedule>,
    latency: Arc<Recorder>,
) -> Result<(), Failure> {
    let (run, text) = (run_number(), "x".repeat(args.text as usize));
    let mut sent = Vec::new();
    while let Some((request, due)) = schedule.next().await {
        sent.clear();
        for index in 0..args.batch {
            let id = format!("{run:x}-{request}-{index}");
            let feed = rand::rng().random_range(0..args.feeds);
            let data = format!(r#"{{"id":"{id}","kind":"visit","data":{{"text":"{text}"}}}}"#);
            let reply = connection.reply(index);
            publish(&mut sent, &format!("feed.{feed}"), &reply, &id, &data);
        }
        connection.send(&sent).await?;
        let mut unanswered = vec![true; args.batch.into()];
        for _ in 0..args.batch {
            let (index, answer) = connection.answer().await?;
            let waiting = unanswered.get_mut(usize::from(index));
            if !waiting.is_some_and(std::mem::take) {
                return Err(format!("an event was acknowledged twice: {answer}").into());
            }
            acknowledged(&answer)?;
        }
        latency.record(&schedule, due, Instant::now());
    }
    Ok(())
}

/// Adds a message with an event's id to `out`.
fn publish(out: &mut Vec<u8>, subject: &str, reply: &str, id: &str, data: &str) {
    let head = format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n");
    let (head_bytes, bytes) = (head.len(), head.len() + data.len());
    let message = format!("HPUB {subject} {reply} {head_bytes} {bytes}\r\n{head}{data}\r\n");
    out.extend_from_slice(message.as_bytes());
}

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

fn acknowledged(answer: &str) -> Result<(), Failure> {
    match serde_json::from_str(answer)? {
        Ack {
            seq: 1..,
            duplicate: false,
        } => Ok(()),
        _ => Err(format!("an event was not stored: {answer}").into()),
    }
}

#[derive(Deserialize)]
struct Stream {
    state: State,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
}

/// A connection that receives answers to its own requests.
struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    /// Subject of answers, without the number of the request.
    inbox: String,
}

impl Connection {
    async fn open(to: SocketAddr) -> Result<Self, Failure> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        let inbox = format!("_INBOX.{:x}.{}", run_number(), socket.local_addr()?.port());
        let mut connection = Self {
            socket,
            received: Vec::new(),
            inbox,
        };
        let greeting = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB {}.* 1\r\nPING\r\n",
            connection.inbox
        );
        connection.send(greeting.as_bytes()).await?;
        while connection.frame().await? != Frame::Pong {}
        Ok(connection)
    }

    fn reply(&self, number: u16) -> String {
        format!("{}.{number}", self.inbox)
    }

    /// A request to the API of JetStream about the stream.
    async fn ask(&mut self, call: &str, body: &str) -> Result<Stream, Failure> {
        let request = format!(
            "PUB $JS.API.STREAM.{call}.{STREAM} {} {}\r\n{body}\r\n",
            self.reply(0),
            body.len()
        );
        self.send(request.as_bytes()).await?;
        let (_, answer) = self.answer().await?;
        serde_json::from_str(&answer)
            .map_err(|_| format!("STREAM.{call} was answered with {answer}").into())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// The next answer, with the number of its request.
    async fn answer(&mut self) -> Result<(u16, String), Failure> {
        loop {
            if let Frame::Message(subject, body) = self.frame().await? {
                let number = subject.rsplit('.').next().unwrap_or_default().parse()?;
                return Ok((number, body));
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame, Failure> {
        loop {
            if let Some((frame, used)) = frame(&self.received)? {
                self.received.drain(..used);
                match frame {
                    Frame::Ping => self.send(b"PONG\r\n").await?,
                    Frame::Error(error) => return Err(format!("the server says {error}").into()),
                    frame => return Ok(frame),
                }
            } else {
                let read = self.socket.read_buf(&mut self.received);
                match timeout(ANSWER_MAX, read).await {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0)) => return Err("the server closed a connection".into()),
                    Ok(Err(error)) => return Err(error.into()),
                    Err(_) => return Err("the server does not answer".into()),
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Ping,
    Pong,
    /// `INFO`, `+OK`.
    Other,
    Error(String),
    /// Subject and body.
    Message(String, String),
}

/// The first frame, and its length; `None` while it is incomplete.
fn frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, Failure> {
    let Some(end) = memmem::find(bytes, b"\r\n") else {
        return Ok(None);
    };
    let (line, head) = (std::str::from_utf8(&bytes[..end])?, end + 2);
    let mut words = line.split_ascii_whitespace();
    let frame = match words.next() {
        Some("MSG" | "HMSG") => {
            let subject = words.next().unwrap_or_default().to_owned();
            let length: usize = words.next_back().unwrap_or_default().parse()?;
            let Some(body) = bytes.get(head..head + length + 2) else {
                return Ok(None);
            };
            let body = String::from_utf8_lossy(&body[..length]).into_owned();
            return Ok(Some((Frame::Message(subject, body), head + length + 2)));
        }
        Some("PING") => Frame::Ping,
        Some("PONG") => Frame::Pong,
        Some("-ERR") => Frame::Error(line.to_owned()),
        _ => Frame::Other,
    };
    Ok(Some((frame, head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart_at_every_cut() {
        let whole =
            b"INFO {}\r\nPONG\r\nMSG _INBOX.1.7 1 11\r\n{\"seq\":\r\n1}\r\nPING\r\n-ERR 'x'\r\n";
        let expected = [
            Frame::Other,
            Frame::Pong,
            Frame::Message("_INBOX.1.7".to_owned(), "{\"seq\":\r\n1}".to_owned()),
            Frame::Ping,
            Frame::Error("-ERR 'x'".to_owned()),
        ];
        for cut in 0..=whole.len() {
            let (mut received, mut rest) = (whole[..cut].to_vec(), &whole[cut..]);
            let mut frames = Vec::new();
            loop {
                match frame(&received).expect("a frame") {
                    Some((frame, used)) => {
                        received.drain(..used);
                        frames.push(frame);
                    }
                    None if rest.is_empty() => break,
                    None => received.extend(std::mem::take(&mut rest)),
                }
            }
            assert_eq!(frames, expected, "{cut}");
        }
    }

    #[test]
    fn a_message_has_the_lengths_of_its_head_and_of_all() {
        let mut sent = Vec::new();
        publish(&mut sent, "feed.3", "_INBOX.1.0", "e-1", "{}");
        let expected = "HPUB feed.3 _INBOX.1.0 30 32\r\nNATS/1.0\r\nNats-Msg-Id: e-1\r\n\r\n{}\r\n";
        assert_eq!(String::from_utf8(sent).expect("UTF-8"), expected);
    }

    #[test]
    fn only_a_new_event_is_acknowledged() {
        acknowledged(r#"{"stream":"newsfeed-bench","seq":1}"#).expect("stored");
        for answer in [
            r#"{"stream":"newsfeed-bench","seq":1,"duplicate":true}"#,
            r#"{"error":{"code":503,"description":"insufficient resources"},"stream":"","seq":0}"#,
            "NATS/1.0 503\r\n\r\n",
        ] {
            acknowledged(answer).expect_err(answer);
        }
    }
}
