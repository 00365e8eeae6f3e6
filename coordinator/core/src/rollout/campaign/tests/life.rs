//! What the clock and the reports do to a campaign.

use insta::assert_snapshot;
use lamppost_models::trial::TrialPhase;

use super::world::*;
use crate::rollout::campaign::{Ending, State, Verdict, Why};
use crate::rollout::policy::Policy;

const TWO_WAVES: &str = r#"
    name = "two"
    control = "10 %"
    deadline = "1h"
    [[wave]]
    share = "30 %"
    soak = "5m"
    [[wave]]
    share = "100 %"
    soak = "5m"
"#;

fn verdict(world: &mut World) -> Verdict {
    world.tick().unwrap().verdict
}

fn hold(why: Why) -> Verdict {
    Verdict::Hold { why }
}

#[test]
fn a_good_candidate_goes_from_wave_to_wave_and_becomes_stable() {
    let mut world = World::new(40);
    world.start(policy(TWO_WAVES));
    let first = world.exposed(40);
    assert!((5..20).contains(&first.len()), "{first:?}");
    assert_eq!(verdict(&mut world), hold(Why::Reports));
    for node in &first {
        world.report(*node, passes);
    }
    let soaking = world.tick().unwrap();
    assert_eq!(soaking.verdict, hold(Why::Soaking));
    assert_eq!(soaking.step, None, "the course of a wave is no step");
    world.later(301, 0..40);
    let advance = world.tick().unwrap();
    assert_eq!(advance.verdict, Verdict::Advance { wave: 1 });
    assert_snapshot!(advance.words, @"Wave 1 of 2: 12 of 12 nodes are done, 0 failed (limit 5 %). Advance: wave 2 begins, 100 %.");
    let second = world.exposed(40);
    assert!(first.iter().all(|node| second.contains(node)));
    assert!(second.len() < 40, "the control nodes are left out");
    for node in &second {
        world.report(*node, |row| {
            if row.active != Some(slot(1)) {
                passes(row);
            }
        });
    }
    world.later(301, 0..40);
    assert_eq!(verdict(&mut world), Verdict::Promote);
    assert_eq!(world.exposed(40).len(), 40);
    let release = world.book.current(&target()).unwrap();
    assert_eq!((&release.stable, &release.candidate), (&bundle(1), &None));
    assert!(
        release.trial.is_some(),
        "control nodes have their trial still"
    );
    assert!(matches!(world.campaign().state, State::Promoted { .. }));
    assert_eq!(world.tick(), None);
    // A rollback of what was promoted goes to what it replaced.
    let back = world.book.plan_rollback(&target(), world.around().terms);
    assert_eq!(back.unwrap().stable, bundle(0));
}

#[test]
fn a_candidate_that_nodes_refuse_is_taken_back() {
    let mut world = World::new(40);
    world.start(policy(TWO_WAVES));
    for node in world.exposed(40).into_iter().take(6) {
        world.report(node, refuses);
    }
    let abort = world.tick().unwrap();
    let (why, how) = (Why::Failed, Ending::Reverted);
    assert_eq!(abort.verdict, Verdict::Abort { why, how });
    assert_snapshot!(abort.words, @"Wave 1 of 2: 6 of 12 nodes are done, 6 failed (limit 5 %), 6 not begun. Abort: 6 nodes failed of 6 that began and 6 that are done; nodes that have it go back.");
    assert_eq!(world.exposed(40), Vec::<usize>::new());
    let release = world.book.current(&target()).unwrap();
    assert_eq!((&release.stable, &release.candidate), (&bundle(0), &None));
    assert_eq!(world.tick(), None);
}

#[test]
fn early_bad_news_alone_ends_nothing() {
    let mut world = World::new(100);
    let text = TWO_WAVES.to_owned() + "[gate]\nfailed_share_max = \"20 %\"\n";
    world.start(policy(&text));
    let exposed = world.exposed(100);
    for node in &exposed {
        world.report(*node, |row| shadows(row, shadow(0, 0.0, 0.0)));
    }
    for node in exposed.iter().take(2) {
        world.report(*node, refuses);
    }
    // All that reported failed; of those that began it is few.
    assert_eq!(verdict(&mut world), hold(Why::Reports));
    for node in exposed.iter().skip(2) {
        world.report(*node, passes);
    }
    world.later(301, 0..100);
    assert_eq!(verdict(&mut world), Verdict::Advance { wave: 1 });
}

