//! A small disk that a test can fill: a tmpfs in a mount namespace, which exists as long as a process in it.

use std::{fs, io::Write, path::PathBuf, process::Stdio};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::super::{PATIENCE, Process};
use crate::support::needs::{self, not_tested};

pub(super) const MIB: usize = 1024 * 1024;

pub(super) struct SmallDisk {
    holder: Child,
    folder: TempDir,
    is_root: bool,
}

impl SmallDisk {
    /// `None`, loudly, if the machine does not allow it.
    pub(super) async fn new(size_mib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let is_root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        command
            .args(if is_root { &["-m"][..] } else { &["-r", "-m"] })
            .args(["sh", "-c"])
            .arg(format!(
                "mount -t tmpfs -o size={size_mib}m tmpfs \"$0\" && echo held && exec cat"
            ))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let held = async {
            let mut holder = command.spawn().ok()?;
            let stdout = holder.stdout.take().expect("piped");
            let line = BufReader::new(stdout).lines().next_line().await.ok()??;
            (line == "held").then_some(holder)
        };
        let Some(holder) = timeout(PATIENCE, held).await.expect("it says so or ends") else {
            let why = "unshare (util-linux) cannot mount a tmpfs in a namespace here";
            not_tested("full disks", why, needs::CI);
            return None;
        };
        Some(Self {
            holder,
            folder,
            is_root,
        })
    }

    /// Starts the service with its store on this disk.
    pub(super) async fn serve(&self, args: &[&str]) -> Process {
        Process::of(self.command(args)).await
    }

    /// Starts the service, which must refuse; returns its stderr.
    pub(super) async fn refused(&self, args: &[&str]) -> String {
        let output = timeout(PATIENCE, self.command(args).output()).await;
        let output = output.expect("it ends by itself").expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.pid().to_string();
        command.args(["--target", &target, "--mount"]);
        if !self.is_root {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
            .arg(env!("CARGO_BIN_EXE_newsfeed"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.folder.path().join("store"))
            .args(args)
            .env("NEWSFEED_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn pid(&self) -> u32 {
        self.holder.id().expect("it runs")
    }

    /// The path of a file on the disk, from outside the namespace.
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.folder.path().strip_prefix("/").expect("absolute");
        PathBuf::from(format!("/proc/{}/root", self.pid()))
            .join(inside)
            .join(name)
    }

    /// Fills the disk up to `free` bytes.
    pub(super) fn fill_but(&self, free: usize) {
        let path = self.path("");
        let disk = rustix::fs::statvfs(&path).expect("a disk");
        let now_free = (disk.f_bavail * disk.f_frsize) as usize;
        let mut filler = fs::File::create(self.path("filler")).expect("a filler");
        let mut left = now_free.saturating_sub(free);
        let chunk = vec![1; MIB];
        while left > 0 {
            let size = left.min(MIB);
            filler.write_all(&chunk[..size]).expect("there is room");
            left -= size;
        }
    }

    pub(super) fn make_room(&self) {
        fs::remove_file(self.path("filler")).expect("the filler is there");
    }
}
