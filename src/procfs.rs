//! CPU time and memory of processes, from Linux's `/proc`.

use std::{fs, io, time::Duration};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

const KIB: u64 = 1024;

/// Resource usage of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time since the process started, in user and system mode.
    pub cpu: Duration,
    pub resident_bytes: u64,
}

impl Usage {
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        parse(&stat, &status)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the process has ended"))
    }
}

/// `None` for a process that has ended but has not been waited for: it has no memory.
fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The name of the command is in parentheses, and may itself contain parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<u64>);
    let ticks = ticks.next()?.ok()? + ticks.next()?.ok()?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    Some(Usage {
        cpu: Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64),
        resident_bytes: resident.trim().parse::<u64>().ok()? * KIB,
    })
}

/// Process metrics of this process.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    pub usage: Usage,
    pub open_files: usize,
    pub open_files_max: u64,
    /// Start time, in s since 1970.
    pub began: f64,
}

impl Own {
    pub fn now() -> io::Result<Self> {
        let invalid =
            || io::Error::new(io::ErrorKind::InvalidData, "/proc has an unexpected format");
        let stat = fs::read_to_string("/proc/self/stat")?;
        let machine = fs::read_to_string("/proc/stat")?;
        Ok(Self {
            usage: Usage::of(std::process::id())?,
            open_files: fs::read_dir("/proc/self/fd")?.count(),
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            began: began(&stat, &machine).ok_or_else(invalid)?,
        })
    }
}

/// Start time of a process in s since 1970, from its start relative to that of the machine.
fn began(stat: &str, machine: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    let booted = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let booted: f64 = booted.trim().parse().ok()?;
    Some(booted + ticks as f64 / clock_ticks_per_second() as f64)
}

/// The name of a process, at most 15 bytes.
pub fn name(pid: u32) -> io::Result<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
    Ok(name.trim_end().to_owned())
}

/// Memory of the buffers of all TCP connections of this machine, in bytes.
pub fn tcp_bytes() -> u64 {
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    tcp_pages(&sockstat).unwrap_or_default() * page_size() as u64
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let tcp = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    let (_, pages) = tcp.split_once(" mem ")?;
    pages.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_may_contain_anything() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 101 0 0 0 250 50 9 9 20 0 1 0 127540 3133440 407";
        let status = "Name:\ta) b (c\nVmHWM:\t  900 kB\nVmRSS:\t  300 kB\nThreads:\t1\n";
        let usage = Usage {
            cpu: Duration::from_secs_f64(300.0 / clock_ticks_per_second() as f64),
            resident_bytes: 300 * 1024,
        };
        assert_eq!(parse(stat, status), Some(usage));
        assert_eq!(parse(stat, "Name:\tzombie\n"), None);
        let sockstat =
            "sockets: used 17\nTCP: inuse 1 orphan 0 tw 1 alloc 1 mem 12\nUDP: inuse 0 mem 3\n";
        assert_eq!(tcp_pages(sockstat), Some(12));
        let since_boot = 127_540.0 / clock_ticks_per_second() as f64;
        let machine = "cpu  1 2\nbtime 1700000000\nprocesses 5\n";
        assert_eq!(began(stat, machine), Some(1_700_000_000.0 + since_boot));
    }

    #[test]
    fn a_process_sees_itself() {
        let own = std::process::id();
        let before = Usage::of(own).expect("we run");
        while Usage::of(own).expect("we run").cpu == before.cpu {}
        assert!(before.resident_bytes > 100 * KIB);
        assert!(!name(own).expect("we run").is_empty());
    }
}
