//! A cluster that was restored from a copy of its files: the operator raises the epoch, and cursors of what was lost are
//! refused.

use std::{path::Path, process::Command};

use newsfeed::{
    store::{Batch, Error, epoch},
    version::Version,
};
use tokio::task::block_in_place;

use crate::{
    fdb::cluster::{Cluster, shared},
    http::visit,
    process::{failure, run},
    support::{
        bed::{Api, Bed},
        cursors::check_cursor,
    },
};

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

/// Appends events; returns their versions, and moments between them.
async fn cursors(api: &Api, name: &str) -> Vec<String> {
    let mut cursors = Vec::new();
    for number in 0..3 {
        cursors.push(api.version("a").await);
        let answer = api
            .append(&visit(&format!("{name}-{number}"), &["a", "b"]))
            .await;
        cursors.push(answer["version"].as_str().expect("a version").to_owned());
    }
    cursors
}

async fn check(api: &Api, cursors: &[String], are_known: bool) {
    for cursor in cursors {
        check_cursor(api, cursor, are_known).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_and_a_raise_only_cursors_of_what_was_lost_are_refused() {
    let cluster = std::sync::Arc::new(block_in_place(|| Cluster::start(1, "ssd")));
    let bed = Bed::fdb_on(cluster.clone());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backup = folder.path().join("backup");
    let data = cluster.data(0);
    let again = || block_in_place(|| cluster.start_again());
    let keys = bed.keys().await;

    let node = bed.node().await;
    let kept = cursors(&node, "kept").await;
    node.stop().await;
    cluster.kill(0);
    copy(&data, &backup);
    again();

    let mut lost = Vec::new();
    for life in ["lost", "lost again"] {
        let node = bed.node().await;
        check(&node, &kept, true).await;
        lost.extend(cursors(&node, life).await);
        lost.push(node.version("a").await);
        check(&node, &lost, true).await;
        node.stop().await;
    }
    cluster.kill(0);
    copy(&backup, &data);
    again();

    let last: Version = kept[kept.len() - 1].parse().expect("a version");
    let store = bed.store();
    let raise = |restored| epoch::raise(&*store, &keys, &bed.wall, restored);
    match raise(Some(last.time() - 1)).await {
        Err(Error::Refused(why)) => assert!(why.contains("above the restored version"), "{why}"),
        other => panic!("{other:?}"),
    }
    raise(None).await.expect("raised");
    let node = bed.node().await;
    check(&node, &lost, false).await;
    check(&node, &kept, true).await;
    let new = cursors(&node, "new").await;
    check(&node, &lost, false).await;
    check(&node, &new, true).await;

    // With the version to which the cluster was restored, also what was only read before it is known.
    let idle: Version = node.version("a").await.parse().expect("a version");
    raise(Some(idle.time())).await.expect("raised");
    check(&node, &[idle.to_string()], true).await;
    let beyond = Version::moment(idle.epoch(), idle.time() + 1);
    check(&node, &[beyond.to_string()], false).await;
    check(&node, &kept, true).await;
    check(&node, &lost, false).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_that_raises_the_epoch_takes_the_restored_version_and_refuses_wrong_ones() {
    let bed = Bed::fdb();
    let (store, keys) = (bed.store(), bed.keys().await);
    let node = bed.node().await;
    let kept = cursors(&node, "kept").await;
    let appended: Version = kept[kept.len() - 1].parse().expect("a version");
    // A node would do this within ten seconds.
    let snapshot = store.snapshot().await.expect("a snapshot");
    let row = snapshot.version().to_bytes().to_vec();
    let batch = Batch {
        puts: vec![(keys.time(bed.wall.micros() / 10_000_000), row)],
        ..Batch::default()
    };
    snapshot.commit(batch).await.expect("committed");
    let restored: Version = node.version("a").await.parse().expect("a version");

    let file = shared().file();
    let (file, prefix) = (file.to_str().expect("UTF-8"), bed.prefix());
    let prefix = std::str::from_utf8(prefix).expect("UTF-8");
    let place = [
        "admin",
        "epoch",
        "--store",
        "fdb",
        "--cluster-file",
        file,
        "--prefix",
        prefix,
    ];
    let epoch = async |more: &[&str]| {
        let output = run(&[&place[..], more].concat()).await;
        assert!(output.status.success(), "{more:?}: {output:?}");
        let said = String::from_utf8(output.stdout).expect("text");
        let number = said.trim().strip_prefix("epoch ").expect("as documented");
        number.parse::<u32>().expect("a number")
    };
    let before = epoch(&[]).await;
    assert_eq!(before, restored.epoch());
    let raise = |version: u64| (["--raise", "--restored-version"], version.to_string());
    for (version, why) in [
        (appended.time() - 1, "above the restored version"),
        (0, "above the restored version"),
        (restored.time() + 10_000_000_000, "is in the future"),
        (u64::MAX, "is in the future"),
    ] {
        let (flags, version) = raise(version);
        let message = failure(&[&place[..], &flags, &[&version]].concat()).await;
        assert!(message.contains(why), "{version}: {message}");
        assert!(message.contains("fdbrestore printed"), "{message}");
    }
    for (wrong, why) in [
        (&["--restored-version", "7"][..], "--raise"),
        (&["--raise", "--restored-version", "x"], "invalid value 'x'"),
        (&["--raise", "--restored-version", "-1"], "-1"),
        (&["--raise", "--restored-version"], "a value is required"),
    ] {
        let output = run(&[&place[..], wrong].concat()).await;
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(said.contains(why), "{wrong:?}: {said}");
    }
    assert_eq!(epoch(&[]).await, before, "refused raises change nothing");

    let (flags, version) = raise(restored.time());
    let raised = epoch(&[&flags[..], &[&version]].concat()).await;
    assert!(raised > before);
    assert_eq!(epoch(&[]).await, raised);
    check(&node, &kept, true).await;
    check(&node, &[restored.to_string()], true).await;
    let beyond = Version::moment(before, restored.time() + 1);
    check(&node, &[beyond.to_string()], false).await;
    node.stop().await;
}
