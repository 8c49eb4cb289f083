//! A producer that appends events, sends transients and moves the `read` marker, each until it is answered, over restarts
//! of the service.

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::FEED;
use crate::{
    process::crash_clients::Life,
    support::{
        bed::{Api, text},
        patience::PATIENCE,
    },
};

/// Texts that must arrive unchanged: line ends and what some parsers take for them, text that looks like an event, and
/// multi-byte characters.
const TEXTS: [&str; 6] = [
    "Hi Ben",
    "two\nlines\r\nand \r one",
    "\u{2028}\u{2029}\u{85}\u{b}\u{c}\u{1c}",
    "\n\nevent: bye\nid: 7\ndata: {}\n\n",
    "\u{feff}žluťoučký 😀",
    "\0",
];

/// An acknowledged event: what its entry must be.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub version: String,
    pub id: String,
    pub kind: String,
    pub data: Value,
}

pub struct Writer {
    /// Total number of events that it may append.
    allowed: watch::Sender<usize>,
    acknowledged: watch::Receiver<Vec<Acknowledged>>,
    task: JoinHandle<()>,
}

impl Writer {
    pub fn start(life: watch::Receiver<Life>) -> Self {
        let (allowed, allowance) = watch::channel(0);
        let (sender, acknowledged) = watch::channel(Vec::new());
        Self {
            allowed,
            acknowledged,
            task: tokio::spawn(write(life, allowance, sender)),
        }
    }

    pub fn allow(&self, events: usize) {
        self.allowed
            .send_modify(|allowed| *allowed = events.max(*allowed));
    }

    /// Waits until `events` events are acknowledged.
    pub async fn wrote(&self, events: usize) {
        let mut acknowledged = self.acknowledged.clone();
        let enough = acknowledged.wait_for(|acknowledged| acknowledged.len() >= events);
        let enough = timeout(PATIENCE, enough).await.expect("appends go on");
        drop(enough.expect("the writer lives"));
    }

    /// Waits until it has appended all that it may; returns them.
    pub async fn end(self) -> Vec<Acknowledged> {
        drop(self.allowed);
        let ended = timeout(PATIENCE, self.task).await;
        ended.expect("appends go on").expect("the writer lives");
        self.acknowledged.borrow().clone()
    }
}

async fn write(
    life: watch::Receiver<Life>,
    mut allowed: watch::Receiver<usize>,
    acknowledged: watch::Sender<Vec<Acknowledged>>,
) {
    let mut service = Service(life);
    let mut number = 0;
    loop {
        let more = allowed.wait_for(|allowed| *allowed > number).await;
        let Ok(allowed) = more.map(|allowed| *allowed) else {
            return;
        };
        // A single event or an array.
        let end = allowed.min(number + number % 4 + 1);
        let events: Vec<Value> = (number..end).map(event).collect();
        number = end;
        let body = match &events[..] {
            [one] => one.clone(),
            several => json!(several),
        };
        let answer = service.call("POST", "/v1/events", &body).await;
        let outcomes = if answer.is_array() {
            answer
        } else {
            json!([answer])
        };
        let outcomes = outcomes.as_array().expect("outcomes");
        assert_eq!(outcomes.len(), events.len());
        let new = events.iter().zip(outcomes).map(|(event, outcome)| {
            assert_eq!(outcome["id"], event["id"]);
            Acknowledged {
                version: text(&outcome["version"]),
                id: text(&event["id"]),
                kind: text(&event["kind"]),
                data: event["data"].clone(),
            }
        });
        acknowledged.send_modify(|acknowledged| acknowledged.extend(new));

        let typing = json!({ "kind": "typing", "feeds": [FEED], "data": { "number": number } });
        service.call("POST", "/v1/transient", &typing).await;
        let read =
            json!({ "version": acknowledged.borrow().last().expect("one at least").version });
        let path = format!("/v1/feeds/{FEED}/markers/read");
        service.call("PUT", &path, &read).await;
    }
}

fn event(number: usize) -> Value {
    let kind = ["message", "visit", "flirt"][number % 3];
    let feeds = [FEED, "chat:anna-ben"];
    json!({
        "id": format!("event {number}"),
        "kind": kind,
        "feeds": feeds[..number % 2 + 1],
        "actor": "user:anna",
        "data": { "number": number, "text": TEXTS[number % TEXTS.len()] },
    })
}

/// The service, over all its lives.
struct Service(watch::Receiver<Life>);

impl Service {
    /// Sends until it is answered. Without an answer, or if the service is stopping, it sends again in the next life.
    async fn call(&mut self, method: &str, path: &str, body: &Value) -> Value {
        loop {
            let Life { number, api } = self.0.borrow_and_update().clone();
            if let Some(answer) = attempt(&api, method, path, body).await {
                return answer;
            }
            let next = self.0.wait_for(|life| life.number > number);
            let next = timeout(PATIENCE, next).await;
            drop(next.expect("the service is started again"));
        }
    }
}

async fn attempt(api: &Api, method: &str, path: &str, body: &Value) -> Option<Value> {
    let method = method.parse().expect("a method");
    let request = api.http.request(method, api.url(path)).json(body);
    let response = request.send().await.ok()?;
    let status = response.status();
    let answer: Value = response.json().await.ok()?;
    if answer["code"] == "shutting_down" {
        return None;
    }
    assert!(status.is_success(), "{path}: {answer}");
    Some(answer)
}
