//! Nodes killed in the middle of atomic appends, which are sent again to others.

use rustix::process::Signal;
use tokio::sync::watch;

use super::{
    cluster::{self, fresh_prefix},
    multi_node::NodeProcess,
};
use crate::support::{bed::Api, groups::Groups};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_atomic_appends_each_is_whole_or_absent_and_can_be_sent_to_another_node()
 {
    const KILLS: usize = 10;
    let (cluster, prefix) = (cluster::shared(), fresh_prefix());
    let start = || NodeProcess::start(&cluster, &prefix, &[]);
    let mut nodes = [start().await, start().await, start().await];
    let bases = |nodes: &[NodeProcess; 3]| nodes.each_ref().map(|node| node.base.clone()).to_vec();
    let addresses = watch::Sender::new(bases(&nodes));
    let groups = Groups::start(&addresses.subscribe());
    for kill in 0..KILLS {
        groups.acknowledged(40).await;
        nodes[kill % 3].signal(Signal::KILL);
        // Dropping the old one reaps it.
        nodes[kill % 3] = start().await;
        addresses.send_replace(bases(&nodes));
    }
    groups.acknowledged(40).await;
    groups.finish(&Api::at(nodes[0].base.clone())).await;
}
