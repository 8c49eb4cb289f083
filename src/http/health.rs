//! `GET /healthz` and `GET /readyz`. A node that is not healthy must be restarted; a load balancer should send no
//! requests to a node that is not ready.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{
    App,
    problem::{Code, Problem},
};
use crate::{
    error::Error,
    store::{self, Store, keys::Keys},
};

/// The store must answer `/readyz` within this.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// The background tasks that must run as long as the node does.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Vec<(&'static str, AbortHandle)>>>);

impl Tasks {
    pub fn watch(&self, name: &'static str, task: AbortHandle) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push((name, task));
    }

    /// Each task's name, and whether it is running.
    fn running(&self) -> Vec<(&'static str, bool)> {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = |(name, task): &(&'static str, AbortHandle)| (*name, !task.is_finished());
        tasks.iter().map(running).collect()
    }
}

/// What `/healthz` and `/readyz` check.
#[derive(Clone)]
pub struct Health {
    store: Arc<dyn Store>,
    keys: Keys,
    pub tasks: Tasks,
    /// A node whose live delivery lags more than this is not ready.
    pub lag_max: Duration,
    /// Set before the node stops: it still serves, but is not ready.
    pub leaving: CancellationToken,
}

impl Health {
    pub fn new(store: Arc<dyn Store>, keys: Keys, tasks: Tasks, lag_max: Duration) -> Self {
        Self {
            store,
            keys,
            tasks,
            lag_max,
            leaving: CancellationToken::new(),
        }
    }

    /// The store, for its figures.
    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Reads a key, within [`READY_TIMEOUT`].
    async fn store_answers(&self) -> Result<(), (String, Problem)> {
        let answers = async {
            let snapshot = self.store.snapshot().await?;
            snapshot.get(vec![self.keys.epoch()]).await
        };
        match tokio::time::timeout(READY_TIMEOUT, answers).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                self.store.errors().note_read(&error);
                Err((error.reason().to_owned(), Error::Store(error).into()))
            }
            Err(_elapsed) => {
                let detail = "the store did not answer in time";
                let late = store::Error::Unavailable(detail.to_owned());
                self.store.errors().note_read(&late);
                let problem = Problem::new(Code::StoreUnavailable, detail);
                Err((late.reason().to_owned(), problem))
            }
        }
    }
}

/// The results of all checks, and the problem of the first one that failed.
#[derive(Default)]
struct Checks {
    found: Map<String, Value>,
    first: Option<Problem>,
}

impl Checks {
    /// `failed` is the result in a word or two and the problem, or `None` if the check passed.
    fn add(&mut self, name: &str, failed: Option<(String, Problem)>) {
        let result = match failed {
            None => "ok".to_owned(),
            Some((why, problem)) => {
                self.first.get_or_insert(problem);
                why
            }
        };
        self.found.insert(name.to_owned(), result.into());
    }

    fn answer(self, status: &str) -> Result<Response, Problem> {
        let checks = Value::Object(self.found);
        match self.first {
            Some(problem) => Err(problem.with("checks", checks)),
            None => Ok((
                [(header::CACHE_CONTROL, "no-store")],
                Json(json!({ "status": status, "checks": checks })),
            )
                .into_response()),
        }
    }
}

/// The node's own tasks and engine, and whether each is running.
fn parts(app: &App) -> Vec<(&'static str, bool)> {
    let mut parts = app.health.tasks.running();
    parts.push(("batcher", app.appender.is_open()));
    parts.push(("store", app.health.store.is_alive()));
    parts
}

/// Healthy: the process and all its parts are running.
pub async fn healthz(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let mut checks = Checks::default();
    for (name, runs) in parts(&app) {
        checks.add(name, (!runs).then(|| ended(name)));
    }
    checks.answer("ok")
}

fn ended(name: &str) -> (String, Problem) {
    let detail = format!(
        "the {name} of this node has ended unexpectedly: restart the node; its log says why"
    );
    ("ended".to_owned(), Problem::new(Code::Unhealthy, detail))
}

/// Ready: the node is not about to stop, its store answers, and live delivery keeps up.
pub async fn readyz(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let mut checks = Checks::default();
    let dead = parts(&app).into_iter().find(|(_, runs)| !runs);
    let serving = match app.health.leaving.is_cancelled() || app.stopping.is_cancelled() {
        true => Some(("stopping".to_owned(), Error::ShuttingDown.into())),
        false => dead.map(|(name, _)| ended(name)),
    };
    checks.add("serving", serving);
    checks.add("store", app.health.store_answers().await.err());
    checks.add("tail", tail_keeps_up(&app).err());
    checks.answer("ready")
}

fn tail_keeps_up(app: &App) -> Result<(), (String, Problem)> {
    let lag = app.metrics.tail.lag();
    if lag <= app.health.lag_max {
        return Ok(());
    }
    let detail = format!(
        "live delivery on this node is {:.1} s behind, more than the {:.1} s allowed: use another node",
        lag.as_secs_f64(),
        app.health.lag_max.as_secs_f64()
    );
    Err(("behind".to_owned(), Problem::new(Code::TailBehind, detail)))
}
