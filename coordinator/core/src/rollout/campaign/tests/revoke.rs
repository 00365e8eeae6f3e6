//! Bundles that must run no more.

use insta::assert_snapshot;
use lamppost_models::release::{REVOKED_MAX, Sequence};

use super::world::*;
use crate::rollout::audit::Act;
use crate::rollout::campaign::{Ending, Reason, Refusal, Revocation, State, Step, Why};

const WAVES: &str = "[[wave]]\nshare = \"50 %\"\n[[wave]]\nshare = \"100 %\"\n";

fn of(minor: u64, to: Option<u64>) -> Revocation {
    Revocation {
        target: target(),
        version: bundle(minor).version,
        digest: bundle(minor).digest,
        to: to.map(bundle),
        reason: "it reads NaN in rain".parse().unwrap(),
        by: anna(),
    }
}

fn plan(world: &World, revocation: &Revocation) -> Result<Step, Refusal> {
    let terms = world.around().terms;
    world.campaigns.plan_revoke(&world.book, revocation, terms)
}

fn revoke(world: &mut World, minor: u64, to: Option<u64>) -> Step {
    let step = plan(world, &of(minor, to)).unwrap();
    world.commit(&step);
    assert_eq!(step.note.act, Act::Revoke);
    step
}

#[test]
fn a_candidate_is_taken_back_and_its_rollout_ends_in_the_same_step() {
    let mut world = World::new(20);
    world.start(policy(WAVES));
    assert!(!world.exposed(20).is_empty());
    let step = revoke(&mut world, 1, None);
    assert_snapshot!(step.note.words, @"anna@depot revoked 1.1.0 of flow in group all (sha256:7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8): it reads NaN in rain; nodes that try it go back to 1.0.0, and its rollout ends");
    assert_eq!(world.exposed(20), Vec::<usize>::new());
    let release = world.book.current(&target()).unwrap().release();
    assert_eq!((&release.stable, &release.candidate), (&bundle(0), &None));
    assert_eq!(release.revoked, [bundle(1).digest]);
    let ended = State::Aborted {
        at: at(1000),
        by: anna(),
        how: Ending::Reverted,
        why: Why::Revoked,
    };
    assert_eq!(world.campaign().state, ended);
    assert!(matches!(
        world.try_start(policy(WAVES)),
        Err(Refusal::Revoked { .. })
    ));
    assert!(world.tick().is_none());
}

#[test]
fn what_all_run_goes_with_another_version_in_its_place() {
    let mut world = World::new(20);
    let terms = world.around().terms;
    let next = world
        .campaigns
        .plan_release(&world.book, &target(), bundle(5), &anna(), terms)
        .unwrap();
    world.commit(&next);
    let refusal = plan(&world, &of(5, None)).unwrap_err();
    assert_snapshot!(refusal, @r#"flow 1.5.0 is what group all runs: say with --to VERSION ("to") which other version it is to run instead"#);
    let itself = plan(&world, &of(5, Some(5))).unwrap_err();
    assert_eq!(itself, refusal);

    world.start(policy(WAVES));
    let step = revoke(&mut world, 5, Some(0));
    assert_snapshot!(step.note.words, @"anna@depot revoked 1.5.0 of flow in group all (sha256:f13ee6ed54ea2aae9fc49a9faeb5da6e8ddef0e12ed5d30d35a624ae813e0485): it reads NaN in rain; all nodes go to 1.0.0 at once");
    let current = world.book.current(&target()).unwrap().clone();
    assert_eq!((&current.stable, &current.candidate), (&bundle(0), &None));
    assert_eq!(current.sequence, Sequence(4));
    // A rollout compares with what it came from, and that is gone.
    assert!(matches!(
        world.campaign().state,
        State::Aborted {
            why: Why::Revoked,
            ..
        }
    ));
    // Nothing leads back to it.
    let terms = world.around().terms;
    let campaigns = &world.campaigns;
    let back = campaigns.plan_rollback(&world.book, &target(), None, &anna(), terms);
    assert!(back.is_err());
    let back = campaigns.plan_rollback(&world.book, &target(), Some(bundle(5)), &anna(), terms);
    assert!(matches!(back, Err(Refusal::Revoked { .. })));
}

#[test]
fn what_nobody_runs_is_revoked_beside_a_rollout() {
    let mut world = World::new(20);
    world.start(policy(WAVES));
    let exposed = world.exposed(20);
    let step = revoke(&mut world, 7, None);
    assert_snapshot!(step.note.words, @"anna@depot revoked 1.7.0 of flow in group all (sha256:aae89fc0f03e2959ae4d701a80cc3915918c950b159f6abb6c92c1433b1a8534): it reads NaN in rain; the release that holds does not name it");
    assert_eq!(step.campaign, None);
    assert_eq!(world.exposed(20), exposed);
    assert!(world.campaigns.under_way(&target()).is_some());
    assert!(world.tick().unwrap().step.is_none());

    let again = plan(&world, &of(7, None)).unwrap_err();
    assert_snapshot!(again, @"sha256:aae89fc0f03e2959ae4d701a80cc3915918c950b159f6abb6c92c1433b1a8534 of flow is revoked in group all already, by the release that holds (sequence 3)");
    let gone = plan(&world, &of(0, Some(7))).unwrap_err();
    assert!(matches!(gone, Refusal::Revoked { .. }));
    let needless = plan(&world, &of(6, Some(0))).unwrap_err();
    assert_snapshot!(needless, @r#"group all runs flow 1.0.0, which is not the bundle to revoke: leave out --to 1.0.0 ("to"), or go there with `lamppost rollout rollback flow --group all --to 1.0.0`"#);
    let mut elsewhere = of(7, None);
    elsewhere.target.group = "park".parse().unwrap();
    assert!(matches!(plan(&world, &elsewhere), Err(Refusal::Plan(_))));
}

#[test]
fn a_revocation_that_a_release_has_no_room_for_is_told() {
    let mut world = World::new(2);
    let many = 100..100 + REVOKED_MAX as u64;
    for minor in many {
        let step = revoke(&mut world, minor, None);
        assert!(!step.note.words.contains("forgotten"));
    }
    let step = revoke(&mut world, 99, None);
    let oldest = bundle(100).digest.to_string();
    assert!(step.note.words.contains(&oldest) && step.note.words.contains("forgotten"));
}

#[test]
fn the_longest_reason_leaves_room_for_the_rest() {
    let longest = "x".repeat(super::super::REASON_BYTES_MAX);
    let reason: Reason = longest.parse().unwrap();
    let world = World::new(2);
    let words = plan(
        &world,
        &Revocation {
            reason,
            ..of(0, Some(4))
        },
    )
    .unwrap()
    .note
    .words;
    assert!(words.len() < crate::rollout::audit::WORDS_BYTES_MAX && words.contains(&longest));
    assert!(format!("{longest}x").parse::<Reason>().is_err());
}
