//! A disk whose syncs fail.

use std::{fs, path::Path};

use tokio::process::Command;

use super::{
    super::{Process, newsfeed},
    Ledger, event,
};

/// Compiles the library that makes syncs fail; returns its path.
async fn library(folder: &Path) -> String {
    let path = folder.join("fsync_fails.so");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/process/disk/fsync_fails.c"
    );
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(["-shared", "-fPIC", "-o"]).arg(&path);
    let status = compiler.arg(source).status().await;
    assert!(status.expect("cc, which links Rust programs").success());
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_appends_fail_until_the_disk_works_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path().join("store");
    let fault = folder.path().join("fault");
    let data = store.to_str().expect("UTF-8");
    let mut command = newsfeed(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
    command
        .env("LD_PRELOAD", library(folder.path()).await)
        .env("NEWSFEED_TEST_FAULT", &fault);
    let process = Process::of(command).await;
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        ledger.append_until_taken(&process.api).await;
    }

    fs::write(&fault, "").expect("written");
    let api = process.api.clone();
    let id = "fault".to_owned();
    let body = event(&id);
    let appended = tokio::spawn(async move { api.post("/v1/events", &body).await });
    ledger.unsure.push(id);
    // While the fault lasts, the event is invisible and all earlier ones are visible.
    for _ in 0..3 {
        ledger.audit(&process.api).await;
    }
    let (status, answer) = appended.await.expect("answered");
    assert_eq!(
        (status, &answer["code"]),
        (503, &"store_unavailable".into()),
        "{answer}"
    );
    ledger.audit(&process.api).await;

    fs::remove_file(&fault).expect("removed");
    ledger.settle_unsure(&process.api).await;
    ledger.append_until_taken(&process.api).await;
    ledger.audit(&process.api).await;
    process.stop().await;
    let process = Process::start(&store).await;
    ledger.audit(&process.api).await;
    process.stop().await;
}
