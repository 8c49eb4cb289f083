//! HTTPS as an operator sets it up, and our own commands over it.

use std::{fs, process::Stdio};

use super::{Process, failure, newsfeed, run};
use crate::support::certs::{Authority, Folder};

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_commands_work_over_https() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new();
    let folder = Folder::with(&authority.issue());
    let ca = data.path().join("ca.pem");
    fs::write(&ca, authority.pem()).expect("written");
    let (cert, key) = (folder.cert(), folder.key());
    let args = ["--tls-cert", path(&cert), "--tls-key", path(&key)];
    let process = Process::start_with(data.path(), &args).await;
    let url = process.api.url("");
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");

    let list = data.path().join("list.txt");
    fs::write(&list, "1 2 1082040961\n3 2 1082040962\n").expect("written");
    let replay = ["replay", path(&list), "--url", &url];
    let replayed = run(&[&replay[..], &["--ca-file", path(&ca)]].concat()).await;
    assert_eq!(replayed.status.code(), Some(0), "{replayed:?}");
    assert_eq!(process.api.all("user:2").await.len(), 2);
    let demo = ["demo", "--url", &url, "--for", "0", "--backlog", "10"];
    let played = run(&[&demo[..], &["--ca-file", path(&ca)]].concat()).await;
    assert_eq!(played.status.code(), Some(0), "{played:?}");

    // An unknown authority is refused, and so is a CA file without certificates.
    let error = failure(&replay).await;
    assert!(error.contains("cannot reach https://"), "{error}");
    let error = failure(&[&replay[..], &["--ca-file", path(&list)]].concat()).await;
    assert!(error.contains("has no certificate in PEM"), "{error}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_files_are_refused_with_the_reason() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(), authority.issue());
    let folder = Folder::with(&one);
    let data = tempfile::tempdir().expect("a temporary folder");
    let (cert, key) = (folder.cert(), folder.key());
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        path(data.path()),
    ];
    let tls = ["--tls-cert", path(&cert), "--tls-key", path(&key)];
    let begin = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n";
    for (cert_is, key_is, wrong) in [
        (
            &*one.cert,
            &*other.key,
            "key.pem does not belong to the first certificate in ",
        ),
        (
            "",
            &one.key,
            "cert.pem (--tls-cert) has no certificate in PEM",
        ),
        (
            &one.key,
            &one.key,
            "cert.pem (--tls-cert) has no certificate in PEM",
        ),
        (
            &one.cert,
            &one.cert,
            "key.pem (--tls-key) has no private key in PEM",
        ),
        (begin, &one.key, "cert.pem (--tls-cert) is not valid PEM"),
    ] {
        folder.put(cert_is, key_is);
        let error = failure(&[&serve[..], &tls].concat()).await;
        assert!(error.contains(wrong), "{wrong:?} in {error}");
    }
    fs::remove_file(&key).expect("removed");
    let error = failure(&[&serve[..], &tls].concat()).await;
    assert!(
        error.contains("cannot read ") && error.contains("key.pem (--tls-key)"),
        "{error}"
    );
    // One flag without the other is a usage error.
    for half in [&tls[..2], &tls[2..]] {
        let mut command = newsfeed(&[&serve[..], half].concat());
        let output = command
            .stdout(Stdio::null())
            .output()
            .await
            .expect("it runs");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("--tls-"), "{error}");
    }
}
