use lamppost_models::V1;
use lamppost_models::message::{ActiveSlot, TrialState};
use lamppost_models::release::{Release, Sequence};

use crate::trial::Preflight;
use std::time::Duration;

use super::*;

mod records;
mod trials;

const NOW: Timestamp = Timestamp::EPOCH;

fn group(name: &str) -> GroupId {
    name.parse().unwrap()
}

pub(super) fn model() -> ModelName {
    "traffic-flow".parse().unwrap()
}

pub(super) fn bundle(number: u64) -> BundleRef {
    let digest = Digest::of(&number.to_le_bytes());
    BundleRef {
        version: format!("1.{number}.0").parse().unwrap(),
        digest,
        bytes: 1000 + number,
    }
}

pub(super) fn digest(number: u64) -> Digest {
    bundle(number).digest
}

pub(super) fn release(group: &GroupId, sequence: u64, number: u64) -> Release {
    Release {
        schema: V1,
        group: group.clone(),
        model: model(),
        sequence: Sequence(sequence),
        issued_at: NOW,
        expires_at: NOW.offset_ms(1000),
        stable: bundle(number),
        candidate: None,
        trial: None,
        hours: None,
        revoked: Vec::new(),
    }
}

pub(super) fn setup(factory: Option<u64>) -> SlotSetup {
    SlotSetup {
        model: model(),
        path: NodePath {
            site: "harbour".parse().unwrap(),
            node: "gw-1".parse().unwrap(),
        },
        groups: vec![group("canary"), group("all")],
        tags: Tags::new(),
        zone: Zone::utc(),
        factory: factory.map(bundle),
        agent: "0.1.0".to_owned(),
        backoff: Backoff::new(1),
        failures_max: 3,
    }
}

/// A machine whose effects are looked at, in order.
struct Bench {
    machine: SlotMachine,
    saved: Option<SlotRecord>,
    now: Timestamp,
}

impl Bench {
    fn new(factory: Option<u64>) -> Self {
        Self {
            machine: SlotMachine::start(setup(factory), None, NOW),
            saved: None,
            now: NOW,
        }
    }

    fn restart(&mut self, factory: Option<u64>) {
        self.machine = SlotMachine::start(setup(factory), self.saved.clone(), self.now);
    }

    /// Saves what is to be saved, and names what else is to be done.
    fn effects(&mut self) -> Vec<String> {
        let mut effects = Vec::new();
        while let Some(effect) = self.machine.next_effect() {
            effects.push(match effect {
                Effect::Save(record) => {
                    self.saved = Some(record);
                    self.machine.handle(Input::Saved, self.now);
                    "save".to_owned()
                }
                Effect::Fetch(bundle) => format!("fetch {}", bundle.version),
                Effect::Check(bundle) => format!("check {}", bundle.version),
                Effect::Cancel(digest) => {
                    let number = (0..100).find(|number| super::tests::digest(*number) == digest);
                    format!("cancel 1.{}.0", number.unwrap())
                }
                Effect::Activate(bundle) => format!("activate {}", bundle.version),
                Effect::Deactivate => "deactivate".to_owned(),
                Effect::Sweep => continue,
                Effect::RetryAfter(_) => "retry".to_owned(),
                Effect::Shadow { bundle, .. } => format!("shadow {}", bundle.version),
                Effect::StopShadow(_) => "stop shadow".to_owned(),
                Effect::Watch(_) => "watch".to_owned(),
                Effect::StopWatch(_) => "stop watch".to_owned(),
            });
        }
        effects
    }

    #[track_caller]
    fn expect(&mut self, wanted: &[&str]) {
        assert_eq!(self.effects(), wanted);
    }

    fn release(&mut self, name: &str, sequence: u64, number: u64) -> Result<Taken, ReleaseRefusal> {
        let group = group(name);
        let mut release = release(&group, sequence, number);
        release.expires_at = self.now.offset_ms(1000);
        self.take(&release)
    }

    fn take(&mut self, release: &Release) -> Result<Taken, ReleaseRefusal> {
        let group = release.group.clone();
        self.machine
            .release(&group, &model(), release, &[], self.now)
    }

    fn input(&mut self, input: Input) {
        self.machine.handle(input, self.now);
    }

