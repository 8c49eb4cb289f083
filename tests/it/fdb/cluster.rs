//! FoundationDB clusters on loopback, in temporary folders.

use std::{
    ffi::{c_int, c_void},
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use newsfeed::store::{
    Store,
    fdb::{Fdb, Network, Tuning, boot},
};
use rustix::process::{Pid, Signal, kill_process};

/// A running cluster. It is stopped and its folder is removed when this is dropped, or when this process ends for any
/// reason.
pub struct Cluster {
    folder: PathBuf,
    /// The arguments of `fdb/up`.
    arguments: Vec<String>,
    /// A shell that stops the cluster when its stdin closes.
    keeper: Child,
}

impl Cluster {
    /// Starts `processes` (1 or 3) on free ports, with `engine` (`memory` or `ssd`).
    pub fn start(processes: u16, engine: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        let arguments = [
            "--processes",
            &processes.to_string(),
            "--engine",
            engine,
            "--port",
            &free_ports(processes).to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        let script = r#"
            "$0/up" "$@" || exit 1
            cat >/dev/null
            "$0/down" "$1"
            rm -rf "$1"
        "#;
        let mut keeper = Command::new("bash")
            .args(["-c", script])
            .arg(scripts())
            .arg(&folder)
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash runs");
        let stdout = keeper.stdout.take().expect("piped");
        let file = BufReader::new(stdout)
            .lines()
            .next()
            .expect("fdb/up starts a cluster")
            .expect("text");
        assert!(Path::new(&file).exists(), "{file}");
        Self {
            folder,
            arguments,
            keeper,
        }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("fdb.cluster")
    }

    /// The folder with the data of fdbserver number `index`.
    pub fn data(&self, index: u16) -> PathBuf {
        self.folder.join(index.to_string()).join("data")
    }

    /// Kills fdbserver number `index` with SIGKILL.
    pub fn kill(&self, index: u16) {
        let id = self.process(index);
        self.signal(index, Signal::KILL);
        // It may stay a zombie, because its parent has ended.
        let gone = || match std::fs::read_to_string(format!("/proc/{id}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Otherwise `fdb/up` would assume that it is running.
        std::fs::remove_file(self.pid_file(index)).expect("removed");
    }

    pub fn signal(&self, index: u16, signal: Signal) {
        let pid = Pid::from_raw(self.process(index)).expect("not 0");
        kill_process(pid, signal).expect("it runs");
    }

    fn process(&self, index: u16) -> i32 {
        let text = std::fs::read_to_string(self.pid_file(index)).expect("a pid file");
        text.trim().parse().expect("a number")
    }

    fn pid_file(&self, index: u16) -> PathBuf {
        self.folder.join(index.to_string()).join("pid")
    }

    /// Restarts killed processes; waits until the database answers.
    pub fn start_again(&self) {
        let status = Command::new(scripts().join("up"))
            .arg(&self.folder)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("fdb/up runs").success());
    }

    /// Runs a command in fdbcli; returns its output.
    pub fn cli(&self, command: &str) -> String {
        let output = Command::new("fdbcli")
            .arg("-C")
            .arg(self.file())
            .args(["--timeout", "30", "--exec", command])
            .output()
            .expect("fdbcli runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A new handle on the key space under `prefix`.
    pub fn store(&self, prefix: &str) -> Arc<dyn Store> {
        self.store_with(prefix, Duration::from_secs(5))
    }

    /// The same with another time limit for transactions.
    pub fn store_with(&self, prefix: &str, timeout: Duration) -> Arc<dyn Store> {
        network();
        let tuning = Tuning { timeout };
        Arc::new(
            Fdb::open(&self.file(), prefix.as_bytes(), tuning).expect("the cluster file is good"),
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The cluster that most tests share, each with its own key space.
pub fn shared() -> Arc<Cluster> {
    static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
    Arc::clone(SHARED.get_or_init(|| Arc::new(Cluster::start(1, "ssd"))))
}

pub fn fresh_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test{}/", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fdb")
}

// SAFETY: the declarations match those of the C library, and `leave` ignores the pointer.
#[allow(unsafe_code)]
unsafe extern "C" {
    safe fn on_exit(handler: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    safe fn _exit(status: c_int) -> !;
}

/// Exits without the exit handlers of the client library. They would destroy globals that its network thread still uses,
/// and the test harness has no hook to stop that thread, so the process would crash after all tests have passed.
extern "C" fn leave(status: c_int, _: *mut c_void) {
    _exit(status)
}

fn network() {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| boot().expect("the client library starts"));
    // Handlers run in reverse order. Registering again each time puts this one before those that the library has added.
    let registered = on_exit(leave, std::ptr::null_mut());
    assert_eq!(registered, 0, "a place among the exit handlers");
}

/// The first of `count` consecutive free ports. Concurrent calls, in this process or another, start their search at
/// different ports.
fn free_ports(count: u16) -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id()
        .wrapping_mul(31)
        .wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed) * 7);
    (0..1000)
        .map(|step| 20_000 + ((start + step * 11) % 12_000) as u16)
        .find(|&first| {
            (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .expect("free ports")
}
