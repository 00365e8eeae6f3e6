//! Random reports, people, clocks and restarts. What must hold after every step:
//!
//! - exposure only grows within a campaign, and is never more than its wave names;
//! - no wave follows another, and nothing is promoted by the clock, without the reports that its gate asks for;
//! - a campaign that is over stays over, and its release says so;
//! - whoever restarts from what was persisted decides the same.

use lamppost_models::release::Sequence;
use proptest::prelude::*;

use super::world::*;
use crate::rollout::Cause;
use crate::rollout::betting::tests::Rng;
use crate::rollout::campaign::{Action, Campaigns, Ending, State, Step, Verdict};
use crate::rollout::{Book, Rollout};

const NODES: usize = 24;

const POLICIES: [&str; 3] = [
    r#"
    deadline = "20m"
    [[wave]]
    nodes = ["city/n3"]
    [[wave]]
    share = "30 %"
    soak = "1m"
    [[wave]]
    share = "100 %"
    [gate]
    failed_share_max = "40 %"
    "#,
    r#"
    control = "20 %"
    deadline = "20m"
    [[wave]]
    share = "40 %"
    approve = "manual"
    [[wave]]
    share = "80 %"
    [gate]
    min_reports = 2
    on_fail = "hold"
    failed_max = 3
    "#,
    r#"
    control = "30 %"
    deadline = "20m"
    [[wave]]
    share = "30 %"
    [[wave]]
    share = "60 %"
    [gate]
    on_fail = "abort_keep"
    crashes_max = 4
    [gate.quality]
    kind = "both"
    min_labels = 5
    block = 10
    inconclusive = "advance"
    unlabelled = "skip"
    "#,
];

/// What the store holds.
#[derive(Default)]
struct Store {
    rollouts: Vec<Rollout>,
    campaign: Option<crate::rollout::campaign::Campaign>,
}

impl Store {
    fn persist(&mut self, step: &Step) {
        self.rollouts.extend(step.rollout.clone());
        if step.campaign.is_some() {
            self.campaign.clone_from(&step.campaign);
        }
    }

    fn read(&self, world: &mut World) {
        world.book = Book::new();
        world.campaigns = Campaigns::new();
        for rollout in &self.rollouts {
            world.book.apply(rollout.clone());
        }
        if let Some(campaign) = &self.campaign {
            world.campaigns.restore(campaign.clone());
        }
        let entries: Vec<_> = world.inventory.nodes().cloned().collect();
        for entry in entries {
            world
                .campaigns
                .on_report(&world.book, &entry, at(world.now));
        }
    }
}

fn random_report(world: &mut World, rng: &mut Rng) {
    let node = usize::try_from(rng.below(NODES as u64)).unwrap();
    let wanted = world.exposed(NODES).contains(&node);
    if !wanted {
        // A node that was made to go back did.
        world.report(node, |row| {
            if row.active == Some(slot(1)) {
                row.active = Some(slot(0));
            }
            row.candidate = None;
        });
        return;
    }
    let labels = 10 + rng.below(30);
    let loss = 0.5 + rng.unit();
    let bad = rng.below(8) == 0;
    match rng.below(4) {
        0 => world.report(node, |row| shadows(row, shadow(labels, loss, 1.0))),
        1 if bad => world.report(node, |row| {
            row.active = Some(slot(0));
            refuses(row);
        }),
        2 if bad => world.report(node, |row| {
            lives(row, lamppost_models::trial::TrialPhase::Probation, 3);
        }),
        _ => world.report(node, |row| {
            if row.active != Some(slot(1)) {
                passes(row);
            }
        }),
    }
}

fn random_action(rng: &mut Rng) -> Action {
    match rng.below(12) {
        0..4 => Action::Approve,
        4..6 => Action::Pause,
        6..10 => Action::Resume,
        10 => Action::Abort {
            how: if rng.below(2) == 0 {
                Ending::Kept
            } else {
                Ending::Reverted
            },
        },
        _ => Action::Promote,
    }
}

fn check(world: &World, before: &World, was: &[usize]) {
    let campaign = world.campaign();
    let exposed = world.exposed(NODES);
    match &campaign.state {
        State::Running { stage } | State::Held { stage, .. } | State::Paused { stage, .. } => {
            assert!(was.iter().all(|node| exposed.contains(node)), "it shrank");
            let release = world.book.current(&target()).unwrap();
            let candidate = release.candidate.as_ref().unwrap();
            assert_eq!(*candidate, campaign.candidate(stage.wave), "not its wave");
            let before = before.campaign().state.stage().unwrap();
            assert!(stage.wave <= before.wave + 1, "a wave was skipped");
        }
        State::Promoted { .. } => assert_eq!(exposed.len(), NODES),
        State::Aborted { how, .. } => match how {
            Ending::Reverted => assert_eq!(exposed, Vec::<usize>::new()),
            Ending::Kept => assert_eq!(exposed, was),
        },
    }
}

