use super::*;

fn terms() -> TrialTerms {
    TrialTerms {
        latency_ratio_max: Some(1.5),
        latency_us_max: Some(20_000),
        memory_bytes_max: Some(1_000_000),
        ..TrialTerms::default()
    }
}

fn moments(values: &[f64]) -> Moments {
    let mut moments = Moments::default();
    for value in values {
        moments.add(*value);
    }
    moments
}

/// Both sides' errors on the same windows.
fn errors(candidate: &[f64], active: &[f64]) -> Comparison {
    let pairs = candidate.iter().zip(active);
    let differences: Vec<f64> = pairs
        .map(|(candidate, active)| candidate - active)
        .collect();
    let side = |values| Side {
        latency_p50_us: 400,
        latency_p99_us: 900,
        loss: moments(values),
        ..Side::default()
    };
    Comparison {
        windows: 200,
        candidate: side(candidate),
        active: side(active),
        loss_difference: moments(&differences),
        ..Comparison::default()
    }
}

fn shadow_terms() -> Shadow {
    Shadow {
        windows: 200,
        labels: 10,
        error_ratio_max: Some(1.05),
        ..Shadow::default()
    }
}

fn judged(found: &Comparison) -> Judgement {
    shadow(&terms(), &shadow_terms(), found, Duration::ZERO)
}

fn verdict(judgement: &Judgement) -> Option<Verdict> {
    match judgement {
        Judgement::Refused(refusal) => Some(refusal.verdict),
        Judgement::NotYet | Judgement::Labels | Judgement::Met => None,
    }
}

#[test]
fn a_check_holds_memory_and_time_against_the_terms() {
    let measured = |inferences, p50, p99, memory_bytes| Measured {
        inferences,
        latency_p50_us: p50,
        latency_p99_us: p99,
        memory_bytes,
    };
    let active = Some(measured(200, 2000, 3000, 0));
    let judge = |candidate, active| verdict(&preflight(&terms(), &Preflight { candidate, active }));
    assert_eq!(judge(measured(200, 100, 4500, 1_000_000), active), None);
    let large = measured(200, 100, 200, 1_000_001);
    assert_eq!(judge(large, active), Some(Verdict::TooLarge));
    let slower = measured(200, 100, 4501, 0);
    assert_eq!(judge(slower, active), Some(Verdict::TooSlow));
    assert_eq!(
        judge(slower, None),
        None,
        "there is nothing to compare with"
    );
    let slow = measured(200, 100, 20_001, 0);
    assert_eq!(judge(slow, None), Some(Verdict::TooSlow));
    // The largest of a few is no percentile.
    let few = measured(99, 3000, 20_001, 0);
    assert_eq!(judge(few, active), None);
    let few = measured(99, 3001, 3002, 0);
    assert_eq!(judge(few, active), Some(Verdict::TooSlow));
}

#[test]
fn below_a_millisecond_nothing_is_slow() {
    let fast = Side {
        latency_p50_us: 4,
        latency_p99_us: 9,
        ..Side::default()
    };
    let mut found = errors(&[1.0; 20], &[1.0; 20]);
    found.active = Side {
        loss: found.active.loss,
        ..fast
    };
    found.candidate.latency_p99_us = LATENCY_FLOOR_US;
    assert_eq!(judged(&found), Judgement::Met);
    found.candidate.latency_p99_us += 1;
    let Judgement::Refused(Refusal { verdict, detail }) = judged(&found) else {
        panic!("it is slow")
    };
    assert_eq!(verdict, Verdict::TooSlow);
    assert_eq!(
        detail,
        "the 99th percentile of 200 inferences is 1001 us, the limit is 1000 us: 1.5 times the 9 us of the active version, \
         and never below 1000 us"
    );
}

#[test]
fn errors_are_compared_on_the_same_windows_with_some_room_for_chance() {
    // The hours differ more than the versions do, and only the latter counts.
    let hours: Vec<f64> = (0..20).map(|hour| f64::from(hour % 5) + 1.0).collect();
    let scaled = |by: f64| hours.iter().map(|error| error * by).collect::<Vec<_>>();
    assert_eq!(judged(&errors(&scaled(1.04), &hours)), Judgement::Met);
    let worse = judged(&errors(&scaled(1.12), &hours));
    assert_eq!(verdict(&worse), Some(Verdict::Worse));
    // Two wrong labels of twenty may be chance, four are not.
    let right = [0.0; 20];
    let wrong = |count| {
        let mut losses = right;
        losses[..count].fill(1.0);
        losses
    };
    assert_eq!(judged(&errors(&wrong(2), &right)), Judgement::Met);
    let worse = judged(&errors(&wrong(4), &right));
    assert_eq!(verdict(&worse), Some(Verdict::Worse));
}

