//! The addresses that the service listens on.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use rustix::process::Signal;

use super::{Process, failure, newsfeed};
use crate::{
    auth::SECRET_FILE,
    http::visit,
    support::{
        bed::Api,
        certs::{Authority, Folder},
        sse::Stream,
    },
};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("newsfeed.sock")
    }

    /// The address of the socket as a flag.
    fn unix(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn data(&self) -> String {
        let path = self.folder.path().join("data");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// `newsfeed serve` with `args` and nothing else but a folder.
    async fn serve(&self, args: &[&str]) -> Process {
        let data = self.data();
        Process::of(newsfeed(&[&["serve", "--data", &data], args].concat())).await
    }

    async fn refused(&self, args: &[&str]) -> String {
        let data = self.data();
        failure(&[&["serve", "--data", &data], args].concat()).await
    }
}

/// What the service prints at its start.
fn addresses(process: &Process) -> Vec<String> {
    let line = process.api.url("");
    line.split(' ').map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_addresses_serve_the_same_and_end_together() {
    let place = Place::new();
    let unix = place.unix();
    let process = place
        .serve(&["--listen", "127.0.0.1:0,localhost:0", "--listen", &unix])
        .await;
    let printed = addresses(&process);
    let (tcp, last) = printed.split_at(printed.len() - 1);
    assert_eq!(last, [unix]);
    assert!(tcp[0].starts_with("http://127.0.0.1:"), "{printed:?}");
    // `localhost` is IPv4 and, where the machine has it, IPv6, with one port.
    let port = |url: &String| url.rsplit(':').next().map(str::to_owned);
    assert!(
        tcp.len() == 2 || tcp[2].starts_with("http://[::1]:"),
        "{printed:?}"
    );
    assert_eq!(port(&tcp[1]), port(&tcp[tcp.len() - 1]));
    assert_ne!(port(&tcp[0]), port(&tcp[1]));

    let mut apis: Vec<Api> = tcp.iter().cloned().map(Api::at).collect();
    apis.push(Api::over(&place.socket()));
    let mut streams = Vec::new();
    for api in &apis {
        let mut stream = Stream::open(&api.http, &api.url("/v1/feeds/a/live"), None).await;
        stream.caught_up().await;
        streams.push(stream);
    }
    for (index, api) in apis.iter().enumerate() {
        let sent = api.append(&visit(&format!("e-{index}"), &["a"])).await;
        for stream in &mut streams {
            let event = stream.next_of(&["entry"]).await;
            assert_eq!(event.data["version"], sent["version"]);
        }
    }
    for api in &apis {
        assert_eq!(api.all("a").await.len(), apis.len());
    }
    process.signal(Signal::TERM);
    for stream in &mut streams {
        stream.next_of(&["bye"]).await;
    }
    assert_eq!(process.exited().await.code(), Some(0));
    assert!(!place.socket().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_a_killed_service_is_replaced_and_that_of_a_running_one_is_not() {
    let place = Place::new();
    let unix = place.unix();
    let mode = || {
        let file = fs::metadata(place.socket()).expect("a file");
        file.permissions().mode() & 0o777
    };
    let listen = ["--listen", &*unix];
    let killed = place.serve(&listen).await;
    assert_eq!(addresses(&killed), [&*unix]);
    assert_eq!(mode(), 0o660);
    Api::over(&place.socket())
        .append(&visit("before", &["a"]))
        .await;
    killed.kill().await;
    assert!(place.socket().exists());
    let process = place
        .serve(&[&listen[..], &["--listen-mode", "0600"]].concat())
        .await;
    assert_eq!(mode(), 0o600);

    let other = Place::new();
    let error = other.refused(&listen).await;
    for part in [&*unix, "in use by another process", "--listen"] {
        assert!(error.contains(part), "{error}");
    }
    let api = Api::over(&place.socket());
    api.append(&visit("after", &["a"])).await;
    assert_eq!(api.all("a").await.len(), 2);
    process.stop().await;
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_named() {
    let place = Place::new();
    let missing = format!("unix:{}/missing/socket", place.folder.path().display());
    let long = format!("unix:/{}", "x".repeat(200));
    for (address, parts) in [
        (&*missing, &["/missing"][..]),
        (&long, &["107 bytes"]),
        (
            "nothing.invalid:8080",
            &["the name nothing.invalid has no address"],
        ),
        // An address that this machine does not have (RFC 5737).
        ("192.0.2.1:8080", &["192.0.2.1:8080"]),
    ] {
        let socket = place.unix();
        let error = place
            .refused(&["--listen", &socket, "--listen", address, "--insecure"])
            .await;
        for part in [&["cannot listen on", address], parts].concat() {
            assert!(error.contains(part), "{address}: {error}");
        }
        // The socket that was bound before is gone again.
        assert!(!place.socket().exists(), "{address}");
    }
    let error = place.refused(&["--listen", "127.0.0.1:0,:8080"]).await;
    assert!(error.contains("can reach :8080"), "{error}");
}

/// Without TLS on the socket, whose other end is on this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_only_tcp_speaks_tls() {
    let place = Place::new();
    let files = Folder::with(&Authority::new().issue());
    let (cert, key, unix) = (files.cert(), files.key(), place.unix());
    let process = place
        .serve(&[
            "--listen",
            "127.0.0.1:0",
            "--listen",
            &unix,
            "--tls-cert",
            cert.to_str().expect("UTF-8"),
            "--tls-key",
            key.to_str().expect("UTF-8"),
        ])
        .await;
    let printed = addresses(&process);
    assert!(printed[0].starts_with("https://127.0.0.1:"), "{printed:?}");
    let sent = Api::over(&place.socket())
        .append(&visit("one", &["a"]))
        .await;
    let tcp = Api::at(printed[0].clone()).all("a").await;
    assert_eq!(tcp[0]["version"], sent["version"]);
    process.stop().await;
}

/// No browser connects to a unix socket, so a request through one may be for any host, although the service has no keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_checked_on_tcp_but_not_on_a_unix_socket() {
    let place = Place::new();
    let unix = place.unix();
    let process = place
        .serve(&["--listen", "127.0.0.1:0", "--listen", &unix])
        .await;
    let tcp = Api::at(addresses(&process).swap_remove(0));
    let socket = Api::over(&place.socket());
    for host in ["evil.example", "127.0.0.1"] {
        for (method, path) in [("GET", "/v1/feeds/a"), ("POST", "/v1/events"), ("GET", "/")] {
            let headers = [("host", host), ("content-type", "application/json")];
            let body = match method {
                "POST" => visit("one", &["a"]).to_string(),
                _ => String::new(),
            };
            let answer = socket.send_body(method, path, &headers, body.clone());
            assert_eq!(answer.await.status, 200, "{host} {method} {path}");
            let answer = tcp.send_body(method, path, &headers, body).await;
            match host {
                "127.0.0.1" => assert_eq!(answer.status, 200, "{method} {path}"),
                _ => drop(answer.problem(421, "host_not_allowed").expect(path)),
            }
        }
    }
    process.stop().await;
}

/// The statuses of many requests that a proxy sends for this client.
async fn statuses(api: &Api, client: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let headers = [("x-forwarded-for", client)];
        statuses.push(api.send("GET", "/healthz", &headers).await.status);
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_behind_a_trusted_proxy_on_a_socket_are_told_apart() {
    let place = Place::new();
    let unix = place.unix();
    let limited = ["--listen", &unix, "--caller-requests-per-s", "1"];
    let process = place
        .serve(&[&limited[..], &["--trusted-proxy", "unix"]].concat())
        .await;
    let api = Api::over(&place.socket());
    assert_eq!(statuses(&api, "203.0.113.1").await, [200, 429]);
    let answer = api.send("GET", "/healthz", &[("x-forwarded-for", "203.0.113.2")]);
    assert_eq!(answer.await.status, 200);
    process.stop().await;

    // Not trusted, the header counts for nothing: the caller is on this machine and has no limits, unless asked for.
    let process = place.serve(&limited).await;
    assert_eq!(statuses(&api, "203.0.113.1").await, [200]);
    process.stop().await;
    let process = place
        .serve(&[&limited[..], &["--limit-loopback"]].concat())
        .await;
    assert_eq!(statuses(&api, "203.0.113.1").await, [200, 429]);
    let answer = api.send("GET", "/healthz", &[("x-forwarded-for", "203.0.113.2")]);
    assert_eq!(answer.await.status, 429);
    process.stop().await;
}

/// The rules for cookies hold whatever the socket: `Origin` must match the `Host` and the scheme that the proxy passes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_counts_only_from_pages_of_the_same_origin() {
    let place = Place::new();
    let unix = place.unix();
    let secret = place.folder.path().join("secret");
    fs::write(&secret, SECRET_FILE).expect("written");
    let secret = secret.to_str().expect("UTF-8");
    let flags = ["--listen", &unix, "--auth-secret-file", secret];
    let process = place
        .serve(&[&flags[..], &["--trusted-proxy", "unix"]].concat())
        .await;
    let mint = [
        "admin", "token", "--key", secret, "--scope", "append", "--feed", "*",
    ];
    let minted = newsfeed(&mint).output().await.expect("it runs");
    let token = String::from_utf8(minted.stdout).expect("text");
    let cookie = format!("newsfeed_token={}", token.trim());
    let api = Api::over(&place.socket());
    for (scheme, origin, status) in [
        ("https", "https://app.example", 200),
        ("https", "http://app.example", 403),
        ("https", "https://other.example", 403),
        ("http", "https://app.example", 403),
        ("http", "http://app.example", 200),
    ] {
        let headers = [
            ("content-type", "application/json"),
            ("cookie", &*cookie),
            ("host", "app.example"),
            ("x-forwarded-proto", scheme),
            ("origin", origin),
        ];
        let body = visit("one", &["a"]).to_string();
        let answer = api.send_body("POST", "/v1/events", &headers, body).await;
        assert_eq!(answer.status, status, "{scheme} {origin}");
    }
    let anonymous = api.send("GET", "/v1/feeds/a", &[]).await;
    anonymous
        .problem(401, "credentials_missing")
        .expect("refused");
    process.stop().await;
}
