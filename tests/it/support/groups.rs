//! Clients that append atomically while nodes are killed, and send again what was not answered.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    bed::{Api, text},
    patience::in_time,
};

const WRITERS: usize = 6;
/// Events of an atomic append.
const EVENTS: usize = 8;

/// Running writers. Each appends groups of events to a feed of its own and to the feed `all`, and expects its feed to be as
/// its group before left it.
pub struct Groups {
    stop: watch::Sender<bool>,
    acknowledged: Arc<watch::Sender<usize>>,
    writers: JoinSet<usize>,
}

impl Groups {
    /// `nodes` are the addresses of the nodes at each time, at least one.
    pub fn start(nodes: &watch::Receiver<Vec<String>>) -> Self {
        let stop = watch::Sender::new(false);
        let acknowledged = Arc::new(watch::Sender::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (nodes, stop) = (nodes.clone(), stop.subscribe());
            let acknowledged = Arc::clone(&acknowledged);
            writers.spawn(async move {
                let (mut groups, mut last) = (0, Value::Null);
                while !*stop.borrow() {
                    last = append(&nodes, writer, groups, &last).await;
                    groups += 1;
                    acknowledged.send_modify(|count| *count += 1);
                }
                groups
            });
        }
        Self {
            stop,
            acknowledged,
            writers,
        }
    }

    /// Waits until `more` groups are acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let target = *acknowledged.borrow() + more;
        let reached = acknowledged.wait_for(|&count| count >= target);
        in_time(reached).await.expect("appends go on");
    }

    /// Ends the writers and checks that every group is there, whole and in one piece.
    pub async fn finish(mut self, node: &Api) {
        self.stop.send_replace(true);
        let mut total = 0;
        let mut written = Vec::new();
        while let Some(groups) = in_time(self.writers.join_next()).await {
            written.push(groups.expect("no panic"));
        }
        let all = node.all("all").await;
        for group in all.chunks(EVENTS) {
            let (writer, number) = name(&group[0]);
            let expected = (0..EVENTS).map(|event| json!(id(writer, number, event)));
            let ids: Vec<Value> = group.iter().map(|entry| entry["id"].clone()).collect();
            assert_eq!(ids, expected.collect::<Vec<_>>());
        }
        for writer in 0..WRITERS {
            let own = node.all(&feed(writer)).await;
            assert_eq!(own.len() % EVENTS, 0);
            let expected = (0..own.len()).map(|n| id(writer, n / EVENTS, n % EVENTS));
            let ids: Vec<String> = own.iter().map(|entry| text(&entry["id"])).collect();
            assert_eq!(ids, expected.collect::<Vec<_>>());
            total += own.len();
        }
        let acknowledged: usize = written.iter().sum();
        assert_eq!(
            (all.len(), total),
            (acknowledged * EVENTS, acknowledged * EVENTS)
        );
    }
}

fn feed(writer: usize) -> String {
    format!("writer:{writer}")
}

fn id(writer: usize, group: usize, event: usize) -> String {
    format!("{writer}/{group}/{event}")
}

/// The writer and the group of an entry.
fn name(entry: &Value) -> (usize, usize) {
    let id = text(&entry["id"]);
    let mut parts = id.split('/').map(|part| part.parse().expect("a number"));
    let mut part = || parts.next().expect("three parts");
    (part(), part())
}

/// Sends a group until it is answered, each time to another node; returns the version of its last event.
async fn append(
    nodes: &watch::Receiver<Vec<String>>,
    writer: usize,
    group: usize,
    expected: &Value,
) -> Value {
    let event = |event| json!({ "id": id(writer, group, event), "kind": "visit", "feeds": [feed(writer), "all"] });
    let body = json!({
        "events": (0..EVENTS).map(event).collect::<Value>(),
        "expect": [{ "feed": feed(writer), "version": expected }],
    });
    let http = super::bed::http_client();
    for attempt in writer.. {
        let url = {
            let nodes = nodes.borrow();
            format!("{}/v1/events?atomic=true", nodes[attempt % nodes.len()])
        };
        let answer = async {
            let answer = http.post(url).json(&body).send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.json::<Value>().await?))
        };
        match answer.await {
            Ok((200, results)) => {
                let results = results.as_array().expect("results");
                let status = &results[0]["status"];
                assert!(results.iter().all(|result| result["status"] == *status));
                return results[EVENTS - 1]["version"].clone();
            }
            Ok((503, _)) | Err(_) => sleep(Duration::from_millis(20)).await,
            Ok(other) => panic!("{other:?}"),
        }
    }
    unreachable!("attempts do not end")
}
