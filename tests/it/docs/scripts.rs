//! The JavaScript blocks, in Node.js with the library that the service serves.

use std::fs;

use newsfeed::http::web::FILES;
use tokio::time::timeout;

use super::{
    blocks::{self, Block},
    workplace::Workplace,
};
use crate::{
    support::needs::{folder, installed, is_here, on_path},
    support::patience::PATIENCE,
};

/// Runs the JavaScript blocks of a file beside a service, with or without keys.
async fn run(path: &str, keys: bool) {
    let blocks: Vec<Block> = blocks::all("js")
        .into_iter()
        .filter(|block| block.path == path)
        .collect();
    assert!(!blocks.is_empty(), "{path}");
    let event_source = "node_modules/eventsource/package.json";
    let needs_event_source = blocks
        .iter()
        .any(|block| block.code.contains("EventSource"));
    let mut needed = vec![on_path("node"), on_path("openssl")];
    if needs_event_source {
        needed.push(installed(event_source));
    }
    if !is_here(&format!("the JavaScript in {path}"), needed) {
        return;
    }
    let place = Workplace::new();
    let start = match keys {
        true => {
            "openssl rand -hex 32 > secret; newsfeed serve --auth-secret-file secret; \
             newsfeed admin token --key secret --sub test --scope read,append,mark,change --feed '*' --reader '*' > token"
        }
        false => "newsfeed serve; echo > token",
    };
    let started = place.bash(&format!("set -e; {start}")).await;
    assert!(
        started.status.success(),
        "{}",
        String::from_utf8_lossy(&started.stderr)
    );
    let client = crate::support::bed::http_client();
    for file in FILES
        .iter()
        .filter(|file| file.path.starts_with("/newsfeed") && file.path.ends_with(".js"))
    {
        let answer = client
            .get(format!("http://{}{}", place.address, file.path))
            .send()
            .await;
        let text = answer.expect("an answer").text().await.expect("text");
        let path = place.path().join(&file.path[1..]);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    }
    fs::write(place.path().join("package.json"), "{\"type\": \"module\"}").expect("written");
    fs::write(place.path().join("run.js"), include_str!("run.mjs")).expect("written");
    if let (true, Some(folder)) = (needs_event_source, folder()) {
        std::os::unix::fs::symlink(
            folder.join("node_modules"),
            place.path().join("node_modules"),
        )
        .expect("linked");
    }
    for block in &blocks {
        let code = block.code.replace("'/newsfeed.js'", "'./newsfeed.js'");
        fs::write(place.path().join("block.js"), code).expect("written");
        let node = place.command("node").args(["run.js", "block.js"]).output();
        let output = timeout(PATIENCE, node)
            .await
            .expect("it ends by itself")
            .expect("it runs");
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(
            output.status.success(),
            "{}: {}\n{}\n{}",
            block.place(),
            output.status,
            said[0],
            said[1]
        );
    }
}

#[tokio::test]
async fn the_readme() {
    run("README.md", false).await;
}

#[tokio::test]
async fn recipes() {
    run("src/docs/recipes.md", false).await;
}

#[tokio::test]
async fn the_guide_to_the_library() {
    run("src/docs/javascript.md", false).await;
}

#[tokio::test]
async fn the_guide_to_security() {
    run("src/docs/security.md", true).await;
}

#[test]
fn every_file_with_scripts_is_run() {
    let run = [
        "README.md",
        "src/docs/recipes.md",
        "src/docs/javascript.md",
        "src/docs/security.md",
    ];
    for block in blocks::all("js") {
        assert!(run.contains(&block.path), "{}", block.place());
    }
}
