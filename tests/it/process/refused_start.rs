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
        "--data",
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

#[tokio::test]
async fn a_folder_of_another_format_is_refused_with_advice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Embedded::open(folder.path(), WallTime::system(0)).expect("a new store");
    Keys::open(&store, b"", 16).await.expect("a new key space");
    let snapshot = store.snapshot().await.expect("a snapshot");
    // The store has one key besides the engine's own: the format, which sorts first.
    let everything = Range {
        begin: vec![0],
        end: vec![0xff],
        reverse: false,
        limit: 1,
        bytes_max: usize::MAX,
    };
    let slices = snapshot.ranges(vec![everything]).await.expect("read");
    let meta = slices[0].items[0].key.to_vec();
    let batch = Batch {
        puts: vec![(meta, 7u32.to_be_bytes().to_vec())],
        ..Batch::default()
    };
    snapshot.commit(batch).await.expect("written");
    store.close().await;

    let message = failure(&serve(folder.path())).await;
    for part in [
        "format 7",
        "the newsfeed version that wrote it",
        "another data folder",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
