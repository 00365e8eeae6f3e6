//! What rollouts came to that were played.

use std::collections::BTreeMap;

use lamppost_coordinator_core::whatif::{Begun, End, Outcome};

use super::{table, word};
use crate::cli::sim::Played;
use crate::units::{human_bytes, human_span_ms};

/// Runs that get a line each; the rest is in the sums, and in the JSON.
const ROWS_MAX: usize = 20;

pub(in crate::cli) fn sim(played: &Played) -> String {
    let Played {
        candidate,
        plan,
        runs,
    } = played;
    let mut parts = vec![format!(
        "{} {} -> {} in group {}: {} nodes, {} control; candidate {candidate}, {} runs",
        plan.target.model,
        plan.from.version,
        plan.to.version,
        plan.target.group,
        plan.nodes,
        plan.control,
        runs.len(),
    )];
    parts.push(ends(runs));
    parts.push(links(runs));
    parts.push(table(
        ["SEED", "END", "AFTER", "EXPOSED", "LIVE", "BYTES", "WAVES"],
        runs.iter().take(ROWS_MAX).map(row),
    ));
    let told = runs.iter().find(|run| run.end != End::Promoted);
    parts.extend(told.map(|run| format!("seed {}: {}", run.seed, run.words)));
    parts.join("\n\n")
}

/// How the runs ended, how many of each, with what at the median and at most.
fn ends(runs: &[Outcome]) -> String {
    let mut by_end: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
    for run in runs {
        let wave = run.waves.last().map_or(0, |wave| wave.wave);
        let end = match run.end {
            End::Promoted => "promoted".to_owned(),
            End::Aborted { .. } | End::Open => format!("{}, in wave {wave}", end(run)),
        };
        by_end.entry(end).or_default().push(run);
    }
    let row = |(end, runs): (String, Vec<&Outcome>)| {
        let of = |number: fn(&Outcome) -> u64| {
            let mut numbers: Vec<u64> = runs.iter().map(|run| number(run)).collect();
            numbers.sort_unstable();
            middle_and_most(&numbers)
        };
        let both = |number: fn(&Outcome) -> u64, shown: fn(u64) -> String| {
            let (middle, most) = of(number);
            format!("{} / {}", shown(middle), shown(most))
        };
        [
            end,
            runs.len().to_string(),
            both(|run| run.took.as_secs(), after),
            both(|run| run.exposed, |nodes| nodes.to_string()),
            both(|run| run.live, |nodes| nodes.to_string()),
            both(|run| run.bytes, human_bytes),
        ]
    };
    let sums = table(
        ["END", "RUNS", "AFTER", "EXPOSED", "LIVE", "BYTES"],
        by_end.into_iter().map(row),
    );
    format!("median / most:\n{sums}")
}

/// What each backhaul carries.
fn links(runs: &[Outcome]) -> String {
    let mut by_backhaul: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for run in runs {
        for (backhaul, bytes) in &run.bytes_by_backhaul {
            by_backhaul.entry(backhaul).or_default().push(*bytes);
        }
    }
    let row = |(backhaul, mut bytes): (&str, Vec<u64>)| {
        bytes.sort_unstable();
        let (middle, most) = middle_and_most(&bytes);
        [backhaul.to_owned(), human_bytes(middle), human_bytes(most)]
    };
    table(
        ["BACKHAUL", "MEDIAN", "MOST"],
        by_backhaul.into_iter().map(row),
    )
}

fn row(run: &Outcome) -> [String; 7] {
    let wave = |wave: &Begun| format!("{} at {}", wave.nodes, after(wave.after.as_secs()));
    let waves: Vec<String> = run.waves.iter().map(wave).collect();
    [
        run.seed.to_string(),
        end(run),
        after(run.took.as_secs()),
        run.exposed.to_string(),
        run.live.to_string(),
        human_bytes(run.bytes),
        waves.join(", "),
    ]
}

fn end(run: &Outcome) -> String {
    match run.end {
        End::Promoted => "promoted".to_owned(),
        End::Aborted { why, .. } => format!("aborted: {}", word(why)),
        End::Open => "open still".to_owned(),
    }
}

fn middle_and_most(sorted: &[u64]) -> (u64, u64) {
    let at = |place: usize| sorted.get(place).copied().unwrap_or(0);
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

fn after(seconds: u64) -> String {
    human_span_ms(
        i64::try_from(seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1000),
    )
}
