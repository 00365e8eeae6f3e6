//! Records: read back, bounded, and those of older agents.

use lamppost_models::message::Verdict;
use lamppost_models::trial::TrialPhase;

use super::*;

#[test]
fn a_record_reads_back_and_its_lists_are_bounded() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    let mut record = bench.saved.clone().unwrap();
    for number in 0..100 {
        let detail = "x".repeat(DETAIL_CHARS_MAX);
        let agent = "0.1.0".to_owned();
        record.put_in_quarantine(Quarantined {
            digest: digest(number),
            verdict: Verdict::Unusable,
            detail,
            at: NOW,
            agent,
        });
        record.remember(
            &release(&group(&format!("g{number}")), number, 1),
            &[],
            &[group("all")],
        );
    }
    assert_eq!(
        (record.quarantine.len(), record.releases.len()),
        (QUARANTINE_MAX, GROUPS_MAX)
    );
    assert!(
        record.releases.contains_key(&group("all")),
        "the node's own groups stay"
    );
    let json = serde_json::to_vec(&record).unwrap();
    assert_eq!(serde_json::from_slice::<SlotRecord>(&json).unwrap(), record);
}

/// As an agent before trials wrote it.
const OLD: &str = include_str!("record-old.json");
/// As this one does, with a trial under way.
const NEW: &str = include_str!("record-new.json");

#[test]
fn a_record_of_an_agent_before_trials_is_read_and_gone_on_from() {
    let record: SlotRecord = serde_json::from_str(OLD).unwrap();
    let setup = setup(None);
    let mut machine = SlotMachine::start(setup, Some(record.clone()), NOW);
    let activate = Effect::Activate(bundle(2));
    assert_eq!(machine.next_effect(), Some(activate));
    let report = machine.report();
    assert_eq!(report.trial, None);
    assert_eq!(report.previous.unwrap().digest, digest(1));
    assert_eq!(
        record.quarantined(&digest(3)).unwrap().verdict,
        Verdict::GoldenMismatch
    );

    // The release that it knew a part of comes again, with all of it.
    let mut bench = Bench {
        machine,
        saved: Some(record),
        now: NOW,
    };
    bench.effects();
    bench.activated(2);
    let all = group("all");
    let whole = Release {
        revoked: vec![digest(1)],
        ..release(&all, 7, 2)
    };
    assert_eq!(bench.take(&whole), Ok(Taken::New));
    bench.expect(&["save"]);
    assert_eq!(bench.take(&whole), Ok(Taken::Known));
    assert_eq!(bench.shown(), "- < 1.2.0 < -", "the one before is revoked");
    assert!(bench.machine.record().releases[&all].whole);
    let other = release(&all, 7, 2);
    assert_eq!(bench.take(&other).unwrap_err().kind(), "conflicting");
}

#[test]
fn a_record_of_this_agent_is_written_as_it_ever_was() {
    let record: SlotRecord = serde_json::from_str(NEW).unwrap();
    let trial = record.trial.as_ref().unwrap();
    assert_eq!(trial.phase, TrialPhase::Probation);
    assert_eq!(trial.probation.as_ref().unwrap().crashes, 1);
    let written: serde_json::Value = serde_json::to_value(&record).unwrap();
    let golden: serde_json::Value = serde_json::from_str(NEW).unwrap();
    assert_eq!(written, golden);
}
