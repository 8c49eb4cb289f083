//! The shell blocks. All blocks of a file run one after the other in one shell, beside a real service.

use std::fmt::Write;

use super::{Text, blocks, texts, workplace::Workplace};
use crate::support::needs::{is_here, on_path};

/// Runs the blocks of a file. A line that must be refused says so in a comment at its end: `# 409 id_reused`.
async fn run(file: Text) {
    let blocks: Vec<_> = blocks::of(file)
        .into_iter()
        .filter(|block| block.info == "sh")
        .collect();
    let needed = ["bash", "curl", "jq", "openssl"].map(on_path);
    if blocks.is_empty() || !is_here(&format!("the commands in {}", file.path), needed) {
        return;
    }
    let place = Workplace::new();
    let mut script = "set -euo pipefail\nnewsfeed serve\n".to_owned();
    let mut wanted = Vec::new();
    for block in &blocks {
        writeln!(script, "echo 'at {}' >&2", block.place()).expect("written");
        for line in block.code.lines() {
            wanted.extend(refusal(line));
            // The stand-in for `newsfeed serve` returns when the service is ready.
            let line = match line.strip_suffix(" &") {
                Some(line) if line.contains("newsfeed serve") => line,
                _ => line,
            };
            writeln!(script, "{}", place.here(line)).expect("written");
        }
    }
    let output = place.bash(&script).await;
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success(),
        "{}: {}\n{}\n{}",
        file.path,
        output.status,
        said[0],
        said[1]
    );
    assert_eq!(
        place.refused(),
        wanted,
        "{}\n{}\n{}",
        file.path,
        said[0],
        said[1]
    );
}

fn refusal(line: &str) -> Option<String> {
    let (_, comment) = line.rsplit_once(" # ")?;
    let status: u16 = comment.split(' ').next()?.parse().ok()?;
    (400..600)
        .contains(&status)
        .then(|| comment.trim().to_owned())
}

macro_rules! files {
    ($($name:ident $path:literal,)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                run(texts().find(|file| file.path == $path).expect("a file")).await;
            }
        )+

        #[test]
        fn every_file_with_commands_is_run() {
            let run = [$($path),+];
            for block in blocks::all("sh") {
                assert!(run.contains(&block.path), "{}", block.place());
            }
        }
    };
}

files! {
    the_readme "README.md",
    getting_started "src/docs/getting-started.md",
    recipes "src/docs/recipes.md",
    command_line "src/docs/command-line.md",
    configuration "src/docs/configuration.md",
    operations "src/docs/operations.md",
    http "src/docs/http.md",
    monitoring "src/docs/monitoring.md",
    security "src/docs/security.md",
    benchmarks "benches/README.md",
}
