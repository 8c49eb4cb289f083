//! Makes sure that the FoundationDB suite runs where it can, and that nobody overlooks where it cannot.
#![cfg(not(feature = "fdb"))]

use std::{path::Path, process::Command};

use crate::support::needs::{self, not_tested};

/// With fdbserver on PATH, runs this binary's tests again, built with the engine, against clusters they start.
#[test]
fn the_foundationdb_suite_runs_or_says_that_it_did_not() {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let installed = path
        .split(':')
        .any(|folder| Path::new(folder).join("fdbserver").is_file());
    if !installed {
        return not_tested("FoundationDB", "fdbserver is not on PATH", needs::FDB);
    }
    let status = Command::new(env!("CARGO"))
        .args([
            "test",
            "--locked",
            "--features",
            "fdb",
            "--test",
            "it",
            "--",
            "fdb",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path)
        .status()
        .expect("cargo runs");
    assert!(
        status.success(),
        "the FoundationDB suite failed; its output is above"
    );
}
