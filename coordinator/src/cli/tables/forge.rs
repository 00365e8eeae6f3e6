//! What training and compression found.

use lamppost_models::manifest::Provenance;

use super::table;
use crate::cli::forge::{Generation, Lineage};
use crate::forge::{Candidate, Exam, Findings, Grade, Packed, Squeezed, Trained, words};
use crate::units::human_bytes;

/// A training: the error of the new model beside the others, and what became of it.
pub(crate) fn trained(trained: &Trained, result: &str) -> String {
    let outcome = &trained.outcome;
    let mut lines = vec![
        parts(trained),
        String::new(),
        exam(&trained.exam, &trained.packed),
        String::new(),
        format!(
            "best in epoch {} of {}",
            outcome.best_epoch,
            outcome.epochs.len()
        ),
        bundle(&trained.packed, result),
    ];
    let better = |other: &Grade| trained.exam.new.error() < other.error();
    if trained
        .exam
        .parent
        .as_ref()
        .is_some_and(|parent| !better(parent))
    {
        lines.push("warning: it is no better than its parent".to_owned());
    }
    if !better(&trained.exam.naive) {
        lines.push("warning: it is no better than the naive forecast".to_owned());
    }
    lines.join("\n")
}

fn parts(trained: &Trained) -> String {
    let parts = &trained.study.parts;
    let line = format!(
        "{} windows to learn from, {} to stop by, {} to judge on",
        parts.train.len(),
        parts.valid.len(),
        parts.test.len()
    );
    let skipped = words(&trained.study.table.skipped);
    if skipped.is_empty() {
        line
    } else {
        format!("{line}; left out: {skipped}")
    }
}

fn exam(exam: &Exam, packed: &Packed) -> String {
    let new = packed.bundle.manifest();
    let graded = [
        (format!("naive ({})", exam.naive_by), Some(&exam.naive)),
        ("parent".to_owned(), exam.parent.as_ref()),
        (format!("{} {}", new.name, new.version), Some(&exam.new)),
    ];
    let graded = graded
        .iter()
        .filter_map(|(name, grade)| Some((name, (*grade)?)));
    if exam.new.accuracy.is_some() {
        let row = |(name, grade): (&String, &Grade)| {
            [
                name.clone(),
                format!("{:.4}", grade.accuracy.unwrap_or(0.0)),
            ]
        };
        return table(["HELD OUT", "ACCURACY"], graded.map(row));
    }
    let unit = exam.unit.clone().unwrap_or_default();
    let number = |number: Option<f64>| format!("{:.4} {unit}", number.unwrap_or(f64::NAN));
    let row =
        |(name, grade): (&String, &Grade)| [name.clone(), number(grade.mae), number(grade.rmse)];
    table(["HELD OUT", "MAE", "RMSE"], graded.map(row))
}

fn bundle(packed: &Packed, result: &str) -> String {
    let manifest = packed.bundle.manifest();
    format!(
        "{} {}  {}  {}\n{result}",
        manifest.name,
        manifest.version,
        human_bytes(packed.bytes.len() as u64),
        packed.bundle.digest()
    )
}

/// A compression: all candidates, how weights take pruning, and what was chosen.
pub(crate) fn squeezed(squeezed: &Squeezed, findings: &Findings, result: &str) -> String {
    let lines = [
        candidates(findings),
        String::new(),
        format!("chosen: {}", squeezed.chosen),
        exam(&squeezed.exam, &squeezed.packed),
        bundle(&squeezed.packed, result),
    ];
    lines.join("\n")
}

/// All candidates beside the original, and how weights take pruning where that was looked at.
pub(crate) fn candidates(findings: &Findings) -> String {
    let was = findings
        .candidates
        .first()
        .map_or(1.0, |original| original.error);
    let row = |candidate: &Candidate| {
        [
            candidate.name.clone(),
            candidate.bytes.to_string(),
            format!("{:.2} x", candidate.smaller),
            format!("{:.5}", candidate.error),
            format!(
                "{:+.2} %",
                100.0 * (candidate.error / was.max(f64::MIN_POSITIVE) - 1.0)
            ),
            format!("{:.1} us", candidate.median_us),
            format!("{:.2} x", candidate.faster),
            candidate.objections.join("; "),
        ]
    };
    let header = [
        "CANDIDATE",
        "BYTES",
        "SMALLER",
        "ERROR",
        "RELATIVE",
        "MEDIAN",
        "FASTER",
        "OBJECTIONS",
    ];
    let mut text = table(header, findings.candidates.iter().map(row));
    if !findings.scan.is_empty() {
        let row = |point: &lamppost_forge::ScanPoint| {
            [
                point.name.clone(),
                format!("{:.0} %", 100.0 * point.sparsity),
                format!("{:.5}", point.quality.error()),
            ]
        };
        text.push_str("\n\n");
        text.push_str(&table(
            ["WEIGHT", "PRUNED", "ERROR"],
            findings.scan.iter().map(row),
        ));
    }
    text
}

/// A version, its parent, and so on.
pub(crate) fn lineage(lineage: &Lineage) -> String {
    let mut blocks: Vec<String> = lineage.generations.iter().map(generation).collect();
    if let Some(digest) = lineage.unknown {
        blocks.push(format!("{digest}\n  not in the registry, or too far back"));
    }
    blocks.join("\nmade from\n")
}

fn generation(generation: &Generation) -> String {
    let Provenance {
        created_at,
        trainer,
        data,
        metrics,
        samples,
        seed,
        code,
        recipe,
        report,
        parent: _,
    } = &generation.provenance;
    let mut lines = vec![
        format!("{} {}", generation.name, generation.version),
        format!("  digest   {}", generation.digest),
        format!("  made     {created_at} by {trainer}"),
        format!("  data     {data}"),
    ];
    if let Some(set) = samples {
        lines.push(format!(
            "  samples  {} from {} to {}, {}",
            set.count, set.from, set.to, set.digest
        ));
    }
    if let Some(seed) = seed {
        lines.push(format!("  seed     {seed}"));
    }
    if let Some(code) = code {
        lines.push(format!("  code     {code}"));
    }
    for (name, value) in metrics {
        lines.push(format!("  metric   {name} = {value}"));
    }
    for (name, value) in [("recipe", recipe), ("report", report)] {
        if let Some(value) = value {
            lines.push(format!("  {name}   {value}"));
        }
    }
    let clean = lines.iter().map(|line| super::clean(line));
    clean.collect::<Vec<_>>().join("\n")
}
