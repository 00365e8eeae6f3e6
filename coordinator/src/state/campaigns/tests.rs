use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lamppost_coordinator_core::rollout::policy::Policy;
use lamppost_models::message::{ActiveSlot, NodeState, ReportedModel, ReportedOutbox};
use lamppost_models::release::BundleRef;
use lamppost_models::{BootId, Reported, Status, V1};
use semver::Version;

use super::*;
use crate::api::{ModelRow, StartRollout};
use crate::state::Incoming;
use crate::state::testing::{at, disk_full, open};

fn target() -> Target {
    Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    }
}

fn by() -> Actor {
    "anna@depot".parse().unwrap()
}

fn bundle(minor: u64) -> BundleRef {
    BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 1_000,
    }
}

fn path(node: u64) -> NodePath {
    NodePath {
        site: "oslo".parse().unwrap(),
        node: format!("gw-{node}").parse().unwrap(),
    }
}

fn downloads() -> Downloads {
    Downloads::new(None, at(0), BTreeMap::new())
}

/// What a node says, as it comes from the bus.
fn says<T: serde::Serialize>(node: u64, below: &str, message: &T) -> Incoming {
    Incoming {
        topic: format!("lamppost/v1/nodes/{}/{below}", path(node)),
        payload: Bytes::from(serde_json::to_vec(message).unwrap()),
    }
}

fn is_up(node: u64) -> Incoming {
    let status = Status {
        v: V1,
        state: NodeState::Up,
        boot: BootId::from_u64(1),
        at: at(0),
        agent: "0.1.0".to_owned(),
        groups: vec!["all".parse().unwrap()],
        tags: [("backhaul".parse().unwrap(), "lte-7".parse().unwrap())].into(),
    };
    says(node, "status", &status)
}

fn runs(node: u64, minor: u64, second: i64) -> Incoming {
    let BundleRef {
        version, digest, ..
    } = bundle(minor);
    let row = ReportedModel {
        name: target().model,
        active: Some(ActiveSlot {
            version,
            digest,
            since: at(0),
            predictions: 1,
            last_inference: None,
            quality: None,
        }),
        candidate: None,
        previous: None,
        release: None,
        trial: None,
    };
    let reported = Reported {
        v: V1,
        boot: BootId::from_u64(1),
        at: at(second),
        models: vec![row],
        streams: Vec::new(),
        outbox: ReportedOutbox::default(),
        trust: None,
    };
    says(node, "reported", &reported)
}

/// Versions 1.0.0 and 1.1.0, of which three nodes run the first.
fn fleet(dir: &std::path::Path) -> State {
    let mut state = open(dir);
    for minor in 0..2 {
        let BundleRef {
            version,
            digest,
            bytes,
        } = bundle(minor);
        let row = ModelRow {
            v: V1,
            name: target().model,
            version,
            digest,
            bytes,
            task: lamppost_models::manifest::Task::Forecasting,
            summary: "flow".to_owned(),
            pushed_at: at(0),
        };
        state.add_model(&row, by()).unwrap();
    }
    state
        .start(wanted(0, None), by(), RolloutId::from_u64(1), at(1))
        .unwrap();
    let said: Vec<_> = (1..4)
        .flat_map(|node| [is_up(node), runs(node, 0, 2)])
        .collect();
    state.ingest(&said, at(2)).unwrap();
    state
}

fn wanted(minor: u64, policy: Option<Policy>) -> StartRollout {
    StartRollout {
        model: target().model,
        version: bundle(minor).version,
        group: target().group,
        policy: policy.map(Box::new),
        all_at_once: false,
    }
}

