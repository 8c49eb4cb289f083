//! The report: a self-contained HTML page with charts as inline SVG, in light or dark colours.

use std::fmt::Write;

use plotters::style::RGBColor;

use super::{
    chart::{Chart, Scale},
    recorder::{Latencies, ms},
    summary::Summary,
    used::{Process, Second},
};

const MIB: f64 = 1024.0 * 1024.0;

/// Charts are drawn in the colours of the light theme. These rules replace them in the dark theme.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #d5dae0; --soft: #5c6670;
  --p50: #1a7f5a; --p99: #b45f06; --max: #b3261e; --curve: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #14171b; --faint: #343b43; --soft: #9aa5b1;
  --p50: #4cc38a; --p99: #f0a04b; --max: #f2726a; --curve: #6ea8fe; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 52rem;
  margin: 2rem auto; padding: 0 1rem; }
pre { font: 13px/1.4 ui-monospace, monospace; overflow-x: auto; }
svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg line, svg polyline { stroke: var(--faint); opacity: 1; }
svg polyline[stroke='#1A7F5A'] { stroke: var(--p50); } svg polyline[stroke='#B45F06'] { stroke: var(--p99); }
svg polyline[stroke='#B3261E'] { stroke: var(--max); } svg polyline[stroke='#1F5FBF'] { stroke: var(--curve); }
.key span { margin-right: 1rem; } .key i { display: inline-block; width: 1.2em; border-top: 3px solid; margin-right: .4em;
  vertical-align: middle; }
";

/// A colour of [`STYLE`] and its value in the light theme.
struct Colour {
    name: &'static str,
    rgb: RGBColor,
}

const P50: Colour = Colour {
    name: "p50",
    rgb: RGBColor(0x1a, 0x7f, 0x5a),
};
const P99: Colour = Colour {
    name: "p99",
    rgb: RGBColor(0xb4, 0x5f, 0x06),
};
const MAX: Colour = Colour {
    name: "max",
    rgb: RGBColor(0xb3, 0x26, 0x1e),
};
const CURVE: Colour = Colour {
    name: "curve",
    rgb: RGBColor(0x1f, 0x5f, 0xbf),
};
const COLOURS: [Colour; 4] = [CURVE, P50, P99, MAX];

pub fn html(summary: &Summary) -> String {
    let title = format!("newsfeed-bench {}", summary.command);
    let mut out = String::new();
    let parameters = escaped(&format!("{:#}", summary.parameters));
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<pre>{}</pre>\n",
        escaped(&summary.to_string())
    );
    for (name, latencies) in &summary.latencies {
        let _ = write!(
            out,
            "<h2>{name}: latency over time</h2>\n<p class=\"key\">{}{}{}</p>\n{}",
            key(&P50),
            key(&P99),
            key(&MAX),
            over_time(latencies)
        );
        let _ = write!(
            out,
            "<h2>{name}: latency by percentile</h2>\n{}",
            by_percentile(latencies)
        );
    }
    let _ = write!(out, "{}{}", cpu(summary), memory(summary));
    let _ = write!(
        out,
        "<h2>Parameters</h2>\n<pre>{parameters}</pre>\n</body>\n</html>\n"
    );
    out
}

/// Includes the load generator, because it shares the machine with the service.
fn cpu(summary: &Summary) -> String {
    curves(
        summary,
        "CPU over time, in percent of one CPU",
        "%",
        |second| second.cpu_percent,
    )
}

fn memory(summary: &Summary) -> String {
    curves(summary, "Resident memory over time", "MiB", |second| {
        second.resident_bytes as f64 / MIB
    })
}

/// A chart with a line for each process and a point for each second; empty if the run was shorter than a second.
fn curves(
    summary: &Summary,
    title: &str,
    unit: &'static str,
    value: impl Fn(&Second) -> f64,
) -> String {
    let processes = &summary.used.processes;
    let seconds = || processes.iter().flat_map(|process| &process.seconds);
    let end = seconds().map(|second| second.end).max();
    let Some(end) = end else {
        return String::new();
    };
    let greatest = seconds().map(&value).fold(0.0, f64::max);
    let mut chart = Chart::new(end.as_secs_f64(), Scale::FromZero { greatest, unit });
    chart.second_ticks(end.as_secs() as usize + 1);
    let mut keys = String::new();
    for (process, colour) in processes.iter().zip(COLOURS.iter().cycle()) {
        let Process { name, seconds, .. } = process;
        keys.push_str(&labelled(colour, &escaped(name)));
        let points = seconds.iter();
        chart.line(
            colour.rgb,
            points.map(|second| (second.end.as_secs_f64(), value(second))),
        );
    }
    let svg = chart.svg("seconds since the first request was due");
    format!("<h2>{title}</h2>\n<p class=\"key\">{keys}</p>\n{svg}")
}

fn key(colour: &Colour) -> String {
    labelled(colour, colour.name)
}

fn labelled(Colour { name, .. }: &Colour, label: &str) -> String {
    format!("<span><i style=\"border-color: var(--{name})\"></i>{label}</span>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A chart with a point for each second in which requests were due.
fn over_time(latencies: &Latencies) -> String {
    let seconds = latencies.seconds.len();
    let scale = decades(latencies);
    let mut chart = Chart::new((seconds.max(2) - 1) as f64, scale);
    chart.second_ticks(seconds);
    for (colour, quantile) in [(P50, 0.5), (P99, 0.99), (MAX, 1.0)] {
        let points = latencies.seconds.iter().enumerate();
        let points = points.filter(|(_, of_second)| !of_second.is_empty());
        let points = points
            .map(|(second, of_second)| (second as f64, ms(of_second.value_at_quantile(quantile))));
        chart.line(colour.rgb, points);
    }
    chart.svg("second in which the request was due")
}

/// A chart of all percentiles for which there are enough measurements. Each further nine takes the same width.
fn by_percentile(latencies: &Latencies) -> String {
    let all = &latencies.all;
    let nines_max = (all.len().max(10) as f64).log10();
    let mut chart = Chart::new(nines_max, decades(latencies));
    for (nines, label) in ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%"]
        .iter()
        .enumerate()
        .take_while(|(nines, _)| *nines as f64 <= nines_max)
    {
        chart.tick(nines as f64, label);
    }
    let points = (0..=200).map(|step| {
        let nines = nines_max * f64::from(step) / 200.0;
        let quantile = 1.0 - 10_f64.powf(-nines);
        (nines, ms(all.value_at_quantile(quantile)))
    });
    chart.line(CURVE.rgb, points);
    chart.svg("percentile")
}

fn decades(latencies: &Latencies) -> Scale {
    Scale::Decades {
        least_ms: ms(latencies.all.min()),
        greatest_ms: ms(latencies.all.max()),
    }
}
