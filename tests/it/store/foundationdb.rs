//! Makes sure that the FoundationDB suite runs where it can, and that nobody overlooks where it cannot.
#![cfg(not(feature = "fdb"))]

use std::{io::Write, path::Path, process::Command};

/// With fdbserver on PATH, runs this binary's tests again, built with the engine, against clusters they start.
#[test]
fn the_foundationdb_suite_runs_or_says_that_it_did_not() {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let installed = path
        .split(':')
        .any(|folder| Path::new(folder).join("fdbserver").is_file());
    if !installed {
        // Past the test harness, which would swallow it.
        let _ = std::io::stderr().write_all(
            b"\n!!! THE FOUNDATIONDB SUITE DID NOT RUN: there is no fdbserver on PATH (NEWSFEED_REQUIRE_FDB=1 makes this a failure)\n\n",
        );
        let required = std::env::var("NEWSFEED_REQUIRE_FDB").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "NEWSFEED_REQUIRE_FDB=1, but there is no fdbserver on PATH"
        );
        return;
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
