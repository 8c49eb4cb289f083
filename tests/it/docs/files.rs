//! Blocks that are files: each is given to the program that reads such files.

use std::{fs, process::Output};

use serde_json::Value;
use tokio::process::Command;

use super::{blocks, workplace::Workplace};
use crate::support::needs::{is_here, on_path};

#[test]
fn json_blocks_are_json() {
    for block in blocks::all("json") {
        let parsed: Result<Value, _> = serde_json::from_str(&block.code);
        parsed.unwrap_or_else(|error| panic!("{}: {error}", block.place()));
    }
}

#[tokio::test]
async fn toml_blocks_are_configurations() {
    let place = Workplace::new();
    for block in blocks::all("toml") {
        fs::write(place.path().join("newsfeed.toml"), &block.code).expect("written");
        let output = place
            .bash("env -u NEWSFEED_LISTEN newsfeed config check --config newsfeed.toml")
            .await;
        succeeded(&block.place(), &output);
        // Every key in it has an effect.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let from_file = said.lines().filter(|line| line.ends_with("# file")).count();
        let keys = block
            .code
            .lines()
            .filter(|line| line.contains(" = "))
            .count();
        // A table of kinds, and all rules, are one setting each.
        let beyond_one = |table: &str| {
            let rest = block.code.split_once(table);
            let keys = rest.map_or(0, |(_, rest)| rest.matches(" = ").count());
            keys.saturating_sub(1)
        };
        assert_eq!(
            from_file,
            keys - beyond_one("[kinds]") - beyond_one("[[retention]]"),
            "{}\n{said}",
            block.place()
        );
    }
}

#[test]
fn the_scrape_configuration_is_one() {
    let blocks = blocks::all("yaml");
    for block in &blocks {
        let parsed: Value = serde_saphyr::from_str(&block.code)
            .unwrap_or_else(|error| panic!("{}: {error}", block.place()));
        let job = &parsed["scrape_configs"][0];
        assert_eq!(job["job_name"], "newsfeed", "{}", block.place());
        assert_eq!(
            job["static_configs"][0]["targets"][0],
            "127.0.0.1:8080",
            "{}",
            block.place()
        );
        let known = [
            "job_name",
            "scrape_interval",
            "authorization",
            "static_configs",
        ];
        for key in job.as_object().expect("an object").keys() {
            assert!(known.contains(&key.as_str()), "{key} in {}", block.place());
        }
    }
    assert_eq!(blocks.len(), 1);
}

#[tokio::test]
async fn units_are_accepted_by_systemd() {
    for block in blocks::all("ini") {
        if !is_here(&block.place(), [on_path("systemd-analyze")]) {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("newsfeed.service");
        let program = env!("CARGO_BIN_EXE_newsfeed");
        let unit = block.code.replace("/usr/local/bin/newsfeed", program);
        fs::write(&path, unit).expect("written");
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path)
            .output()
            .await;
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Other units of this machine are none of our business.
        let ours: Vec<_> = said
            .lines()
            .filter(|line| line.contains("newsfeed.service"))
            .collect();
        assert!(ours.is_empty(), "{}: {ours:?}", block.place());
    }
}

#[tokio::test]
async fn nginx_accepts_its_configuration() {
    for block in blocks::all("nginx") {
        if !is_here(&block.place(), [on_path("nginx")]) {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display();
        let config = format!(
            "pid {at}/pid;\nerror_log {at}/log;\nevents {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {at};\n{}\n}}\n",
            block.code
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config).expect("written");
        let output = Command::new("nginx")
            .args(["-t", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&path)
            .output()
            .await;
        succeeded(&block.place(), &output.expect("it runs"));
    }
}

#[tokio::test]
async fn haproxy_accepts_its_configuration() {
    for block in blocks::all("haproxy") {
        if !is_here(&block.place(), [on_path("haproxy")]) {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("haproxy.cfg");
        fs::write(&path, &block.code).expect("written");
        let output = Command::new("haproxy")
            .args(["-c", "-f"])
            .arg(&path)
            .output()
            .await;
        let output = output.expect("it runs");
        succeeded(&block.place(), &output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("WARNING"), "{}: {said}", block.place());
    }
}

fn succeeded(place: &str, output: &Output) {
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success(),
        "{place}: {}\n{}\n{}",
        output.status,
        said[0],
        said[1]
    );
}
