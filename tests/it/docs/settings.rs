//! The guide to the configuration, and flags wherever the documentation names them.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{Args, Command};
use newsfeed::{config::Config, docs::GUIDES};

use super::texts;
use crate::support::bed::Bed;

fn serve() -> Command {
    Config::augment_args(Command::new("serve"))
}

fn guide(slug: &str) -> &'static str {
    GUIDES
        .iter()
        .find(|guide| guide.slug == slug)
        .expect("a guide")
        .text
}

#[test]
fn every_setting_is_in_the_guide_with_its_variable_and_default() {
    let serve = serve();
    let rows: Vec<Vec<&str>> = guide("configuration")
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split(" | ").collect())
        .collect();
    for arg in serve.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let long = format!("`--{}`", arg.get_long().expect("a long flag"));
        let row = rows.iter().find(|row| row[0].contains(&long));
        let row = row.unwrap_or_else(|| panic!("{long} is not in the guide"));
        let variable = arg.get_env().expect("a variable").to_str().expect("UTF-8");
        assert!(row[1].contains(&format!("`{variable}`")), "{long}");
        let defaults: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_str().expect("UTF-8"))
            .collect();
        let default = defaults.join(",");
        let shown = row[2].replace('`', "");
        match default.as_str() {
            "" => assert!(
                ["none", "off", "see meaning"].contains(&&*shown),
                "{long}: {shown}"
            ),
            default => assert_eq!(shown, default, "{long}"),
        }
    }
    // And none that is no setting.
    let known: BTreeSet<_> = serve
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .collect();
    for row in &rows {
        for flag in row[0].split('`').filter_map(|part| part.strip_prefix("--")) {
            let flag = flag.split(' ').next().expect("a word");
            assert!(known.contains(flag), "--{flag} is no setting");
        }
    }
}

/// Metrics that are in the guide are exported, and all that are exported are in the guide.
#[tokio::test]
async fn metrics_are_in_the_guide() {
    let bed = Bed::embedded();
    let node = bed.node().await;
    let answer = node.send("GET", "/metrics", &[]).await;
    let exported = String::from_utf8(answer.body.to_vec()).expect("text");
    let exported: BTreeSet<_> = exported
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(|name| {
            name.strip_prefix("newsfeed_")
                .unwrap_or(name)
                .trim_end_matches("_total")
                .to_owned()
        })
        .collect();
    let mut shown = BTreeSet::new();
    for row in guide("monitoring")
        .lines()
        .filter(|line| line.starts_with("| `"))
    {
        let first = row
            .trim_start_matches("| ")
            .split(" | ")
            .next()
            .expect("a cell");
        for name in first.split('`').skip(1).step_by(2) {
            let name = name
                .split('{')
                .next()
                .expect("a name")
                .trim_end_matches("_total");
            shown.insert(name.to_owned());
        }
    }
    let missing: Vec<_> = exported.difference(&shown).collect();
    assert!(missing.is_empty(), "not in the guide: {missing:?}");
    // A metric with labels is not exported before it has counted something.
    let sources = sources();
    for name in shown.difference(&exported) {
        let name = name.trim_end_matches("_seconds");
        assert!(
            sources.contains(&format!("\"{name}\"")),
            "{name} is not a metric"
        );
    }
}

fn sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folder = fs::read_dir(root.join("metrics")).expect("a folder");
    let files = folder.map(|file| file.expect("an entry").path());
    let files = files.chain([root.join("http/exposition.rs")]);
    files
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect()
}

/// Commands are run by other tests; this finds flags in the prose.
#[test]
fn flags_in_the_text_exist() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_newsfeed"))
        .args(["completions", "bash"])
        .output();
    let completions = String::from_utf8(output.expect("it runs").stdout).expect("text");
    let known: BTreeSet<_> = completions
        .split_whitespace()
        .filter_map(|word| word.trim_matches('"').strip_prefix("--"))
        .collect();
    assert!(known.contains("drain-time-ms"));
    for file in texts().filter(|file| file.path != "benches/README.md") {
        for code in file.text.split('`').skip(1).step_by(2) {
            let Some(flag) = code.strip_prefix("--") else {
                continue;
            };
            let flag: String = flag
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            let others = ["features", "processes", "engine", "port"];
            assert!(
                known.contains(&*flag) || others.contains(&&*flag),
                "--{flag} in {}",
                file.path
            );
        }
    }
}