#[test]
fn too_few_labels_are_waited_for_and_then_not_held_against_anyone() {
    let found = errors(&[9.0; 7], &[1.0; 7]);
    assert_eq!(judged(&found), Judgement::Labels);
    let hour = Duration::from_hours(1);
    let late = |found: &Comparison| shadow(&terms(), &shadow_terms(), found, hour);
    assert_eq!(late(&found), Judgement::Met);
    let found = errors(&[9.0; 8], &[1.0; 8]);
    assert_eq!(verdict(&late(&found)), Some(Verdict::Worse));
    let mut found = found;
    found.windows = 199;
    assert_eq!(late(&found), Judgement::NotYet);
    found.candidate.failures = 1;
    assert_eq!(verdict(&late(&found)), Some(Verdict::Failing));
}

#[test]
fn predictions_that_differ_too_much_are_refused() {
    let mut found = errors(&[1.0; 20], &[1.0; 20]);
    found.disagreement = moments(&[0.0, 8.0]);
    let with = |max| Shadow {
        disagreement_max: Some(max),
        ..shadow_terms()
    };
    let judge = |max| shadow(&terms(), &with(max), &found, Duration::ZERO);
    assert_eq!(judge(4.0), Judgement::Met);
    assert_eq!(verdict(&judge(3.9)), Some(Verdict::Disagrees));
}

#[test]
fn what_is_no_number_meets_no_terms() {
    let mut found = errors(&[1.0; 20], &[1.0; 20]);
    found.candidate.loss.mean = f64::NAN;
    assert_eq!(verdict(&judged(&found)), Some(Verdict::Worse));
    found = errors(&[1.0; 20], &[1.0; 20]);
    found.candidate.loss.mean = f64::INFINITY;
    assert_eq!(verdict(&judged(&found)), Some(Verdict::Worse));
}

#[test]
fn probation_counts_failures_and_crashes_and_compares_with_the_version_before() {
    let terms_of = Probation {
        windows: 100,
        labels: 20,
        error_ratio_max: Some(1.2),
        ..Probation::default()
    };
    let judge = |watch: &Watch| probation(&terms(), &terms_of, watch, Duration::ZERO);
    let side = |errors: &[f64]| errors_of(errors);
    let mut watch = Watch {
        windows: 99,
        active: side(&[1.0; 20]),
        before: side(&[1.0; 20]),
        ..Watch::default()
    };
    assert_eq!(judge(&watch), Judgement::NotYet);
    watch.windows = 100;
    assert_eq!(judge(&watch), Judgement::Met);
    watch.active = side(&[1.0; 19]);
    assert_eq!(judge(&watch), Judgement::Labels);
    watch.active = side(&[1.3; 20]);
    assert_eq!(verdict(&judge(&watch)), Some(Verdict::Worse));
    // At other hours errors are others anyway.
    let spread: Vec<f64> = (0..20).map(|hour| f64::from(hour % 4) * 0.8).collect();
    watch.active = side(&spread);
    watch.before = side(&spread.iter().map(|error| error * 0.8).collect::<Vec<_>>());
    assert_eq!(judge(&watch), Judgement::Met);
    watch.active.failures = 2;
    assert_eq!(judge(&watch), Judgement::Met);
    watch.active.failures = 3;
    assert_eq!(verdict(&judge(&watch)), Some(Verdict::Failing));
    watch.crashes = 2;
    assert_eq!(verdict(&judge(&watch)), Some(Verdict::Crashed));
}

fn errors_of(errors: &[f64]) -> Side {
    Side {
        latency_p50_us: 400,
        latency_p99_us: 900,
        loss: moments(errors),
        ..Side::default()
    }
}

#[test]
fn two_runs_taken_together_are_one_long_run() {
    let candidate: Vec<f64> = (0..30).map(|n| f64::from(n * n % 17)).collect();
    let active: Vec<f64> = (0..30).map(|n| f64::from(n * 7 % 11)).collect();
    let part = |from: usize, to: usize| {
        let mut part = errors(&candidate[from..to], &active[from..to]);
        part.windows = (to - from) as u64;
        part
    };
    let mut second = part(12, 30);
    second.candidate.latency_p99_us = 1234;
    second.candidate.failures = 2;
    let sum = comparison_sum(&part(0, 12), &second);
    let whole = part(0, 30);
    assert_eq!((sum.windows, sum.candidate.failures), (30, 2));
    assert_eq!(sum.candidate.latency_p99_us, 1234, "of the longer one");
    for (sum, whole) in [
        (sum.candidate.loss, whole.candidate.loss),
        (sum.active.loss, whole.active.loss),
        (sum.loss_difference, whole.loss_difference),
    ] {
        assert_eq!(sum.n, whole.n);
        assert!((sum.mean - whole.mean).abs() < 1e-9);
        assert!((sum.m2 - whole.m2).abs() < 1e-6);
    }
    let nothing = Comparison::default();
    assert_eq!(comparison_sum(&nothing, &nothing), nothing);
}
