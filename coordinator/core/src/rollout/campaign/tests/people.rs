//! What people do to a campaign.

use insta::assert_snapshot;

use super::world::*;
use crate::rollout::campaign::{Action, Ending, Refusal, State, Verdict, Why};

const MANUAL: &str = r#"
    deadline = "1h"
    [[wave]]
    share = "50 %"
    approve = "manual"
    [[wave]]
    share = "100 %"
"#;

fn started() -> World {
    let mut world = World::new(20);
    world.start(policy(MANUAL));
    world
}

fn all_pass(world: &mut World) {
    for node in world.exposed(20) {
        world.report(node, passes);
    }
}

#[test]
fn a_manual_wave_waits_for_somebody_and_still_watches() {
    let mut world = started();
    all_pass(&mut world);
    let held = world.tick().unwrap();
    assert_eq!(held.verdict, Verdict::Hold { why: Why::Approval });
    assert_eq!(world.tick().unwrap().step, None);
    let mut failing = world.clone();
    for node in failing.exposed(20) {
        failing.report(node, |row| {
            row.active = Some(slot(0));
            refuses(row);
        });
    }
    let abort = failing.tick().unwrap().verdict;
    assert!(matches!(
        abort,
        Verdict::Abort {
            why: Why::Failed,
            ..
        }
    ));

    assert!(matches!(
        world.act(&Action::Resume),
        Err(Refusal::State { .. })
    ));
    world.act(&Action::Approve).unwrap();
    assert!(
        world.act(&Action::Approve).is_err(),
        "one has agreed already"
    );
    assert_eq!(world.tick().unwrap().verdict, Verdict::Advance { wave: 1 });
    assert_eq!(world.exposed(20).len(), 20);
}

#[test]
fn an_early_approval_does_not_replace_the_gate() {
    let mut world = started();
    world.act(&Action::Approve).unwrap();
    let hold = Verdict::Hold { why: Why::Reports };
    assert_eq!(world.tick().unwrap().verdict, hold);
    all_pass(&mut world);
    assert_eq!(world.tick().unwrap().verdict, Verdict::Advance { wave: 1 });
}

#[test]
fn nothing_moves_while_it_is_paused() {
    let mut world = started();
    let before = world.book.current(&target()).cloned();
    world.act(&Action::Pause).unwrap();
    assert!(world.act(&Action::Pause).is_err());
    for node in world.exposed(20) {
        world.report(node, refuses);
    }
    let paused = world.tick().unwrap();
    assert_eq!(paused.verdict, Verdict::Hold { why: Why::Paused });
    assert_snapshot!(paused.words, @"Wave 1 of 2: 12 of 12 nodes are done, 12 failed (limit 5 %). Hold: anna@depot paused it 1970-01-01T00:16:40Z, and its gate fails.");
    assert_eq!(paused.step, None);
    assert_eq!(world.book.current(&target()).cloned(), before);
    world.act(&Action::Resume).unwrap();
    assert!(matches!(
        world.tick().unwrap().verdict,
        Verdict::Abort { .. }
    ));
}

#[test]
fn a_gate_may_ask_for_somebody_when_it_fails() {
    let mut world = World::new(20);
    world.start(policy(&format!("{MANUAL}[gate]\non_fail = \"hold\"\n")));
    for node in world.exposed(20) {
        world.report(node, refuses);
    }
    let held = world.tick().unwrap();
    assert_eq!(held.verdict, Verdict::Hold { why: Why::Failed });
    assert!(held.step.is_some());
    assert!(world.act(&Action::Approve).is_err());
    let mut promoted = world.clone();
    promoted.act(&Action::Promote).unwrap();
    assert_snapshot!(promoted.log.last().unwrap().words, @"anna@depot promoted flow in group all to 1.1.0 for all nodes, though its gate failed: wave 2 and its gate are skipped, and the gate of wave 1");
    world
        .act(&Action::Abort {
            how: Ending::Reverted,
        })
        .unwrap();
    assert_eq!(world.exposed(20), Vec::<usize>::new());
}

#[test]
fn what_was_kept_is_taken_back_by_a_rollback_or_replaced_by_another_rollout() {
    let mut world = started();
    let exposed = world.exposed(20);
    world.act(&Action::Abort { how: Ending::Kept }).unwrap();
    assert_eq!(world.exposed(20), exposed);
    let terms = world.around().terms;
    let back = world
        .campaigns
        .plan_rollback(&world.book, &target(), None, &anna(), terms)
        .unwrap();
    assert_snapshot!(back.note.words, @"anna@depot took candidate 1.1.0 of flow in group all back; all nodes run 1.0.0");
    assert_eq!(back.campaign, None);
    world.commit(&back);
    assert_eq!(world.exposed(20), Vec::<usize>::new());
}

#[test]
fn a_rollback_to_any_version_ends_the_campaign() {
    let mut world = World::new(20);
    let terms = world.around().terms;
    let next = world
        .campaigns
        .plan_release(&world.book, &target(), bundle(5), &anna(), terms)
        .unwrap();
    world.commit(&next);
    world.start(policy(MANUAL));
    let back = world
        .campaigns
        .plan_rollback(&world.book, &target(), Some(bundle(0)), &anna(), terms)
        .unwrap();
    world.commit(&back);
    assert_snapshot!(back.note.words, @"anna@depot rolled flow in group all back from 1.5.0 to 1.0.0, all nodes at once");
    assert!(matches!(
        world.campaign().state,
        State::Aborted {
            how: Ending::Reverted,
            why: Why::Operator,
            ..
        }
    ));
    let current = world.book.current(&target()).unwrap();
    assert_eq!((&current.stable, &current.candidate), (&bundle(0), &None));
    // There is nothing before the version that it went to.
    let further = world
        .campaigns
        .plan_rollback(&world.book, &target(), None, &anna(), terms);
    assert!(further.is_err());
}

#[test]
fn what_cannot_be_is_refused_with_the_mend() {
    let mut world = started();
    let again = world.try_start(policy(MANUAL)).unwrap_err();
    assert_snapshot!(again, @"flow in group all has rollout 0000000000000007 to 1.1.0 under way, running: abort or promote it first");
    let terms = world.around().terms;
    let at_once = world
        .campaigns
        .plan_release(&world.book, &target(), bundle(2), &anna(), terms)
        .unwrap_err();
    assert!(matches!(at_once, Refusal::UnderWay { .. }));
    world.act(&Action::Promote).unwrap();
    let over = world.act(&Action::Pause).unwrap_err();
    assert_snapshot!(over, @"flow in group all has no rollout under way: `lamppost rollout ls` shows what there is");
    let already = world.try_start(policy(MANUAL)).unwrap_err();
    assert_snapshot!(already, @"flow 1.1.0 is already the release of group all (sequence 3): there is nothing to start");
    let mut other = to_start(policy(MANUAL));
    other.target.group = "park".parse().unwrap();
    let first = world.campaigns.plan_start(&world.book, other, terms);
    assert_snapshot!(first.unwrap_err(), @"group park runs no version of flow yet, so that there is nothing to compare a candidate with: start the first one with `lamppost rollout start flow 1.1.0 --group park --all-at-once`");
}
