//! SIGKILL in the middle of atomic appends.

use tokio::sync::watch;

use super::Process;
use crate::support::groups::Groups;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_atomic_appends_each_is_whole_or_absent_and_can_be_sent_again() {
    const KILLS: usize = 8;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut process = Process::start(folder.path()).await;
    let nodes = watch::Sender::new(vec![process.api.url("")]);
    let groups = Groups::start(&nodes.subscribe());
    for _ in 0..KILLS {
        groups.acknowledged(40).await;
        process.kill().await;
        process = Process::start(folder.path()).await;
        nodes.send_replace(vec![process.api.url("")]);
    }
    groups.acknowledged(40).await;
    groups.finish(&process.api).await;
    process.stop().await;
}
