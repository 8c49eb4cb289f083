//! What other users of the machine, and proxies, could learn: permissions of files, warnings about them, and requests to
//! this machine.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use axum::{Router, routing::get};
use serde_json::json;
use tokio::{net::TcpListener, process::Command};

use super::{Process, newsfeed, output};
use crate::auth::{SECRET_FILE, Signer};

/// All files and folders in `folder`, and itself, with their permissions.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mode = |path: &Path| fs::symlink_metadata(path).map(|found| found.permissions().mode());
    let mut all = vec![(folder.to_owned(), mode(folder).expect("it exists"))];
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            // The engine may have removed a file meanwhile.
            let Ok(mode) = mode(&path) else { continue };
            if path.is_dir() {
                folders.push(path.clone());
            }
            all.push((path, mode));
        }
    }
    all
}

fn assert_private(folder: &Path) {
    let all = modes(folder);
    assert!(all.len() > 5, "{all:?}");
    for (path, mode) in all {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

/// A service that was started by a shell with this umask.
async fn with_umask(mask: &str, data: &Path) -> Process {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "umask $0; exec \"$@\"",
            mask,
            env!("CARGO_BIN_EXE_newsfeed"),
        ])
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env("NEWSFEED_LOG", "error")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Process::of(command).await
}

#[tokio::test]
async fn the_data_folder_is_for_its_owner_only_whatever_the_umask() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("new/data");
    for mask in ["000", "022", "777"] {
        let process = with_umask(mask, &data).await;
        let events: Vec<_> = (0..500)
            .map(|n| json!({ "kind": "visit", "feeds": [format!("f{n}")], "data": "x".repeat(2000) }))
            .collect();
        process.api.append(&json!(events)).await;
        assert_private(&data);
        // Files that are created later have the same permissions.
        let id = process.child.id().expect("it runs");
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("procfs");
        assert!(status.contains("Umask:\t0077\n"), "{mask}: {status}");
        process.kill().await;
        assert_private(&data);
    }
    // The store of an earlier version, and a recovery from a crash.
    let widen = || {
        for (path, mode) in modes(&data) {
            let more = if path.is_dir() { 0o755 } else { 0o644 };
            let wide = Permissions::from_mode(mode & 0o700 | more);
            fs::set_permissions(path, wide).expect("set");
        }
    };
    widen();
    let process = with_umask("000", &data).await;
    assert_private(&data);
    process.stop().await;
    assert_private(&data);
    assert_eq!(
        fs::metadata(folder.path().join("new"))
            .expect("there")
            .permissions()
            .mode()
            & 0o777,
        0o700
    );

    // Commands for operators open the store, too.
    widen();
    let epoch = ["admin", "epoch", "--data", data.to_str().expect("UTF-8")];
    assert!(output(newsfeed(&epoch)).await.status.success());
    assert_private(&data);
}

/// What the service says at its start with these secret files, all with these permissions.
async fn said_at_start(folder: &Path, mode: u32) -> String {
    let secret = folder.join("secret");
    fs::write(&secret, SECRET_FILE).expect("written");
    fs::set_permissions(&secret, Permissions::from_mode(mode)).expect("set");
    let secret = secret.to_str().expect("UTF-8");
    let flags = ["--auth-secret-file", secret, "--auth-ticket-key", secret];
    let data = folder.join("data");
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().expect("UTF-8"),
    ];
    let log = folder.join("log");
    let mut command = newsfeed(&[&serve[..], &flags].concat());
    command
        .env("NEWSFEED_LOG", "warn")
        .stderr(fs::File::create(&log).expect("a file"));
    Process::of(command).await.stop().await;
    fs::read_to_string(log).expect("text")
}

#[tokio::test]
async fn exposed_secret_files_and_running_as_root_are_warned_about() {
    let folder = tempfile::tempdir().expect("a folder");
    for (mode, exposed) in [
        (0o600, false),
        (0o400, false),
        (0o604, true),
        (0o640, true),
        (0o602, true),
    ] {
        let said = said_at_start(folder.path(), mode).await;
        for flag in ["--auth-secret-file", "--auth-ticket-key"] {
            let warned = said
                .lines()
                .filter(|line| line.contains("can read or change") && line.contains(flag));
            assert_eq!(warned.count(), usize::from(exposed), "{mode:o}: {said}");
        }
        let root = said.lines().filter(|line| line.contains("running as root"));
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(root.count(), usize::from(is_root), "{said}");
    }
}

/// Nothing listens on port 1: whatever goes through this proxy fails.
fn through_a_proxy(command: &mut Command) {
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env(name, "http://127.0.0.1:1");
    }
    command.env_remove("no_proxy").env_remove("NO_PROXY");
}

#[tokio::test]
async fn requests_to_this_machine_never_go_through_a_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let keys = json!({ "keys": [Signer::ed25519().jwk("k")] }).to_string();
    let router = Router::new().route("/jwks", get(async move || keys));
    tokio::spawn(async move { axum::serve(listener, router).await });
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{}/jwks", address.port());
        let mut check = newsfeed(&["config", "check", "--auth-jwks-url", &url]);
        through_a_proxy(&mut check);
        let checked = output(check).await;
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
    // Elsewhere, the proxy is used.
    let mut check = newsfeed(&[
        "config",
        "check",
        "--auth-jwks-url",
        "https://jwks.invalid/",
    ]);
    through_a_proxy(&mut check);
    let checked = output(check).await;
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(
        !checked.status.success() && said.contains("onnect"),
        "{said}"
    );

    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start(folder.path()).await;
    let port = process.api.url("").rsplit(':').next().map(str::to_owned);
    let port = port.expect("a port");
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{port}");
        let mut state = newsfeed(&["state", "a", "--url", &url, "--wait", "0"]);
        through_a_proxy(&mut state);
        let state = output(state).await;
        assert!(
            state.status.success(),
            "{}",
            String::from_utf8_lossy(&state.stderr)
        );
    }
}
