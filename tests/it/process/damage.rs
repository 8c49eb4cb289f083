//! Damaged files: the damaged file is named, nothing panics, and nothing is returned that was not stored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use newsfeed::{
    clock::WallTime,
    store::{self, KeyValue, Range, Store, embedded, embedded::Embedded},
};
use serde_json::json;

use super::{Process, failure, run};

/// Number of places, evenly spread over a file, at which a byte is changed or the file is cut.
const PLACES: usize = 12;

/// A store with tables and a journal with some groups. The zeros at the end of the journal are cut off.
async fn whole_store(folder: &Path) {
    let append = async |round: usize| {
        let process = Process::start(folder).await;
        for number in 0..6 {
            let id = format!("{round}-{number}");
            let event = json!({ "id": id, "kind": "message", "feeds": ["a", "b"], "data": "x".repeat(700 * number) });
            process.api.append(&event).await;
        }
        process.stop().await;
    };
    append(0).await;
    let db = fjall::Database::builder(folder).open().expect("opens");
    for name in db.list_keyspace_names() {
        let table = db.keyspace(&name, Default::default).expect("it is there");
        table.rotate_memtable_and_wait().expect("flushed");
    }
    drop(db);
    append(1).await;
    for path in files(folder) {
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let bytes = fs::read(&path).expect("read");
            let end = bytes.iter().rposition(|&byte| byte != 0).expect("groups") + 1;
            fs::write(&path, &bytes[..bytes.len().min(end + 20)]).expect("written");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).expect("inside"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        fs::copy(&path, target).expect("copied");
    }
    for folder in ["0", "1", "2", "3", "4", "5"] {
        fs::create_dir_all(to.join("keyspaces").join(folder).join("tables")).expect("made");
    }
}

/// Everything in the store in `folder`.
async fn read_all(folder: &Path) -> store::Result<Vec<KeyValue>> {
    let store = Embedded::open(folder, WallTime::system(0))?;
    let everything = Range::all(vec![0], vec![0xff]);
    let read = async {
        let snapshot = store.snapshot().await?;
        snapshot.ranges(vec![everything]).await
    };
    let read = read.await;
    store.close().await;
    Ok(read?.remove(0).items)
}

/// Damage to a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Change(usize),
    Cut(usize),
    Remove,
}

fn harms(len: usize) -> Vec<Harm> {
    let places = (0..PLACES).map(|place| place * len.saturating_sub(1) / (PLACES - 1));
    let cuts = places.clone().filter(|&place| place < len).map(Harm::Cut);
    let changes = places.filter(|_| len > 0).map(Harm::Change);
    changes.chain(cuts).chain([Harm::Remove]).collect()
}

fn apply(harm: Harm, file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    match harm {
        Harm::Change(at) => bytes[at] ^= 0x5a,
        Harm::Cut(len) => bytes.truncate(len),
        Harm::Remove => return fs::remove_file(file).expect("removed"),
    }
    fs::write(file, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_any_file_is_reported_and_never_causes_a_wrong_answer() {
    let whole = tempfile::tempdir().expect("a temporary folder");
    whole_store(whole.path()).await;
    let pristine = tempfile::tempdir().expect("a temporary folder");
    copy(whole.path(), pristine.path());
    let expected = read_all(pristine.path()).await.expect("it is whole");
    assert!(expected.len() > 50, "{}", expected.len());

    let (mut named, mut harmless) = (0, 0);
    for file in files(whole.path()) {
        let inside = file.strip_prefix(whole.path()).expect("inside").to_owned();
        let name = inside.file_name().expect("a name").to_str().expect("UTF-8");
        let is_journal = name.ends_with(".jnl");
        let len = fs::metadata(&file).expect("there").len() as usize;
        for harm in harms(len) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            copy(whole.path(), folder.path());
            apply(harm, &folder.path().join(&inside));
            let what = format!("{harm:?} of {len} bytes of {}", inside.display());
            match read_all(folder.path()).await {
                Ok(found) if found == expected => harmless += 1,
                // A crash can leave a journal that ends early, or whose last bytes are wrong.
                Ok(found) => {
                    let ends_early = matches!(harm, Harm::Cut(_))
                        || matches!(harm, Harm::Change(at) if at + 40 > len);
                    assert!(is_journal && ends_early, "{what} goes unnoticed");
                    let keys: Vec<_> = expected.iter().map(|item| &item.key).collect();
                    assert!(found.len() < expected.len(), "{what}");
                    assert!(found.iter().all(|item| keys.contains(&&item.key)), "{what}");
                }
                Err(error) => {
                    let mut message = error.to_string();
                    if matches!(error, store::Error::Damaged(_)) {
                        let survey =
                            embedded::check_files(folder.path()).expect("nobody has it open");
                        for damage in survey.damages {
                            message += &damage.to_string();
                        }
                    }
                    let is_named = message.contains(&inside.display().to_string())
                        || (is_journal && message.contains(".jnl is missing"));
                    assert!(is_named, "{what}: {message}");
                    named += 1;
                }
            }
        }
    }
    println!("{named} named, {harmless} harmless");
    assert!(named > 200, "{named}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_check_names_damaged_files_and_serve_refuses_to_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    whole_store(folder.path()).await;
    let data = folder.path().to_str().expect("UTF-8");
    let check = ["admin", "check", "--data", data];
    let Output { status, stdout, .. } = run(&check).await;
    let said = String::from_utf8(stdout).expect("text");
    assert!(status.success(), "{said}");
    assert!(
        said.contains("12 ids, 24 feed entries, 24 notify keys, 12 log records"),
        "{said}"
    );

    let process = Process::start(folder.path()).await;
    assert!(failure(&check).await.contains("in use by another process"));
    process.stop().await;

    let of_a_table = |path: &PathBuf| {
        path.parent()
            .is_some_and(|folder| folder.ends_with("keyspaces/2/tables"))
    };
    let table = files(folder.path()).into_iter().find(of_a_table);
    let table = table.expect("a table");
    let list = folder.path().join("keyspaces/3/current");
    for file in [&table, &list] {
        let middle = fs::metadata(file).expect("there").len() as usize / 2;
        apply(Harm::Change(middle), file);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = run(&check).await;
    assert_eq!(status.code(), Some(1));
    let said = String::from_utf8(stdout).expect("text");
    for file in [&table, &list] {
        assert!(said.contains(&file.display().to_string()), "{said}");
    }
    assert!(String::from_utf8_lossy(&stderr).contains("from a backup"));
    let message = failure(&["serve", "--listen", "127.0.0.1:0", "--data", data]).await;
    for part in [
        list.to_str().expect("UTF-8"),
        "backup",
        "newsfeed admin check",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