/// One node after the other, with nothing to wait for but reports.
fn policy(more: &str) -> Policy {
    let text = format!(
        r#"{{ "wave": [ {{ "nodes": ["oslo/gw-1"] }}, {{ "nodes": ["oslo/gw-2"] }}, {{ "share": "100 %" }} ]{more} }}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn begin(state: &mut State, more: &str) {
    state
        .start(
            wanted(1, Some(policy(more))),
            by(),
            RolloutId::from_u64(7),
            at(3),
        )
        .unwrap();
}

fn sequence(state: &State) -> u64 {
    state.book.current(&target()).unwrap().sequence.0
}

fn acts(state: &mut State) -> Vec<String> {
    let page = state
        .audit(crate::state::AuditFrom::Number(0), 100)
        .unwrap();
    page.entries
        .iter()
        .map(|entry| entry.act.as_str().to_owned())
        .collect()
}

#[test]
fn a_coordinator_that_dies_after_each_commit_ends_as_one_that_does_not() {
    let ends = |dying: bool| {
        let dir = tempfile::tempdir().unwrap();
        let mut state = fleet(dir.path());
        begin(&mut state, "");
        for node in 1..4 {
            for looked in 0..2 {
                if dying {
                    drop(state);
                    state = open(dir.path());
                }
                let second = i64::try_from(node).unwrap() * 10 + looked;
                let said = [runs(node, 1, second)];
                state
                    .ingest(&said[..usize::from(looked == 0)], at(second))
                    .unwrap();
                if dying {
                    drop(state);
                    state = open(dir.path());
                }
                state.look(&downloads(), at(second)).unwrap();
            }
        }
        let campaign = state.campaigns.current(&target()).unwrap().clone();
        let current = state.book.current(&target()).unwrap().clone();
        (campaign, current, acts(&mut state), state.log_head())
    };
    let straight = ends(false);
    assert!(
        matches!(straight.0.state, campaign::State::Promoted { .. }),
        "{:?}",
        straight.0
    );
    assert_eq!(
        straight.2,
        [
            "push", "push", "release", "start", "advance", "advance", "promote"
        ]
    );
    assert_eq!(ends(true), straight);
}

#[test]
fn a_step_that_was_not_committed_did_not_happen() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = fleet(dir.path());
    begin(&mut state, "");
    let before = (sequence(&state), acts(&mut state));
    state.ingest(&[runs(1, 1, 4)], at(4)).unwrap();
    state.fail_next_commit = Some(disk_full());
    state.look(&downloads(), at(5)).unwrap_err();
    assert!(state.stopped());
    drop(state);
    let mut state = open(dir.path());
    assert_eq!((sequence(&state), acts(&mut state)), before);
    assert_eq!(state.look(&downloads(), at(6)).unwrap(), 1);
    assert_eq!(sequence(&state), before.0 + 1);
    assert_eq!(state.look(&downloads(), at(7)).unwrap(), 0);
}

#[test]
fn it_is_looked_when_a_report_came_or_some_seconds_are_over_also_when_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = fleet(dir.path());
    begin(&mut state, "");
    state.look(&downloads(), at(100)).unwrap();
    assert!(!state.stirred);
    for (second, looked) in [(101, 100), (104, 100), (105, 105), (50, 50)] {
        state.look(&downloads(), at(second)).unwrap();
        assert_eq!(state.looked_at, Some(at(looked)), "{second}");
    }
}

#[test]
fn downloads_follow_the_strictest_policy_and_the_nodes_own_backhaul() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = fleet(dir.path());
    let terms = |state: &State, node: u64, minor| {
        state.download_terms(Some(&path(node)), bundle(minor).digest)
    };
    assert_eq!(terms(&state, 9, 1), downloads::Terms::default());
    let more = r#", "downloads_per_backhaul": 2, "bytes_per_day": "5kB""#;
    begin(&mut state, more);
    let known = downloads::Terms {
        backhaul: Some("lte-7".parse().unwrap()),
        at_once_max: Some(2),
        bytes_per_day: Some(5_000),
    };
    assert_eq!(terms(&state, 1, 1), known);
    let other = terms(&state, 1, 0);
    assert_eq!((other.at_once_max, other.bytes_per_day), (None, None));
    let action = Action::Abort {
        how: Ending::Reverted,
    };
    state.act(&target(), &action, &by(), at(4)).unwrap();
    assert_eq!(terms(&state, 1, 1).bytes_per_day, None);
}

#[test]
fn a_day_whose_bytes_are_spent_holds_the_next_wave() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = fleet(dir.path());
    begin(&mut state, r#", "bytes_per_day": "1kB""#);
    let downloads = Arc::new(downloads());
    let pass = downloads.admit(
        bundle(1).digest,
        1_000,
        state.download_terms(Some(&path(1)), bundle(1).digest),
        at(3),
    );
    pass.unwrap().sent(1_000);
    state.ingest(&[runs(1, 1, 4)], at(4)).unwrap();
    assert_eq!(state.look(&downloads, at(4)).unwrap(), 0);
    let decision = state.decision(&target(), &downloads, at(4)).unwrap();
    assert!(decision.words.contains("1kB"), "{}", decision.words);
    assert_eq!(state.look(&downloads, at(86_400)).unwrap(), 1);
}

#[test]
fn what_nodes_showed_to_a_forgotten_rollout_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = fleet(dir.path());
    begin(&mut state, "");
    let (known, forgotten) = (RolloutId::from_u64(7), RolloutId::from_u64(8));
    let put = |id| Write::put(keys::evidence_head(id), *b"{}");
    state.commit(&[put(known), put(forgotten)]).unwrap();
    let row = Write::put(keys::evidence_row(forgotten, &path(1)), *b"{}");
    state.commit(&[row]).unwrap();
    state.look(&downloads(), at(60)).unwrap();
    let left: Vec<_> = state
        .store
        .scan_prefix(keys::EVIDENCE.as_bytes())
        .map(|entry| entry.unwrap().0)
        .collect();
    assert_eq!(left, [keys::evidence_head(known).into_bytes()]);
}
