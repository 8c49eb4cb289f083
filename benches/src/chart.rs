//! A line chart as inline SVG. Style rules of the page that contains it take precedence over the colours that the
//! drawing crate writes as attributes.

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{BoldPoints, DefaultFormatting, KeyPointHint, Ranged},
        types::RangedCoordf64,
    },
    prelude::*,
};

type Failure = DrawingAreaErrorKind<std::io::Error>;

const SIZE: (u32, u32) = (720, 280);
const MARGIN: u32 = 10;
const BELOW: u32 = 42;
const LEFT: u32 = 64;
/// Maximum number of generated ticks on an axis.
const TICKS_MAX: usize = 10;

/// The vertical axis.
#[derive(Debug, Clone, Copy)]
pub enum Scale {
    /// Milliseconds on a logarithmic scale, from the decade of the lowest value to the decade above the highest.
    Decades {
        least_ms: f64,
        greatest_ms: f64,
    },
    FromZero {
        greatest: f64,
        unit: &'static str,
    },
}

impl Scale {
    /// Position of a value on the axis.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Decades { .. } => value.max(0.001).log10(),
            Self::FromZero { .. } => value,
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Decades {
                least_ms,
                greatest_ms,
            } => {
                let low = self.place(least_ms).floor() as i32;
                let high = (self.place(greatest_ms).ceil() as i32).max(low + 1);
                (low..=high).map(f64::from).collect()
            }
            Self::FromZero { greatest, .. } => {
                let mut ticks = round_ticks(greatest.max(1.0), TICKS_MAX / 2);
                // The highest tick must be at or above the highest value.
                if let [.., before, last] = ticks[..]
                    && last < greatest
                {
                    ticks.push(2.0 * last - before);
                }
                ticks
            }
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Decades { .. } => format!("{} ms", 10_f64.powf(place)),
            Self::FromZero { unit, .. } => format!("{} {unit}", (place * 1e3).round() / 1e3),
        }
    }
}

fn round_ticks(greatest: f64, ticks_max: usize) -> Vec<f64> {
    RangedCoordf64::from(0.0..greatest).key_points(BoldPoints(ticks_max))
}

/// An axis with given ticks.
struct Axis {
    inner: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(range: Range<f64>, ticks: Vec<f64>) -> Self {
        let inner = range.into();
        Self { inner, ticks }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    /// No light lines between the ticks.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.inner.range()
    }
}

pub struct Chart {
    x_max: f64,
    x_ticks: Vec<(f64, String)>,
    scale: Scale,
    lines: Vec<(RGBColor, Vec<(f64, f64)>)>,
}

impl Chart {
    pub fn new(x_max: f64, scale: Scale) -> Self {
        Self {
            x_max: x_max.max(f64::MIN_POSITIVE),
            x_ticks: Vec::new(),
            scale,
            lines: Vec::new(),
        }
    }

    pub fn tick(&mut self, x: f64, label: &str) {
        self.x_ticks.push((x, label.to_owned()));
    }

    /// Adds about ten ticks for `seconds`, starting at 0.
    pub fn second_ticks(&mut self, seconds: usize) {
        for second in (0..seconds).step_by(seconds.div_ceil(TICKS_MAX).max(1)) {
            self.tick(second as f64, &second.to_string());
        }
    }

    pub fn line(&mut self, color: RGBColor, points: impl Iterator<Item = (f64, f64)>) {
        let scale = self.scale;
        let mut points: Vec<_> = points.map(|(x, value)| (x, scale.place(value))).collect();
        if let [point] = points[..] {
            // A line of zero length is drawn as a dot.
            points.push(point);
        }
        self.lines.push((color, points));
    }

    /// Draws the chart, with the label `below` under the horizontal axis.
    pub fn svg(self, below: &str) -> String {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw(&area, below)
            .expect("writing to a String cannot fail");
        drop(area);
        svg
    }

    fn draw(self, area: &DrawingArea<SVGBackend<'_>, Shift>, below: &str) -> Result<(), Failure> {
        let Self {
            x_max,
            x_ticks,
            scale,
            lines,
        } = self;
        let y_ticks = scale.ticks();
        let (low, high) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
        let x_axis = Axis::new(0.0..x_max, x_ticks.iter().map(|(x, _)| *x).collect());
        let y_axis = Axis::new(low..high, y_ticks);
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .x_label_area_size(BELOW)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(x_axis, y_axis)?;
        let x_label = |x: &f64| {
            let tick = x_ticks.iter().find(|(at, _)| at == x);
            tick.map_or_else(String::new, |(_, label)| label.clone())
        };
        chart
            .configure_mesh()
            .x_desc(below)
            .x_label_formatter(&x_label)
            .y_label_formatter(&|place| scale.label(*place))
            .draw()?;
        for (color, points) in lines {
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        }
        area.present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale) -> Vec<String> {
        let ticks = scale.ticks().into_iter();
        ticks.map(|tick| scale.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_and_cover_all_values() {
        for (greatest, top) in [(0.0, 1.0), (87.0, 87.0), (130.0, 130.0), (3.2, 3.2)] {
            let ticks = Scale::FromZero {
                greatest,
                unit: "%",
            }
            .ticks();
            assert_eq!(ticks[0], 0.0);
            assert!(ticks[ticks.len() - 1] >= top, "{ticks:?}");
            assert!((3..=TICKS_MAX).contains(&ticks.len()), "{ticks:?}");
        }
        let decades = Scale::Decades {
            least_ms: 0.3,
            greatest_ms: 47.0,
        };
        assert_eq!(labels(decades), ["0.1 ms", "1 ms", "10 ms", "100 ms"]);
    }

    #[test]
    fn a_chart_has_its_lines_and_labels() {
        let mut chart = Chart::new(
            9.0,
            Scale::FromZero {
                greatest: 4.0,
                unit: "%",
            },
        );
        chart.second_ticks(10);
        chart.line(RED, [(0.0, 1.0), (9.0, 4.0)].into_iter());
        chart.line(BLUE, std::iter::once((3.0, 2.0)));
        let svg = chart.svg("seconds");
        assert_eq!(
            svg.matches("stroke-width=\"2\"").count(),
            2,
            "two lines: {svg}"
        );
        for label in ["4 %", "9", "seconds"] {
            assert!(svg.contains(label), "{label}: {svg}");
        }
    }
}