    /// The longest time between two tries passes.
    fn retry(&mut self) {
        self.now = self.now.after(Backoff::new(1).max);
        self.input(Input::Retry);
    }

    fn fetched(&mut self, number: u64) {
        self.input(Input::Fetched {
            digest: digest(number),
            fetched_bytes: 1000 + number,
        });
    }

    fn unavailable(&mut self, number: u64) {
        let failure = FetchFailure::Unavailable;
        self.input(Input::FetchFailed {
            digest: digest(number),
            failure,
            detail: "no route".to_owned(),
        });
    }

    fn checked(&mut self, number: u64, outcome: CheckOutcome) {
        self.input(Input::Checked {
            digest: digest(number),
            outcome,
        });
    }

    fn passed(&mut self, number: u64) {
        self.checked(number, CheckOutcome::Passed(Preflight::default()));
    }

    fn refused(&mut self, number: u64, verdict: Verdict) {
        self.checked(
            number,
            CheckOutcome::Refused {
                verdict,
                detail: "it is broken".to_owned(),
            },
        );
    }

    fn activated(&mut self, number: u64) {
        self.input(Input::Activated {
            digest: digest(number),
        });
    }

    fn worked(&mut self, number: u64) {
        self.input(Input::InferenceWorked {
            digest: digest(number),
        });
    }

    fn failed(&mut self, number: u64) {
        self.input(Input::InferenceFailed {
            digest: digest(number),
            detail: "NaN".to_owned(),
        });
    }

    /// Takes a bundle from its release to where it runs and has worked.
    #[track_caller]
    fn bring_up(&mut self, sequence: u64, number: u64) {
        assert_eq!(self.release("all", sequence, number), Ok(Taken::New));
        self.fetched_to_running(number);
        self.worked(number);
        self.expect(&["save"]);
    }

    #[track_caller]
    fn fetched_to_check(&mut self, number: u64) {
        self.expect(&["save", &format!("fetch 1.{number}.0")]);
        self.fetched(number);
        self.expect(&[&format!("check 1.{number}.0")]);
    }

    #[track_caller]
    fn fetched_to_running(&mut self, number: u64) {
        self.fetched_to_check(number);
        self.passed(number);
        self.expect(&["save", &format!("activate 1.{number}.0")]);
        self.activated(number);
        self.expect(&[]);
    }

    /// What runs, what is wanted and how far it is, what is kept.
    fn shown(&self) -> String {
        let report = self.machine.report();
        let version = |slot: &Option<ActiveSlot>| {
            slot.as_ref()
                .map_or("-".to_owned(), |slot| slot.version.to_string())
        };
        let candidate = report
            .candidate
            .as_ref()
            .map_or("-".to_owned(), |candidate| {
                let state = match &candidate.state {
                    TrialState::Fetching { received, bytes } => {
                        format!("fetching {received}/{bytes}")
                    }
                    TrialState::Waiting { reason } => format!("waiting {reason}"),
                    TrialState::Checking => "checking".to_owned(),
                    TrialState::Shadowing { windows, of } => format!("shadow {windows}/{of}"),
                    TrialState::Refused { verdict, .. } => format!("{verdict:?}"),
                };
                format!("{} {state}", candidate.version)
            });
        format!(
            "{} < {} < {}",
            candidate,
            version(&report.active),
            version(&report.previous)
        )
    }
}

#[test]
fn a_release_is_fetched_checked_and_activated_in_this_order() {
    let mut bench = Bench::new(None);
    bench.expect(&[]);
    assert_eq!(bench.shown(), "- < - < -");
    assert_eq!(bench.release("all", 1, 1), Ok(Taken::New));
    bench.expect(&["save", "fetch 1.1.0"]);
    bench.input(Input::Received {
        digest: digest(1),
        received: 500,
    });
    assert_eq!(bench.shown(), "1.1.0 fetching 500/1001 < - < -");
    bench.fetched(1);
    bench.expect(&["check 1.1.0"]);
    assert_eq!(bench.shown(), "1.1.0 checking < - < -");
    bench.passed(1);
    bench.expect(&["save", "activate 1.1.0"]);
    bench.activated(1);
    bench.worked(1);
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "- < 1.1.0 < -");
    bench.bring_up(2, 2);
    assert_eq!(bench.shown(), "- < 1.2.0 < 1.1.0");
    assert_eq!(bench.machine.keeps().len(), 2);
    assert_eq!(bench.machine.report().release, Some(Sequence(2)));
}

