//! `/healthz`: whether the process works. `/readyz`: whether it should get requests.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use newsfeed::store::{Batch, Result};
use serde_json::json;

use crate::{
    http::visit,
    support::{
        bed::{Bed, Served},
        gate::Gate,
        patience::until,
        sse::Stream,
        stores::{Trouble, troubled},
    },
};

/// Makes the calling task panic: the tailer when it waits, or the batcher when it commits.
enum Panics {
    Waiting,
    Commits,
}

#[async_trait]
impl Trouble for Panics {
    async fn before_commit(&self, _batch: &Batch) -> Result<()> {
        assert!(matches!(self, Self::Waiting), "a panic wanted by the test");
        Ok(())
    }

    fn before_waiting(&self) {
        assert!(matches!(self, Self::Commits), "a panic wanted by the test");
    }
}

/// Asks until the node is unhealthy; returns the names of the failed checks.
async fn ended(node: &Served) -> Vec<String> {
    until("a 503 from /healthz", async || {
        let answer = node.send("GET", "/healthz", &[]).await;
        if answer.status == 200 {
            return None;
        }
        let problem = answer.problem(503, "unhealthy").expect("unhealthy");
        let checks = problem["checks"].as_object().expect("checks");
        assert_eq!(checks.len(), 6, "{problem}");
        let dead = checks.iter().filter(|(_, said)| *said != "ok");
        Some(dead.map(|(name, _)| name.clone()).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_tailer_or_batcher_has_ended_is_unhealthy_and_says_which() {
    let bed = Bed::embedded();
    let node = bed
        .node_on(troubled(bed.store(), Arc::new(Panics::Waiting)))
        .await;
    let health = node.get("/healthz").await;
    let all = json!({
        "tailer": "ok", "janitor": "ok", "times": "ok", "erasures": "ok", "batcher": "ok", "store": "ok",
    });
    assert_eq!(health, json!({ "status": "ok", "checks": all }));
    // The tailer waits once there is a subscriber.
    let _stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live"), None).await;
    assert_eq!(ended(&node).await, ["tailer"]);
    let ready = node.send("GET", "/readyz", &[]).await;
    ready.problem(503, "unhealthy").expect("nor ready");

    let node = bed
        .node_on(troubled(bed.store(), Arc::new(Panics::Commits)))
        .await;
    assert_eq!(node.post("/v1/events", &visit("a", &["a"])).await.0, 503);
    assert_eq!(ended(&node).await, ["batcher"]);
}

/// Reads never return.
struct Stuck;

#[async_trait]
impl Trouble for Stuck {
    async fn before_read(&self) -> Result<()> {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_store_does_not_answer_is_not_ready_but_healthy() {
    let bed = Bed::embedded();
    let (_app, node) = bed.app_on(troubled(bed.store(), Arc::new(Stuck))).await;
    let problem = node.send("GET", "/readyz", &[]).await;
    let problem = problem.problem(503, "store_unavailable").expect("away");
    let checks = json!({ "serving": "ok", "store": "unavailable", "tail": "ok" });
    assert_eq!(problem["checks"], checks);
    node.get("/healthz").await;
}

#[tokio::test]
async fn a_node_whose_live_delivery_is_late_is_not_ready_until_it_is_not() {
    let bed = Bed::embedded();
    let (app, node) = bed.app_on(bed.store()).await;
    app.metrics.tail.wakes();
    assert_eq!(node.get("/readyz").await["status"], "ready");
    tokio::time::pause();
    tokio::time::advance(app.health.lag_max + Duration::from_millis(1)).await;
    tokio::time::resume();
    let problem = node.send("GET", "/readyz", &[]).await;
    let problem = problem.problem(503, "tail_behind").expect("behind");
    let checks = json!({ "serving": "ok", "store": "ok", "tail": "behind" });
    assert_eq!(problem["checks"], checks);
    node.get("/healthz").await;
    app.metrics.tail.waits();
    node.get("/readyz").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_is_not_ready_but_answers() {
    let bed = Bed::embedded();
    let (app, node) = bed.app_on(bed.store()).await;
    app.stopping.cancel();
    let problem = node.send("GET", "/readyz", &[]).await;
    let problem = problem.problem(503, "shutting_down").expect("stopping");
    assert_eq!(problem["checks"]["serving"], "stopping");
    node.get("/healthz").await;
    node.append(&visit("a", &["a"])).await;
    assert_eq!(node.all("a").await.len(), 1);
}

/// A tailer that waits for commits has no lag, before and after it had work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tailer_that_waits_does_not_lag_however_old_its_last_round() {
    let bed = Bed::embedded();
    let gate = Gate::open();
    let node = bed.node_on(troubled(bed.store(), gate.clone())).await;
    let mut stream = Stream::open(&node.http, &node.url("/v1/feeds/a/live"), None).await;
    assert_eq!(stream.caught_up().await, []);
    node.append(&visit("a", &["a"])).await;
    stream.next_of(&["entry"]).await;
    let lag = || async {
        let scrape = super::scrape::Scrape::of(&node).await;
        (
            scrape.get("newsfeed_tail_lag_seconds"),
            scrape.get("newsfeed_tail_lag_ticks"),
        )
    };
    let caught_up = async || (lag().await == (0.0, 0.0)).then_some(());
    until("a lag of 0", caught_up).await;
    // The lag of a tailer that cannot read grows.
    gate.fail(true);
    let behind = until("a lag", async || {
        Some(lag().await).filter(|lag| lag.0 >= 0.5)
    })
    .await;
    assert!(behind.1 >= 500_000.0, "{behind:?}");
    gate.fail(false);
    until("a lag of 0", caught_up).await;
}
