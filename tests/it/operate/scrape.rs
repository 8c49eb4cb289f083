//! A strict parser of the metrics formats.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::bed::Api;

/// Values by series, as the series are written.
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub async fn of(api: &Api) -> Self {
        let answer = api.send("GET", "/metrics", &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        Self(parse(
            std::str::from_utf8(&answer.body).expect("UTF-8"),
            false,
        ))
    }

    /// The value of a series; 0 if the metric exists but not with these labels.
    pub fn get(&self, series: &str) -> f64 {
        let name = series.split('{').next().unwrap_or_default();
        assert!(
            self.0.contains_key(series) || series.contains('{') && self.has(name),
            "there is no {series}"
        );
        self.0.get(series).copied().unwrap_or_default()
    }

    /// Whether the metric exists, with any labels.
    pub fn has(&self, name: &str) -> bool {
        let of = |series: &String| series.split('{').next() == Some(name);
        self.0.keys().any(of)
    }

    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Parses the Prometheus text format, or OpenMetrics if `open`.
pub fn parse(text: &str, open: bool) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family: Option<(String, String)> = None;
    let mut lines = text.lines();
    for line in lines.by_ref() {
        if open && line == "# EOF" {
            break;
        }
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect(line);
            assert!(is_name(name) && help.ends_with('.'), "{line}");
            family = None;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert!(
                ["counter", "gauge", "histogram", "info"].contains(&kind),
                "{line}"
            );
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            family = Some((name.to_owned(), kind.to_owned()));
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').expect(line);
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').expect(line);
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').expect(line);
                let quoted = value.len() > 2 && value.starts_with('"') && value.ends_with('"');
                assert!(is_name(label) && quoted, "{line}");
            }
            let (of, kind) = family.as_ref().expect("a TYPE before its series");
            let suffix = name.strip_prefix(of.as_str()).expect(line);
            let suffixes: &[&str] = match (kind.as_str(), open) {
                ("counter", true) => &["_total"],
                ("info", true) => &["_info"],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            let value: f64 = value.parse().expect(line);
            assert!(value >= 0.0, "{line}");
            assert_eq!(
                all.insert(series.to_owned(), value),
                None,
                "{line} comes twice"
            );
        }
    }
    assert!(text.ends_with('\n'));
    assert!(!open || text.ends_with("# EOF\n"));
    assert_eq!(lines.next(), None, "nothing comes after the end");
    check_histograms(&all);
    all
}

/// Checks that the last bucket of each histogram equals its count.
fn check_histograms(all: &BTreeMap<String, f64>) {
    for (series, count) in all {
        let Some((name, labels)) = series.split_once("_count") else {
            continue;
        };
        let labels = labels.trim_start_matches('{').trim_end_matches('}');
        let comma = if labels.is_empty() { "" } else { "," };
        let last = [
            format!("{name}_bucket{{le=\"+Inf\"{comma}{labels}}}"),
            format!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}}"),
        ];
        let last = last.iter().find_map(|series| all.get(series));
        assert_eq!(last, Some(count), "{series}");
    }
}