#[test]
fn nothing_takes_effect_before_it_is_saved() {
    let mut bench = Bench::new(None);
    bench.expect(&[]);
    bench.release("all", 1, 1).unwrap();
    assert!(matches!(bench.machine.next_effect(), Some(Effect::Save(_))));
    assert_eq!(bench.machine.next_effect(), None);
    assert_eq!(bench.shown(), "- < - < -");
    bench.input(Input::SaveFailed);
    bench.expect(&["retry"]);
    bench.retry();
    bench.expect(&["save", "fetch 1.1.0"]);
    bench.fetched(1);
    bench.expect(&["check 1.1.0"]);
    bench.passed(1);
    assert!(matches!(bench.machine.next_effect(), Some(Effect::Save(_))));
    bench.input(Input::SaveFailed);
    bench.expect(&["retry"]);
    assert_eq!(bench.shown(), "1.1.0 checking < - < -");
    bench.retry();
    bench.expect(&["save", "activate 1.1.0"]);
}

#[test]
fn releases_that_must_not_be_taken_in_are_refused() {
    let mut bench = Bench::new(None);
    bench.bring_up(5, 1);
    let kind = |outcome: Result<Taken, ReleaseRefusal>| outcome.unwrap_err().kind();
    assert_eq!(kind(bench.release("all", 4, 2)), "stale");
    assert_eq!(kind(bench.release("all", 5, 2)), "conflicting");
    assert_eq!(bench.release("all", 5, 1), Ok(Taken::Known));
    assert_eq!(kind(bench.release("other", 9, 2)), "other-group");
    let all = group("all");
    let other: ModelName = "air-quality".parse().unwrap();
    let newer = release(&all, 6, 2);
    assert_eq!(
        kind(
            bench
                .machine
                .release(&group("canary"), &model(), &newer, &[], NOW)
        ),
        "wrong-topic"
    );
    assert_eq!(
        kind(bench.machine.release(&all, &other, &newer, &[], NOW)),
        "wrong-topic"
    );
    assert_eq!(
        kind(
            bench
                .machine
                .release(&all, &model(), &newer, &[], newer.expires_at)
        ),
        "expired"
    );
    let known = release(&all, 5, 1);
    assert_eq!(
        bench
            .machine
            .release(&all, &model(), &known, &[], known.expires_at),
        Ok(Taken::Known)
    );
    let mut renewed = release(&all, 5, 1);
    renewed.issued_at = NOW.offset_ms(500);
    renewed.expires_at = NOW.offset_ms(9000);
    assert_eq!(
        bench.machine.release(&all, &model(), &renewed, &[], NOW),
        Ok(Taken::Known),
        "signed anew before it expires"
    );
    bench.expect(&[]);
    assert_eq!(bench.shown(), "- < 1.1.0 < -");
    // The number is remembered over a restart.
    bench.restart(None);
    assert_eq!(kind(bench.release("all", 4, 2)), "stale");
}

#[test]
fn the_first_group_that_has_a_release_decides() {
    let mut bench = Bench::new(None);
    bench.bring_up(7, 1);
    bench.release("canary", 1, 2).unwrap();
    bench.fetched_to_running(2);
    // That of the other group is remembered and does nothing.
    bench.release("all", 8, 3).unwrap();
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "- < 1.2.0 < 1.1.0");
    assert_eq!(bench.machine.report().release, Some(Sequence(1)));
}

