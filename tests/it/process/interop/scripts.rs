//! Clients in other languages: the scripts in `tests/clients`, which print a JSON report per line.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use tokio_util::sync::CancellationToken;

use super::{FEED, clients::Tell};
use crate::support::{needs::folder, protocol::Protocol};

pub async fn node(
    script: &str,
    base: String,
    protocol: Protocol,
    tell: Tell,
    stop: CancellationToken,
) {
    run(Command::new("node"), script, &base, protocol, tell, stop).await;
}

pub async fn python(
    script: &str,
    base: String,
    protocol: Protocol,
    tell: Tell,
    stop: CancellationToken,
) {
    let python = folder().expect("packages").join("venv/bin/python");
    run(Command::new(python), script, &base, protocol, tell, stop).await;
}

/// Runs a script until `stop`; a script ends when its stdin does.
async fn run(
    mut command: Command,
    script: &str,
    base: &str,
    protocol: Protocol,
    tell: Tell,
    stop: CancellationToken,
) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut child = command
        .arg(scripts.join(script))
        .args([base, FEED, protocol.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the script starts");
    let mut input = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line.expect("text"),
            () = stop.cancelled(), if input.is_some() => {
                drop(input.take());
                continue;
            }
        };
        match line {
            Some(line) => tell.tell(serde_json::from_str(&line).expect("what a reader tells")),
            None => break,
        }
    }
    let status = child.wait().await.expect("reaped");
    assert!(status.success(), "{script}: {status}");
}
