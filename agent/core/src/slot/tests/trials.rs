//! Trials, step by step: shadow, probation, hours, revocation, the way back, restarts.

use lamppost_models::rollout::{Candidate, Exposure, Probation, Shadow, Share, TrialTerms};
use lamppost_models::trial::{Comparison, Moments, Side, TrialPhase, TrialReport, Watch};

use super::*;

/// A release of bundle `stable` with terms for whoever changes.
fn with_terms(sequence: u64, stable: u64) -> Release {
    let mut release = release(&group("all"), sequence, stable);
    release.expires_at = NOW.offset_ms(i64::from(u32::MAX));
    release.trial = Some(TrialTerms {
        shadow: Some(Shadow {
            windows: 10,
            labels: 10,
            error_ratio_max: Some(1.1),
            disagreement_max: Some(5.0),
            ..Shadow::default()
        }),
        probation: Some(Probation {
            windows: 20,
            labels: 10,
            error_ratio_max: Some(1.5),
            ..Probation::default()
        }),
        ..TrialTerms::default()
    });
    release
}

/// The same, with a candidate that is meant for this node or for another.
fn with_candidate(sequence: u64, stable: u64, candidate: u64, meant: bool) -> Release {
    let mut nodes = vec![setup(None).path];
    if !meant {
        nodes[0].node = "gw-2".parse().unwrap();
    }
    let candidate = Candidate {
        bundle: bundle(candidate),
        rollout: "0123456789abcdef".parse().unwrap(),
        exposure: Exposure {
            nodes,
            ..Exposure::default()
        },
        control: Share::NONE,
    };
    Release {
        candidate: Some(candidate),
        ..with_terms(sequence, stable)
    }
}

fn moments(n: u64, mean: f64) -> Moments {
    Moments { n, mean, m2: 0.0 }
}

fn side(labels: u64, error: f64) -> Side {
    Side {
        failures: 0,
        latency_p50_us: 100,
        latency_p99_us: 200,
        loss: moments(labels, error),
    }
}

fn comparison(windows: u64, labels: u64, error: f64) -> Comparison {
    Comparison {
        windows,
        left_out: 0,
        candidate: side(labels, error),
        active: side(labels, 1.0),
        disagreement: moments(windows, 0.5),
        loss_difference: moments(labels, error - 1.0),
    }
}

fn watch(windows: u64, labels: u64, error: f64) -> Watch {
    Watch {
        windows,
        crashes: 0,
        active: side(labels, error),
        before: side(0, 0.0),
    }
}

impl Bench {
    fn shadowed(&mut self, number: u64, comparison: Comparison) {
        self.input(Input::Shadowed {
            digest: digest(number),
            comparison,
        });
    }

    fn watched(&mut self, number: u64, watch: Watch) {
        self.input(Input::Watched {
            digest: digest(number),
            watch,
        });
    }

    fn trial(&self) -> TrialReport {
        self.machine.report().trial.unwrap()
    }

    fn phase(&self) -> TrialPhase {
        self.trial().phase
    }

    /// Version 1.1.0 runs, and 1.2.0 is beside it.
    fn in_shadow() -> Self {
        let mut bench = Self::new(None);
        bench.bring_up(1, 1);
        bench.take(&with_candidate(2, 1, 2, true)).unwrap();
        bench.expect(&["save", "fetch 1.2.0"]);
        bench.fetched(2);
        bench.expect(&["check 1.2.0"]);
        bench.passed(2);
        bench.expect(&["shadow 1.2.0", "save"]);
        bench
    }

    /// Version 1.2.0 runs in place of 1.1.0, and is watched.
    fn in_probation() -> Self {
        let mut bench = Self::in_shadow();
        bench.shadowed(2, comparison(10, 10, 1.0));
        bench.expect(&["stop shadow", "save", "activate 1.2.0"]);
        bench.activated(2);
        bench.expect(&["watch"]);
        bench
    }
}

