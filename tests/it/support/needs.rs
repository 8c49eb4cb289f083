//! What tests need from the machine. A test whose needs are missing says so in one loud line, or fails if its switch is
//! set. No test is skipped silently.

use std::{io::Write, path::PathBuf};

/// The environment variable that turns a skipped test into a failure.
#[derive(Debug, Clone, Copy)]
pub struct Switch(&'static str);

/// For programs and packages of third-party clients.
pub const CLIENTS: Switch = Switch("NEWSFEED_REQUIRE_CLIENTS");
/// For what a complete CI machine has: the message list, and the right to mount a tmpfs.
pub const CI: Switch = Switch("CI");
/// For the FoundationDB suite.
#[cfg(not(feature = "fdb"))]
pub const FDB: Switch = Switch("NEWSFEED_REQUIRE_FDB");
/// For `fdbbackup`, which is in the client package of FoundationDB.
#[cfg(feature = "fdb")]
pub const FDBBACKUP: Switch = Switch("NEWSFEED_REQUIRE_FDBBACKUP");
/// For tests of the feature `otlp`.
#[cfg(not(feature = "otlp"))]
pub const OTLP: Switch = Switch("NEWSFEED_REQUIRE_OTLP");

/// Says that `what` is not tested, and why; panics if `switch` is set.
#[track_caller]
pub fn not_tested(what: &str, why: &str, switch: Switch) {
    let line = format!("NOT TESTED: {what}: {why}");
    let value = std::env::var(switch.0).unwrap_or_default();
    let is_set = !["", "0", "false"].contains(&value.as_str());
    assert!(!is_set, "{line} ({} is set)", switch.0);
    // Straight to stderr: the test harness hides what a passing test prints.
    let _ = writeln!(
        std::io::stderr(),
        "\n!!! {line} ({}=1 makes this a failure)\n",
        switch.0
    );
}

/// Whether everything in `needed` is present; if not, `what` is reported by [`not_tested`].
pub fn is_here(what: &str, needed: impl IntoIterator<Item = Result<(), String>>) -> bool {
    match needed.into_iter().find_map(Result::err) {
        Some(missing) => {
            not_tested(what, &missing, CLIENTS);
            false
        }
        None => true,
    }
}

/// Fails unless `program` is on `PATH`.
pub fn on_path(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    found
        .then_some(())
        .ok_or_else(|| format!("{program} is not on PATH"))
}

/// The folder into which `tests/clients/install` has installed packages.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os("NEWSFEED_CLIENTS").map(PathBuf::from)
}

/// Fails unless `tests/clients/install` has installed `package`.
pub fn installed(package: &str) -> Result<(), String> {
    match folder() {
        Some(folder) if folder.join(package).exists() => Ok(()),
        Some(folder) => Err(format!(
            "{} has no {package}; run tests/clients/install {0}",
            folder.display()
        )),
        None => Err(
            "NEWSFEED_CLIENTS is not set; run tests/clients/install FOLDER and set it to FOLDER"
                .to_owned(),
        ),
    }
}
