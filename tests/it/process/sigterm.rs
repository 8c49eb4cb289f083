//! Stopping on a signal.

use std::{collections::BTreeMap, convert::Infallible};

use reqwest::Body;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

use super::{Place, Process, assert_same, place};
use crate::support::{
    bed::{Api, text},
    sse::Stream,
};

const FEED: &str = "user:1";

fn event(id: &str) -> Value {
    json!({ "id": id, "kind": "message", "feeds": [FEED] })
}

/// Appends events until one is refused or gets no answer; returns the acknowledged versions by id, and the id of the
/// last event.
async fn append_until_refused(
    api: Api,
    writer: usize,
    begun: mpsc::Sender<()>,
) -> (BTreeMap<String, String>, String) {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        let id = format!("{writer}-{number}");
        let request = api.http.post(api.url("/v1/events")).json(&event(&id));
        let answer = async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.json::<Value>().await?))
        };
        match answer.await {
            Ok((status, answer)) if status == 200 => {
                acknowledged.insert(id, text(&answer["version"]));
                let _ = begun.try_send(());
            }
            Ok((_, problem)) => {
                assert_eq!(problem["code"], "shutting_down");
                return (acknowledged, id);
            }
            Err(_) => return (acknowledged, id),
        }
    }
    unreachable!("the service stops")
}

/// An open request: the service waits for the second half of its body.
struct HalfSent {
    connection: TcpStream,
    rest: Vec<u8>,
}

impl HalfSent {
    async fn post(api: &Api, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        let address = api.url("").replace("http://", "");
        let mut connection = TcpStream::connect(&address).await.expect("connected");
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nexpect: 100-continue\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await.expect("sent");
        // The service asks for the body, so it has read the head.
        let proceed = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut answer = vec![0; proceed.len()];
        connection.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer, proceed);
        let (first, rest) = body.split_at(body.len() / 2);
        connection.write_all(first).await.expect("sent");
        let rest = rest.to_vec();
        Self { connection, rest }
    }

    /// Sends the rest; returns head and body of the answer, after which the connection must end.
    async fn finish(mut self) -> (String, Value) {
        self.connection.write_all(&self.rest).await.expect("sent");
        let mut answer = String::new();
        let read = self.connection.read_to_string(&mut answer).await;
        read.expect("a whole answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("\r\nconnection: close"), "{head}");
        (head.to_owned(), serde_json::from_str(body).expect("JSON"))
    }
}

/// An NDJSON request that stays open.
struct Lines {
    /// Keeps the request open.
    _body: mpsc::Sender<String>,
    answers: reqwest::Response,
}

impl Lines {
    async fn post(api: &Api, first: &Value) -> Self {
        let (body, lines) = mpsc::channel::<String>(1);
        let lines = futures_util::stream::unfold(lines, |mut lines| async move {
            let line = lines.recv().await?;
            Some((Ok::<_, Infallible>(line), lines))
        });
        body.send(format!("{first}\n")).await.expect("room");
        let request = api.http.post(api.url("/v1/events"));
        let request = request.header("content-type", "application/x-ndjson");
        let request = request.body(Body::wrap_stream(lines));
        let answers = request.send().await.expect("an answer");
        Self {
            _body: body,
            answers,
        }
    }

    async fn answer(&mut self) -> Value {
        let chunk = self.answers.chunk().await.expect("it goes on");
        serde_json::from_slice(&chunk.expect("a line")).expect("JSON")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_open_requests_sends_bye_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start(folder.path()).await;
    let api = process.api.clone();

    let mut streams = Vec::new();
    for path in [
        "/v1/feeds/user:1/live",
        "/v1/feeds/idle/live",
        "/v1/live?feed=idle&feed=user:1",
    ] {
        let mut stream = Stream::open(&api.http, &api.url(path), None).await;
        assert_eq!(stream.caught_up().await, []);
        streams.push((path, stream));
    }
    let (begun, mut began) = mpsc::channel(1);
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(append_until_refused(api.clone(), writer, begun.clone()));
    }
    began.recv().await.expect("appends go on");
    let one = HalfSent::post(&api, &event("one")).await;
    let array = HalfSent::post(&api, &json!([event("first"), event("second")])).await;
    let mut lines = Lines::post(&api, &event("line 1")).await;
    assert_eq!(lines.answer().await["status"], "appended");

    process.signal(Signal::TERM);
    let mut heard: Vec<Vec<Place>> = Vec::new();
    for (path, stream) in &mut streams {
        let mut entries = Vec::new();
        loop {
            let event = stream
                .next()
                .await
                .unwrap_or_else(|| panic!("{path} ends without bye"));
            match event.name.as_str() {
                "entry" | "notify" => entries.push(place(&event.data)),
                "bye" => break assert_eq!(event.data, json!({ "reason": "shutdown" })),
                _ => {}
            }
        }
        assert_eq!(stream.next().await, None, "nothing follows bye");
        heard.push(entries);
    }

    // The service is stopping; open requests are finished now.
    let mut acknowledged = BTreeMap::new();
    let mut acknowledge = |outcome: &Value| {
        assert_eq!(outcome["status"], "appended", "{outcome}");
        acknowledged.insert(text(&outcome["id"]), text(&outcome["version"]));
    };
    let (head, outcome) = one.finish().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    acknowledge(&outcome);
    let (head, outcomes) = array.finish().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    outcomes
        .as_array()
        .expect("outcomes")
        .iter()
        .for_each(&mut acknowledge);
    // NDJSON may have no end, so the service ends the answer; a client sends unanswered lines to another node.
    let end = lines.answers.chunk().await.expect("it ends well");
    assert_eq!(end, None);
    drop(lines);
    let mut unanswered = Vec::new();
    for (answered, last) in writers.join_all().await {
        acknowledged.extend(answered);
        unanswered.push(last);
    }
    assert_eq!(process.exited().await.code(), Some(0));

    let process = Process::start(folder.path()).await;
    let api = process.api.clone();
    let stored: Vec<Place> = api.all(FEED).await.iter().map(place).collect();
    let by_id: BTreeMap<String, String> = stored
        .iter()
        .map(|(version, id)| (id.clone(), version.clone()))
        .collect();
    assert_eq!(by_id.len(), stored.len(), "an event stands twice");
    acknowledged.insert("line 1".to_owned(), by_id["line 1"].clone());
    assert_eq!(by_id, acknowledged, "unanswered: {unanswered:?}");

    for ((path, stream), mut heard) in streams.into_iter().zip(heard) {
        let position = stream.last_id.expect("a position");
        let mut stream = Stream::open(&api.http, &api.url(path), Some(&position)).await;
        heard.extend(
            stream
                .caught_up()
                .await
                .iter()
                .map(|event| place(&event.data)),
        );
        let expected: &[Place] = if path.contains(FEED) { &stored } else { &[] };
        assert_same(&heard, expected, path);
    }
    process.stop().await;
}

#[tokio::test]
async fn ctrl_c_stops_it_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start(folder.path()).await;
    process.api.append(&event("a")).await;
    process.signal(Signal::INT);
    assert_eq!(process.exited().await.code(), Some(0));
}
