//! `newsfeed admin backup` of a running service, and what is restored from it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rand::{RngExt, distr::Alphanumeric};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::{Process, failure, lineage::copy, newsfeed, run};
use crate::support::{
    bed::{Api, JSON},
    cursors::check_cursor,
    patience::{in_time, until},
    raw,
};

const BACKUP: &str = "/v1/admin/backup";

/// Data that does not get smaller by compression.
fn random_text(length: usize) -> String {
    let letters = rand::rng().sample_iter(Alphanumeric);
    letters.take(length).map(char::from).collect()
}

/// Appends `count` events; returns their ids by version.
async fn append(api: &Api, name: &str, count: usize, bytes: usize) -> BTreeMap<String, String> {
    let event = |number| {
        let data = random_text(bytes);
        json!({ "id": format!("{name}-{number}"), "kind": "message", "feeds": ["a", "b"], "data": data })
    };
    let events: Vec<Value> = (0..count).map(event).collect();
    let answer = api.append(&events.into()).await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let outcomes = answer.as_array().expect("outcomes").iter();
    outcomes
        .map(|outcome| (text(&outcome["version"]), text(&outcome["id"])))
        .collect()
}

/// Runs the command; returns the version that it prints.
async fn back_up(api: &Api, target: &Path, base: Option<&Path>) -> String {
    let (url, target) = (api.url(""), target.to_str().expect("UTF-8"));
    let mut args = vec!["admin", "backup", target, "--url", &url];
    if let Some(base) = base {
        args.extend(["--base", base.to_str().expect("UTF-8")]);
    }
    let output = run(&args).await;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stderr}");
    let version = stdout
        .strip_prefix("version ")
        .expect("the documented line");
    version.trim_end().to_owned()
}

/// The bytes of the tables' files, and those of them that another folder has too.
fn sizes(folder: &Path) -> (u64, u64) {
    let (mut all, mut shared) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let file = path.metadata().expect("a file");
            if file.is_dir() {
                folders.push(path);
            } else {
                all += file.len();
                shared += if file.nlink() > 1 { file.len() } else { 0 };
            }
        }
    }
    (all, shared)
}