#[test]
fn a_candidate_runs_beside_the_active_version_then_in_its_place_and_then_for_good() {
    let mut bench = Bench::in_shadow();
    bench.shadowed(2, comparison(9, 9, 1.0));
    bench.expect(&[]);
    assert_eq!(bench.shown(), "1.2.0 shadow 9/10 < 1.1.0 < -");
    let trial = bench.trial();
    assert_eq!(trial.shadow.unwrap().windows, 9);
    assert_eq!((trial.release, trial.fetched_bytes), (Sequence(2), 1002));
    assert!(trial.rollout.is_some());
    bench.shadowed(2, comparison(10, 10, 1.05));
    bench.expect(&["stop shadow", "save", "activate 1.2.0"]);
    bench.activated(2);
    bench.expect(&["watch"]);
    assert_eq!(bench.phase(), TrialPhase::Probation);
    assert_eq!(bench.shown(), "- < 1.2.0 < 1.1.0");
    bench.worked(2);
    bench.watched(2, watch(19, 12, 1.2));
    bench.expect(&[]);
    bench.watched(2, watch(20, 12, 1.2));
    bench.expect(&["save", "stop watch"]);
    let trial = bench.trial();
    assert_eq!(trial.phase, TrialPhase::Passed);
    let probation = trial.probation.unwrap();
    assert_eq!(probation.windows, 20);
    assert_eq!(probation.before, side(10, 1.0), "how it did in the shadow");
}

#[test]
fn a_candidate_that_is_worse_is_refused_with_the_numbers() {
    let mut bench = Bench::in_shadow();
    bench.shadowed(2, comparison(12, 10, 1.25));
    bench.expect(&["stop shadow", "cancel 1.2.0", "save"]);
    assert_eq!(bench.shown(), "1.2.0 Worse < 1.1.0 < -");
    let TrialPhase::Refused { verdict, detail } = bench.phase() else {
        panic!("{:?}", bench.phase())
    };
    assert_eq!(verdict, Verdict::Worse);
    assert_eq!(
        detail,
        "in shadow, its mean error is 1.2500 over 10 labels, the limit is 1.1000: 1.1 times the active version's on the same \
         windows, 1.0000, and 0.0000 for chance"
    );
    // Another rollout of it is told so at once.
    let mut again = with_candidate(3, 1, 2, true);
    let other = "ffff456789abcdef".parse().unwrap();
    again.candidate.as_mut().unwrap().rollout = other;
    bench.take(&again).unwrap();
    bench.expect(&["save"]);
    assert_eq!(bench.trial().rollout, Some(other));
    assert!(matches!(bench.phase(), TrialPhase::Refused { .. }));
}

#[test]
fn a_candidate_whose_process_crashes_is_refused_and_one_without_a_process_is_tried_again() {
    let mut bench = Bench::in_shadow();
    let ended = |end| Input::ShadowEnded {
        digest: digest(2),
        end,
    };
    let detail = "no memory for a process".to_owned();
    bench.input(ended(ShadowEnd::Undecided { detail }));
    bench.expect(&["stop shadow", "cancel 1.2.0", "save", "retry"]);
    bench.retry();
    bench.expect(&["fetch 1.2.0"]);
    bench.fetched(2);
    bench.passed(2);
    bench.expect(&["check 1.2.0", "shadow 1.2.0", "save"]);
    bench.input(ended(ShadowEnd::Refused {
        verdict: Verdict::Crashed,
        detail: "signal 11".to_owned(),
    }));
    bench.expect(&["stop shadow", "cancel 1.2.0", "save"]);
    assert_eq!(bench.shown(), "1.2.0 Crashed < 1.1.0 < -");
}

#[test]
fn a_shadow_goes_on_from_where_it_was_when_the_agent_starts_again_without_a_link() {
    let mut bench = Bench::in_shadow();
    bench.shadowed(2, comparison(6, 6, 1.0));
    bench.expect(&[]);
    bench.input(Input::Stopping);
    bench.expect(&["save"]);
    bench.restart(None);
    bench.expect(&["activate 1.1.0", "fetch 1.2.0"]);
    bench.activated(1);
    bench.fetched(2);
    bench.passed(2);
    bench.expect(&["check 1.2.0", "shadow 1.2.0", "save"]);
    assert_eq!(bench.shown(), "1.2.0 shadow 6/10 < 1.1.0 < -");
    bench.shadowed(2, comparison(4, 4, 1.0));
    bench.expect(&["stop shadow", "save", "activate 1.2.0"]);
    assert_eq!(bench.trial().shadow.unwrap().windows, 10);
}

