//! Runs the FoundationDB suite where fdbserver is installed, and reports it where it is not.
#![cfg(not(feature = "fdb"))]

use std::{path::Path, process::Command};

use crate::support::needs::{self, not_tested};

/// Builds this binary with the feature `fdb` and runs its FoundationDB tests, which start their own clusters.
#[test]
fn the_foundationdb_suite_passes() {
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
        "the FoundationDB suite failed; see its output above"
    );
}
