//! The shell blocks. All blocks of a file run one after the other in one shell, beside a real service.

use std::fmt::Write;

use super::{Text, blocks, texts, workplace::Workplace};
use crate::support::needs::{is_here, on_path};

/// What the recipes must have done: the digest has the entries of the feed, the index has each message once, and the consumer
/// has counted every event of the log, also after a further run that was killed.
const RECIPES_HAVE_DONE: &str = r#"
digest=$(curl -s "$U/v1/feeds/user:ben/entries?after=$SINCE&until=$UNTIL&limit=200" | jq -c '[.entries[].id]')
test "$digest" = "$(newsfeed history user:ben --until "$UNTIL" --reverse --format json | jq -sc 'map(.id)')"
curl -s "$U/v1/feeds/user:ben/entries?after=$SINCE" | jq -e '.entries | length > 0' >/dev/null
until=$(head -1 index.cursor)
newsfeed export --kind message --until "$until" | jq -r .id > messages.txt
jq -r .id index.ndjson | diff messages.txt -
test -s messages.txt
seq 500 | jq -c '{id: "more-\(.)", kind: "more", feeds: ["a"]}' | newsfeed append - >/dev/null
python3 consume.py & sleep 0.2; kill -9 $! || true; wait
python3 consume.py >/dev/null
counts='SELECT kind, events FROM counts ORDER BY kind'
python3 -c "import sqlite3; [print(*row) for row in sqlite3.connect('counts.db').execute('$counts')]" > counts.txt
newsfeed export | jq -r 'select(.change == null) | .kind' | LC_ALL=C sort | uniq -c | awk '{print $2, $1}' | diff counts.txt -
"#;

/// Runs the blocks of a file. A line that must be refused says so in a comment at its end: `# 409 id_reused`.
async fn run(file: Text) {
    let blocks: Vec<_> = blocks::of(file)
        .into_iter()
        .filter(|block| block.info == "sh")
        .collect();
    let needed = ["bash", "curl", "jq", "openssl", "python3"].map(on_path);
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
    if file.path == "src/docs/recipes.md" {
        script += "echo 'at the results' >&2\n";
        script += RECIPES_HAVE_DONE;
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