#[test]
fn progress_is_written_down_now_and_then() {
    let mut bench = Bench::in_shadow();
    bench.now = bench.now.offset_ms(599_000);
    bench.shadowed(2, comparison(3, 3, 1.0));
    bench.expect(&[]);
    bench.now = bench.now.offset_ms(1000);
    bench.shadowed(2, comparison(4, 4, 1.0));
    bench.expect(&["save"]);
    bench.shadowed(2, comparison(5, 5, 1.0));
    bench.expect(&[]);
}

#[test]
fn labels_are_waited_for_until_their_time_is_over() {
    let mut bench = Bench::in_shadow();
    bench.shadowed(2, comparison(15, 4, 3.0));
    bench.expect(&["save", "retry"]);
    for _ in 0..11 {
        bench.retry();
        assert!(
            !bench
                .effects()
                .iter()
                .any(|effect| effect.contains("1.2.0"))
        );
    }
    // Four labels are too few to hold its error against it.
    bench.retry();
    bench.expect(&["stop shadow", "save", "activate 1.2.0"]);
}

#[test]
fn a_candidate_that_becomes_stable_goes_on_with_its_trial() {
    let mut bench = Bench::in_shadow();
    bench.take(&with_terms(3, 2)).unwrap();
    bench.expect(&["save"]);
    assert!(bench.trial().rollout.is_some(), "it was part of one");
    bench.shadowed(2, comparison(10, 10, 1.0));
    bench.expect(&["stop shadow", "save", "activate 1.2.0"]);
    bench.activated(2);
    bench.expect(&["watch"]);
    bench.take(&with_terms(4, 2)).unwrap();
    bench.expect(&["save"]);
    bench.worked(2);
    bench.watched(2, watch(20, 10, 1.0));
    bench.expect(&["save", "stop watch"]);
    assert_eq!(bench.phase(), TrialPhase::Passed);
}

#[test]
fn an_abort_takes_a_node_back_at_once_whatever_the_disk_and_the_hour() {
    let mut bench = Bench::in_probation();
    let mut abort = with_terms(3, 1);
    abort.hours = Some("daily 04:00-05:00".parse().unwrap());
    bench.take(&abort).unwrap();
    assert!(matches!(bench.machine.next_effect(), Some(Effect::Save(_))));
    bench.input(Input::SaveFailed);
    bench.expect(&["activate 1.1.0", "stop watch", "retry"]);
    bench.activated(1);
    bench.retry();
    bench.expect(&["save"]);
    assert_eq!(bench.phase(), TrialPhase::Withdrawn);
    assert_eq!(bench.shown(), "- < 1.1.0 < 1.2.0");
    // What was left without having passed is tried again before it runs again.
    bench.worked(1);
    bench.take(&with_terms(4, 2)).unwrap();
    bench.expect(&["save", "fetch 1.2.0"]);
    assert_eq!(bench.phase(), TrialPhase::Candidate);
}

#[test]
fn an_abort_before_the_change_leaves_the_candidate_alone() {
    let mut bench = Bench::in_shadow();
    bench.take(&with_candidate(3, 1, 2, false)).unwrap();
    bench.expect(&["save", "stop shadow", "cancel 1.2.0"]);
    assert_eq!(bench.phase(), TrialPhase::Withdrawn);
    assert_eq!(bench.shown(), "- < 1.1.0 < -");
}

type Happens = fn(&mut Bench);

