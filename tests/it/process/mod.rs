//! The binary as a process: killed, stopped, misconfigured, driven by real clients. These tests need the folder and the
//! wall clock of the embedded engine.

mod atomic;
mod backup;
mod bench;
mod cli;
mod config;
mod copy;
mod crash;
mod crash_clients;
mod damage;
mod disk;
mod erasures;
mod exposure;
mod frozen;
mod http2_parity;
mod https;
mod interop;
mod lineage;
mod listen;
mod log;
mod otlp;
mod projections;
mod refused_start;
mod replay_demo;
mod retention;
mod sigterm;
mod sigterm_stalled;
mod web_scripts;

use std::{
    fs,
    path::Path,
    process::{ExitStatus, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::support::{
    bed::Api,
    entries::{Place, assert_same, place},
    patience::PATIENCE,
};

/// `newsfeed` with `args`; killed when its handle is dropped.
pub(crate) fn newsfeed(args: &[&str]) -> Command {
    program(Path::new(env!("CARGO_BIN_EXE_newsfeed")), args)
}

/// `newsfeed-bench` with `args`. `cargo test` builds it as an example, but `cargo test --test it` does not.
pub(crate) fn newsfeed_bench(args: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_BIN_EXE_newsfeed")).with_file_name("examples/newsfeed-bench");
    let built = path.metadata().and_then(|file| file.modified()).ok();
    let sources = fs::read_dir("benches/src").expect("sources");
    let changed = sources.map(|file| file.and_then(|file| file.metadata()?.modified()));
    let changed = changed.map(|time| time.expect("a time")).max();
    assert!(
        built >= changed,
        "{} is missing or out of date: run `cargo build --example newsfeed-bench`",
        path.display()
    );
    program(&path, args)
}

fn program(path: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command
        .args(args)
        .env("NEWSFEED_LOG", "warn,newsfeed::auth::args=error")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs `newsfeed` with `args` to its end.
pub(crate) async fn run(args: &[&str]) -> Output {
    output(newsfeed(args)).await
}

/// What `command` prints, which must end by itself.
async fn output(mut command: Command) -> Output {
    let output = timeout(PATIENCE, command.output()).await;
    output.expect("it ends by itself").expect("it runs")
}

/// Runs a command that must fail with exit code 1; returns its stderr.
pub(crate) async fn failure(args: &[&str]) -> String {
    let Output { status, stderr, .. } = run(args).await;
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

/// `newsfeed serve` on a free port; killed when dropped.
struct Process {
    child: Child,
    api: Api,
}

impl Process {
    async fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[]).await
    }

    async fn start_with(folder: &Path, args: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", folder, args).await
    }

    async fn start_on(address: &str, folder: &Path, args: &[&str]) -> Self {
        let folder = folder.to_str().expect("a UTF-8 path");
        let serve = ["serve", "--listen", address, "--data", folder];
        Self::of(newsfeed(&[&serve, args].concat())).await
    }

    /// Starts `command`, which must be `newsfeed serve`.
    async fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("the service starts").expect("a line of text");
        let line = line.expect("a line before the end");
        let base = line.strip_prefix("newsfeed is listening on ");
        let base = base.expect("the documented line").to_owned();
        Self {
            child,
            api: Api::at(base),
        }
    }

    /// Kills the process with SIGKILL.
    async fn kill(mut self) {
        self.child.kill().await.expect("killed and reaped");
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        let pid = Pid::from_raw(id.cast_signed()).expect("not 0");
        kill_process(pid, signal).expect("signalled");
    }

    async fn exited(mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await;
        status.expect("the process ends").expect("reaped")
    }

    async fn stop(self) {
        self.signal(Signal::TERM);
        assert_eq!(self.exited().await.code(), Some(0));
    }
}
