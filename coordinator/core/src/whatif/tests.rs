#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lamppost_models::Digest;
use lamppost_models::release::Sequence;
use semver::Version;

use super::*;
use crate::rollout::Terms;

const SEEDS: std::ops::Range<u64> = 0..20;
/// Two waves that each wait for their nodes alone.
const WAVES: &str = "[[wave]]\nshare = \"20 %\"\n[[wave]]\nshare = \"100 %\"\n";
/// What each node checks, as the built-in policy has it.
const TRIAL: &str = "[trial.shadow]\nwindows = 20\nlabels = 20\nerror_ratio_max = 1.5\n\
                     [trial.probation]\nwindows = 50\nlabels = 20\nerror_ratio_max = 1.5\n";

fn bundle(minor: u64) -> BundleRef {
    BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 100_000,
    }
}

fn policy(text: &str) -> Policy {
    toml::from_str(text).unwrap()
}

/// 100 nodes on two backhauls, on a Tuesday at noon; the policy has two waves and the built-in trial.
fn scenario() -> Scenario {
    let target = Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    };
    let begins: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
    let terms = Terms {
        now: begins,
        lifetime: Duration::from_hours(720),
        seen: Sequence(0),
    };
    let mut book = Book::new();
    book.apply(book.plan_start(&target, bundle(0), terms).unwrap());
    let member = |number: usize| Member {
        path: NodePath {
            site: "city".parse().unwrap(),
            node: format!("n{number}").parse().unwrap(),
        },
        groups: vec!["all".parse().unwrap()],
        tags: [(
            "backhaul".parse().unwrap(),
            ["fibre", "lte"][number % 2].parse().unwrap(),
        )]
        .into(),
        reachable: true,
    };
    Scenario {
        book,
        nodes: (0..100).map(member).collect(),
        target,
        to: bundle(1),
        policy: Some(policy(&format!("{WAVES}{TRIAL}"))),
        candidate: Behaviour::Fine,
        rates: Rates {
            rate: Bytes(100_000),
            backhaul: [("lte".parse().unwrap(), Bytes(10_000))].into(),
        },
        away: Share::NONE,
        report_every: Duration::from_mins(1),
        windows_per_hour: 60.0,
        labels_per_hour: 60.0,
        begins,
    }
}

fn runs(scenario: &Scenario) -> Vec<Outcome> {
    SEEDS.map(|seed| scenario.run(seed).unwrap()).collect()
}

fn promoted(outcome: &Outcome) -> bool {
    outcome.end == End::Promoted
}

#[test]
fn a_good_candidate_is_promoted_and_the_plan_said_so() {
    let scenario = scenario();
    let outcomes = runs(&scenario);
    let good = outcomes.iter().filter(|outcome| promoted(outcome)).count();
    assert!(good >= 19, "{good} of {}", outcomes.len());
    for (seed, outcome) in SEEDS
        .zip(&outcomes)
        .filter(|(_, outcome)| promoted(outcome))
    {
        let plan = scenario.plan(seed).unwrap();
        let began: Vec<u64> = outcome.waves.iter().map(|wave| wave.nodes).collect();
        let planned: Vec<u64> = plan.waves.iter().map(|wave| wave.nodes).collect();
        assert_eq!(began, planned);
        assert_eq!((outcome.bytes, outcome.exposed), (plan.bytes, plan.nodes));
        assert!(
            outcome.took.as_secs() >= plan.at_least.as_secs(),
            "{plan:?}"
        );
        let half = outcome.bytes / 2;
        let by = [("fibre".to_owned(), half), ("lte".to_owned(), half)];
        assert_eq!(outcome.bytes_by_backhaul, by.into());
    }
}

#[test]
fn a_bad_candidate_ends_in_its_first_wave() {
    for candidate in [
        Behaviour::Worse(200.0),
        Behaviour::Crashes,
        Behaviour::Slow(3.0),
    ] {
        let scenario = Scenario {
            candidate,
            policy: Some(policy(&format!(
                "{WAVES}[trial]\nlatency_ratio_max = 1.5\n{TRIAL}"
            ))),
            ..scenario()
        };
        let outcomes = runs(&scenario);
        let first = |outcome: &&Outcome| {
            let why = match outcome.end {
                End::Aborted { why, .. } => why.fails(),
                End::Promoted | End::Open => false,
            };
            why && outcome.waves.len() == 1
        };
        let ended: Vec<_> = outcomes.iter().filter(first).collect();
        assert!(ended.len() >= 19, "{candidate}: {outcomes:?}");
        for outcome in ended {
            let plan = scenario.plan(outcome.seed).unwrap();
            assert_eq!(outcome.exposed, plan.waves[0].nodes);
            assert!(outcome.live <= outcome.exposed && outcome.bytes <= plan.waves[0].bytes);
        }
    }
}

