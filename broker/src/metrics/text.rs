//! The statistics in Prometheus' text format, version 0.0.4.
//!
//! A field of [`Stats`] becomes a metric by itself: `lamppost_broker_`, its name, and `_total` for a counter. The refusals
//! and the dropped messages are one metric each, with the reason as a label.

use crate::stats::{Figure, Kind, Stats};
use std::fmt::Write as _;

const PREFIX: &str = "lamppost_broker_";

impl Stats {
    /// Writes all fields in Prometheus' text format, version 0.0.4, for any HTTP server to serve as
    /// `text/plain; version=0.0.4`.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let figures = self.figures();
        let mut page = Page(String::with_capacity(200 * figures.len()));
        page.head("build_info", "The broker's version.", Kind::Gauge);
        page.value(
            "build_info",
            Some(("version", env!("CARGO_PKG_VERSION"))),
            1,
        );
        let (mut refused, mut dropped) = (Vec::new(), Vec::new());
        for figure in figures {
            if let Some(reason) = figure.refusal_reason() {
                refused.push((reason, figure.value));
            } else if let Some(reason) = figure.drop_reason() {
                dropped.push((reason, figure.value));
            } else {
                let name = name(&figure);
                page.head(&name, figure.text, figure.kind);
                page.value(&name, None, figure.value);
            }
        }
        page.family(
            "refused_total",
            "Connections and logins refused, by reason.",
            &refused,
        );
        page.family(
            "dropped_total",
            "Messages that a subscriber did not get, by reason.",
            &dropped,
        );
        page.0
    }
}

/// A metric's name behind the prefix. `_count` belongs to histograms, so that gauges do not end in it.
fn name(figure: &Figure) -> String {
    match (figure.kind, figure.name.strip_suffix("_count")) {
        (Kind::Counter, _) => format!("{}_total", figure.name),
        (Kind::Gauge, Some(counted)) => format!("{counted}_messages"),
        (Kind::Gauge, None) => figure.name.to_owned(),
    }
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, text: &str, values: &[(&str, u64)]) {
        self.head(name, text, Kind::Counter);
        for &(reason, value) in values {
            self.value(name, Some(("reason", reason)), value);
        }
    }

    fn head(&mut self, name: &str, text: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let text = escape(text.trim(), false);
        self.line(format_args!("# HELP {PREFIX}{name} {text}"));
        self.line(format_args!("# TYPE {PREFIX}{name} {kind}"));
    }

    fn value(&mut self, name: &str, label: Option<(&str, &str)>, value: u64) {
        match label {
            None => self.line(format_args!("{PREFIX}{name} {value}")),
            Some((label, text)) => {
                let text = escape(text, true);
                self.line(format_args!("{PREFIX}{name}{{{label}=\"{text}\"}} {value}"));
            }
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a string does not fail.
        writeln!(self.0, "{line}").ok();
    }
}

/// Escapes what would end the text: backslash and line feed, in a label also the quotation mark.
fn escape(text: &str, label: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if label => escaped.push_str("\\\""),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;
    use crate::stats::{Kind, Stats};
    use std::collections::{HashMap, HashSet};

    /// Every sample by its name and labels; fails on what the format does not allow.
    fn parse(text: &str) -> HashMap<String, u64> {
        let mut samples = HashMap::new();
        let (mut helped, mut typed) = (HashSet::new(), HashMap::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name), "{line}");
                assert!(typed.insert(name, kind).is_none(), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            } else {
                let (key, value) = line.rsplit_once(' ').unwrap();
                let name = key.split('{').next().unwrap();
                assert!(typed.contains_key(name), "{line}");
                assert!(
                    name.starts_with("lamppost_broker_")
                        && name
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                    "{line}"
                );
                let value = value.parse().unwrap();
                assert!(samples.insert(key.to_owned(), value).is_none(), "{line}");
            }
        }
        samples
    }

    #[test]
    fn every_field_is_there_once_with_its_value() {
        let stats = Stats {
            connected: 1,
            refused_password: 2,
            lost_slow_subscriber: 3,
            dropped_oversize: 4,
            retained_count: 5,
            clients: 6,
            ..Stats::default()
        };
        let samples = parse(&stats.to_prometheus());
        assert_eq!(samples.len(), stats.figures().len() + 1);
        for (key, value) in [
            ("connected_total", 1),
            ("refused_total{reason=\"password\"}", 2),
            ("dropped_total{reason=\"slow_subscriber\"}", 3),
            ("dropped_total{reason=\"oversize\"}", 4),
            ("retained_messages", 5),
            ("clients", 6),
            ("build_info{version=\"0.1.0\"}", 1),
        ] {
            assert_eq!(
                samples.get(&format!("lamppost_broker_{key}")),
                Some(&value),
                "{key}"
            );
        }
    }

    #[test]
    fn gauges_and_counters_are_told_apart() {
        let figures = Stats::default().figures();
        let kind = |name| figures.iter().find(|f| f.name == name).unwrap().kind;
        assert_eq!(kind("clients"), Kind::Gauge);
        assert_eq!(kind("accepted"), Kind::Counter);
    }

    #[test]
    fn texts_cannot_break_out() {
        assert_eq!(escape("a\\b\n\"c\"", false), "a\\\\b\\n\"c\"");
        assert_eq!(escape("a\\b\n\"c\"", true), "a\\\\b\\n\\\"c\\\"");
    }
}
