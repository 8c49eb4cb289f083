//! `newsfeed admin copy` as a command: killed and run again, and what it refuses.

use std::{path::Path, process::Stdio, time::Duration};

use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{PATIENCE, Process, failure, newsfeed, run};

/// Text that does not get smaller on disk.
fn noise(length: usize) -> String {
    let letters = rand::rng().sample_iter(rand::distr::Alphanumeric);
    letters.take(length).map(char::from).collect()
}

/// The bytes of a folder on disk.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => {
            use std::os::unix::fs::MetadataExt;
            data.blocks() * 512
        }
        Err(_) => 0,
    });
    sizes.sum()
}

#[tokio::test]
async fn a_copy_that_is_killed_is_refused_by_every_command_until_it_was_continued() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().expect("UTF-8").to_owned();
    let (source, target) = (
        format!("embedded:{}", text("a")),
        format!("embedded:{}", text("b")),
    );
    let copy = ["admin", "copy", "--from", &source, "--to", &target];
    let process = Process::start(&path("a")).await;
    let event = |number: u32| {
        json!({
            "id": format!("m-{number}"), "kind": "message", "feeds": ["a", "b"],
            "data": format!("{number} {}", noise(60_000)),
        })
    };
    for part in 0..8 {
        let events: Vec<Value> = (part * 10..part * 10 + 10).map(event).collect();
        process.api.append(&json!(events)).await;
    }
    assert!(failure(&copy).await.contains("in use by another process"));
    assert!(!path("b").exists());
    let all = process.api.all("a").await;
    process.stop().await;

    // Killed later and later, until it was in the middle. A kill may come too early, and on a slow machine too late.
    let mut killed = 0;
    for megabytes in [4, 8, 2, 6, 3, 5] {
        if killed == 2 {
            break;
        }
        let mut command = newsfeed(&copy);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let since = Instant::now();
        while size(&path("b")) < megabytes << 20 && since.elapsed() < PATIENCE {
            if child.try_wait().expect("a child").is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill().await.expect("killed and reaped");
        let data = text("b");
        let check = run(&["admin", "check", "--data", &data]).await;
        if check.status.success() {
            std::fs::remove_dir_all(path("b")).expect("removed");
            continue;
        }
        let said = String::from_utf8(check.stderr).expect("text");
        if said.contains("there is no store") {
            continue;
        }
        killed += 1;
        let unfinished = format!("an unfinished copy of {source}, with ");
        assert!(said.contains(&unfinished), "{said}");
        if killed > 1 {
            continue;
        }
        for command in [
            &["serve", "--listen", "127.0.0.1:0", "--data", &data][..],
            &["admin", "epoch", "--data", &data],
            &["admin", "epoch", "--raise", "--data", &data],
            &["admin", "migrate", "--data", &data],
            &["admin", "copy", "--from", &target, "--to", &source],
        ] {
            let said = failure(command).await;
            assert!(said.contains(&unfinished), "{command:?}: {said}");
            assert!(
                said.contains("run the same `newsfeed admin copy` again"),
                "{said}"
            );
        }
    }
    assert!(killed > 0, "the copy was never killed in the middle");
    let done = run(&copy).await;
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8(done.stdout).expect("text");
    assert!(
        said.starts_with("copied ") && said.contains(" and verified them: checksum "),
        "{said}"
    );
    let [before, after] = ["a", "b"].map(text);
    let counts = async |folder: &str| {
        let check = run(&["admin", "check", "--data", folder]).await;
        assert!(check.status.success(), "{check:?}");
        let said = String::from_utf8(check.stdout).expect("text");
        said.lines().last().expect("a line").to_owned()
    };
    assert_eq!(counts(&before).await, counts(&after).await);
    assert!(failure(&copy).await.contains("the target is not empty"));
    let process = Process::start(&path("b")).await;
    assert_eq!(process.api.all("a").await, all);
    process.stop().await;
}

#[tokio::test]
async fn mistakes_are_told_and_nothing_is_created() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = |name: &str| format!("embedded:{}", folder.path().join(name).display());
    let (a, b) = (text("a"), text("b"));
    let copy = |from, to| ["admin", "copy", "--from", from, "--to", to];
    assert!(
        failure(&copy(&a, &b))
            .await
            .contains("there is no store in")
    );
    assert!(
        failure(&copy(&a, &a))
            .await
            .contains("cannot be copied to itself")
    );
    #[cfg(not(feature = "fdb"))]
    for (from, to) in [("fdb:", &*b), (&*a, "fdb:?prefix=x/")] {
        let said = failure(&copy(from, to)).await;
        let why = if from == "fdb:" {
            "built without FoundationDB"
        } else {
            "there is no store in"
        };
        assert!(said.contains(why), "{said}");
    }
    for wrong in ["/var/lib/newsfeed", "fdb", "fdb:/a?tenant=b"] {
        let output = run(&copy(wrong, &b)).await;
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("expected "), "{said}");
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0);
}
