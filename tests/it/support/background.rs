//! Appends that go on while a test reads, and readers that follow them over HTTP.

use newsfeed::types::FeedName;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::support::{
    bed::{Served, text},
    model::{Commit, Model, Shown, feed_name, in_time},
    sse::Event,
};

/// The id of the last event of a load, which stands in all of its feeds.
pub const END: &str = "the end";

/// The event `number` of a load: in one to all of `feeds`, of one of three kinds.
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

/// Makes the commit of an event and its answer.
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

/// Appends events of fresh ids in one request, and to the model.
pub async fn append(node: &Served, model: &mut Model, events: Vec<Value>) {
    let answers = node.append(&json!(events)).await;
    for (event, answer) in events.iter().zip(answers.as_array().expect("an array")) {
        assert_eq!(answer["status"], "appended", "{answer}");
        model.0.push(committed(event, answer));
    }
    model.0.sort_by_key(|commit| commit.version);
}

/// Appends events to `feeds` from the background, one request after the other.
pub struct Load {
    task: JoinHandle<Model>,
    appended: watch::Receiver<usize>,
}

impl Load {
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

    /// Waits until so many events are in.
    pub async fn reaches(&mut self, events: usize) {
        let reached = self.appended.wait_for(|&appended| appended >= events);
        in_time(reached).await.expect("the load goes on");
    }

    /// Waits for the end and answers what was appended.
    pub async fn end(self) -> Model {
        in_time(self.task).await.expect("no panic")
    }
}

/// What came of the same events appended through several nodes: of each id the first commit.
pub async fn first_of_each(loads: impl IntoIterator<Item = Load>) -> Model {
    let mut firsts: std::collections::HashMap<String, Commit> = Default::default();
    for load in loads {
        for commit in load.end().await.0 {
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

/// `/v1/feeds/{feed}/entries` and `live`, or their merged forms for several feeds; ends where parameters are added.
pub fn path(feeds: &[FeedName], what: &str) -> String {
    match feeds {
        [feed] => format!("/v1/feeds/{feed}/{what}?"),
        several => {
            let named: String = several.iter().map(|feed| format!("feed={feed}&")).collect();
            format!("/v1/{what}?{named}")
        }
    }
}

/// An entry of a page, a merged page or a stream over `feeds`.
pub fn shown(entry: &Value, feeds: &[FeedName]) -> Shown {
    let named = match (&entry["feed"], entry.get("feeds")) {
        (Value::Null, _) => vec![feeds[0].clone()],
        (feed, None) => vec![feed_name(&text(feed))],
        (feed, Some(several)) => {
            let several: Vec<_> = several.as_array().expect("an array").iter().collect();
            assert!(several.len() > 1 && several[0] == feed, "{entry}");
            several.iter().map(|name| feed_name(&text(name))).collect()
        }
    };
    Shown {
        version: text(&entry["version"]).parse().expect("a version"),
        id: text(&entry["id"]),
        kind: text(&entry["kind"]),
        data: entry["data"].to_string(),
        feeds: named,
    }
}

/// The entries among the events of a stream over `feeds`.
pub fn shown_in(events: &[Event], feeds: &[FeedName]) -> Vec<Shown> {
    let entries = events
        .iter()
        .filter(|event| ["entry", "notify"].contains(&event.name.as_str()));
    entries.map(|event| shown(&event.data, feeds)).collect()
}

/// Follows `next` from the page at `path` (without `after` or `before`) to the end.
pub async fn walk(node: &Served, path: &str, from: &str, feeds: &[FeedName]) -> Vec<Shown> {
    let mut entries = Vec::new();
    let mut from = from.to_owned();
    let turn = if from.starts_with("after") {
        "after"
    } else {
        "before"
    };
    loop {
        let page = node.get(&format!("{path}{from}")).await;
        let found = page["entries"].as_array().expect("entries");
        entries.extend(found.iter().map(|entry| shown(entry, feeds)));
        match page["next"].as_str() {
            Some(next) => {
                let next = format!("{turn}={next}");
                assert_ne!(next, from, "{path} does not move on");
                from = next;
            }
            None => return entries,
        }
    }
}
