//! A client of several nodes.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::Targets;
use crate::support::{bed::text, patience::PATIENCE};

/// Pause before a client goes to another node.
const PAUSE: Duration = Duration::from_millis(20);

/// A client that goes to another node when one does not answer.
#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    targets: Targets,
    pub node: usize,
    moves: usize,
    /// Number of requests that timed out.
    pub timeouts: usize,
}

/// The code of the answer to a version of another life of the store.
pub const UNKNOWN: &str = "cursor_unknown";

impl Client {
    pub fn new(targets: &Targets, node: usize) -> Self {
        Self {
            http: reqwest::Client::new(),
            targets: targets.clone(),
            node,
            moves: 0,
            timeouts: 0,
        }
    }

    pub fn url(&self, path: &str) -> String {
        self.targets.url(self.node, path)
    }

    /// Moves to one of the other nodes, a different one each time.
    pub async fn move_on(&mut self) {
        let others = self.targets.len().saturating_sub(1).max(1);
        self.node += 1 + self.moves % others;
        self.moves += 1;
        sleep(PAUSE).await;
    }

    /// Sends a request; `None` if there is no answer, or 503.
    async fn answer(&mut self, request: reqwest::RequestBuilder) -> Option<Value> {
        let answer = async {
            let response = request.send().await?;
            let again = response.headers().contains_key("retry-after");
            let status = response.status();
            Ok::<_, reqwest::Error>((status, again, response.json::<Value>().await?))
        };
        match answer.await {
            Ok((status, _, answer)) if status == 200 => Some(answer),
            Ok((status, again, problem)) => {
                // The caller has to see that this is not what it asked for.
                if problem["code"] == UNKNOWN {
                    return Some(problem);
                }
                assert_eq!(status, 503, "{problem}");
                assert!(again, "{problem}");
                assert_away(&problem);
                None
            }
            Err(error) => {
                self.timeouts += usize::from(error.is_timeout());
                None
            }
        }
    }

    pub async fn try_get(&mut self, path: &str) -> Option<Value> {
        self.answer(self.http.get(self.url(path))).await
    }

    /// GET from this node, or from others until one answers.
    pub async fn get(&mut self, path: &str) -> Value {
        let got = async {
            loop {
                if let Some(answer) = self.try_get(path).await {
                    return answer;
                }
                self.move_on().await;
            }
        };
        timeout(PATIENCE, got).await.expect("some node answers")
    }

    /// Appends an event or an array through this node; returns the outcomes in order, or `None` if they are unknown.
    pub async fn try_append(&mut self, events: &Value) -> Option<Vec<Value>> {
        let request = self.http.post(self.url("/v1/events")).json(events);
        match self.answer(request).await? {
            Value::Array(outcomes) => Some(outcomes),
            outcome => Some(vec![outcome]),
        }
    }

    /// Appends an event through any node that answers; returns its version.
    pub async fn append(&mut self, event: &Value) -> String {
        let appended = async {
            loop {
                if let Some(outcomes) = self.try_append(event).await {
                    return text(&outcomes[0]["version"]);
                }
                self.move_on().await;
            }
        };
        timeout(PATIENCE, appended).await.expect("a node answers")
    }
}

/// Checks that a problem only asks to try again.
pub fn assert_away(problem: &Value) {
    let code = problem["code"].as_str().expect("a code");
    let away = ["store_unavailable", "shutting_down", "busy"];
    assert!(away.contains(&code), "{problem}");
}
