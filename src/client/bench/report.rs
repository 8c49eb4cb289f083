//! The report: one HTML page that needs nothing else, with the curves as inline SVG in the reader's colours.

use std::fmt::Write;

use super::{
    recorder::{Latencies, ms},
    summary::Summary,
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

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
.grid { stroke: var(--faint); } .line { fill: none; stroke-width: 1.75; stroke-linecap: round; }
.p50 { stroke: var(--p50); } .p99 { stroke: var(--p99); } .max { stroke: var(--max); } .curve { stroke: var(--curve); }
.key span { margin-right: 1rem; } .key i { display: inline-block; width: 1.2em; border-top: 3px solid; margin-right: .4em;
  vertical-align: middle; }
";

pub fn html(summary: &Summary) -> String {
    let title = format!("newsfeed bench {}", summary.command);
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
            key("p50"),
            key("p99"),
            key("max"),
            over_time(latencies)
        );
        let _ = write!(
            out,
            "<h2>{name}: latency by percentile</h2>\n{}",
            by_percentile(latencies)
        );
    }
    let _ = write!(
        out,
        "<h2>Parameters</h2>\n<pre>{parameters}</pre>\n</body>\n</html>\n"
    );
    out
}

fn key(name: &str) -> String {
    format!("<span><i style=\"border-color: var(--{name})\"></i>{name}</span>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Latency is drawn on a logarithmic scale of whole decades, in ms.
struct Chart {
    svg: String,
    x_max: f64,
    low: f64,
    high: f64,
}

impl Chart {
    fn new(x_max: f64, least_ms: f64, greatest_ms: f64) -> Self {
        let low = least_ms.max(0.001).log10().floor();
        let high = greatest_ms.max(0.001).log10().ceil().max(low + 1.0);
        let mut chart = Self {
            svg: format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n"),
            x_max: x_max.max(f64::MIN_POSITIVE),
            low,
            high,
        };
        let mut decade = low;
        while decade <= high {
            let value = 10_f64.powf(decade);
            let y = chart.y(value);
            let _ = writeln!(
                chart.svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value} ms</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
            decade += 1.0;
        }
        chart
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + x / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, ms: f64) -> f64 {
        let share = (ms.max(0.001).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn tick(&mut self, x: f64, label: &str) {
        let x = self.x(x);
        let bottom = HEIGHT - BOTTOM;
        let _ = writeln!(
            self.svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        );
    }

    fn line(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        let mut count = 0;
        for (x, ms) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.x(x), self.y(ms));
            count += 1;
        }
        if count == 1 {
            // A line of no length is a dot.
            path = path.repeat(2);
        }
        let _ = writeln!(
            self.svg,
            "<polyline class=\"line {class}\" points=\"{}\"><title>{class}</title></polyline>",
            path.trim_end()
        );
    }

    fn end(self, below: &str) -> String {
        let x = (LEFT + WIDTH - RIGHT) / 2.0;
        let y = HEIGHT - 4.0;
        self.svg
            + &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{below}</text>\n</svg>\n")
    }
}

/// A point for each second in which something was due.
fn over_time(latencies: &Latencies) -> String {
    let seconds = latencies.seconds.len();
    let mut chart = Chart::new(
        (seconds.max(2) - 1) as f64,
        ms(latencies.all.min()),
        ms(latencies.all.max()),
    );
    let step = seconds.div_ceil(10).max(1);
    for second in (0..seconds).step_by(step) {
        chart.tick(second as f64, &second.to_string());
    }
    for (class, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let points = latencies.seconds.iter().enumerate();
        let points = points.filter(|(_, of_second)| !of_second.is_empty());
        let points = points
            .map(|(second, of_second)| (second as f64, ms(of_second.value_at_quantile(quantile))));
        chart.line(class, points);
    }
    chart.end("seconds, by when it was due")
}

/// Each nine takes the same width, as far as there are measurements for it.
fn by_percentile(latencies: &Latencies) -> String {
    let all = &latencies.all;
    let nines_max = (all.len().max(10) as f64).log10();
    let mut chart = Chart::new(nines_max, ms(all.min()), ms(all.max()));
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
    chart.line("curve", points);
    chart.end("share of measurements at or below")
}