#[test]
fn unreachable_is_not_failed_and_after_the_deadline_not_waited_for() {
    let mut world = World::new(40);
    world.start(policy(TWO_WAVES));
    let exposed = world.exposed(40);
    world.report(exposed[0], passes);
    // One node goes on, all others are silent.
    world.later(600, exposed[0]..exposed[0] + 1);
    let waits = world.tick().unwrap();
    assert_eq!(waits.verdict, hold(Why::Reports));
    let census = waits.assessment.census;
    assert_eq!((census.passed, census.failed), (1, 0));
    assert_eq!(census.unreachable, exposed.len() as u64 - 1);
    world.later(3600, exposed[0]..exposed[0] + 1);
    assert_eq!(verdict(&mut world), Verdict::Advance { wave: 1 });
}

#[test]
fn too_few_reports_hold_after_the_deadline_and_say_so_once() {
    let mut world = World::new(40);
    let text = TWO_WAVES.to_owned() + "[gate]\nmin_reports = 3\n";
    world.start(policy(&text));
    let exposed = world.exposed(40);
    world.report(exposed[0], passes);
    world.later(3700, 0..40);
    let held = world.tick().unwrap();
    assert_eq!(held.verdict, hold(Why::TooFewReports));
    assert_snapshot!(held.words, @"Wave 1 of 2: 1 of 12 nodes is done, 0 failed (limit 5 %), 11 not begun. Hold: 3 reports are needed and 1 came before the deadline, 1970-01-01T01:16:40Z: bring nodes back, promote or abort.");
    assert!(held.step.is_some());
    assert!(matches!(world.campaign().state, State::Held { .. }));
    assert_eq!(world.tick().unwrap().step, None);
    for node in &exposed[1..3] {
        world.report(*node, passes);
    }
    assert_eq!(verdict(&mut world), Verdict::Advance { wave: 1 });
}

#[test]
fn crashes_and_slowness_end_it() {
    for (text, why) in [
        ("crashes_max = 3", Why::Crashes),
        ("latency_ratio_max = 1.2", Why::Slow),
    ] {
        let mut world = World::new(40);
        let text = format!("{TWO_WAVES}\n[gate]\n{text}\non_fail = \"abort_keep\"\n");
        world.start(policy(&text));
        let exposed = world.exposed(40);
        // A node that lies has a vote as large as any other.
        world.report(exposed[0], |row| {
            lives(row, TrialPhase::Probation, 1_000_000);
        });
        assert!(
            !matches!(verdict(&mut world), Verdict::Abort { .. }),
            "{why:?}"
        );
        for node in &exposed[1..] {
            world.report(*node, |row| {
                let mut slow = shadow(5, 1.0, 1.0);
                slow.candidate.latency_p99_us = 3000;
                shadows(row, slow);
                lives(row, TrialPhase::Passed, 1);
            });
        }
        let how = Ending::Kept;
        assert_eq!(verdict(&mut world), Verdict::Abort { why, how });
        // Kept: the release stays as it is.
        assert_eq!(world.exposed(40), exposed);
    }
}

#[test]
fn labels_that_stop_hold_the_gate() {
    let mut world = World::new(20);
    let text =
        TWO_WAVES.to_owned() + "[gate.quality]\nmin_labels = 200\ninconclusive = \"advance\"\n";
    world.start(policy(&text));
    let exposed = world.exposed(20);
    for node in &exposed {
        world.report(*node, |row| shadows(row, shadow(12, 1.0, 1.0)));
        world.report(*node, passes);
    }
    world.later(4000, 0..20);
    let held = world.tick().unwrap();
    assert_eq!(held.verdict, hold(Why::Labels));
    assert_snapshot!(held.words, @"Wave 1 of 2: 10 of 10 nodes are done, 0 failed (limit 5 %), slowest inferences 1.00 times as long on the median node (limit 1.5). Shadow: the candidate's loss is equal to the active version's, 97.5 % confidence sequence 6.7 % lower to 12.1 % higher (10 nodes' votes), 120 labels since the wave began; limit 5.0 % higher. Hold: 200 labels are needed and 120 came since the wave began, the last one came 1970-01-01T00:16:40Z.");
    // More of the same says nothing new, and a node that begins anew does.
    world.report(exposed[0], |_| {});
    assert_eq!(verdict(&mut world), hold(Why::Labels));
    world.report(exposed[0], |row| {
        let trial = row.trial.as_mut().unwrap();
        trial.shadow = Some(shadow(300, 1.0, 1.0));
    });
    assert_eq!(verdict(&mut world), Verdict::Advance { wave: 1 });
}

#[test]
fn a_model_without_labels_is_waited_for_or_not() {
    for (unlabelled, expected) in [
        ("hold", hold(Why::Labels)),
        ("skip", Verdict::Advance { wave: 1 }),
    ] {
        let mut world = World::new(20);
        let text = format!("{TWO_WAVES}[gate.quality]\nunlabelled = \"{unlabelled}\"\n");
        world.start(policy(&text));
        for node in world.exposed(20) {
            world.report(node, passes);
        }
        world.later(301, 0..20);
        let decision = world.tick().unwrap();
        assert_eq!(decision.verdict, expected);
        assert!(decision.words.contains("no node of the group has labels"));
    }
}