#[test]
fn a_version_that_does_worse_in_probation_is_left_by_the_node_itself() {
    let worse = |bench: &mut Bench| bench.watched(2, watch(20, 12, 1.8));
    let failing = |bench: &mut Bench| {
        let mut watch = watch(3, 0, 0.0);
        watch.active.failures = 3;
        bench.watched(2, watch);
    };
    let stuck = |bench: &mut Bench| {
        bench.input(Input::Stuck {
            digest: digest(2),
            detail: "no answer for 10 s".to_owned(),
        });
    };
    let cases: [(Happens, Verdict); 3] = [
        (worse, Verdict::Worse),
        (failing, Verdict::Failing),
        (stuck, Verdict::Failing),
    ];
    for (happens, wanted) in cases {
        let mut bench = Bench::in_probation();
        bench.worked(2);
        happens(&mut bench);
        bench.expect(&["save", "deactivate", "activate 1.1.0", "stop watch"]);
        bench.activated(1);
        let TrialPhase::RolledBack { verdict, detail } = bench.phase() else {
            panic!("{:?}", bench.phase())
        };
        assert_eq!(verdict, wanted, "{detail}");
        assert_eq!(bench.shown(), format!("1.2.0 {wanted:?} < 1.1.0 < -"));
    }
}

#[test]
fn a_stuck_inference_of_a_version_that_has_passed_is_not_held_against_it() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.input(Input::Stuck {
        digest: digest(1),
        detail: "no answer for 10 s".to_owned(),
    });
    bench.expect(&[]);
}

#[test]
fn runs_that_do_not_end_on_purpose_are_counted_before_the_version_runs_again() {
    let mut bench = Bench::in_probation();
    bench.worked(2);
    bench.watched(2, watch(7, 3, 1.0));
    bench.input(Input::Stopping);
    bench.expect(&["save"]);
    bench.restart(None);
    assert!(matches!(bench.machine.next_effect(), Some(Effect::Save(_))));
    assert_eq!(bench.machine.next_effect(), Some(Effect::Sweep));
    assert_eq!(bench.machine.next_effect(), None, "not before it is marked");
    bench.input(Input::SaveFailed);
    // A disk that cannot be written does not keep it from running.
    bench.expect(&["activate 1.2.0", "retry"]);
    bench.retry();
    bench.expect(&["save"]);
    bench.activated(2);
    bench.expect(&["watch"]);
    let trial = bench.trial().probation.unwrap();
    assert_eq!((trial.windows, trial.crashes), (7, 0));
    bench.restart(None);
    bench.expect(&["save", "activate 1.2.0"]);
    assert_eq!(bench.trial().probation.unwrap().crashes, 1);
    bench.restart(None);
    bench.expect(&["save", "activate 1.1.0"]);
    assert_eq!(bench.shown(), "1.2.0 Crashed < - < -");
    assert!(matches!(
        bench.phase(),
        TrialPhase::RolledBack {
            verdict: Verdict::Crashed,
            ..
        }
    ));
}

#[test]
fn where_there_is_nothing_to_go_back_to_power_cuts_are_borne_for_longer() {
    let mut bench = Bench::new(None);
    bench.take(&with_terms(1, 1)).unwrap();
    bench.expect(&["save", "fetch 1.1.0"]);
    bench.fetched(1);
    bench.passed(1);
    bench.expect(&["check 1.1.0", "save", "activate 1.1.0"]);
    for _ in 1..CRASHES_ALONE_MAX {
        bench.restart(None);
        bench.expect(&["save", "activate 1.1.0"]);
    }
    bench.restart(None);
    bench.expect(&["save"]);
    assert_eq!(bench.shown(), "1.1.0 Crashed < - < -");
}

