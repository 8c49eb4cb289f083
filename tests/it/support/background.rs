//! Appends in the background, while a test reads.

use newsfeed::types::FeedName;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    bed::{Served, text},
    model::{Commit, Model, feed_name},
    patience::in_time,
};

/// The id of the last event, which is in all feeds.
pub const END: &str = "the end";

/// Event `number`: in one or more of `feeds`, of one of three kinds.
pub fn event(number: usize, feeds: &[FeedName]) -> Value {
    let all = (1 << feeds.len()) - 1;
    let mask = number * 5 % all + 1;
    let held_by = feeds.iter().enumerate();
    let held_by = held_by.filter(|(index, _)| mask & (1 << index) != 0);
    let kinds = ["message", "visit", "other"];
    json!({
        "id": format!("event {number}"),
        "kind": kinds[number % 3],
        "feeds": held_by.map(|(_, feed)| feed.as_str()).collect::<Vec<_>>(),
        "data": { "n": number },
    })
}

/// The commit that an appended event and its answer describe.
pub fn committed(event: &Value, answer: &Value) -> Commit {
    assert_eq!(answer["id"], event["id"], "{answer}");
    let feeds = event["feeds"].as_array().expect("feeds");
    Commit {
        version: text(&answer["version"]).parse().expect("a version"),
        id: text(&event["id"]),
        kind: text(&event["kind"]),
        feeds: feeds.iter().map(|feed| feed_name(&text(feed))).collect(),
        data: event["data"].to_string(),
        read_at: 0,
    }
}

/// Appends events with new ids in one request, and adds them to the model.
pub async fn append(node: &Served, model: &mut Model, events: Vec<Value>) {
    let answers = node.append(&json!(events)).await;
    for (event, answer) in events.iter().zip(answers.as_array().expect("an array")) {
        assert_eq!(answer["status"], "appended", "{answer}");
        model.0.push(committed(event, answer));
    }
    model.0.sort_by_key(|commit| commit.version);
}

/// A task that appends events to `feeds`, one request after the other.
pub struct BackgroundAppends {
    task: JoinHandle<Model>,
    appended: watch::Receiver<usize>,
}

impl BackgroundAppends {
    pub fn start(node: &Served, feeds: &[FeedName], events: usize) -> Self {
        let (progress, appended) = watch::channel(0);
        let (http, url, feeds) = (node.http.clone(), node.url("/v1/events"), feeds.to_vec());
        let task = tokio::spawn(async move {
            let mut model = Model::default();
            let mut next = 0;
            while next <= events {
                // Requests of 1 to 7 events.
                let mut batch: Vec<Value> = (next..events.min(next + next % 7 + 1))
                    .map(|number| event(number, &feeds))
                    .collect();
                next += batch.len();
                if batch.is_empty() {
                    let names: Vec<&str> = feeds.iter().map(FeedName::as_str).collect();
                    batch.push(json!({ "id": END, "kind": "visit", "feeds": names }));
                    next += 1;
                }
                let answer = http.post(&url).json(&batch).send().await;
                let answers: Value = answer.expect("an answer").json().await.expect("JSON");
                for (event, answer) in batch.iter().zip(answers.as_array().expect("answers")) {
                    model.0.push(committed(event, answer));
                }
                progress.send_replace(next);
            }
            model
        });
        Self { task, appended }
    }

    /// Waits until `events` events have been appended.
    pub async fn reaches(&mut self, events: usize) {
        let reached = self.appended.wait_for(|&appended| appended >= events);
        in_time(reached).await.expect("appends go on");
    }

    /// Waits until all are appended; returns them.
    pub async fn end(self) -> Model {
        in_time(self.task).await.expect("no panic")
    }
}

/// What readers see of the same events appended through several nodes: the first commit of each id.
pub async fn first_of_each(appends: impl IntoIterator<Item = BackgroundAppends>) -> Model {
    let mut firsts: std::collections::HashMap<String, Commit> = Default::default();
    for append in appends {
        for commit in append.end().await.0 {
            let first = firsts.entry(commit.id.clone()).or_insert(commit.clone());
            if commit.version < first.version {
                *first = commit;
            }
        }
    }
    let mut commits: Vec<Commit> = firsts.into_values().collect();
    commits.sort_by_key(|commit| commit.version);
    Model(commits)
}
