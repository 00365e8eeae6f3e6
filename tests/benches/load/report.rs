//! Tables in Markdown, so that a terminal and docs/benchmarks.md show the same.

use std::time::Duration;

/// Prints a table whose columns are as wide as their widest cell.
pub(crate) fn table(title: &str, header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<String>| println!("|{}|", cells.join("|"));
    let padded = |cells: &[String]| {
        cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:<width$} "))
            .collect()
    };
    println!("\n### {title}\n");
    line(padded(
        &header
            .iter()
            .map(|&cell| cell.to_owned())
            .collect::<Vec<_>>(),
    ));
    line(widths.iter().map(|width| "-".repeat(width + 2)).collect());
    for row in rows {
        line(padded(row));
    }
}

/// A goal of the project, against what was measured.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) limit: f64,
    /// Whether `limit` is the least that counts, or the most.
    pub(crate) at_least: bool,
    pub(crate) unit: &'static str,
}

impl Goal {
    pub(crate) const fn met(&self) -> bool {
        if self.at_least {
            self.measured >= self.limit
        } else {
            self.measured <= self.limit
        }
    }
}

/// Prints the goals.
pub(crate) fn goals(goals: &[Goal]) {
    let rows: Vec<Vec<String>> = goals
        .iter()
        .map(|goal| {
            let relation = if goal.at_least { "at least" } else { "at most" };
            vec![
                goal.what.clone(),
                format!("{relation} {} {}", number(goal.limit), goal.unit),
                format!("{} {}", number(goal.measured), goal.unit),
                if goal.met() { "met" } else { "not met" }.to_owned(),
            ]
        })
        .collect();
    table("Goals", &["goal", "wanted", "measured", ""], &rows);
}

/// The middle value, and the range as text.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The middle value with the least and the greatest.
pub(crate) fn spread(values: &[f64]) -> String {
    if let [value] = values {
        return number(*value);
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!(
        "{} ({} to {})",
        number(median(values)),
        number(least),
        number(greatest)
    )
}

/// A number with as many digits as mean something, thousands parted.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "none".to_owned();
    }
    if value.abs() < 10.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds.
pub(crate) const fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}

/// Megabytes, of 1,000,000 bytes.
pub(crate) const fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