#[test]
fn a_bundle_that_fails_its_check_is_not_tried_again_and_the_active_one_stays() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.release("all", 2, 2).unwrap();
    bench.expect(&["save", "fetch 1.2.0"]);
    bench.fetched(2);
    bench.expect(&["check 1.2.0"]);
    bench.refused(2, Verdict::GoldenMismatch);
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "1.2.0 GoldenMismatch < 1.1.0 < -");
    assert_eq!(bench.machine.keeps(), [digest(1)]);
    bench.retry();
    bench.release("all", 3, 2).unwrap();
    bench.expect(&["save"]);
    bench.restart(None);
    bench.expect(&["activate 1.1.0"]);
    assert_eq!(bench.shown(), "1.2.0 GoldenMismatch < - < -");
    bench.activated(1);
    bench.bring_up(4, 3);
    assert_eq!(bench.shown(), "- < 1.3.0 < 1.1.0");
}

#[test]
fn another_agent_and_other_streams_try_again() {
    let mut bench = Bench::new(None);
    for (sequence, number, verdict) in [(1, 1, Verdict::Unusable), (2, 2, Verdict::Unsuitable)] {
        bench.release("all", sequence, number).unwrap();
        bench.effects();
        bench.fetched(number);
        bench.effects();
        bench.refused(number, verdict);
        bench.expect(&["save"]);
    }
    bench.restart(None);
    bench.expect(&["save", "fetch 1.2.0"]);
    bench.release("all", 3, 1).unwrap();
    bench.expect(&["save", "cancel 1.2.0"]);
    let newer = SlotSetup {
        agent: "0.2.0".to_owned(),
        ..setup(None)
    };
    bench.machine = SlotMachine::start(newer, bench.saved.clone(), NOW);
    bench.expect(&["save", "fetch 1.1.0"]);
}

#[test]
fn an_artifact_that_cannot_be_had_is_tried_again_and_again() {
    let mut bench = Bench::new(None);
    bench.release("all", 1, 1).unwrap();
    bench.expect(&["save", "fetch 1.1.0"]);
    let mut delays = Vec::new();
    for _ in 0..12 {
        bench.unavailable(1);
        assert_eq!(bench.shown(), "1.1.0 Unavailable < - < -");
        let Some(Effect::RetryAfter(delay)) = bench.machine.next_effect() else {
            panic!("no retry")
        };
        delays.push(delay);
        bench.retry();
        bench.expect(&["fetch 1.1.0"]);
    }
    assert!(
        delays[0] >= Duration::from_secs(1) && delays[0] <= Duration::from_secs(2),
        "{delays:?}"
    );
    assert!(
        delays[11] >= Duration::from_secs(150) && delays[11] <= Duration::from_mins(5),
        "{delays:?}"
    );
    // The release comes again when the link is back, which is a reason not to wait.
    bench.unavailable(1);
    bench.expect(&["retry"]);
    assert_eq!(bench.release("all", 1, 1), Ok(Taken::Known));
    bench.expect(&["fetch 1.1.0"]);
    bench.retry();
    bench.expect(&[]);
}

#[test]
fn what_came_altered_is_fetched_again_and_not_held_against_the_bundle() {
    let mut bench = Bench::new(None);
    bench.release("all", 1, 1).unwrap();
    bench.effects();
    let failure = FetchFailure::DigestMismatch;
    bench.input(Input::FetchFailed {
        digest: digest(1),
        failure,
        detail: "other bytes".to_owned(),
    });
    bench.expect(&["retry"]);
    assert_eq!(bench.shown(), "1.1.0 DigestMismatch < - < -");
    bench.retry();
    bench.expect(&["fetch 1.1.0"]);
    bench.fetched(1);
    bench.expect(&["check 1.1.0"]);
    bench.checked(
        1,
        CheckOutcome::Undecided {
            detail: "no memory for a process".to_owned(),
        },
    );
    bench.expect(&["save", "retry"]);
    assert_eq!(bench.shown(), "1.1.0 Unavailable < - < -");
}

#[test]
fn a_newer_release_takes_the_place_of_one_under_way() {
    let mut bench = Bench::new(None);
    bench.release("all", 1, 1).unwrap();
    bench.expect(&["save", "fetch 1.1.0"]);
    bench.release("all", 2, 2).unwrap();
    bench.expect(&["save", "cancel 1.1.0", "fetch 1.2.0"]);
    bench.fetched(1);
    bench.expect(&[]);
    bench.fetched(2);
    bench.expect(&["check 1.2.0"]);
    bench.passed(1);
    bench.expect(&[]);
    bench.passed(2);
    bench.expect(&["save", "activate 1.2.0"]);
}