#[test]
fn downloads_and_changes_wait_for_their_hours() {
    let mut bench = Bench::new(None);
    let hours = |sequence, stable| Release {
        hours: Some("daily 02:00-04:00".parse().unwrap()),
        ..with_terms(sequence, stable)
    };
    // Where nothing runs nothing is disturbed.
    bench.take(&hours(1, 1)).unwrap();
    bench.expect(&["save", "fetch 1.1.0"]);
    bench.fetched(1);
    bench.passed(1);
    bench.expect(&["check 1.1.0", "save", "activate 1.1.0"]);
    bench.activated(1);
    bench.worked(1);
    bench.expect(&["watch"]);
    bench.watched(1, watch(20, 10, 1.0));
    bench.expect(&["save", "stop watch"]);

    bench.take(&hours(2, 2)).unwrap();
    bench.expect(&["save", "retry"]);
    assert_eq!(
        bench.shown(),
        "1.2.0 waiting the download waits for the hours daily 02:00-04:00, time zone UTC < 1.1.0 < -"
    );
    let later = |bench: &mut Bench, minutes: i64| {
        bench.now = bench.now.offset_ms(minutes * 60_000);
        bench.input(Input::Retry);
    };
    later(&mut bench, 119);
    bench.expect(&["retry"]);
    later(&mut bench, 1);
    bench.expect(&["fetch 1.2.0"]);
    // What is under way goes on; the change waits until the next night.
    later(&mut bench, 121);
    bench.fetched(2);
    bench.passed(2);
    bench.shadowed(2, comparison(10, 10, 1.0));
    bench.expect(&[
        "check 1.2.0",
        "shadow 1.2.0",
        "save",
        "stop shadow",
        "retry",
        "save",
    ]);
    assert_eq!(
        bench.shown(),
        "1.2.0 waiting the change waits for the hours daily 02:00-04:00, time zone UTC < 1.1.0 < -"
    );
    bench.restart(None);
    bench.expect(&["activate 1.1.0", "retry"]);
    bench.activated(1);
    later(&mut bench, 22 * 60);
    bench.expect(&["fetch 1.2.0"]);
    bench.fetched(2);
    bench.passed(2);
    // It met its terms before.
    bench.expect(&["check 1.2.0", "save", "activate 1.2.0"]);
}

#[test]
fn a_revoked_version_is_left_at_once_for_one_that_is_not() {
    let revoking = |sequence, stable, numbers: &[u64]| Release {
        revoked: numbers.iter().map(|number| digest(*number)).collect(),
        ..with_terms(sequence, stable)
    };
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    bench.bring_up(2, 2);
    bench.take(&revoking(3, 3, &[2])).unwrap();
    bench.expect(&["save", "deactivate", "activate 1.1.0", "fetch 1.3.0"]);
    bench.activated(1);
    assert_eq!(bench.shown(), "1.3.0 fetching 0/1003 < 1.1.0 < -");
    // Of another group's release it holds as well, and where nothing is left nothing runs.
    let mut canary = revoking(1, 3, &[1, 3]);
    canary.group = group("canary");
    bench.take(&canary).unwrap();
    bench.expect(&["save", "deactivate", "cancel 1.3.0"]);
    assert_eq!(bench.shown(), "1.3.0 Revoked < - < -");
    assert!(matches!(
        bench.phase(),
        TrialPhase::Refused {
            verdict: Verdict::Revoked,
            ..
        }
    ));
    bench.restart(None);
    bench.expect(&[]);
    // What is not revoked any more is taken up again.
    canary.sequence = Sequence(2);
    canary.revoked = vec![digest(1)];
    bench.take(&canary).unwrap();
    bench.expect(&["save", "fetch 1.3.0"]);
    bench.fetched(3);
    bench.passed(3);
    bench.expect(&["check 1.3.0", "save", "activate 1.3.0"]);
}

#[test]
fn what_is_measured_in_the_check_is_held_against_the_terms() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    let mut release = with_terms(2, 2);
    release.trial.as_mut().unwrap().memory_bytes_max = Some(1_000_000);
    bench.take(&release).unwrap();
    bench.fetched_to_check(2);
    let candidate = crate::trial::Measured {
        memory_bytes: 1_000_001,
        ..Default::default()
    };
    bench.checked(
        2,
        CheckOutcome::Passed(Preflight {
            candidate,
            active: None,
        }),
    );
    bench.expect(&["cancel 1.2.0", "save"]);
    assert_eq!(bench.shown(), "1.2.0 TooLarge < 1.1.0 < -");
}

