//! Random events, crashes among them, and what must hold after each.

use proptest::prelude::*;

use super::*;

mod rules;
mod world;

use world::{Delivery, FAILS_CHECK, FAILS_INFERENCE, GOOD, Terms, Wish, World, YEAR_S};

#[derive(Clone, Debug)]
enum Event {
    /// A release comes.
    Release {
        canary: bool,
        sequence: u64,
        wish: Wish,
    },
    /// A job comes to its end; which one, and whether the world was kind to it.
    Job { which: usize, kind: bool },
    /// A window comes to what runs, and to what runs beside it; what the slot is told of it may be lost.
    Window { delivery: Delivery },
    /// The process beside the agent cannot go on, which is nobody's fault.
    ShadowGone,
    /// Time passes, and the alarm may ring.
    Time { s: u64 },
    /// The clock is set, and no time passes.
    Clock { s: i64 },
    /// The power goes, after so many more effects were carried out.
    Crash { effects: usize },
    /// The agent is stopped and started.
    Restart,
    /// The disk loses a bundle.
    Damage { which: usize },
    /// The disk refuses the next record; whether it has it all the same.
    DiskFails { written: bool },
}

impl World {
    fn event(&mut self, event: &Event) {
        match event.clone() {
            Event::Release {
                canary,
                sequence,
                wish,
            } => self.release(canary, sequence, &wish),
            Event::Job { which, kind } => self.job(which, kind),
            Event::Window { delivery } => self.window(delivery),
            Event::ShadowGone => self.shadow_gone(),
            Event::Time { s } => self.pass(s),
            Event::Clock { s } => self.set_clock(s),
            Event::Crash { effects } => self.crash_in = Some(effects),
            Event::Restart => self.restart(),
            Event::Damage { which } => self.damage(which),
            Event::DiskFails { written } => self.disk_fails = Some(written),
        }
        self.settle();
        self.check();
    }

    /// From here on the world is kind: the node must come to what it should run.
    fn come_to_rest(&mut self) {
        self.disk_fails = None;
        self.kind = true;
        // Three days in steps of half an hour: the hours of releases open, and labels are waited for no longer than one.
        let mut quiet = 0;
        for _ in 0..3 * 24 * 2 {
            self.event(&Event::Time { s: 30 * 60 });
            self.event(&WINDOW);
            // A job may bring another, but not for ever.
            let mut jobs = 0;
            while !self.jobs.is_empty() {
                self.event(&JOB);
                jobs += 1;
                assert!(jobs < 20, "jobs that bring themselves about again");
            }
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            if quiet > 4 {
                break;
            }
        }
        self.check_rest();
    }
}

fn wishes() -> impl Strategy<Value = Wish> {
    let terms = prop_oneof![
        Just(Terms::None),
        Just(Terms::Shadow),
        Just(Terms::Probation),
        Just(Terms::Both),
    ];
    let candidate = proptest::option::weighted(0.6, (0..world::BUNDLES, prop::bool::weighted(0.7)));
    let revoked = proptest::option::weighted(0.15, 0..world::BUNDLES);
    let hours = prop::bool::weighted(0.2);
    (0..world::BUNDLES, candidate, terms, hours, revoked).prop_map(
        |(stable, candidate, terms, hours, revoked)| Wish {
            stable,
            candidate,
            terms,
            hours,
            revoked,
        },
    )
}

fn events() -> impl Strategy<Value = Event> {
    let delivery = prop_oneof![
        6 => Just(Delivery::Once),
        1 => Just(Delivery::Lost),
        1 => Just(Delivery::Twice),
        1 => Just(Delivery::Stale),
    ];
    prop_oneof![
        5 => (prop::bool::weighted(0.3), 0_u64..12, wishes())
            .prop_map(|(canary, sequence, wish)| Event::Release { canary, sequence, wish }),
        16 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, kind)| Event::Job { which, kind }),
        20 => delivery.prop_map(|delivery| Event::Window { delivery }),
        1 => Just(Event::ShadowGone),
        4 => prop_oneof![0_u64..10, 60_u64..7200, Just(24 * 3600), Just(YEAR_S)].prop_map(|s| Event::Time { s }),
        1 => prop_oneof![-7200_i64..7200, Just(-30 * 24 * 3600), Just(30 * 24 * 3600)].prop_map(|s| Event::Clock { s }),
        2 => (0_usize..8).prop_map(|effects| Event::Crash { effects }),
        1 => Just(Event::Restart),
        1 => any::<usize>().prop_map(|which| Event::Damage { which }),
        1 => any::<bool>().prop_map(|written| Event::DiskFails { written }),
    ]
}

fn run(factory: bool, events: &[Event]) {
    let mut world = World::new(factory);
    for event in events {
        world.event(event);
    }
    world.come_to_rest();
}

proptest! {
    // More with PROPTEST_CASES.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold(factory: bool, events in proptest::collection::vec(events(), 0..150)) {
        run(factory, &events);
    }
}

fn plain(number: u64) -> Wish {
    Wish {
        stable: number,
        candidate: None,
        terms: Terms::None,
        hours: false,
        revoked: None,
    }
}

const JOB: Event = Event::Job {
    which: 0,
    kind: true,
};
const WINDOW: Event = Event::Window {
    delivery: Delivery::Once,
};

/// A crash between the rollback and the deletion of its bundle left the file behind for ever.
#[test]
fn a_start_deletes_what_nothing_names_any_more() {
    let mut world = World::new(false);
    let release = Event::Release {
        canary: false,
        sequence: 0,
        wish: plain(FAILS_INFERENCE),
    };
    let rollback = [WINDOW, WINDOW, Event::DiskFails { written: true }, WINDOW];
    for event in [release, JOB, JOB, JOB].iter().chain(&rollback) {
        world.event(event);
    }
    assert_eq!(
        world.files.len(),
        1,
        "the file is there until it is known that the record is"
    );
    world.event(&Event::Crash { effects: 0 });
    assert_eq!(world.files.len(), 0);
}

/// What the random histories are worth depends on how far they get.
#[test]
fn the_world_lets_a_candidate_through_all_its_trial() {
    let mut world = World::new(true);
    let wish = Wish {
        candidate: Some((GOOD[1], true)),
        terms: Terms::Both,
        ..plain(world::FACTORY)
    };
    let release = Event::Release {
        canary: false,
        sequence: 3,
        wish,
    };
    world.event(&JOB);
    world.event(&WINDOW);
    world.event(&release);
    world.come_to_rest();
    let trial = world.machine.report().trial.unwrap();
    assert_eq!(trial.phase, lamppost_models::trial::TrialPhase::Passed);
    assert!(trial.shadow.unwrap().windows >= world::SHADOW_WINDOWS);
    assert!(trial.probation.unwrap().windows >= world::PROBATION_WINDOWS);
    let refused = Event::Release {
        canary: false,
        sequence: 4,
        wish: plain(FAILS_CHECK),
    };
    world.event(&refused);
    world.come_to_rest();
}
