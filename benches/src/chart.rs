//! A chart of lines as inline SVG, in the classes of the page it stands on.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// How a value becomes a height, and where the grid is.
pub enum Scale {
    /// Milliseconds on a logarithmic scale of whole decades, given as their logarithms.
    Decades { low: f64, high: f64 },
    /// From 0, with a line every `step`.
    FromZero {
        step: f64,
        high: f64,
        unit: &'static str,
    },
}

impl Scale {
    pub fn decades(least_ms: f64, greatest_ms: f64) -> Self {
        let low = least_ms.max(0.001).log10().floor();
        let high = greatest_ms.max(0.001).log10().ceil().max(low + 1.0);
        Self::Decades { low, high }
    }

    /// At most five steps of 1, 2 or 5 times a power of ten.
    pub fn from_zero(greatest: f64, unit: &'static str) -> Self {
        let least = greatest.max(1.0) / 5.0;
        let power = 10_f64.powf(least.log10().floor());
        let round = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power);
        let step = round
            .into_iter()
            .find(|step| *step >= least)
            .unwrap_or(10.0 * power);
        let high = (greatest.max(1.0) / step).ceil() * step;
        Self::FromZero { step, high, unit }
    }

    /// From 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self {
            Self::Decades { low, high } => (value.max(0.001).log10() - low) / (high - low),
            Self::FromZero { high, .. } => value / high,
        };
        share.clamp(0.0, 1.0)
    }

    /// Values and what stands at them.
    fn lines(&self) -> Vec<(f64, String)> {
        match self {
            Self::Decades { low, high } => (*low as i32..=*high as i32)
                .map(|decade| {
                    let value = 10_f64.powi(decade);
                    (value, format!("{value} ms"))
                })
                .collect(),
            Self::FromZero { step, high, unit } => (0..=(high / step).round() as u32)
                .map(|line| {
                    let value = f64::from(line) * step;
                    (value, format!("{} {unit}", (value * 1e3).round() / 1e3))
                })
                .collect(),
        }
    }
}

pub struct Chart {
    svg: String,
    x_max: f64,
    scale: Scale,
}

impl Chart {
    pub fn new(x_max: f64, scale: Scale) -> Self {
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
        for (value, label) in scale.lines() {
            let y = height(&scale, value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
        }
        Self {
            svg,
            x_max: x_max.max(f64::MIN_POSITIVE),
            scale,
        }
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + x / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    pub fn tick(&mut self, x: f64, label: &str) {
        let x = self.x(x);
        let bottom = HEIGHT - BOTTOM;
        let _ = writeln!(
            self.svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        );
    }

    /// About ten ticks for `seconds` from 0.
    pub fn second_ticks(&mut self, seconds: usize) {
        let step = seconds.div_ceil(10).max(1);
        for second in (0..seconds).step_by(step) {
            self.tick(second as f64, &second.to_string());
        }
    }

    pub fn line(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        let mut count = 0;
        for (x, value) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.x(x), height(&self.scale, value));
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

    pub fn end(self, below: &str) -> String {
        let x = (LEFT + WIDTH - RIGHT) / 2.0;
        let y = HEIGHT - 4.0;
        self.svg
            + &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{below}</text>\n</svg>\n")
    }
}

fn height(scale: &Scale, value: f64) -> f64 {
    HEIGHT - BOTTOM - scale.share(value) * (HEIGHT - TOP - BOTTOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_round_numbers_and_room_for_all() {
        for (greatest, top, lines) in [
            (0.0, "1 %", 6),
            (87.0, "100 %", 6),
            (130.0, "150 %", 4),
            (3.2, "4 %", 5),
        ] {
            let grid = Scale::from_zero(greatest, "%").lines();
            assert_eq!(
                grid.last().map(|(_, label)| &**label),
                Some(top),
                "{grid:?}"
            );
            assert_eq!(grid.len(), lines, "{grid:?}");
        }
        let decades = Scale::decades(0.3, 47.0).lines();
        let labels: Vec<&str> = decades.iter().map(|(_, label)| &**label).collect();
        assert_eq!(labels, ["0.1 ms", "1 ms", "10 ms", "100 ms"]);
    }
}