fn partial(target: &Path) -> PathBuf {
    target.with_extension("partial")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_everything_up_to_its_version_once_and_the_next_one_takes_little_time()
 {
    let folder = tempfile::tempdir().expect("a folder");
    let [data, first, second, restored] =
        ["data", "first", "second", "restored"].map(|name| folder.path().join(name));
    let process = Process::start(&data).await;
    let api = Arc::new(Api::at(process.api.url("")));
    let mut appended = append(&api, "before", 100, 20_000).await;
    let stop = CancellationToken::new();
    let load = tokio::spawn({
        let (api, stop) = (Arc::clone(&api), stop.clone());
        async move {
            let mut appended = BTreeMap::new();
            for round in 0.. {
                if stop.is_cancelled() {
                    break;
                }
                appended.extend(append(&api, &format!("load-{round}"), 5, 100).await);
            }
            appended
        }
    });
    let known = api.version("a").await;
    let version = back_up(&api, &first, None).await;
    // Something is lost with the data folder.
    let reached = version.clone();
    until("events after the backup", async || {
        (api.version("a").await > reached).then_some(())
    })
    .await;
    stop.cancel();
    appended.extend(load.await.expect("it ends"));
    appended.extend(append(&api, "after", 1, 100).await);
    let lost = api.version("a").await;

    let last = back_up(&api, &second, Some(&first)).await;
    assert!(last >= lost);
    let (all, shared) = sizes(&second);
    assert!(shared > all / 2, "{shared} of {all} bytes are linked");
    let again = failure(&[
        "admin",
        "backup",
        second.to_str().expect("UTF-8"),
        "--url",
        &api.url(""),
    ])
    .await;
    assert!(again.contains("is not empty"), "{again}");
    process.kill().await;

    for (backup, version) in [(first, version.clone()), (second, last)] {
        let _ = fs::remove_dir_all(&restored);
        copy(&backup, &restored);
        let checked = run(&["admin", "check", "--data", backup.to_str().expect("UTF-8")]).await;
        assert!(checked.status.success(), "{checked:?}");
        let process = Process::start(&restored).await;
        let expected = appended.iter().filter(|(at, _)| **at <= version);
        let expected: Vec<_> = expected.map(|(at, id)| json!([at, id])).collect();
        for feed in ["a", "b"] {
            let found = process.api.all(feed).await;
            let mut found: Vec<_> = found
                .iter()
                .map(|entry| json!([entry["version"], entry["id"]]))
                .collect();
            found.sort_by_key(|entry| entry[0].as_str().map(str::to_owned));
            assert_eq!(found, expected, "{feed}");
        }
        let log = process.api.lines("/v1/log?after=0").await;
        assert_eq!(log.len(), expected.len());
        if version < lost {
            check_cursor(&process.api, &lost, false).await;
        }
        check_cursor(&process.api, &known, true).await;
        check_cursor(&process.api, &version, true).await;
        process.kill().await;
    }
}

/// A service that answers every backup with what it was given: whole, or the first half and then nothing more.
struct Replay {
    url: String,
    halted: CancellationToken,
}

impl Replay {
    async fn start(content: Bytes, is_whole: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let halted = CancellationToken::new();
        let replay = Self {
            url,
            halted: halted.clone(),
        };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (content, halted) = (content.clone(), halted.clone());
                tokio::spawn(async move {
                    let mut request = vec![0; 64 * 1024];
                    let read = socket.read(&mut request).await.expect("a request");
                    let head = |length| {
                        format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                        )
                    };
                    if request[..read].starts_with(b"GET") {
                        let _ = socket.write_all((head(2) + "{}").as_bytes()).await;
                        return;
                    }
                    let sent = if is_whole {
                        content.len()
                    } else {
                        content.len() / 2
                    };
                    let _ = socket.write_all(head(content.len()).as_bytes()).await;
                    let _ = socket.write_all(&content[..sent]).await;
                    if !is_whole {
                        halted.cancelled().await;
                    }
                });
            }
        });
        replay
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_broken_off_or_damaged_leaves_no_folder_and_there_is_one_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let [data, target] = ["data", "target"].map(|name| folder.path().join(name));
    let process = Process::start(&data).await;
    // More than what sockets buffer.
    for name in 0..2 {
        append(&process.api, &name.to_string(), 100, 60_000).await;
    }
    let arguments = |url: &str| {
        [
            "admin",
            "backup",
            target.to_str().expect("UTF-8"),
            "--wait",
            "0",
            "--url",
            url,
        ]
        .map(str::to_owned)
    };
    let fails = async |url: &str| {
        let arguments = arguments(url);
        let stderr = failure(&arguments.each_ref().map(String::as_str)).await;
        assert!(!target.exists(), "{stderr}");
        stderr
    };

    let address = process
        .api
        .url("")
        .strip_prefix("http://")
        .expect("http")
        .parse()
        .expect("an address");
    let mut slow: TcpStream = raw::connect(address).await;
    let request = raw::request("POST", BACKUP, &[JSON], b"{}");
    slow.write_all(&request).await.expect("sent");
    let mut begin = [0; 15];
    slow.read_exact(&mut begin).await.expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    let second = fails(&process.api.url("")).await;
    assert!(second.contains("409 backup_running"), "{second}");
    // It ends with its client.
    drop(slow);
    let content = until("the end of the first backup", async || {
        let answer = process.api.send_body("POST", BACKUP, &[JSON], "{}").await;
        (answer.status == 200).then_some(answer.body)
    })
    .await;
    process.kill().await;

    let broken = Replay::start(content.clone(), false).await;
    broken.halted.cancel();
    let said = fails(&broken.url).await;
    assert!(said.contains("lost the connection"), "{said}");
    assert!(partial(&target).join("unfinished-backup").exists());
    let mut damaged = content.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let damaged = Replay::start(damaged.into(), true).await;
    let said = fails(&damaged.url).await;
    assert!(
        said.contains("is damaged: its bytes do not have the checksum"),
        "{said}"
    );
    let longer = Replay::start([&content[..], b"!"].concat().into(), true).await;
    let said = fails(&longer.url).await;
    assert!(said.contains("more bytes follow"), "{said}");

    // The client is killed while it writes.
    let halted = Replay::start(content.clone(), false).await;
    let arguments_of_halted = arguments(&halted.url);
    let mut client = newsfeed(&arguments_of_halted.each_ref().map(String::as_str))
        .spawn()
        .expect("starts");
    let half = content.len() as u64 / 4;
    until("half of the files", async || {
        (partial(&target).exists() && sizes(&partial(&target)).0 > half).then_some(())
    })
    .await;
    client.kill().await.expect("killed");
    assert!(!target.exists());
    let whole = Replay::start(content, true).await;
    let arguments = arguments(&whole.url);
    let output = in_time(run(&arguments.each_ref().map(String::as_str))).await;
    assert!(output.status.success(), "{output:?}");
    assert!(!partial(&target).exists());
    let checked = run(&["admin", "check", "--data", target.to_str().expect("UTF-8")]).await;
    assert!(checked.status.success(), "{checked:?}");
}