#[test]
fn a_bundle_whose_first_inferences_fail_is_rolled_back() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.release("all", 2, 2).unwrap();
    bench.fetched_to_running(2);
    bench.failed(2);
    bench.failed(1);
    bench.failed(2);
    bench.expect(&[]);
    bench.failed(2);
    bench.expect(&["save", "deactivate", "activate 1.1.0"]);
    bench.activated(1);
    assert_eq!(bench.shown(), "1.2.0 Unusable < 1.1.0 < -");
    bench.restart(None);
    bench.expect(&["activate 1.1.0"]);
}

#[test]
fn once_an_inference_worked_later_failures_are_not_the_bundles_fault() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    for _ in 0..10 {
        bench.failed(1);
    }
    bench.expect(&[]);
    bench.restart(None);
    bench.expect(&["activate 1.1.0"]);
    bench.activated(1);
    for _ in 0..10 {
        bench.failed(1);
    }
    bench.expect(&[]);
    assert_eq!(bench.shown(), "- < 1.1.0 < -");
}

#[test]
fn what_is_kept_to_roll_back_to_is_the_last_that_worked() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.release("all", 2, 2).unwrap();
    bench.fetched_to_running(2);
    // Nothing has come for it yet, and nobody wants it any more.
    bench.release("all", 3, 3).unwrap();
    bench.expect(&["save", "activate 1.1.0", "fetch 1.3.0"]);
    bench.activated(1);
    bench.fetched(3);
    bench.expect(&["check 1.3.0"]);
    bench.passed(3);
    bench.expect(&["save", "activate 1.3.0"]);
    bench.activated(3);
    assert_eq!(bench.shown(), "- < 1.3.0 < 1.1.0");
    (0..3).for_each(|_| bench.failed(3));
    bench.expect(&["save", "deactivate", "activate 1.1.0"]);
}

#[test]
fn a_damaged_file_falls_back_and_is_fetched_again() {
    let mut bench = Bench::new(Some(9));
    bench.expect(&["save", "activate 1.9.0"]);
    bench.activated(9);
    bench.worked(9);
    bench.expect(&["save"]);
    bench.bring_up(1, 1);
    bench.bring_up(2, 2);
    assert_eq!(bench.shown(), "- < 1.2.0 < 1.1.0");
    bench.restart(Some(9));
    bench.expect(&["activate 1.2.0"]);
    let damaged = |number| Input::ActivateFailed {
        digest: digest(number),
        failure: ActivateFailure::Damaged,
        detail: "other bytes".to_owned(),
    };
    bench.input(damaged(2));
    bench.expect(&["save", "activate 1.1.0", "fetch 1.2.0"]);
    bench.input(damaged(1));
    bench.expect(&["save", "activate 1.9.0"]);
    bench.activated(9);
    assert_eq!(bench.shown(), "1.2.0 fetching 0/1002 < 1.9.0 < -");
    bench.fetched(2);
    bench.expect(&["check 1.2.0"]);
    bench.passed(2);
    bench.expect(&["save", "activate 1.2.0"]);
    bench.activated(2);
    assert_eq!(bench.shown(), "- < 1.2.0 < 1.9.0");
}

#[test]
fn a_disk_that_cannot_be_written_does_not_keep_the_version_before_from_running() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.bring_up(2, 2);
    bench.restart(None);
    bench.expect(&["activate 1.2.0"]);
    bench.input(Input::ActivateFailed {
        digest: digest(2),
        failure: ActivateFailure::Refused(Verdict::Unusable),
        detail: "it does not open".to_owned(),
    });
    assert!(matches!(bench.machine.next_effect(), Some(Effect::Save(_))));
    bench.input(Input::SaveFailed);
    bench.expect(&["activate 1.1.0", "retry"]);
    bench.activated(1);
    bench.retry();
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "1.2.0 Unusable < 1.1.0 < -");
}

#[test]
fn a_held_bundle_that_does_not_open_any_more_goes_into_quarantine() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.restart(None);
    bench.expect(&["activate 1.1.0"]);
    let failure = ActivateFailure::Refused(Verdict::GoldenMismatch);
    bench.input(Input::ActivateFailed {
        digest: digest(1),
        failure,
        detail: "differs".to_owned(),
    });
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "1.1.0 GoldenMismatch < - < -");
}

