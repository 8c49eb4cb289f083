//! A folder in which examples run, with a service of their own. They say `newsfeed`, `cargo run`, `systemctl` and
//! http://127.0.0.1:8080; here each of these means the program under test.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, time::timeout};

use crate::support::patience::PATIENCE;

/// `serve` returns when the service is ready and takes the place of the one before.
const NEWSFEED: &str = r#"#!/usr/bin/env bash
stop() {
  [ -f "$WORK/pid" ] || return 0
  kill "$(cat "$WORK/pid")" 2>/dev/null
  while kill -0 "$(cat "$WORK/pid")" 2>/dev/null; do sleep 0.02; done
  rm -f "$WORK/pid"
}
case $1 in
stop) stop ;;
serve)
  stop
  # The examples that wait in vain would otherwise keep the pipes of the test open.
  "$NEWSFEED_BIN" "$@" </dev/null >"$WORK/log" 2>&1 &
  echo $! >"$WORK/pid"
  for _ in $(seq 3000); do
    /usr/bin/env -i "$CURL" -sk -o /dev/null "http://$NEWSFEED_LISTEN/readyz" && exit 0
    /usr/bin/env -i "$CURL" -sk -o /dev/null "https://$NEWSFEED_LISTEN/readyz" && exit 0
    kill -0 "$(cat "$WORK/pid")" 2>/dev/null || break
    sleep 0.02
  done
  cat "$WORK/log" >&2
  exit 1
  ;;
*) exec "$NEWSFEED_BIN" "$@" ;;
esac
"#;

const CARGO: &str = r#"#!/usr/bin/env bash
case "$*" in
"run --release -- "*) shift 3; exec newsfeed "$@" ;;
test) ;;
*) echo "this test does not know: cargo $*" >&2; exit 1 ;;
esac
"#;

const SYSTEMCTL: &str = r#"#!/usr/bin/env bash
case "$*" in
"start newsfeed") exec newsfeed serve ;;
"stop newsfeed") exec newsfeed stop ;;
*) echo "this test does not know: systemctl $*" >&2; exit 1 ;;
esac
"#;

/// Notes every answer that is an error, with its code.
const CURL: &str = r#"#!/usr/bin/env bash
set -o pipefail
head=$(mktemp -p "$WORK") body=$(mktemp -p "$WORK")
"$CURL" -D "$head" "$@" | tee "$body"
result=$?
status=$(grep -a '^HTTP/' "$head" | tail -1 | cut -d' ' -f2 | tr -d '\r')
if [ "${status:-0}" -ge 400 ]; then
  echo "$status $(grep -ao '"code":"[a-z_]*"' "$body" | head -1 | cut -d'"' -f4)" >>"$WORK/refused"
fi
exit $result
"#;

/// Waits three times as long as the text says: the machine of a test may be busy.
const TIMEOUT: &str = r#"#!/usr/bin/env bash
seconds=$1; shift
exec "$TIMEOUT" $((3 * seconds)) "$@"
"#;

pub struct Workplace {
    folder: tempfile::TempDir,
    /// Nobody else has this address, so the port of the examples is free.
    pub address: String,
}

impl Workplace {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let part = || rand::random_range(1..255);
        let address = format!("127.{}.{}.{}:8080", part(), part(), part());
        fs::create_dir(folder.path().join("bin")).expect("created");
        let place = Self { folder, address };
        for (name, script) in [
            ("newsfeed", NEWSFEED),
            ("cargo", CARGO),
            ("systemctl", SYSTEMCTL),
            ("curl", CURL),
            ("timeout", TIMEOUT),
        ] {
            let path = place.path().join("bin").join(name);
            fs::write(&path, script).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        place
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `text` with the addresses and folders of this place.
    pub fn here(&self, text: &str) -> String {
        let path = self.path().to_str().expect("a UTF-8 path");
        let host = self.address.trim_end_matches(":8080");
        text.replace("127.0.0.1:8080", &self.address)
            .replace("IP:127.0.0.1", &format!("IP:{host}"))
            .replace("/var/lib/newsfeed", &format!("{path}/newsfeed-data"))
            .replace("/var/backups", path)
    }

    pub fn command(&self, program: &str) -> Command {
        let real = |name: &str| -> PathBuf {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path).map(|folder| folder.join(name));
            found
                .into_iter()
                .find(|path| path.is_file())
                .expect("it is on PATH")
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("PATH", format!("{}/bin:{path}", self.path().display()))
            .env("HOME", self.path())
            .env("WORK", self.path())
            .env("CURL", real("curl"))
            .env("TIMEOUT", real("timeout"))
            .env("NEWSFEED_BIN", env!("CARGO_BIN_EXE_newsfeed"))
            .env("NEWSFEED_LISTEN", &self.address)
            .env("NEWSFEED_URL", format!("http://{}", self.address))
            .env("NEWSFEED_LOG", "warn,newsfeed::auth::args=error")
            .kill_on_drop(true);
        command
    }

    /// Runs a script; it must end by itself.
    pub async fn bash(&self, script: &str) -> Output {
        let run = self.command("bash").arg("-c").arg(script).output();
        let output = timeout(PATIENCE, run).await;
        output.expect("it ends by itself").expect("it runs")
    }

    /// The errors that `curl` got: statuses and codes, in order.
    pub fn refused(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path().join("refused")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.path().join("pid")).ok();
        let pid = pid.and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