/// What a naive reader of the reports says that a wave has.
fn reported(world: &World) -> usize {
    let done = |node: &usize| {
        let row = world.row(*node);
        let wanted = bundle(1).digest;
        let runs = row.active.is_some_and(|active| active.digest == wanted);
        let refused = row.candidate.is_some_and(|slot| {
            matches!(
                slot.state,
                lamppost_models::message::TrialState::Refused { .. }
            )
        });
        let probation = row
            .trial
            .is_some_and(|trial| trial.phase == lamppost_models::trial::TrialPhase::Probation);
        (runs && !probation) || (refused && !runs)
    };
    world
        .exposed(NODES)
        .iter()
        .filter(|node| done(node))
        .count()
}

fn tick(world: &mut World, store: &mut Store, rng: &mut Rng) {
    let around = world.around();
    let decision = world
        .campaigns
        .tick(&world.book, &world.inventory, &target(), &around);
    let Some(decision) = decision else { return };
    let was = world.exposed(NODES);
    let advances = matches!(decision.verdict, Verdict::Advance { .. } | Verdict::Promote);
    if advances && !decision.assessment.passed_over() {
        let gate = &world.campaign().policy.gate;
        assert!(
            reported(world) >= usize::try_from(gate.min_reports).unwrap(),
            "{}",
            decision.words
        );
    }
    let Some(step) = decision.step else { return };
    let before = world.clone();
    match rng.below(4) {
        // Killed before it is persisted: it is decided again.
        0 => {
            store.read(world);
            let again = world
                .campaigns
                .tick(&world.book, &world.inventory, &target(), &around)
                .unwrap();
            // Evidence that was not persisted is told anew, which may be less: it may take longer to show something.
            if again.assessment.nodes.is_none() {
                assert_eq!(again.verdict, decision.verdict);
                assert_eq!(again.step.unwrap().rollout, step.rollout);
            }
            return;
        }
        // Killed after it was persisted, before it was applied.
        1 => {
            store.persist(&step);
            store.read(world);
        }
        _ => {
            store.persist(&step);
            world.commit(&step);
        }
    }
    check(world, &before, &was);
}

fn history(seed: u64) {
    let mut rng = Rng(seed);
    let mut world = World::new(NODES);
    let mut store = Store::default();
    let first = world.book.current(&target()).cloned();
    store.rollouts.extend(first);
    let text = POLICIES[usize::try_from(rng.below(3)).unwrap()];
    let step = world.try_start(policy(text)).unwrap();
    store.persist(&step);
    for _ in 0..120 {
        match rng.below(10) {
            0..5 => random_report(&mut world, &mut rng),
            5 => {
                let (seconds, from) = (rng.below(400), rng.below(NODES as u64 / 2));
                let from = usize::try_from(from).unwrap();
                world.later(i64::try_from(seconds).unwrap(), from..NODES);
            }
            6 => {
                let action = random_action(&mut rng);
                let was = world.exposed(NODES);
                let (before, terms) = (world.clone(), world.around().terms);
                let step =
                    world
                        .campaigns
                        .plan_action(&world.book, &target(), &action, &anna(), terms);
                if let Ok(step) = step {
                    store.persist(&step);
                    world.commit(&step);
                    check(&world, &before, &was);
                }
            }
            _ => tick(&mut world, &mut store, &mut rng),
        }
    }
    let sequences: Vec<Sequence> = store.rollouts.iter().map(|one| one.sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]));
    let exposures = store
        .rollouts
        .iter()
        .filter_map(|rollout| match rollout.cause {
            Cause::Wave { wave, .. } => Some(wave),
            Cause::Start
            | Cause::Rollback { .. }
            | Cause::Promote { .. }
            | Cause::Abort { .. }
            | Cause::Revoke => None,
        });
    let exposures: Vec<u16> = exposures.collect();
    assert!(exposures.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn campaigns_keep_their_word(seed in any::<u64>()) {
        history(seed);
    }
}

/// All three ways to end, and waves beyond the first, are met by the histories.
#[test]
fn histories_reach_all_there_is() {
    let mut ends = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let mut world = World::new(NODES);
        let mut store = Store::default();
        world.start(policy(POLICIES[usize::try_from(seed % 3).unwrap()]));
        store
            .rollouts
            .extend(world.book.history(&target()).cloned());
        store.campaign = Some(world.campaign().clone());
        for turn in 0..200 {
            random_report(&mut world, &mut rng);
            world.later(20, 0..NODES);
            if turn % 40 == 7 {
                let approved = world.act(&Action::Approve);
                if approved.is_ok() {
                    store.campaign = Some(world.campaign().clone());
                }
            }
            tick(&mut world, &mut store, &mut rng);
        }
        ends.insert(world.campaign().state.word());
    }
    for word in [
        "promoted",
        "aborted, reverted",
        "aborted, kept where it is",
        "held",
    ] {
        assert!(ends.contains(word), "{word} is not among {ends:?}");
    }
}

#[test]
#[ignore = "some minutes: many more of the same"]
fn many_histories() {
    (0..4000).for_each(history);
}
