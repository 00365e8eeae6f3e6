//! Samples for people.

use super::{table, word};
use crate::api::SampleSummary;
use crate::units::human_bytes;

pub(in crate::cli) fn samples(rows: &[SampleSummary]) -> String {
    if rows.is_empty() {
        return "no samples are stored: `sample` of a stream in agent.toml has nodes keep some"
            .to_owned();
    }
    let row = |row: &SampleSummary| {
        let sums = &row.sums;
        let policies = row.by_policy.iter();
        let policies = policies.map(|(policy, count)| format!("{} {count}", word(policy)));
        [
            row.model.to_string(),
            row.stream.to_string(),
            sums.records.to_string(),
            sums.labelled.to_string(),
            human_bytes(sums.bytes),
            sums.oldest.to_string(),
            sums.newest.to_string(),
            policies.collect::<Vec<_>>().join(", "),
        ]
    };
    table(
        [
            "MODEL", "STREAM", "SAMPLES", "LABELLED", "SIZE", "OLDEST", "NEWEST", "KEPT AS",
        ],
        rows.iter().map(row),
    )
}
