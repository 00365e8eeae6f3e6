//! Results for people. The same in JSON is the API's own words.

use comfy_table::{Table, presets};
use lamppost_models::message::Quality;
use lamppost_models::{Digest, Timestamp};

use crate::api::{ModelDetail, ModelRow, Preflight, Pushed, StoredPrediction, StoredPredictions};
use crate::units::{human_bytes, human_span_ms};

mod audit;
mod campaigns;
mod forge;
mod ledger;
mod nodes;
mod rollouts;
mod samples;
mod sim;

pub(super) use audit::{audit, audit_check};
pub(super) use campaigns::{plan, rollout_head, rollout_line};
pub(super) use forge::{candidates, lineage, squeezed, trained};
pub(super) use ledger::ledger;
pub(super) use nodes::{node, nodes};
pub(super) use rollouts::{rollout, rollout_status, rollouts};
pub(super) use samples::samples;
pub(super) use sim::sim;

fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    // The preset pads every line to the same width.
    let lines: Vec<String> = table
        .lines()
        .map(|line| {
            line.trim_end()
                .strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.join("\n")
}

/// Text of a node for a terminal: what would move the cursor or change colours is shown as what it is.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", human_span_ms(now.ms_since(then)))
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// The serde name of a word-like enum.
pub(super) fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => String::new(),
    }
}

pub(super) fn models(rows: &[ModelRow], now: Timestamp) -> String {
    if rows.is_empty() {
        return "no models yet: push one with `lamppost model push`".to_owned();
    }
    let row = |row: &ModelRow| {
        let (digest, bytes) = (row.digest.short(), human_bytes(row.bytes));
        [
            row.name.to_string(),
            row.version.to_string(),
            word(row.task),
            bytes,
            digest,
            ago(row.pushed_at, now),
            row.summary.clone(),
        ]
    };
    table(
        [
            "MODEL", "VERSION", "TASK", "SIZE", "DIGEST", "PUSHED", "SUMMARY",
        ],
        rows.iter().map(row),
    )
}

pub(super) fn model(detail: &ModelDetail, now: Timestamp) -> String {
    let ModelDetail { model, manifest } = detail;
    let fields: Vec<String> = manifest
        .fields()
        .into_iter()
        .map(ToString::to_string)
        .collect();
    let mut lines = vec![
        format!("model      {} {}", model.name, model.version),
        format!("summary    {}", manifest.summary),
        format!("task       {}", word(manifest.task)),
        format!("digest     {}", model.digest),
        format!("size       {}", human_bytes(model.bytes)),
        format!(
            "pushed     {} ({})",
            model.pushed_at,
            ago(model.pushed_at, now)
        ),
        format!(
            "window     {} readings of {}",
            manifest.window.count,
            fields.join(", ")
        ),
        format!(
            "input      {} {:?}",
            manifest.input.tensor, manifest.input.shape
        ),
        format!(
            "output     {} {:?}",
            manifest.output.tensor, manifest.output.shape
        ),
        format!("trainer    {}", manifest.provenance.trainer),
        format!("data       {}", manifest.provenance.data),
    ];
    lines.extend(
        manifest
            .provenance
            .metrics
            .iter()
            .map(|(name, value)| format!("metric     {name} = {value}")),
    );
    lines.join("\n")
}

pub(super) fn pushed(pushed: &Pushed) -> String {
    let ModelRow {
        name,
        version,
        digest,
        ..
    } = &pushed.model;
    let what = if pushed.created {
        format!("{name} {version}")
    } else {
        format!("{name} {version} was there already, with the same bytes")
    };
    verified(&what, *digest, &pushed.preflight)
}

pub(super) fn verified(what: &str, digest: Digest, preflight: &Preflight) -> String {
    let Preflight {
        golden_cases,
        output_error_max,
        median_us,
        p99_us,
        memory_bytes,
    } = preflight;
    let memory = human_bytes(*memory_bytes);
    format!(
        "{what}\n{digest}\npreflight passed: {golden_cases} golden cases, largest difference {output_error_max:.1e}, \
         {median_us:.0} us a window (p99 {p99_us:.0} us), {memory} of memory"
    )
}

fn quality(quality: &Quality) -> String {
    match quality {
        Quality::Error { labels, mae, rmse } => {
            format!("MAE {mae:.4}, RMSE {rmse:.4} over {labels} labels")
        }
        Quality::Accuracy { labels, accuracy } => {
            format!("accuracy {:.2} % over {labels} labels", accuracy * 100.0)
        }
    }
}

pub(super) fn predictions(found: &StoredPredictions) -> String {
    let StoredPredictions { predictions, older } = found;
    let rows = match (predictions.is_empty(), older) {
        (false, _) => prediction_rows(predictions),
        (true, Some(_)) => "no such predictions among the newest that were looked at".to_owned(),
        (true, None) => "no predictions are stored".to_owned(),
    };
    match older {
        Some(older) => format!("{rows}\nolder ones: --before {older}"),
        None => rows,
    }
}

fn prediction_rows(rows: &[StoredPrediction]) -> String {
    let row = |row: &StoredPrediction| {
        let prediction = &row.prediction;
        let result = match (&prediction.label, prediction.score, prediction.value) {
            (Some(label), Some(score), _) => format!("{label} ({score:.3})"),
            (Some(label), None, _) => label.clone(),
            (None, _, Some(value)) => {
                format!("{value:.3} {}", prediction.unit.as_deref().unwrap_or(""))
                    .trim_end()
                    .to_owned()
            }
            (None, _, None) => "-".to_owned(),
        };
        let model = format!("{} {}", prediction.model.name, prediction.model.version);
        let replay = if prediction.replay { "replay" } else { "live" };
        [
            prediction.ts.to_string(),
            prediction.stream.to_string(),
            model,
            result,
            or_dash(prediction.target_ts.map(|target| target.to_string())),
            replay.to_owned(),
        ]
    };
    table(
        ["TIME", "STREAM", "MODEL", "RESULT", "FOR", "CAME"],
        rows.iter().map(row),
    )
}

#[cfg(test)]
mod tests;
