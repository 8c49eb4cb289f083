//! Cursors of another life of an embedded store: its folder was restored from a copy, deleted, or opened with another clock.

use std::{path::Path, process::Command};

use serde_json::json;

use super::{Process, failure, newsfeed, run};
use crate::{
    http::visit,
    support::{bed::Api, cursors::check_cursor, entries::place},
};

const YEAR_BACK: [&str; 2] = ["--wall-offset-s", "-31536000"];

pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

fn remove(folder: &Path) {
    std::fs::remove_dir_all(folder).expect("removed");
}

/// Appends two events; returns cursors that a client may have kept: of an entry, right before it, and of the moment.
async fn cursors(api: &Api, name: &str) -> Vec<String> {
    let mut cursors = vec![api.version("a").await];
    for number in 0..2 {
        let answer = api
            .append(&visit(&format!("{name}-{number}"), &["a", "b"]))
            .await;
        let version = answer["version"].as_str().expect("a version").to_owned();
        let page = format!("/v1/feeds/a/entries?before={version}");
        let before = api.get(&page).await["version"].clone();
        cursors.extend([version, before.as_str().expect("a version").to_owned()]);
    }
    cursors.push(api.version("a").await);
    cursors
}

async fn check(api: &Api, cursors: &[String], are_known: bool) {
    for cursor in cursors {
        check_cursor(api, cursor, are_known).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_folder_was_put_back_only_cursors_of_what_was_lost_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
    let process = Process::start(&data).await;
    let mut kept = vec!["0".to_owned()];
    kept.extend(cursors(&process.api, "kept").await);
    process.kill().await;
    let process = Process::start(&data).await;
    kept.extend(cursors(&process.api, "kept again").await);
    process.stop().await;
    copy(&data, &backup);

    // Two lives that are lost, one of them killed.
    let mut lost = Vec::new();
    for life in ["lost", "lost again"] {
        let process = Process::start(&data).await;
        check(&process.api, &kept[..2], true).await;
        lost.extend(cursors(&process.api, life).await);
        check(&process.api, &lost, true).await;
        process.kill().await;
    }
    remove(&data);
    copy(&backup, &data);

    let process = Process::start(&data).await;
    check(&process.api, &lost, false).await;
    check(&process.api, &kept, true).await;
    let mut new = cursors(&process.api, "new").await;
    check(&process.api, &lost, false).await;
    process.kill().await;
    // Further starts, also with a wrong clock, keep what was known, and what was not known.
    for args in [&[][..], &YEAR_BACK, &YEAR_BACK, &[]] {
        let process = Process::start_with(&data, args).await;
        check(&process.api, &lost[lost.len() - 3..], false).await;
        for known in [&kept, &new] {
            check(&process.api, &known[known.len() - 2..], true).await;
        }
        new = cursors(&process.api, &format!("later {}", new[0])).await;
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_folder_was_deleted_all_old_cursors_are_refused_whatever_the_clock_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut old = Vec::new();
    for args in [&[][..], &YEAR_BACK, &[]] {
        let process = Process::start_with(&data, args).await;
        check(&process.api, &old, false).await;
        check_cursor(&process.api, "0", true).await;
        let new = cursors(&process.api, "new").await;
        check(&process.api, &old, false).await;
        check(&process.api, &new, true).await;
        old.extend(new);
        process.kill().await;
        remove(&data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_lives_of_a_copy_with_a_clock_that_stands_still_do_not_accept_each_others_cursors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
    let process = Process::start(&data).await;
    let kept = cursors(&process.api, "kept").await;
    process.stop().await;
    copy(&data, &backup);
    let mut lost: Vec<String> = Vec::new();
    // The clock is behind the store's last commit in each life.
    for life in 0..4 {
        let process = Process::start_with(&data, &YEAR_BACK).await;
        check(&process.api, &lost, false).await;
        check(&process.api, &kept, true).await;
        let new = cursors(&process.api, &format!("life {life}")).await;
        check(&process.api, &lost[lost.len().saturating_sub(6)..], false).await;
        lost.extend(new);
        process.kill().await;
        remove(&data);
        copy(&backup, &data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_with_a_cursor_of_another_store_starts_over_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let cursor = folder.path().join("cursor");
    let cursor = cursor.to_str().expect("UTF-8");
    let process = Process::start(&data).await;
    process.api.append(&visit("old", &["a"])).await;
    let url = process.api.url("");
    let tail = async |url: &str, more: &[&str]| {
        let args = ["tail", "a", "--cursor", cursor, "--no-follow", "--url", url];
        let args = [&args[..], more].concat();
        let mut command = newsfeed(&args);
        command.env_remove("NEWSFEED_LOG");
        let output = super::output(command).await;
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        assert!(output.status.success(), "{err}");
        let ids = out
            .lines()
            .map(|line| place(&serde_json::from_str(line).expect("an entry")).1);
        (ids.collect::<Vec<_>>(), err)
    };
    assert_eq!(
        tail(&url, &[]).await,
        (vec!["old".to_owned()], String::new())
    );
    process.kill().await;
    remove(&data);
    let process = Process::start(&data).await;
    for number in 0..3 {
        process
            .api
            .append(&visit(&format!("new-{number}"), &["a"]))
            .await;
    }
    let url = process.api.url("");
    // Where the command was told to start: the last two entries.
    let (ids, said) = tail(&url, &["-n", "2"]).await;
    assert_eq!(ids, ["new-1", "new-2"]);
    assert!(said.contains("not of this store"), "{said}");
    assert!(said.contains("starting over"), "{said}");
    assert_eq!(tail(&url, &[]).await, (Vec::new(), String::new()));

    // A stream is told by the service.
    let old = std::fs::read_to_string(cursor).expect("a cursor");
    process.kill().await;
    remove(&data);
    let process = Process::start(&data).await;
    process.api.append(&visit("newer", &["a"])).await;
    let url = process.api.url("");
    let mut command = newsfeed(&[
        "tail",
        "a",
        "--cursor",
        cursor,
        "--from",
        "beginning",
        "--url",
        &url,
    ]);
    command.env_remove("NEWSFEED_LOG");
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let stdout = child.stdout.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    process
        .api
        .append(&json!({ "id": "live", "kind": "visit", "feeds": ["a"] }))
        .await;
    for id in ["newer", "live"] {
        let line = tokio::time::timeout(super::PATIENCE, lines.next_line()).await;
        let line = line.expect("a line").expect("text").expect("not the end");
        assert_eq!(place(&serde_json::from_str(&line).expect("an entry")).1, id);
    }
    crate::support::patience::until("the new cursor", async || {
        let kept = std::fs::read_to_string(cursor).expect("a cursor");
        (kept != old && kept.as_str() > "0\n").then_some(())
    })
    .await;
    child.kill().await.expect("killed");
    let said = child.wait_with_output().await.expect("it ends").stderr;
    let said = String::from_utf8(said).expect("text");
    assert!(said.contains("not of this store"), "{said}");
    assert!(said.contains("starting over"), "{said}");
    let kept = std::fs::read_to_string(cursor).expect("a cursor");
    check_cursor(&process.api, kept.trim(), true).await;
    process.stop().await;
    let data = data.to_str().expect("UTF-8");
    assert!(
        run(&["admin", "check", "--data", data])
            .await
            .status
            .success()
    );
}

/// What the commands do whose position is of the life that was lost: `tail` starts over, `export` does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_folder_was_put_back_or_deleted_tail_starts_over_and_export_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().expect("UTF-8").to_owned();
    let (data, backup) = (path("data"), path("backup"));
    let command = async |api: &Api, args: &[&str]| {
        let mut command = newsfeed(&[args, &["--url", &api.url("")]].concat());
        command.env_remove("NEWSFEED_LOG");
        let output = super::output(command).await;
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        let ids: Vec<String> = out
            .lines()
            .map(|line| place(&serde_json::from_str(line).expect("an event")).1)
            .collect();
        (output.status.code(), ids, err)
    };
    let (tailed, piped) = (text("tail.cursor"), text("pipe.cursor"));
    let (file, filed) = (text("events"), text("file.cursor"));
    let tail = [
        "tail",
        "--all",
        "--no-follow",
        "-n",
        "9",
        "--cursor",
        &tailed,
    ];
    let pipe = ["export", "--quiet", "--cursor", &piped];
    let to_file = ["export", "--quiet", "--output", &file, "--cursor", &filed];

    let process = Process::start(&data).await;
    process.api.append(&visit("kept", &["a"])).await;
    process.stop().await;
    copy(&data, &backup);
    let process = Process::start(&data).await;
    process.api.append(&visit("lost", &["a"])).await;
    for args in [&tail[..], &pipe, &to_file] {
        assert_eq!(command(&process.api, args).await.0, Some(0));
    }
    process.kill().await;

    // The copy is put back; then the folder is deleted.
    for (life, all) in [
        ("put back", &["kept", "put back"][..]),
        ("deleted", &["deleted"]),
    ] {
        remove(&data);
        if life == "put back" {
            copy(&backup, &data);
        }
        let process = Process::start(&data).await;
        process.api.append(&visit(life, &["a"])).await;
        let (code, ids, said) = command(&process.api, &tail).await;
        assert_eq!(
            (code, &*ids),
            (
                Some(0),
                &*all.iter().map(ToString::to_string).collect::<Vec<_>>()
            ),
            "{said}"
        );
        assert!(
            said.contains("not of this store") && said.contains("starting over"),
            "{said}"
        );

        let exported = std::fs::read_to_string(&file).expect("a file");
        for (args, cursor, advice) in [
            (&pipe[..], &piped, "let it start over, remove"),
            (&to_file, &filed, "away, and run the same command again"),
        ] {
            let (code, ids, said) = command(&process.api, args).await;
            assert_eq!((code, ids.len()), (Some(1), 0), "{said}");
            for part in ["is not of this store", advice, &**cursor] {
                assert!(said.contains(part), "{said}");
            }
        }
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), exported);
        // As advised.
        for path in [&piped, &file, &filed] {
            std::fs::remove_file(path).expect("removed");
        }
        assert_eq!(command(&process.api, &pipe).await.1, all);
        assert_eq!(command(&process.api, &to_file).await.0, Some(0));
        let lines = std::fs::read_to_string(&file).expect("a file");
        assert_eq!(lines.lines().count(), all.len());
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_that_raises_the_epoch_of_an_embedded_store_takes_no_restored_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let process = Process::start(folder.path()).await;
    let kept = cursors(&process.api, "kept").await;
    let data = folder.path().to_str().expect("UTF-8");
    let epoch = ["admin", "epoch", "--data", data];
    let raise = [&epoch[..], &["--raise"]].concat();
    assert!(failure(&raise).await.contains("in use by another process"));
    process.stop().await;

    let shown = async |args: &[&str]| {
        let said = String::from_utf8(run(args).await.stdout).expect("text");
        let number = said.trim().strip_prefix("epoch ").expect("as documented");
        number.parse::<u32>().expect("a number")
    };
    let before = shown(&epoch).await;
    let message = failure(&[&raise[..], &["--restored-version", "7"]].concat()).await;
    assert!(message.contains("takes no restored version"), "{message}");
    assert_eq!(
        shown(&epoch).await,
        before,
        "a refused raise changes nothing"
    );
    assert!(shown(&raise).await > before);
    let process = Process::start(folder.path()).await;
    check(&process.api, &kept, true).await;
    process.stop().await;
}
