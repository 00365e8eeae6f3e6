//! What people do, and their policies.

use lamppost_coordinator_core::rollout::Target;
use lamppost_coordinator_core::rollout::audit::Actor;
use lamppost_coordinator_core::rollout::campaign::{
    Action, Ending, Revocation, Start, State, Step,
};
use lamppost_coordinator_core::rollout::policy::{
    Approve, Inconclusive, OnFail, Policy, Quality, QualityKind, Span, Unlabelled, Wave,
};
use lamppost_models::Timestamp;
use lamppost_models::id::RolloutId;
use lamppost_models::rollout::{Share, Tag};

use crate::centre;
use crate::node::Node;
use crate::rng::Rng;
use crate::version::Bundles;

pub(crate) fn anna() -> Actor {
    "anna@depot".parse().expect("a name")
}

/// A random policy that can be.
pub(crate) fn policy(nodes: &[Node], rng: &mut Rng) -> Policy {
    let mut policy = Policy::canary();
    "drawn".clone_into(&mut policy.name);
    let share = |hundredths: u64| {
        Share::new(u16::try_from(hundredths.min(10_000)).unwrap_or(0)).unwrap_or(Share::ALL)
    };
    if rng.chance(50) {
        policy.control = share(500 + rng.below(2_000));
    }
    let most = 10_000 - u64::from(policy.control.hundredths());
    let mut at = 0;
    policy.waves.clear();
    for number in 0..=rng.below(4) {
        at = (at + 500 + rng.below(4_000)).min(most);
        let mut wave = Wave {
            share: Some(share(at)),
            soak: Span::from_secs(60 + rng.below(7_200)),
            ..Wave::default()
        };
        if number == 0 && rng.chance(30) {
            wave.share = None;
            match rng.below(3) {
                0 => wave.groups = vec!["canary".parse().expect("a name")],
                1 => {
                    wave.tags = vec![Tag {
                        name: "backhaul".parse().expect("a name"),
                        value: "lte-1".parse().expect("a name"),
                    }];
                }
                _ => wave.nodes = vec![nodes[rng.index(0, nodes.len() - 1)].path.clone()],
            }
        }
        if rng.chance(10) {
            wave.approve = Approve::Manual;
        }
        policy.waves.push(wave);
    }
    if rng.chance(30) {
        let hours = [
            "daily 01:00-05:00",
            "Mon-Fri 22:00-06:00",
            "Sat,Sun 00:00-24:00",
        ];
        policy.hours = hours[rng.index(0, 2)].parse().ok();
    }
    policy.deadline = Span::from_hours(3 + rng.below(48));
    policy.gate.failed_share_max = Some(share(rng.below(3_000)));
    policy.gate.crashes_max = rng
        .chance(50)
        .then(|| 1 + u32::try_from(rng.below(3)).unwrap_or(0));
    policy.gate.on_fail = [
        OnFail::AbortRevert,
        OnFail::AbortRevert,
        OnFail::AbortKeep,
        OnFail::Hold,
    ][rng.index(0, 3)];
    policy.gate.quality = rng.chance(80).then(|| Quality {
        kind: match policy.control {
            Share::NONE => QualityKind::Shadow,
            _ => [QualityKind::Shadow, QualityKind::Cohorts, QualityKind::Both][rng.index(0, 2)],
        },
        inconclusive: [Inconclusive::Hold, Inconclusive::Advance][rng.index(0, 1)],
        unlabelled: [Unlabelled::Hold, Unlabelled::Skip][rng.index(0, 1)],
        ..Quality::default()
    });
    policy
}

/// What somebody wants now, if it can be planned.
pub(crate) fn step(
    state: &centre::State,
    target: &Target,
    nodes: &[Node],
    bundles: &mut Bundles,
    rng: &mut Rng,
    now: Timestamp,
) -> Option<Step> {
    let (book, by) = (&state.book, anna());
    let terms = state.terms(target, now);
    if rng.chance(5) {
        // What is stable needs another in its place, and is refused: without it a node may have nothing left to run.
        let bundle = &bundles.any(rng).bundle;
        let revocation = Revocation {
            target: target.clone(),
            version: bundle.version.clone(),
            digest: bundle.digest,
            to: None,
            reason: "it counts bicycles as cars".parse().expect("a reason"),
            by,
        };
        let step = state.campaigns.plan_revoke(book, &revocation, terms);
        return step.ok();
    }
    let Some(campaign) = state.campaigns.under_way(target) else {
        if rng.chance(10) {
            let to = rng.chance(50).then(|| bundles.any(rng).bundle.clone());
            return state
                .campaigns
                .plan_rollback(book, target, to, &by, terms)
                .ok();
        }
        let start = Start {
            id: RolloutId::from_u64(rng.draw()),
            target: target.clone(),
            to: bundles.make(rng).bundle,
            policy: policy(nodes, rng),
            by,
        };
        return match state.campaigns.plan_start(book, start.clone(), terms) {
            Ok(step) => Some(step),
            Err(refusal) => panic!(
                "a rollout that can be is refused: {refusal}\n{:?}",
                start.policy
            ),
        };
    };
    let action = match (&campaign.state, rng.below(20)) {
        (State::Paused { .. } | State::Held { .. }, 0..9) => Action::Resume,
        (_, 0..4) => Action::Approve,
        (_, 9..12) => Action::Pause,
        (_, 12) => Action::Abort { how: Ending::Kept },
        (_, 13) => Action::Abort {
            how: Ending::Reverted,
        },
        (_, 14) => Action::Promote,
        (_, 15) => {
            return state
                .campaigns
                .plan_rollback(book, target, None, &by, terms)
                .ok();
        }
        _ => return None,
    };
    state
        .campaigns
        .plan_action(book, target, &action, &by, terms)
        .ok()
}
