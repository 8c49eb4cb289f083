//! A service that is killed while it works on indexes.

use std::sync::Arc;

use newsfeed::{
    clock::WallTime,
    store::{Store, embedded::Embedded, keys::Keys},
};
use serde_json::Value;

use super::Process;
use crate::{
    projections::derived::{ALL, are_complete, check, steps, with_actor},
    support::{bed::Api, model::feed_name, patience::until},
};

const KILLS: usize = 6;
/// Events before the first kill, and in each life.
const OLD: usize = 8_000;
const NEW: usize = 500;

async fn append(api: &Api, first: usize, count: usize) {
    let feeds = ["killed:0", "killed:1"].map(feed_name);
    for begin in (first..first + count).step_by(500) {
        let events = (begin..begin + 500).map(|number| with_actor(number, &feeds));
        api.append(&events.collect::<Value>()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_steps_indexes_are_what_the_log_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start_with(folder.path(), &["--projections", "off"]).await;
    append(&process.api, 0, OLD).await;
    process.kill().await;
    let mut interrupted = 0;
    for life in 0..KILLS {
        let process = Process::start_with(folder.path(), &ALL).await;
        let api = process.api.clone();
        let appends = tokio::spawn(async move { append(&api, OLD + life * NEW, NEW).await });
        // At different places: while it catches up, and while it follows what is appended.
        until("steps", async || {
            let (steps, _) = steps(&process.api).await;
            (steps > life % 3 + 1).then_some(())
        })
        .await;
        interrupted += usize::from(!are_complete(&process.api).await);
        if life % 2 == 1 {
            appends.await.expect("appended");
            process.kill().await;
        } else {
            // The client loses its connection, and sends again what was not acknowledged.
            process.kill().await;
            drop(appends.await);
            let process = Process::start_with(folder.path(), &["--projections", "off"]).await;
            append(&process.api, OLD + life * NEW, NEW).await;
            process.kill().await;
        }
    }
    assert!(interrupted > 0, "no kill hit an index that was behind");
    let process = Process::start_with(folder.path(), &ALL).await;
    until("complete indexes", async || {
        are_complete(&process.api).await.then_some(())
    })
    .await;
    process.stop().await;

    let wall = WallTime::system(0);
    let store = Embedded::open(folder.path(), wall.clone()).expect("it opens");
    let store: Arc<dyn Store> = Arc::new(store);
    let keys = Keys::open(&*store, b"", 16, &wall).await.expect("keys");
    check(&store, &keys, OLD + KILLS * NEW).await;
    store.close().await;
}