#[test]
fn a_worse_model_is_told_by_labels_and_a_better_one_too() {
    for (loss, expected) in [
        (
            1.3,
            Verdict::Abort {
                why: Why::Worse,
                how: Ending::Reverted,
            },
        ),
        (0.8, Verdict::Advance { wave: 1 }),
        (1.04, hold(Why::Inconclusive)),
    ] {
        let mut world = World::new(60);
        world.start(policy(&(TWO_WAVES.to_owned() + "[gate.quality]\n")));
        let exposed = world.exposed(60);
        assert!(exposed.len() > 12);
        for node in &exposed {
            world.report(*node, |row| shadows(row, shadow(20, loss, 1.0)));
            world.report(*node, passes);
        }
        world.later(301, 0..60);
        let decision = world.tick().unwrap();
        assert_eq!(decision.verdict, expected, "{}", decision.words);
        if loss < 1.0 {
            assert_snapshot!(decision.words, @"Wave 1 of 2: 17 of 17 nodes are done, 0 failed (limit 5 %), slowest inferences 1.00 times as long on the median node (limit 1.5). Shadow: the candidate's loss is at least 14.1 % lower than the active version's, 97.5 % confidence sequence 14.1 % lower or more to 2.8 % lower (17 nodes' votes), 340 labels since the wave began; limit 5.0 % higher. Advance: wave 2 begins, 100 %.");
        } else if loss > 1.1 {
            assert_snapshot!(decision.words, @"Wave 1 of 2: 17 of 17 nodes are done, 0 failed (limit 5 %), slowest inferences 1.00 times as long on the median node (limit 1.5). Shadow: the candidate's loss is at least 28.3 % higher than the active version's, 97.5 % confidence sequence 13.5 % higher to 28.3 % higher or more (17 nodes' votes), 340 labels since the wave began; limit 5.0 % higher. Abort: its loss is shown to be above the limit; nodes that have it go back.");
        }
    }
}

#[test]
fn waves_that_add_nobody_are_passed_over_but_never_the_last() {
    let mut world = World::new(3);
    let start = to_start(Policy::canary());
    let first = crate::rollout::campaign::Campaigns::first_node(
        &world.book,
        &world.inventory,
        &start,
        &world.around(),
    );
    world.start(Policy::canary().with_first(first.unwrap()));
    let first = world.exposed(3);
    assert_eq!(first.len(), 1);
    world.later(301, 0..3);
    assert_eq!(
        verdict(&mut world),
        hold(Why::Reports),
        "nobody reported yet"
    );
    world.report(first[0], passes);
    assert_eq!(verdict(&mut world), Verdict::Advance { wave: 1 });
    while world.exposed(3).len() == 1 {
        assert!(matches!(verdict(&mut world), Verdict::Advance { .. }));
    }
    world.later(301, 0..3);
    assert_eq!(verdict(&mut world), hold(Why::Reports));
}

#[test]
fn a_revoked_candidate_and_another_release_end_it() {
    use crate::rollout::{Cause, Change};
    let mut world = World::new(10);
    world.start(policy(TWO_WAVES));
    let terms = world.around().terms;
    let revoke = Change::Revoke(bundle(1).digest);
    let revoked = world
        .book
        .plan_change(&target(), revoke, Cause::Revoke, terms);
    let mut other = world.clone();
    world.book.apply(revoked.unwrap());
    let (why, how) = (Why::Revoked, Ending::Reverted);
    assert_eq!(verdict(&mut world), Verdict::Abort { why, how });
    let release = world.book.current(&target()).unwrap();
    assert_eq!(release.revoked, [bundle(1).digest]);
    assert!(world.try_start(policy(TWO_WAVES)).is_err());

    let past = other.book.plan_start(&target(), bundle(3), terms).unwrap();
    other.book.apply(past);
    let (why, how) = (Why::Superseded, Ending::Kept);
    assert_eq!(verdict(&mut other), Verdict::Abort { why, how });
    assert_eq!(other.book.current(&target()).unwrap().stable, bundle(3));
}

#[test]
fn a_day_has_only_so_many_bytes() {
    let mut world = World::new(40);
    world.start(policy(&format!("bytes_per_day = \"3MB\"\n{TWO_WAVES}")));
    for node in world.exposed(40) {
        world.report(node, passes);
    }
    world.later(301, 0..40);
    world.bytes_today = 2_000_000;
    let held = world.tick().unwrap();
    assert_eq!(held.verdict, hold(Why::ByteBudget));
    assert!(held.words.contains("2MB of the 3MB"), "{}", held.words);
    world.bytes_today = 0;
    assert_eq!(verdict(&mut world), Verdict::Advance { wave: 1 });
}
