//! The client commands, `newsfeed append` and others: with flags, in pipes, on a terminal.

mod append_command;
mod change_commands;
mod expired;
mod export_command;
mod help;
mod import_command;
mod names;
mod read_commands;
mod reader_commands;
mod redirects;
mod restricted;
mod retries;
mod tail_command;
mod terminal;

use std::{
    path::PathBuf,
    process::{Output, Stdio},
};

use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{PATIENCE, Process, newsfeed};

const FEED: &str = "user:ben";

/// A service that keeps its address over restarts.
struct Service {
    folder: TempDir,
    process: Option<Process>,
    url: String,
}

impl Service {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // A random loopback address, so that no other process takes the port while the service is down.
        let [a, b, c] = rand::rng().random::<[u8; 3]>();
        let any_port = format!("127.{}.{b}.{c}:0", a | 1);
        let process = Process::start_on(&any_port, folder.path(), &[]).await;
        let url = process.api.url("");
        Self {
            folder,
            process: Some(process),
            url,
        }
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    async fn kill(&mut self) {
        self.process.take().expect("it runs").kill().await;
    }

    async fn restart(&mut self) {
        let address = self.url.replace("http://", "");
        self.process = Some(Process::start_on(&address, self.folder.path(), &[]).await);
    }

    /// A file beside the store.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `newsfeed` with `args` and this service's URL.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = newsfeed(args);
        command
            .env("NEWSFEED_URL", &self.url)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .env("TZ", "UTC");
        command
    }

    /// Runs a command to its end.
    async fn run(&self, args: &[&str]) -> Said {
        let output = timeout(PATIENCE, self.command(args).output()).await;
        output.expect("it ends by itself").expect("it runs").into()
    }

    /// Runs a command with `input` on stdin.
    async fn run_with(&self, args: &[&str], input: &str) -> Said {
        let mut running = self.begin(args);
        running.write(input).await;
        running.end().await
    }

    /// Starts a command with piped stdin, stdout and stderr.
    fn begin(&self, args: &[&str]) -> Running {
        Running::start(&mut self.command(args))
    }

    /// Appends events with these numbers; every third is a visit, the others are messages.
    async fn fill(&self, numbers: std::ops::Range<u32>) {
        let event = |number| {
            json!({
                "id": format!("m-{number}"), "kind": if number % 3 == 2 { "visit" } else { "message" },
                "feeds": [FEED, "chat:anna-ben"], "actor": "user:anna", "data": { "z": number, "a": 1.0 },
            })
        };
        let events: Vec<Value> = numbers.map(event).collect();
        self.process().api.append(&json!(events)).await;
    }

    /// The feed's entries as JSON text of the merged pages, oldest first.
    async fn entries(&self) -> Vec<String> {
        let api = &self.process().api;
        let mut entries = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let path = format!("/v1/entries?feed={FEED}&limit=200&after={after}");
            let answer = api.send("GET", &path, &[]).await;
            let page: Page = serde_json::from_slice(&answer.body).expect("a page");
            entries.extend(page.entries.iter().map(|entry| entry.get().to_owned()));
            match page.next {
                Some(next) => after = next,
                None => return entries,
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Page {
    entries: Vec<Box<serde_json::value::RawValue>>,
    next: Option<String>,
}

/// Runs a command with the address of the service and a token in its environment.
async fn with_token(url: &str, token: &str, args: &[&str]) -> Said {
    let mut command = newsfeed(args);
    command
        .env("NEWSFEED_URL", url)
        .env("NEWSFEED_TOKEN", token);
    command.output().await.expect("it runs").into()
}

/// A command's output and exit code.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Said {
    /// The lines of stdout; expects exit code `code`.
    #[track_caller]
    fn lines(&self, code: i32) -> Vec<&str> {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stdout.lines().collect()
    }

    /// The lines of stdout as JSON; expects exit code `code`.
    #[track_caller]
    fn json(&self, code: i32) -> Vec<Value> {
        let parsed = |line| serde_json::from_str(line).expect("JSON");
        self.lines(code).into_iter().map(parsed).collect()
    }

    /// Expects exit code `code` and `what` on stderr.
    #[track_caller]
    fn told(&self, code: i32, what: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(
            self.stderr.contains(what),
            "{what:?} is not in {}",
            self.stderr
        );
    }
}

/// A running command.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self {
            stdin: child.stdin.take(),
            lines: BufReader::new(child.stdout.take().expect("piped")).lines(),
            stderr: BufReader::new(child.stderr.take().expect("piped")).lines(),
            child,
        }
    }

    async fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).await.expect("it reads");
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("it goes on").expect("text");
        line.expect("a line before the end")
    }

    /// Waits until it writes `what` to stderr.
    async fn says(&mut self, what: &str) {
        let said = async {
            while let Some(line) = self.stderr.next_line().await.expect("text") {
                if line.contains(what) {
                    return;
                }
            }
            panic!("it ended and never said {what:?}");
        };
        timeout(PATIENCE, said).await.expect("it goes on");
    }

    fn interrupt(&self) {
        let id = self.child.id().expect("it runs");
        let pid = Pid::from_raw(id.cast_signed()).expect("not 0");
        kill_process(pid, Signal::INT).expect("signalled");
    }

    /// Closes its stdin; returns the rest of its output.
    async fn end(mut self) -> Said {
        drop(self.stdin.take());
        let ending = async {
            let (mut stdout, mut stderr) = (String::new(), String::new());
            let (mut out, mut err) = (self.lines.into_inner(), self.stderr.into_inner());
            let (out, err) = tokio::join!(
                out.read_to_string(&mut stdout),
                err.read_to_string(&mut stderr)
            );
            out.and(err).expect("text");
            let code = self.child.wait().await.expect("reaped").code();
            Said {
                code,
                stdout,
                stderr,
            }
        };
        timeout(PATIENCE, ending).await.expect("it ends")
    }
}
