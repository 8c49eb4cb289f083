//! Node processes and their addresses.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::{fdb::cluster::Cluster, support::patience::PATIENCE};

/// `newsfeed` with the flags of the cluster and the key space.
pub fn newsfeed(command: &[&str], cluster_file: &str, prefix: &str) -> Command {
    let log = std::env::var("NEWSFEED_LOG").unwrap_or_else(|_| "error".to_owned());
    let mut newsfeed = Command::new(env!("CARGO_BIN_EXE_newsfeed"));
    newsfeed
        .args(command)
        .args(["--store", "fdb", "--cluster-file", cluster_file])
        .args(["--prefix", prefix])
        .env("NEWSFEED_LOG", log)
        .stdin(Stdio::null());
    newsfeed
}

/// A node process; killed when dropped.
pub struct NodeProcess {
    child: Child,
    /// `http://…`
    pub base: String,
}

impl NodeProcess {
    pub async fn start(cluster: &Cluster, prefix: &str, args: &[&str]) -> Self {
        Self::start_as(cluster, prefix, |command| command.args(args)).await
    }

    /// A node that logs each retried attempt into the file `log`.
    pub async fn start_logging(cluster: &Cluster, prefix: &str, args: &[&str], log: &Path) -> Self {
        let log = File::create(log).expect("a file");
        Self::start_as(cluster, prefix, |command| {
            let level = "error,newsfeed::store::transact=debug";
            command.args(args).env("NEWSFEED_LOG", level).stderr(log)
        })
        .await
    }

    /// Starts a node at `address`.
    pub async fn start_at(cluster: &Cluster, prefix: &str, address: &str) -> Self {
        Self::listening(cluster, prefix, address, |command| command).await
    }

    async fn start_as(
        cluster: &Cluster,
        prefix: &str,
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        Self::listening(cluster, prefix, "127.0.0.1:0", prepare).await
    }

    async fn listening(
        cluster: &Cluster,
        prefix: &str,
        address: &str,
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let file = cluster.file();
        let file = file.to_str().expect("a UTF-8 path");
        let mut command = newsfeed(&["serve", "--listen", address], file, prefix);
        let mut child = prepare(&mut command)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let line = tokio::task::spawn_blocking(|| BufReader::new(stdout).lines().next());
        let mut node = Self {
            child,
            base: String::new(),
        };
        let line = timeout(PATIENCE, line).await.expect("the node starts");
        let line = line.expect("it reads").expect("a line before the end");
        let line = line.expect("text");
        let base = line.strip_prefix("newsfeed is listening on ");
        base.expect("the promised line").clone_into(&mut node.base);
        node
    }

    /// Host and port.
    pub fn address(&self) -> String {
        self.base.replace("http://", "")
    }

    /// Waits for its end.
    pub async fn exited(mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("it is ours") {
                    return status;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ended).await.expect("it ends")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("not 0");
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The current addresses of the nodes: a restarted node may have a new one.
#[derive(Clone)]
pub struct Targets(Arc<RwLock<Vec<String>>>);

impl Targets {
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a NodeProcess>) -> Self {
        let bases = nodes.into_iter().map(|node| node.base.clone()).collect();
        Self(Arc::new(RwLock::new(bases)))
    }

    pub fn set(&self, index: usize, node: &NodeProcess) {
        self.0.write().unwrap_or_else(PoisonError::into_inner)[index].clone_from(&node.base);
    }

    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn url(&self, index: usize, path: &str) -> String {
        let bases = self.0.read().unwrap_or_else(PoisonError::into_inner);
        format!("{}{path}", bases[index % bases.len()])
    }
}
