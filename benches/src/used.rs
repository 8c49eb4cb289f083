//! CPU time and memory that the watched processes used in a run: as a table, as JSON, and for each second for the
//! charts.

use std::{fmt, time::Duration};

use serde_json::{Map, Value, json};

use super::watch::{Moment, Moments};

const MIB: f64 = 1024.0 * 1024.0;

pub struct Used {
    pub processes: Vec<Process>,
    /// Kernel memory for the TCP connections of all processes on the machine.
    tcp: Memory,
}

pub struct Process {
    pub name: String,
    pid: u32,
    ended: bool,
    /// Used in the window, which lasts from when the first request was due until the last response.
    cpu: Duration,
    window: Duration,
    memory: Memory,
    pub seconds: Vec<Second>,
}

/// One sample interval of the window, of about a second.
pub struct Second {
    /// When it ends, counted from the start of the window.
    pub end: Duration,
    pub cpu_percent: f64,
    pub resident_bytes: u64,
}

/// Bytes at certain moments of the run.
struct Memory {
    /// Before the run's first connection.
    before: u64,
    /// When all readers were connected and the service was idle.
    ready: Option<u64>,
    /// After the last response.
    end: u64,
    /// After everything was read back and checked.
    done: u64,
    /// The highest sample.
    peak: u64,
}

/// Name and number of each kind of operation done in the window. CPU time is divided by the number.
pub type Per<'a> = &'a [(&'static str, u64)];

impl Used {
    pub fn new(processes: &[(u32, String)], moments: &Moments, done: &Moment) -> Self {
        let first = moments.window.first().unwrap_or(&moments.before);
        let last = moments.window.last().unwrap_or(&moments.before);
        let process = |(index, (pid, name)): (usize, &(u32, String))| {
            let cpu = |from: &Moment, to: &Moment| {
                to.usages[index].cpu.saturating_sub(from.usages[index].cpu)
            };
            let seconds = moments.window.windows(2).map(|pair| Second {
                end: pair[1].at - first.at,
                cpu_percent: percent(cpu(&pair[0], &pair[1]), pair[1].at - pair[0].at),
                resident_bytes: pair[1].usages[index].resident_bytes,
            });
            Process {
                name: name.clone(),
                pid: *pid,
                ended: done.ended[index],
                cpu: cpu(first, last),
                window: last.at - first.at,
                memory: Memory::new(moments, done, |moment| moment.usages[index].resident_bytes),
                seconds: seconds.collect(),
            }
        };
        Self {
            processes: processes.iter().enumerate().map(process).collect(),
            tcp: Memory::new(moments, done, |moment| moment.tcp_bytes),
        }
    }

    pub fn json(&self, per: Per<'_>, readers: u64) -> Value {
        let processes = self
            .processes
            .iter()
            .map(|process| process.json(per, readers));
        json!({ "processes": processes.collect::<Value>(), "tcp_bytes": self.tcp.json(readers) })
    }

    pub fn table(&self, f: &mut fmt::Formatter<'_>, per: Per<'_>, readers: u64) -> fmt::Result {
        write!(f, "\n  {:<26} {:>8} {:>6}", "CPU and MiB", "CPU s", "CPU %")?;
        for (what, _) in per {
            write!(f, " {:>13}", format!("µs/{what}"))?;
        }
        for column in ["before", "ready", "end", "peak"] {
            write!(f, " {column:>8}")?;
        }
        writeln!(f, " {:>8}", "B/reader")?;
        for process in &self.processes {
            let name = format!("{} {}", process.name, process.pid);
            let ended = if process.ended { " (ended)" } else { "" };
            write!(f, "  {:<26}", name + ended)?;
            let cpu = process.cpu.as_secs_f64();
            write!(
                f,
                " {cpu:>8.2} {:>6.1}",
                percent(process.cpu, process.window)
            )?;
            for (_, count) in per {
                let each = process.micros_per(*count);
                let each = each.map_or_else(|| "-".to_owned(), |each| format!("{each:.1}"));
                write!(f, " {each:>13}")?;
            }
            process.memory.row(f, readers)?;
        }
        let blank = 16 + 14 * per.len();
        write!(f, "  {:<26}{:blank$}", "TCP buffers (kernel)", "")?;
        self.tcp.row(f, readers)
    }
}

impl Process {
    /// CPU time per operation; `None` without operations.
    fn micros_per(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.cpu.as_secs_f64() * 1e6 / count as f64)
    }

    fn json(&self, per: Per<'_>, readers: u64) -> Value {
        let each: Map<String, Value> = per
            .iter()
            .map(|(what, count)| (format!("cpu_us_per_{what}"), json!(self.micros_per(*count))))
            .collect();
        let seconds = self.seconds.iter().map(|second| {
            json!({
                "end": second.end.as_secs_f64(), "cpu_percent": second.cpu_percent,
                "resident_bytes": second.resident_bytes,
            })
        });
        let mut out = json!({
            "name": self.name, "pid": self.pid, "ended": self.ended,
            "window_seconds": self.window.as_secs_f64(), "cpu_seconds": self.cpu.as_secs_f64(),
            "cpu_percent": percent(self.cpu, self.window),
            "resident_bytes": self.memory.json(readers), "seconds": seconds.collect::<Value>(),
        });
        if let Value::Object(out) = &mut out {
            out.extend(each);
        }
        out
    }
}

impl Memory {
    fn new(moments: &Moments, done: &Moment, bytes: impl Fn(&Moment) -> u64) -> Self {
        let all = [&moments.before, done].into_iter();
        let all = all.chain(&moments.ready).chain(&moments.window);
        Self {
            before: bytes(&moments.before),
            ready: moments.ready.as_ref().map(&bytes),
            end: moments.window.last().map_or(0, &bytes),
            done: bytes(done),
            peak: all.map(&bytes).max().unwrap_or_default(),
        }
    }

    /// Memory per connected reader. Negative if the process released more memory than the readers took.
    fn per_reader(&self, readers: u64) -> Option<f64> {
        let more = self.ready? as f64 - self.before as f64;
        (readers > 0).then(|| more / readers as f64)
    }

    fn json(&self, readers: u64) -> Value {
        let Self {
            before,
            ready,
            end,
            done,
            peak,
        } = self;
        json!({
            "before": before, "ready": ready, "end": end, "done": done, "peak": peak,
            "per_reader": self.per_reader(readers),
        })
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, readers: u64) -> fmt::Result {
        let Self {
            before,
            ready,
            end,
            peak,
            ..
        } = self;
        for bytes in [Some(*before), *ready, Some(*end), Some(*peak)] {
            let mib = bytes.map_or_else(
                || "-".to_owned(),
                |bytes| format!("{:.1}", bytes as f64 / MIB),
            );
            write!(f, " {mib:>8}")?;
        }
        let each = self.per_reader(readers);
        writeln!(
            f,
            " {:>8}",
            each.map_or_else(|| "-".to_owned(), |each| format!("{each:.0}"))
        )
    }
}

/// Share of one CPU, in percent.
fn percent(cpu: Duration, window: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / window.as_secs_f64().max(f64::MIN_POSITIVE)
}
