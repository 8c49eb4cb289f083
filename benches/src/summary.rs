//! The results of a run, as a table and as JSON.

use std::{fmt, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    ledger::Faults,
    recorder::{Latencies, QUANTILES, Recorder, ms},
    used::Used,
};

/// Faults listed in the table; the others are only counted.
const FAULTS_SHOWN: usize = 10;

pub struct Summary {
    pub command: &'static str,
    pub run: String,
    pub parameters: Value,
    /// Each connection waited for a response before its next request, and latencies count from sending.
    pub closed_loop: bool,
    /// Ctrl-C ended the load early.
    pub interrupted: bool,
    /// From when the first request was due until the last response.
    pub elapsed: Duration,
    pub counts: Vec<(&'static str, u64)>,
    /// Rates per second, times in seconds, and ratios.
    pub figures: Vec<(&'static str, f64)>,
    pub latencies: Vec<(&'static str, Latencies)>,
    pub faults: Faults,
    pub used: Used,
    /// Operations by which CPU time is divided.
    pub per: Vec<(&'static str, u64)>,
    /// Number of readers by which memory is divided.
    pub readers: u64,
}

impl Summary {
    pub fn exact(&self) -> bool {
        self.faults.count == 0
    }

    /// Takes the latencies of `recorder`, unless it has none.
    pub fn measured(&mut self, recorder: &Recorder) {
        let latencies = recorder.take();
        if !latencies.all.is_empty() {
            self.latencies.push((recorder.name, latencies));
        }
    }

    pub fn json(&self) -> Value {
        let counts: Map<String, Value> = self
            .counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|(name, figure)| ((*name).to_owned(), json!(figure)))
            .collect();
        let latencies: Map<String, Value> = self
            .latencies
            .iter()
            .map(|(name, latencies)| (name.replace(' ', "_"), latencies.json()))
            .collect();
        let faults = self.faults.first.iter().map(|fault| {
            json!({
                "wrong": fault.kind.to_string(), "feed": fault.feed, "id": fault.id, "readers": fault.readers,
            })
        });
        json!({
            "command": self.command,
            "run": self.run,
            "parameters": self.parameters,
            "loop": if self.closed_loop { "closed" } else { "open" },
            "interrupted": self.interrupted,
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "counts": counts,
            "figures": figures,
            "latency": latencies,
            "usage": self.used.json(&self.per, self.readers),
            "exact": self.exact(),
            "faults_count": self.faults.count,
            "faults": faults.collect::<Value>(),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, run, .. } = self;
        writeln!(f, "newsfeed-bench {command}, run {run}")?;
        if self.closed_loop {
            writeln!(
                f,
                "  CLOSED LOOP: latencies count from sending and are not comparable with those at a fixed rate"
            )?;
        }
        if self.interrupted {
            let seconds = self.elapsed.as_secs_f64();
            writeln!(f, "  INTERRUPTED by Ctrl-C: results cover {seconds:.1} s")?;
        }
        for (name, count) in &self.counts {
            writeln!(f, "  {:<28} {count:>12}", name.replace('_', " "))?;
        }
        for (name, figure) in &self.figures {
            writeln!(f, "  {:<28} {figure:>12.2}", name.replace('_', " "))?;
        }
        write!(f, "\n  {:<12} {:>10} {:>9}", "ms", "count", "min")?;
        for (name, _) in QUANTILES {
            write!(f, " {:>9}", name.replace('_', "."))?;
        }
        writeln!(f, " {:>9}", "max")?;
        for (name, Latencies { all, .. }) in &self.latencies {
            write!(f, "  {name:<12} {:>10} {:>9.2}", all.len(), ms(all.min()))?;
            for (_, quantile) in QUANTILES {
                write!(f, " {:>9.2}", ms(all.value_at_quantile(quantile)))?;
            }
            writeln!(f, " {:>9.2}", ms(all.max()))?;
        }
        self.used.table(f, &self.per, self.readers)?;
        writeln!(f)?;
        for fault in self.faults.first.iter().take(FAULTS_SHOWN) {
            writeln!(f, "  WRONG: {fault}")?;
        }
        if self.exact() {
            write!(f, "  exact: nothing lost, duplicated or out of order")
        } else {
            write!(
                f,
                "  NOT EXACT: {} entries were not delivered correctly",
                self.faults.count
            )
        }
    }
}
