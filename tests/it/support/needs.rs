//! What tests need of this machine: programs, and packages that `tests/clients/install` gets.

use std::{io::Write, path::PathBuf};

/// Whether all that is `needed` is here. If not, says so in one line, or fails if `NEWSFEED_REQUIRE_CLIENTS=1`.
pub fn is_here(what: &str, needed: impl IntoIterator<Item = Result<(), String>>) -> bool {
    let Some(missing) = needed.into_iter().find_map(Result::err) else {
        return true;
    };
    let line = format!("NOT TRIED: {what}, as {missing}");
    let required = std::env::var("NEWSFEED_REQUIRE_CLIENTS").is_ok_and(|value| value == "1");
    assert!(!required, "{line}");
    // Past the test harness, which would swallow it.
    let _ = writeln!(
        std::io::stderr(),
        "\n!!! {line} (NEWSFEED_REQUIRE_CLIENTS=1 makes this a failure)\n"
    );
    false
}

pub fn on_path(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    found
        .then_some(())
        .ok_or_else(|| format!("there is no {program} on PATH"))
}

/// Where `tests/clients/install` has put packages.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os("NEWSFEED_CLIENTS").map(PathBuf::from)
}

pub fn installed(package: &str) -> Result<(), String> {
    match folder() {
        Some(folder) if folder.join(package).exists() => Ok(()),
        Some(folder) => Err(format!(
            "{} has no {package}: run tests/clients/install {0}",
            folder.display()
        )),
        None => Err("NEWSFEED_CLIENTS is not set: run tests/clients/install FOLDER, and set it to that folder".to_owned()),
    }
}
