//! Nodes that work on indexes together, when one is killed.

use std::time::Duration;

use newsfeed::{clock::WallTime, store::keys::Keys};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    cluster::{self, fresh_prefix},
    multi_node::NodeProcess,
};
use crate::{
    projections::derived::{ALL, are_complete, check, steps, with_actor},
    support::{bed::Api, model::feed_name, patience::until},
};

const EVENTS: usize = 20_000;
/// A node that is killed must not delay the others, who know nothing of it, for longer than this on a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(30);

async fn append(api: &Api, first: usize, count: usize) {
    let feeds = ["taken:0", "taken:1"].map(feed_name);
    for begin in (first..first + count).step_by(500) {
        let events = (begin..begin + 500).map(|number| with_actor(number, &feeds));
        api.append(&events.collect::<Value>()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_take_over_from_a_killed_node_and_each_step_happens_once() {
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let old = NodeProcess::start(&cluster, &prefix, &["--projections", "off"]).await;
    append(&Api::at(old.base.clone()), 0, EVENTS).await;
    drop(old);
    let start = || NodeProcess::start(&cluster, &prefix, &ALL);
    let nodes = [start().await, start().await, start().await];
    let apis = nodes.each_ref().map(|node| Api::at(node.base.clone()));
    let [victim, others @ ..] = &apis;
    let (last_steps, last_events) = until("steps of the node to kill", async || {
        let seen = steps(victim).await;
        (seen.0 > 1).then_some(seen)
    })
    .await;
    nodes[0].signal(Signal::KILL);
    let taken = async || {
        let mut sum = 0;
        for other in others {
            sum += steps(other).await.1;
        }
        sum
    };
    let at_kill = taken().await;
    assert!(last_events + at_kill < EVENTS, "nothing was left to do");
    let killed = Instant::now();
    until("steps of the others", async || {
        (taken().await > at_kill).then_some(())
    })
    .await;
    let took = killed.elapsed();
    assert!(took < TAKEN_OVER, "{took:?}");
    append(&others[0], EVENTS, 1_000).await;
    for other in others {
        until("complete indexes", async || {
            are_complete(other).await.then_some(())
        })
        .await;
    }
    // What the killed node did after the last look is missing.
    let counted = last_events + taken().await;
    assert!(counted <= EVENTS + 1_000, "{counted}: a step counts twice");
    eprintln!(
        "figure: a node was killed after {last_steps} steps of an index; the others went on after {took:?}, {counted} events counted"
    );
    let store = cluster.store(&prefix);
    let keys = Keys::open(&*store, prefix.as_bytes(), 16, &WallTime::system(0)).await;
    check(&store, &keys.expect("opened"), EVENTS + 1_000).await;
}
