//! Counts of the samples for Prometheus.

use std::fmt::Write as _;

use axum::extract::State as Shared;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::{ApiError, SharedApi};
use crate::api::SampleSummary;
use crate::state::SampleCounts;

/// The text format that every Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(Shared(api): SharedApi) -> Result<Response, ApiError> {
    let asked = api
        .centre
        .call(|state| (state.sample_sums(), state.sample_counts()));
    let (rows, counts) = asked.await?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text(&rows, &counts)).into_response())
}

/// Names of models and streams need no escape: they are letters, digits, `.`, `_` and `-`.
fn text(rows: &[SampleSummary], counts: &SampleCounts) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, u64)>| {
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        text.push_str(&head);
        for (labels, value) in lines {
            // Writing to a string cannot fail.
            writeln!(text, "{name}{labels} {value}").ok();
        }
    };
    let of_rows = |value: fn(&SampleSummary) -> u64| -> Vec<(String, u64)> {
        let line = |row: &SampleSummary| {
            let labels = format!("{{model=\"{}\",stream=\"{}\"}}", row.model, row.stream);
            (labels, value(row))
        };
        rows.iter().map(line).collect()
    };
    let records = of_rows(|row| row.sums.records);
    family(
        "lamppost_samples",
        "gauge",
        "Samples that are stored.",
        records,
    );
    let labelled = of_rows(|row| row.sums.labelled);
    let help = "Samples that are stored and have a label.";
    family("lamppost_samples_labelled", "gauge", help, labelled);
    let bytes = of_rows(|row| row.sums.bytes);
    family(
        "lamppost_samples_bytes",
        "gauge",
        "Bytes of the stored samples.",
        bytes,
    );
    for (name, help, value) in [
        (
            "stored",
            "Samples that were stored, each once.",
            counts.stored,
        ),
        (
            "duplicates",
            "Samples that came again and were dropped.",
            counts.duplicates,
        ),
        ("refused", "Samples that could not be.", counts.refused),
    ] {
        let name = format!("lamppost_samples_{name}_total");
        family(&name, "counter", help, vec![(String::new(), value)]);
    }
    let reasons = [
        ("asked", counts.forgotten),
        ("age", counts.expired),
        ("cap", counts.evicted),
    ];
    let gone = reasons.map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count));
    let help = "Samples that were deleted, by reason.";
    family(
        "lamppost_samples_forgotten_total",
        "counter",
        help,
        gone.into(),
    );
    text
}
