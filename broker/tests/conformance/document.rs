//! Holds docs/conformance.md to the cases.
//!
//! A row of its tables is `| MQTT-3.1.2-4 | text |`. The text names cases in backticks, or gives the reason why there
//! is none. `CONFORMANCE_DOC=write cargo test` writes the names of the cases into it.

use crate::all;
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");

/// The statements and the names of the cases that cite them, for one version.
fn cited(v5: bool) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut cited: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for case in all() {
        let ids = if v5 { case.v5 } else { case.v4 };
        // A section without a statement's number has no row.
        for id in ids.iter().filter(|id| id.contains('-')) {
            cited
                .entry(format!("MQTT-{id}"))
                .or_default()
                .insert(case.name);
        }
    }
    cited
}

fn row(line: &str) -> Option<(&str, &str)> {
    let (id, text) = line
        .strip_prefix("| MQTT-")
        .and_then(|_| line[2..].split_once(" | "))?;
    Some((id, text.strip_suffix(" |")?))
}

/// The document with the names of the cases in it, and what was wrong.
fn corrected(text: &str) -> (String, Vec<String>) {
    let (mut out, mut wrong) = (String::new(), Vec::new());
    let mut due = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with("## ") {
            wrong.extend(due.keys().map(|id| format!("{id} is cited and has no row")));
            due = match line {
                "## MQTT 5.0" => cited(true),
                "## MQTT 3.1.1" => cited(false),
                _ => BTreeMap::new(),
            };
        }
        let mut line = line.to_owned();
        if let Some((id, said)) = row(&line) {
            let names = due.remove(id).unwrap_or_default();
            let expected = names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ");
            let reason = !said.is_empty() && !said.contains('`');
            if said.is_empty() || (expected != said && !(names.is_empty() && reason)) {
                wrong.push(format!("{id} has {said:?}, and is shown by {expected:?}"));
                line = format!("| {id} | {expected} |");
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    wrong.extend(due.keys().map(|id| format!("{id} is cited and has no row")));
    (out, wrong)
}

#[test]
fn the_document_and_the_cases_agree() {
    let mut text = std::fs::read_to_string(DOCUMENT).unwrap();
    if std::env::var("CONFORMANCE_DOC").as_deref() == Ok("write") {
        text = corrected(&text).0;
        std::fs::write(DOCUMENT, &text).unwrap();
    }
    let (_, wrong) = corrected(&text);
    assert!(
        wrong.is_empty(),
        "run with CONFORMANCE_DOC=write to put the names of cases in:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn names_of_cases_differ() {
    let mut names = BTreeSet::new();
    for case in all() {
        assert!(names.insert(case.name), "{:?} is there twice", case.name);
        assert!(
            case.versions().next().is_some(),
            "{:?} cites nothing and never runs",
            case.name
        );
    }
}

#[test]
fn a_wrong_row_is_found() {
    let text =
        "## MQTT 5.0\n| MQTT-3.1.0-1 | nobody looked |\n| MQTT-3.1.0-9 | `a case` |\n## Else\n";
    let (_, wrong) = corrected(text);
    assert!(
        wrong
            .iter()
            .any(|line| line.starts_with("MQTT-3.1.0-1 has")),
        "{wrong:?}"
    );
    assert!(
        wrong
            .iter()
            .any(|line| line.starts_with("MQTT-3.1.0-9 has")),
        "{wrong:?}"
    );
    assert!(
        wrong.contains(&"MQTT-3.1.0-2 is cited and has no row".to_owned()),
        "{wrong:?}"
    );
}
