//! Runs the scripts in `tests/web`: the JavaScript library in Node.js and the page in Chromium.

use std::{path::Path, process::Output};

use tokio::{process::Command, time::timeout};

use crate::support::{
    needs::{self, installed, is_here, on_path},
    patience::PATIENCE,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `node`, which must succeed.
async fn node(args: &[&str]) {
    let run = Command::new("node")
        .args(args)
        .current_dir(root().join("tests/web"))
        .env("NEWSFEED_BIN", env!("CARGO_BIN_EXE_newsfeed"))
        .kill_on_drop(true)
        .output();
    // A script reports its own timeouts before this one.
    let Output {
        status,
        stdout,
        stderr,
    } = timeout(PATIENCE * 3, run)
        .await
        .expect("it ends by itself")
        .expect("it runs");
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{args:?}: {status}\n{stdout}{stderr}");
    eprint!("{stderr}");
}

async fn in_node(script: &str) {
    if is_here(script, [on_path("node")]) {
        node(&["--test-reporter=spec", script]).await;
    }
}

async fn in_chromium(script: &str) {
    let needed = [
        on_path("node"),
        on_path("chromium"),
        installed("node_modules/playwright-core"),
        installed("node_modules/axe-core"),
    ];
    if is_here(script, needed) {
        node(&["--test-reporter=spec", script]).await;
    }
}

#[tokio::test]
async fn the_library_works_as_documented() {
    in_node("library.test.mjs").await;
}

#[tokio::test]
async fn the_library_takes_names_of_real_systems_and_explains_redirects() {
    in_node("names.test.mjs").await;
}

#[tokio::test]
async fn the_library_handles_rare_answers() {
    in_node("fake.test.mjs").await;
}

#[tokio::test]
async fn the_list_of_the_library_stays_as_the_feed_is() {
    in_node("list.test.mjs").await;
}

#[tokio::test]
async fn the_library_misses_nothing_wherever_a_connection_breaks() {
    in_node("cuts.test.mjs").await;
}

#[tokio::test]
async fn the_types_of_the_library_are_correct() {
    let compiler = "node_modules/typescript/bin/tsc";
    if !is_here("types.ts", [on_path("node"), installed(compiler)]) {
        return;
    }
    let compiler = needs::folder().expect("packages").join(compiler);
    let compiler = compiler.to_str().expect("a UTF-8 path");
    let lib = "es2024,esnext,dom,dom.asynciterable";
    let options = [
        "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--types", "",
        "--lib", lib,
    ];
    node(&[&[compiler][..], &options, &["types.ts"]].concat()).await;
}

#[tokio::test]
async fn the_page_shows_a_feed() {
    in_chromium("page.test.mjs").await;
}

#[tokio::test]
async fn the_page_marks_an_open_chat_as_read() {
    in_chromium("reading.test.mjs").await;
}

#[tokio::test]
async fn the_page_shows_each_member_of_a_group_what_is_unread() {
    in_chromium("readers.test.mjs").await;
}

#[tokio::test]
async fn the_page_survives_failures() {
    in_chromium("breaks.test.mjs").await;
}

#[tokio::test]
async fn the_page_is_accessible() {
    in_chromium("accessibility.test.mjs").await;
}

#[tokio::test]
async fn windows_share_one_stream() {
    in_chromium("share.test.mjs").await;
}

#[tokio::test]
async fn tokens_expire_and_are_renewed() {
    in_chromium("tokens.test.mjs").await;
}

#[tokio::test]
async fn the_documentation_is_for_everybody() {
    in_chromium("docs.test.mjs").await;
}