#[test]
fn the_factory_bundle_runs_until_a_release_comes_and_may_change() {
    let mut bench = Bench::new(Some(8));
    bench.expect(&["save", "activate 1.8.0"]);
    bench.activated(8);
    bench.worked(8);
    bench.expect(&["save"]);
    bench.restart(Some(9));
    bench.expect(&["save", "activate 1.9.0"]);
    bench.activated(9);
    assert_eq!(bench.shown(), "- < 1.9.0 < 1.8.0");
    bench.bring_up(1, 1);
    bench.restart(Some(8));
    bench.expect(&["activate 1.1.0"]);
}

#[test]
fn a_factory_bundle_that_does_not_open_is_seen_in_the_report() {
    let mut bench = Bench::new(Some(8));
    bench.expect(&["save", "activate 1.8.0"]);
    let failure = ActivateFailure::Refused(Verdict::Unsuitable);
    bench.input(Input::ActivateFailed {
        digest: digest(8),
        failure,
        detail: "no such field".to_owned(),
    });
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "1.8.0 Unsuitable < - < -");
}

#[test]
fn an_operator_can_go_back_to_the_version_before() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.bring_up(2, 2);
    bench.release("all", 3, 1).unwrap();
    bench.expect(&["save", "activate 1.1.0"]);
    bench.activated(1);
    assert_eq!(bench.shown(), "- < 1.1.0 < 1.2.0");
    // And forth, since it had passed.
    bench.release("all", 4, 2).unwrap();
    bench.expect(&["save", "activate 1.2.0"]);
    bench.activated(2);
    assert_eq!(bench.shown(), "- < 1.2.0 < 1.1.0");
}

#[test]
fn a_bundle_too_large_for_any_node_is_not_fetched() {
    let mut bench = Bench::new(None);
    let all = group("all");
    let mut huge = release(&all, 1, 1);
    huge.stable.bytes = u64::MAX;
    bench
        .machine
        .release(&all, &model(), &huge, &[], NOW)
        .unwrap();
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "1.1.0 Unusable < - < -");
}

#[test]
fn a_release_whose_keys_are_revoked_is_forgotten_with_its_number() {
    let mut bench = Bench::new(None);
    bench.bring_up(5, 1);
    let all = group("all");
    let by = |bench: &mut Bench, sequence, number, keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let release = release(&all, sequence, number);
        bench.machine.release(&all, &model(), &release, &keys, NOW)
    };
    let trust = |bench: &mut Bench, keys: &[&str], threshold| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        bench.machine.trust_changed(&keys, threshold);
    };
    // A record of before does not know its keys, and is not forgotten.
    trust(&mut bench, &["b"], 1);
    bench.expect(&[]);
    // Whoever stole key a and b uses up the numbers.
    by(&mut bench, u64::MAX, 2, &["a", "b"]).unwrap();
    bench.expect(&["save", "fetch 1.2.0"]);
    trust(&mut bench, &["a", "b", "c"], 2);
    bench.expect(&[]);
    assert_eq!(
        by(&mut bench, 6, 3, &["b", "c"]).unwrap_err().kind(),
        "stale"
    );
    // Its bundle is not wanted any more, and what runs goes on, over a restart too.
    trust(&mut bench, &["b", "c"], 2);
    bench.expect(&["save", "cancel 1.2.0"]);
    assert_eq!(bench.shown(), "- < 1.1.0 < -");
    bench.restart(None);
    bench.expect(&["activate 1.1.0"]);
    bench.activated(1);
    assert_eq!(by(&mut bench, 6, 3, &["b", "c"]), Ok(Taken::New));
    bench.fetched_to_running(3);
    // Signed anew by others, it is theirs.
    assert_eq!(by(&mut bench, 6, 3, &["c", "d"]), Ok(Taken::Known));
    trust(&mut bench, &["c", "d"], 2);
    bench.expect(&["save"]);
    assert_eq!(
        by(&mut bench, 5, 1, &["c", "d"]).unwrap_err().kind(),
        "stale"
    );
}
