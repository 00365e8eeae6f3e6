use lamppost_coordinator_core::progress::Summary;
use lamppost_coordinator_core::rollout::betting::Interval;
use lamppost_coordinator_core::rollout::campaign::{Census, Done, Verdict, Why};
use lamppost_coordinator_core::rollout::evidence::Shown;
use lamppost_coordinator_core::rollout::policy::Span;
use lamppost_coordinator_core::rollout::{Cause, Rollout, Target};
use lamppost_models::id::RolloutId;
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::rollout::{Share, Tag};
use lamppost_models::{Digest, NodePath, V1};
use semver::Version;

use super::*;

const SHARES: [u16; 3] = [500, 2_500, 10_000];

fn at(seconds: i64) -> Timestamp {
    let now: Timestamp = "2026-11-24T08:00:00Z".parse().unwrap();
    now.offset_ms(seconds * 1_000)
}

fn bundle(minor: u64) -> BundleRef {
    BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 24_576,
    }
}

fn target() -> Target {
    Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    }
}

fn path(node: &str) -> NodePath {
    NodePath {
        site: "oslo".parse().unwrap(),
        node: node.parse().unwrap(),
    }
}

fn policy() -> Policy {
    let mut policy = Policy {
        name: "night".to_owned(),
        ..Policy::canary()
    };
    policy.waves = SHARES
        .map(|share| Wave {
            share: Some(Share::new(share).unwrap()),
            soak: Span::from_secs(300),
            ..Wave::default()
        })
        .into();
    let first = policy.waves.first_mut().unwrap();
    first.nodes = vec![path("gw-1"), path("gw-2")];
    first.groups = vec!["lab".parse().unwrap()];
    first.tags = vec![Tag {
        name: "backhaul".parse().unwrap(),
        value: "fibre".parse().unwrap(),
    }];
    policy.waves[1].approve = Approve::Manual;
    policy
}

fn assessment() -> Assessment {
    Assessment {
        wave: 1,
        waves: 3,
        census: Census {
            group: 60,
            control: 4,
            nodes: 15,
            passed: 9,
            failed: 1,
            live: 2,
            trying: 1,
            waiting: 1,
            unreachable: 1,
            crashes: 2,
        },
        reports_needed: 12,
        soaks_until: at(120),
        deadline: at(-5),
        latency_ratio: Some(1.021),
        labels: 240,
        last_label: Some(at(-60)),
        labelled: true,
        adds: true,
        nodes: Some(Found {
            units: 23,
            ratio: Interval {
                estimate: 0.97,
                low: 0.951,
                high: 0.988,
            },
            shown: Shown::GoodEnough,
        }),
        rounds: None,
        pairs: None,
        against: vec![Why::Soaking],
    }
}

fn view(state: State) -> RolloutView {
    let under_way = state.stage().is_some();
    let rollout = Rollout {
        v: V1,
        target: target(),
        sequence: Sequence(4),
        stable: bundle(0),
        candidate: None,
        trial: None,
        hours: None,
        revoked: Vec::new(),
        replaces: Some(Sequence(1)),
        cause: Cause::Wave {
            rollout: RolloutId::from_u64(7),
            wave: 1,
        },
        started_at: at(-200),
        issued_at: at(-200),
        expires_at: at(86_400),
    };
    let campaign = Campaign {
        v: V1,
        id: RolloutId::from_u64(7),
        target: target(),
        from: bundle(0),
        to: bundle(1),
        policy: policy(),
        by: "anna@depot".parse().unwrap(),
        started_at: at(-900),
        state,
        steps: vec![Done {
            at: at(-200),
            by: "coordinator".parse().unwrap(),
            sequence: Some(Sequence(4)),
            words: "wave 2 of 3 begins".to_owned(),
        }],
    };
    RolloutView {
        rollout,
        current: true,
        summary: Summary {
            nodes: 60,
            running: 55,
            pending: 3,
            refused: 1,
            unreachable: 1,
        },
        nodes: Vec::new(),
        campaign: Some(Box::new(CampaignView {
            campaign,
            verdict: under_way.then_some(Verdict::Hold { why: Why::Soaking }),
            words: "wave 2 of 3 soaks for 120 s more; hold".to_owned(),
            assessment: Some(assessment()),
            bytes_today: 1_500_000,
        })),
        warnings: vec!["no node is control".to_owned()],
    }
}

fn stage() -> Stage {
    Stage {
        wave: 1,
        since: at(-200),
        labels_before: 0,
        nodes_before: 3,
        approved: None,
    }
}

#[test]
fn a_rollout_under_way() {
    let running = view(State::Running { stage: stage() });
    insta::assert_snapshot!(super::super::rollout(&running, at(0)));
    insta::assert_snapshot!(rollout_head(&running, at(0)));
    insta::assert_snapshot!(rollout_line(&running));
    insta::assert_snapshot!(super::super::rollouts(&[running], at(0)));
    let paused = view(State::Paused {
        stage: stage(),
        at: at(-60),
        by: "bo@depot".parse().unwrap(),
    });
    assert!(rollout_head(&paused, at(0)).contains("paused for 60s by bo@depot"));
    assert_eq!(
        rollout_line(&paused),
        rollout_line(&paused.clone()),
        "time alone changes nothing"
    );
}

#[test]
fn a_rollout_that_is_over() {
    let ended = view(State::Aborted {
        at: at(-60),
        by: "coordinator".parse().unwrap(),
        how: Ending::Reverted,
        why: Why::Worse,
    });
    insta::assert_snapshot!(rollout_head(&ended, at(0)));
    let promoted = view(State::Promoted {
        at: at(-60),
        by: "bo@depot".parse().unwrap(),
    });
    assert!(rollout_head(&promoted, at(0)).contains("promoted 60s ago by bo@depot"));
}

#[test]
fn a_plan_of_waves_and_one_of_all_at_once() {
    let wave = |who: &str, nodes, added, names: &[&str], approve| PlannedWave {
        who: who.to_owned(),
        nodes,
        added,
        unreachable: added / 10,
        names: names.iter().map(|name| path(name)).collect(),
        bytes: added * 24_576,
        at_least: Span::from_secs(300),
        approve,
    };
    let waves = RolloutPlan::Waves {
        policy: Box::new(Policy {
            hours: Some("daily 01:00-05:00".parse().unwrap()),
            ..policy()
        }),
        plan: Plan {
            target: target(),
            from: bundle(0),
            to: bundle(1),
            policy: "night".to_owned(),
            nodes: 60,
            unreachable: 3,
            control: 4,
            waves: vec![
                wave("5 %", 3, 3, &["gw-1", "gw-2", "gw-3"], Approve::Auto),
                wave(
                    "25 %",
                    15,
                    12,
                    &["gw-4", "gw-5", "gw-6", "gw-7", "gw-8"],
                    Approve::Manual,
                ),
                wave("100 %", 15, 0, &[], Approve::Auto),
            ],
            promoted: 4,
            bytes: 1_474_560,
            at_least: Span::from_secs(900),
            unknown: vec!["how long a trial takes: none was reported yet".to_owned()],
            warnings: vec!["wave 3 has no nodes of its own".to_owned()],
        },
    };
    insta::assert_snapshot!(plan(&waves));
    let at_once = RolloutPlan::AllAtOnce {
        target: target(),
        from: None,
        to: bundle(1),
        nodes: 2,
        unreachable: 0,
        bytes: 49_152,
        why: "the group runs no version of it yet".to_owned(),
    };
    insta::assert_snapshot!(plan(&at_once));
}
