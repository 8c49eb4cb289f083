//! The binary: on which addresses it listens, that it never logs secrets, and commands with tokens.

use std::{path::Path, process::Stdio};

use clap::{Args, FromArgMatches};
use http_body_util::BodyExt;
use newsfeed::{auth::Secret, config::Config};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use super::{SECRET, SECRET_FILE, Signer, Site, bearer, claims, master, speak};
use crate::{
    process::newsfeed_bench,
    support::{
        bed::{Api, text},
        patience::PATIENCE,
        protocol::Protocol,
        sse::Stream,
    },
};

/// A program with the given arguments.
type Program = fn(&[&str]) -> Command;

fn newsfeed(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_newsfeed"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// `newsfeed serve` on a free loopback port, with the most verbose log.
struct Process {
    child: Child,
    api: Api,
    said: JoinHandle<String>,
}

impl Process {
    async fn start(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = folder.to_str().expect("UTF-8");
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data", folder];
        let mut command = newsfeed(&[&serve, args].concat());
        command.env("NEWSFEED_LOG", "trace");
        let mut child = command
            .envs(environment.iter().copied())
            .spawn()
            .expect("it starts");
        let mut stderr = child.stderr.take().expect("piped");
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).await.expect("read");
            String::from_utf8_lossy(&said).into_owned()
        });
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.expect("text").expect("a line before the end");
        let base = line
            .strip_prefix("newsfeed is listening on ")
            .expect("the promised line");
        let api = Api::at(base.to_owned());
        Self { child, api, said }
    }

    /// Kills it; returns what it wrote to stderr.
    async fn ended(mut self) -> String {
        self.child.kill().await.expect("killed");
        self.said.await.expect("no panic")
    }
}

async fn run(args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = newsfeed(args);
    command.envs(environment.iter().copied());
    output(command).await
}