/// 30 % more error is less than a node tells from chance; all of them together tell it.
#[test]
fn what_no_node_tells_the_gate_does() {
    let gate = "[gate.quality]\nblock = 20\ninconclusive = \"advance\"\n";
    let mut scenario = Scenario {
        candidate: Behaviour::Worse(30.0),
        policy: Some(policy(&format!("{WAVES}{gate}{TRIAL}"))),
        ..scenario()
    };
    let worse = |outcome: &&Outcome| {
        matches!(
            outcome.end,
            End::Aborted {
                why: Why::Worse,
                ..
            }
        )
    };
    let outcomes = runs(&scenario);
    let told = outcomes.iter().filter(worse).count();
    assert!(told >= 18, "{told}: {outcomes:?}");
    scenario.candidate = Behaviour::Fine;
    let outcomes = runs(&scenario);
    assert!(outcomes.iter().filter(worse).count() <= 2, "{outcomes:?}");
}

#[test]
fn a_seed_is_the_same_run() {
    let scenario = Scenario {
        away: Share::new(1_000).unwrap(),
        ..scenario()
    };
    assert_eq!(scenario.run(7).unwrap(), scenario.run(7).unwrap());
    assert_ne!(
        scenario.run(7).unwrap().waves,
        scenario.run(8).unwrap().waves
    );
}

#[test]
fn nodes_that_are_away_hold_a_wave_up_to_its_deadline_and_no_longer() {
    let scenario = Scenario {
        away: Share::new(4_000).unwrap(),
        policy: Some(policy(&format!("deadline = \"6h\"\n{WAVES}{TRIAL}"))),
        ..scenario()
    };
    for outcome in runs(&scenario).iter().take(5) {
        assert_eq!(outcome.end, End::Promoted, "{outcome:?}");
        assert!((6 * 3600..=12 * 3600).contains(&outcome.took.as_secs()));
        assert!(outcome.live < 80);
    }
}

#[test]
fn places_hours_and_the_bytes_of_a_day_are_waited_for() {
    let took = |head: &str| {
        let scenario = Scenario {
            policy: Some(policy(&format!("{head}\n{WAVES}{TRIAL}"))),
            ..scenario()
        };
        let outcome = scenario.run(3).unwrap();
        assert_eq!(outcome.end, End::Promoted, "{outcome:?}");
        let plan = scenario.plan(3).unwrap();
        assert!(
            outcome.took.as_secs() >= plan.at_least.as_secs(),
            "{plan:?}"
        );
        outcome.took.as_secs()
    };
    let free = took("");
    // 50 nodes, 10 s each, one after the other.
    let queued = took("downloads_per_backhaul = 1");
    assert!(queued >= free + 400, "{free} {queued}");
    // The whole fleet at 40 bundles a day; the first day has half of its hours left.
    let rationed = took("deadline = \"3d\"\nbytes_per_day = \"4MB\"");
    assert!((36 * 3600..4 * 86_400).contains(&rationed), "{rationed}");
    // From noon to two in the night.
    let nightly = took("hours = \"daily 02:00-06:00\"");
    assert!(nightly >= 14 * 3600, "{nightly}");
}

#[test]
fn cohorts_are_compared_with_what_control_nodes_say() {
    let quality = "[gate.quality]\nkind = \"cohorts\"\nblock = 40\nmin_labels = 40\n";
    let scenario = |candidate| Scenario {
        candidate,
        policy: Some(policy(&format!(
            "control = \"30 %\"\n{WAVES}{quality}[trial]\n"
        ))),
        ..scenario()
    };
    let bad = scenario(Behaviour::Worse(60.0)).run(1).unwrap();
    assert!(
        matches!(
            bad.end,
            End::Aborted {
                why: Why::Worse,
                ..
            }
        ),
        "{bad:?}"
    );
    let good = scenario(Behaviour::Worse(-30.0)).run(1).unwrap();
    assert_eq!(good.end, End::Promoted, "{good:?}");
}

#[test]
fn without_a_policy_one_node_goes_first() {
    let scenario = Scenario {
        policy: None,
        ..scenario()
    };
    let outcome = scenario.run(1).unwrap();
    assert_eq!((outcome.waves[0].nodes, outcome.waves.len()), (1, 4));
    let nobody = Scenario {
        nodes: Vec::new(),
        ..scenario
    };
    assert!(matches!(nobody.run(1), Err(Refusal::Nobody { .. })));
}

#[test]
fn a_candidate_is_written_as_it_is_read() {
    for text in ["fine", "crashes", "worse=20", "worse=-5.5", "slow=2"] {
        assert_eq!(text.parse::<Behaviour>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "bad",
        "worse",
        "worse=x",
        "worse=-100",
        "slow=0",
        "slow=NaN",
        "fine=1",
    ] {
        assert!(text.parse::<Behaviour>().is_err(), "{text}");
    }
}
