//! A client of several nodes.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::Targets;
use crate::support::{bed::text, patience::PATIENCE};

/// What a client waits when a node does not answer.
const PAUSE: Duration = Duration::from_millis(20);

/// A client that goes to another node when one does not answer.
#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    targets: Targets,
    pub node: usize,
    moves: usize,
    /// Requests that were not answered in the client's time.
    pub timeouts: usize,
}

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

    /// To one of the others: now this, now that.
    pub async fn move_on(&mut self) {
        let others = self.targets.len().saturating_sub(1).max(1);
        self.node += 1 + self.moves % others;
        self.moves += 1;
        sleep(PAUSE).await;
    }

    /// What the node answers; `None` if it does not, or says that it cannot now.
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

    /// GET from this node or, if it does not answer, another.
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

    /// Appends an event or an array to this node; what became of each, in order. `None`: nothing is known of any.
    pub async fn try_append(&mut self, events: &Value) -> Option<Vec<Value>> {
        let request = self.http.post(self.url("/v1/events")).json(events);
        match self.answer(request).await? {
            Value::Array(outcomes) => Some(outcomes),
            outcome => Some(vec![outcome]),
        }
    }

    /// Appends one event, at whichever node answers; its version.
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

/// A refusal that says "try again" and nothing more.
pub fn assert_away(problem: &Value) {
    let code = problem["code"].as_str().expect("a code");
    let away = ["store_unavailable", "shutting_down", "busy"];
    assert!(away.contains(&code), "{problem}");
}