async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let output = timeout(PATIENCE, command.output())
        .await
        .expect("it ends")
        .expect("it runs");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), stdout, stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_only_loopback_is_served_and_a_warning_is_logged() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (code, stdout, stderr) =
            run(&["serve", "--listen", address, "--data", data], &[]).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        for said in ["--auth-keys", "127.0.0.1", "--insecure", address] {
            assert!(stderr.contains(said), "{stderr}");
        }
    }
    // A secret enables authentication.
    for (environment, open, status) in [
        (vec![], true, 200),
        (vec![("NEWSFEED_AUTH_SECRET", SECRET_FILE)], false, 401),
    ] {
        let process = Process::start(folder.path(), &[], &environment).await;
        let answer = process.api.send("GET", "/v1/feeds/a", &[]).await;
        assert_eq!(answer.status, status, "{environment:?}");
        let said = process.ended().await;
        assert_eq!(
            said.contains("NO AUTHENTICATION"),
            open,
            "{environment:?}: {said}"
        );
    }
    let short = [("NEWSFEED_AUTH_SECRET", "short")];
    let (code, _, stderr) = run(
        &["serve", "--listen", "127.0.0.1:0", "--data", data],
        &short,
    )
    .await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("NEWSFEED_AUTH_SECRET") && stderr.contains("32 random bytes"),
        "{stderr}"
    );
    assert!(
        !stderr.contains("\"short\"") && !stderr.contains(": short"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_ticket_or_secret_is_ever_logged() {
    let folder = tempfile::tempdir().expect("a folder");
    let environment = [("NEWSFEED_AUTH_SECRET", SECRET_FILE)];
    let process = Process::start(folder.path(), &[], &environment).await;
    let api = process.api.clone();
    let token = master();
    let bad = Signer::hs256().sign_as(
        &json!({ "kid": "x", "alg": "none" }),
        &claims("read", &["a"]),
    );
    let mut hidden = vec![
        SECRET.to_owned(),
        SECRET_FILE.to_owned(),
        token.clone(),
        bad.clone(),
    ];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let send = async |method: &str, path: &str, header: (&str, &str), body: Value| {
            let headers = [header, ("content-type", "application/json")];
            speak(protocol, method, &api.url(path), &headers, body.to_string()).await
        };
        let (name, value) = bearer(&token);
        let body = json!({ "feeds": ["a"] });
        let answer = send("POST", "/v1/tickets", (name, &value), body).await;
        let answer = answer.into_body().collect().await.expect("a body");
        let answer: Value = serde_json::from_slice(&answer.to_bytes()).expect("JSON");
        let ticket = text(&answer["ticket"]);
        let url = api.url(&format!("/v1/feeds/a/live?ticket={ticket}"));
        let stream = speak(protocol, "GET", &url, &[], String::new()).await;
        let mut stream = Stream::over(stream.into_body().into_data_stream());
        stream.caught_up().await;
        for token in [&token, &bad] {
            let (name, value) = bearer(token);
            for path in ["/v1/feeds/a", "/v1/session", "/nothing"] {
                send("POST", path, (name, &value), Value::Null).await;
            }
            let cookie = format!("newsfeed_token={token}");
            send("GET", "/v1/feeds/a", ("cookie", &cookie), Value::Null).await;
            let path = format!("/v1/live?feed=a&ticket={token}x");
            send("GET", &path, ("accept", "text/event-stream"), Value::Null).await;
        }
        hidden.push(ticket);
    }
    let said = process.ended().await;
    assert!(said.contains("credentials refused"), "it logs: {said}");
    for text in hidden {
        // Of a token, its signature.
        let text = text
            .rsplit('.')
            .find(|part| !part.is_empty())
            .expect("a part");
        assert!(!said.contains(text), "{text} in {said}");
    }
}

/// The settings of `newsfeed serve` with these flags.
fn settings(flags: &[&str]) -> Config {
    let command = Config::augment_args(clap::Command::new("serve"));
    let matches = command.get_matches_from([&["serve"], flags].concat());
    Config::from_arg_matches(&matches).expect("arguments")
}

/// Checked without listening, which would expose a port to the network.
#[tokio::test]
async fn other_addresses_require_keys_or_insecure() {
    let keys = ["--auth-keys", "somewhere"];
    let file = ["--auth-secret-file", "somewhere"];
    let url = ["--auth-jwks-url", "https://example.com/jwks"];
    for address in [
        "10.0.0.1:80",
        ":80",
        "0.0.0.0:80",
        "[::]:80",
        "[::ffff:10.0.0.1]:80",
        "[fe80::1]:80",
    ] {
        // The rule holds for each of several addresses.
        let several = format!("127.0.0.1:80,{address}");
        for listen in ["--listen", address, "--listen", &several].chunks(2) {
            let error = settings(listen).places().await.expect_err("open to all");
            assert!(
                error.contains(&format!("can reach {address} could")),
                "{error}"
            );
            for flags in [&["--insecure"][..], &keys, &file, &url] {
                let config = settings(&[listen, flags].concat());
                config.places().await.expect("wanted");
            }
            let mut secret = settings(listen);
            secret.auth.secrets = Some(Secret::list(SECRET_FILE.as_bytes()));
            secret.places().await.expect("keys");
        }
    }
    for address in [
        "127.0.0.1:80",
        "127.1.2.3:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "localhost:80",
        "unix:/run/newsfeed.sock",
    ] {
        let config = settings(&["--listen", address]);
        config.places().await.expect("this machine");
    }
}

#[test]
fn debug_output_of_settings_has_no_secret() {
    let url = "https://user:hidden@example.com/jwks?key=hidden";
    let mut args = settings(&["--auth-jwks-url", url]).auth;
    args.secrets = Some(Secret::list(SECRET_FILE.as_bytes()));
    let printed = format!("{args:?}");
    assert!(printed.contains("https://example.com/jwks"), "{printed}");
    assert!(
        !printed.contains("hidden") && !printed.contains(SECRET),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minted_token_works_for_every_kind_of_key() {
    let site = Site::new();
    for signer in Signer::all() {
        let node = site
            .node_with_keys(
                &signer.public,
                &["--auth-audience", "us", "--auth-issuer", "me"],
            )
            .await;
        let key = site.file("private", &signer.private);
        let key = key.to_str().expect("UTF-8");
        let options = [
            "--sub",
            "user:42",
            "--scope",
            "read,mark",
            "--feed",
            "a",
            "--feed",
            "chat:*",
            "--reader",
            "user:ben",
            "--reader",
            "team:*",
        ];
        let more = [
            "--minutes",
            "5",
            "--audience",
            "us",
            "--issuer",
            "me",
            "--kid",
            "any",
        ];
        let mint = [&["admin", "token", "--key", key][..], &options, &more].concat();
        let (code, stdout, stderr) = run(&mint, &[]).await;
        assert_eq!(code, Some(0), "{}: {stderr}", signer.name);
        let token = stdout.trim_end();
        assert_eq!(
            super::read(&node, token).await.status,
            200,
            "{}",
            signer.name
        );
        let (name, value) = bearer(token);
        for (method, path, status) in [
            ("GET", "/v1/feeds/chat:1", 200),
            ("GET", "/v1/feeds/a?reader=user:ben", 200),
            ("GET", "/v1/feeds/a?reader=team:1", 200),
            ("GET", "/v1/feeds/a?reader=user:42", 403),
            ("GET", "/v1/feeds/b", 403),
            ("POST", "/v1/events", 403),
        ] {
            let answer = super::ask(&node, method, path, &[(name, &value)], None).await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
    let public = site.file("public", &Signer::p256().public);
    let public = public.to_str().expect("UTF-8");
    for (args, reason) in [
        (&["/nowhere"][..], "/nowhere"),
        (&[public], "signing needs a PRIVATE KEY"),
        (&["/nowhere", "--reader", "a*b"], "`readers[0]`"),
    ] {
        let mint = [&["admin", "token", "--key"], args].concat();
        let (code, stdout, stderr) = run(&mint, &[]).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains(reason), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_send_their_token() {
    let site = Site::new();
    let node = site.node_with_secret().await;
    let url = node.url("");
    let token = site.file("token", &format!("{}\n", master()));
    let file = ["--token-file", token.to_str().expect("UTF-8")];
    let list = site.file("list", "1 2 1000\n2 1 1001\n");
    let list = list.to_str().expect("UTF-8");
    let replay = format!("replay {list}");
    let commands: [(Program, &str); 5] = [
        (newsfeed, &replay),
        (newsfeed, "demo --backlog 10 --for 0"),
        (
            newsfeed_bench,
            "append --rate 50 --seconds 1 --connections 2",
        ),
        (
            newsfeed_bench,
            "live --subscribers 4 --feeds 2 --rate 50 --seconds 1",
        ),
        (
            newsfeed_bench,
            "live --http2 --subscribers 4 --feeds 2 --rate 50 --seconds 1",
        ),
    ];
    for (program, args) in commands {
        let mut args: Vec<&str> = args.split(' ').collect();
        args.extend(["--url", &url]);
        let (code, _, stderr) = output(program(&args)).await;
        assert_eq!(code, Some(1), "{args:?}");
        assert!(stderr.contains("credentials_missing"), "{args:?}: {stderr}");
        args.extend(file);
        let (code, _, stderr) = output(program(&args)).await;
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
    }
    let (code, _, stderr) = run(
        &["replay", list, "--url", &url],
        &[("NEWSFEED_TOKEN", &master())],
    )
    .await;
    assert_eq!(code, Some(0), "{stderr}");
}
