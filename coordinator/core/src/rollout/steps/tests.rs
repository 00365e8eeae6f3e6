use lamppost_models::id::RolloutId;
use lamppost_models::release::REVOKED_MAX;
use lamppost_models::rollout::Share;

use super::*;
use crate::rollout::campaign::tests::world::*;

const ID: RolloutId = RolloutId::from_u64(9);

#[test]
fn a_step_changes_what_it_is_about_and_keeps_the_rest() {
    let world = World::new(1);
    let (mut book, terms) = (world.book.clone(), world.around().terms);
    let revoked = book
        .plan_change(
            &target(),
            Change::Revoke(bundle(7).digest),
            Cause::Revoke,
            terms,
        )
        .unwrap();
    book.apply(revoked);
    let expose = Change::Expose {
        candidate: Candidate {
            bundle: bundle(1),
            rollout: ID,
            exposure: lamppost_models::rollout::Exposure::default(),
            control: Share::NONE,
        },
        trial: Some(TrialTerms::default()),
        hours: "daily 01:00-05:00".parse().ok(),
    };
    let cause = Cause::Wave {
        rollout: ID,
        wave: 0,
    };
    let wave = book.plan_change(&target(), expose, cause, terms).unwrap();
    let release = wave.release();
    assert_eq!((release.sequence.0, &release.stable), (3, &bundle(0)));
    assert_eq!(release.revoked, [bundle(7).digest]);
    assert!(release.candidate.is_some() && release.trial.is_some() && release.hours.is_some());
    book.apply(wave);
    let back = book
        .plan_change(
            &target(),
            Change::Withdraw,
            Cause::Abort { rollout: ID },
            terms,
        )
        .unwrap()
        .release();
    assert_eq!((&back.stable, &back.candidate), (&bundle(0), &None));
    // Going back is not put off, and is no trial.
    assert_eq!((back.trial, back.hours), (None, None));
    assert_eq!(back.revoked, [bundle(7).digest]);
}

#[test]
fn the_newest_revocations_are_kept() {
    let world = World::new(1);
    let (mut book, terms) = (world.book.clone(), world.around().terms);
    for minor in 0..REVOKED_MAX as u64 + 3 {
        let change = Change::Revoke(bundle(minor).digest);
        let next = book.plan_change(&target(), change, Cause::Revoke, terms);
        book.apply(next.unwrap());
    }
    let revoked = &book.current(&target()).unwrap().revoked;
    assert_eq!(revoked.len(), REVOKED_MAX);
    assert_eq!(revoked.first(), Some(&bundle(3).digest));
}
