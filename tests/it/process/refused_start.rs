//! Starts that are refused, with advice.

use std::{net::TcpListener, path::Path};

use newsfeed::{
    clock::WallTime,
    store::{Batch, Range, Store, embedded::Embedded, keys::Keys},
};

use super::{Process, failure};
use crate::http::visit;

const FEED: &str = "user:1";

fn serve(folder: &Path) -> Vec<&str> {
    let folder = folder.to_str().expect("a UTF-8 path");
    vec!["serve", "--listen", "127.0.0.1:0", "--data", folder]
}

#[tokio::test]
async fn a_second_process_on_a_folder_is_refused_and_the_first_continues() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = Process::start(folder.path()).await;
    first.api.append(&visit("before", &[FEED])).await;
    let message = failure(&serve(folder.path())).await;
    for part in [
        "in use by another process",
        "use another folder",
        &folder.path().display().to_string(),
    ] {
        assert!(message.contains(part), "{message}");
    }
    first.api.append(&visit("after", &[FEED])).await;
    assert_eq!(first.api.all(FEED).await.len(), 2);
    first.stop().await;
    Process::start(folder.path()).await.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_advice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut args = serve(folder.path());
    args[2] = &address;
    let message = failure(&args).await;
    for part in [&address, "in use", "--listen"] {
        assert!(message.contains(part), "{message}");
    }
}

/// Makes a store in `folder` whose format is described by `meta`.
pub(super) async fn store_with(folder: &Path, meta: Vec<u8>) {
    let store = Embedded::open(folder, WallTime::system(0)).expect("a new store");
    Keys::open(&store, b"", 16, &WallTime::system(0))
        .await
        .expect("a new key space");
    let snapshot = store.snapshot().await.expect("a snapshot");
    // Besides the engine's own keys, the format sorts first.
    let everything = Range {
        limit: 1,
        ..Range::all(vec![0], vec![0xff])
    };
    let slices = snapshot.ranges(vec![everything]).await.expect("read");
    let key = slices[0].items[0].key.to_vec();
    let batch = Batch {
        puts: vec![(key, meta)],
        ..Batch::default()
    };
    snapshot.commit(batch).await.expect("written");
    store.close().await;
}

#[tokio::test]
async fn a_folder_of_another_format_is_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    store_with(folder.path(), 7u32.to_be_bytes().to_vec()).await;
    let message = failure(&serve(folder.path())).await;
    for part in [
        "format 7",
        "the newsfeed version that wrote it",
        "another data folder",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn a_store_of_format_1_is_refused_by_every_command_and_not_changed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // As format 1 wrote it: the format and 16 partitions.
    store_with(folder.path(), vec![0, 0, 0, 1, 0, 16]).await;
    let data = folder.path().to_str().expect("UTF-8");
    for args in [
        &serve(folder.path())[..],
        &["admin", "epoch", "--data", data],
        &["admin", "epoch", "--raise", "--data", data],
        &["admin", "check", "--data", data],
        &serve(folder.path()),
    ] {
        let message = failure(args).await;
        for part in [
            "format 1",
            "append its events again to a new store of format 3",
            "or use the newsfeed version that wrote it",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