#[test]
fn a_server_that_asks_for_time_is_given_it_even_when_the_link_comes_back() {
    let mut bench = Bench::new(None);
    bench.release("all", 1, 1).unwrap();
    bench.expect(&["save", "fetch 1.1.0"]);
    bench.input(Input::FetchFailed {
        digest: digest(1),
        failure: FetchFailure::Busy {
            after: Duration::from_mins(5),
        },
        detail: "503".to_owned(),
    });
    let Some(Effect::RetryAfter(delay)) = bench.machine.next_effect() else {
        panic!("no retry")
    };
    assert!((300..=450).contains(&delay.as_secs()), "{delay:?}");
    bench.now = bench.now.offset_ms(299_000);
    bench.release("all", 1, 1).unwrap();
    bench.expect(&[]);
    bench.now = bench.now.after(delay);
    bench.input(Input::Retry);
    bench.expect(&["fetch 1.1.0"]);
}

#[test]
fn a_file_that_is_lost_in_probation_is_fetched_again_and_its_probation_goes_on() {
    let mut bench = Bench::in_probation();
    bench.worked(2);
    bench.watched(2, watch(7, 3, 1.0));
    bench.input(Input::Stopping);
    bench.expect(&["save"]);
    bench.restart(None);
    bench.expect(&["save", "activate 1.2.0"]);
    bench.input(Input::ActivateFailed {
        digest: digest(2),
        failure: ActivateFailure::Damaged,
        detail: "other bytes".to_owned(),
    });
    bench.expect(&["save", "activate 1.1.0", "fetch 1.2.0"]);
    bench.activated(1);
    bench.fetched(2);
    bench.passed(2);
    bench.expect(&["check 1.2.0", "save", "activate 1.2.0"]);
    bench.activated(2);
    bench.expect(&["watch"]);
    let trial = bench.trial();
    assert_eq!(trial.phase, TrialPhase::Probation);
    assert_eq!(trial.probation.unwrap().windows, 7);
}

#[test]
fn a_version_that_was_left_in_its_probation_is_watched_again_when_it_is_wanted_again() {
    let mut bench = Bench::new(None);
    bench.take(&with_terms(1, 1)).unwrap();
    bench.fetched_to_check(1);
    bench.passed(1);
    bench.expect(&["save", "activate 1.1.0"]);
    bench.activated(1);
    bench.expect(&["watch"]);
    // There is nothing to go back to.
    bench.take(&with_terms(2, 2)).unwrap();
    bench.expect(&["save", "stop watch", "fetch 1.2.0"]);
    bench.take(&with_terms(3, 1)).unwrap();
    bench.expect(&["save", "cancel 1.2.0", "watch"]);
    assert_eq!(
        (bench.phase(), bench.trial().release),
        (TrialPhase::Probation, Sequence(3))
    );
    bench.worked(1);
    bench.watched(1, watch(20, 10, 1.0));
    bench.expect(&["save", "stop watch"]);
    assert_eq!(bench.phase(), TrialPhase::Passed);
}

#[test]
fn a_candidate_that_waits_for_its_hours_is_checked_again_when_the_limits_change() {
    let mut bench = Bench::new(None);
    bench.bring_up(1, 1);
    let release = |sequence, memory| {
        let mut release = with_terms(sequence, 2);
        let terms = release.trial.as_mut().unwrap();
        (terms.shadow, terms.memory_bytes_max) = (None, memory);
        release.hours = Some("daily 02:00-04:00".parse().unwrap());
        release
    };
    bench.now = bench.now.offset_ms(120 * 60_000);
    bench.take(&release(2, None)).unwrap();
    bench.fetched_to_check(2);
    bench.now = bench.now.offset_ms(121 * 60_000);
    bench.passed(2);
    bench.expect(&["save", "retry"]);
    bench.take(&release(3, Some(1_000_000))).unwrap();
    bench.expect(&["save", "cancel 1.2.0"]);
    bench.now = bench.now.offset_ms(24 * 60 * 60_000 - 121 * 60_000);
    bench.input(Input::Retry);
    bench.expect(&["fetch 1.2.0"]);
    bench.fetched(2);
    bench.passed(2);
    bench.expect(&["check 1.2.0", "save", "activate 1.2.0"]);
}
