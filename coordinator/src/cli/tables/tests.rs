use lamppost_coordinator_core::ledger::{Missing, StreamAccount};
use lamppost_coordinator_core::progress::{NodeProgress, NodeRow, Summary};
use lamppost_coordinator_core::rollout::{Cause, Rollout, Target};
use lamppost_coordinator_core::{Account, Presence, Shelf, Tally};
use lamppost_models::ledger::Class;
use lamppost_models::message::{
    ActiveSlot, CandidateSlot, Intake, NodeState, ReportedBudget, ReportedDrift,
    ReportedErrorDrift, ReportedLane, ReportedModel, ReportedOutbox, ReportedShift, ReportedStream,
    ReportedTrust, StreamCounters, TrialState, Verdict,
};
use lamppost_models::release::{BundleRef, Sequence};
use lamppost_models::trust::TrustVersion;
use lamppost_models::{BootId, NodePath, Reported, Status, V1};
use semver::Version;
use serde_json::json;

use super::*;
use crate::api::{LedgerView, NodeView, RolloutView, StaleStream};

fn at(seconds: i64) -> Timestamp {
    "2026-11-24T08:00:00Z"
        .parse::<Timestamp>()
        .unwrap()
        .offset_ms(seconds * 1000)
}

fn path(node: &str) -> NodePath {
    NodePath {
        site: "minneapolis".parse().unwrap(),
        node: node.parse().unwrap(),
    }
}

fn model_row(minor: u64) -> ModelRow {
    ModelRow {
        v: V1,
        name: "traffic-flow".parse().unwrap(),
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 24_576,
        task: lamppost_models::manifest::Task::Forecasting,
        summary: "Volume on I-94 in the next hour".to_owned(),
        pushed_at: at(-7_200),
    }
}

fn active(minor: u64) -> ActiveSlot {
    ActiveSlot {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        since: at(-600),
        predictions: 42,
        last_inference: Some(at(-5)),
        quality: Some(Quality::Error {
            labels: 41,
            mae: 210.25,
            rmse: 300.5,
        }),
    }
}

fn view(minor: u64, current: bool, rows: Vec<NodeRow>) -> RolloutView {
    let BundleRef {
        version,
        digest,
        bytes,
    } = BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 24_576,
    };
    let rollout = Rollout {
        v: V1,
        target: Target {
            group: "all".parse().unwrap(),
            model: "traffic-flow".parse().unwrap(),
        },
        sequence: Sequence(minor + 1),
        stable: BundleRef {
            version,
            digest,
            bytes,
        },
        candidate: None,
        trial: None,
        hours: None,
        revoked: Vec::new(),
        replaces: None,
        cause: if minor == 0 {
            Cause::Start
        } else {
            Cause::Rollback { of: Sequence(1) }
        },
        started_at: at(-300),
        issued_at: at(-300),
        expires_at: at(86_400),
    };
    RolloutView {
        rollout,
        current,
        summary: Summary::of(&rows),
        nodes: rows,
        campaign: None,
        warnings: Vec::new(),
    }
}

fn rows() -> Vec<NodeRow> {
    let refused = |verdict, detail: &str| NodeProgress::Refused {
        verdict,
        detail: detail.to_owned(),
    };
    let quality = Some(Quality::Accuracy {
        labels: 10,
        accuracy: 0.9,
    });
    let states = [
        NodeProgress::Running {
            since: at(-120),
            predictions: 7,
            quality,
        },
        NodeProgress::Fetching {
            received: 1_024,
            bytes: 24_576,
        },
        NodeProgress::Checking,
        refused(Verdict::GoldenMismatch, "outputs[0] is 3"),
        refused(Verdict::Unavailable, "connection refused"),
        NodeProgress::Waiting {
            running: Some(Version::new(1, 0, 0)),
        },
        NodeProgress::DecidedBy {
            group: "canary".parse().unwrap(),
        },
        NodeProgress::Unconcerned,
        NodeProgress::Unreachable {
            since: at(-4_000),
            running: None,
        },
    ];
    let row = |(index, progress)| NodeRow {
        path: path(&format!("gw-{index}")),
        cohort: None,
        progress,
    };
    states.into_iter().enumerate().map(row).collect()
}

fn lane(class: Class, records: u64, oldest: Option<Timestamp>) -> ReportedLane {
    ReportedLane {
        class,
        batches: records.div_ceil(35),
        records,
        bytes: records * 200,
        cap_bytes: 64_000_000,
        oldest,
    }
}

fn node_view(node: &str, presence: Presence) -> NodeView {
    let status = Status {
        v: V1,
        state: NodeState::Up,
        boot: BootId::from_u64(0x9f3a),
        at: at(-10),
        agent: "0.1.0".to_owned(),
        groups: vec!["canary".parse().unwrap(), "all".parse().unwrap()],
        tags: lamppost_models::rollout::Tags::new(),
    };
    let state = TrialState::Refused {
        verdict: Verdict::Unusable,
        detail: "no \u{1b}[31mONNX\nfile".to_owned(),
    };
    let candidate = CandidateSlot {
        version: Version::new(1, 2, 0),
        digest: Digest::of(b"c"),
        state,
    };
    let model = ReportedModel {
        name: "traffic-flow".parse().unwrap(),
        active: Some(active(1)),
        candidate: Some(candidate),
        previous: None,
        release: None,
        trial: None,
    };
    let counters = StreamCounters {
        readings: 120,
        predictions: 96,
        late: 1,
        malformed: 2,
        ..StreamCounters::default()
    };
    let stream = ReportedStream {
        name: "i94".parse().unwrap(),
        model: model.name.clone(),
        last_reading: None,
        stale_since: Some(at(-900)),
        local: false,
        drift: Some(drift()),
        counters,
    };
    let outbox = ReportedOutbox {
        batches: 2,
        records: 70,
        bytes: 14_000,
        lanes: vec![
            lane(Class::Event, 0, None),
            lane(Class::Prediction, 70, Some(at(-1_800))),
            lane(Class::Sample, 0, None),
        ],
        budget: Some(ReportedBudget {
            since: at(-28_800),
            used_bytes: 1_234_567,
            limit_bytes: Some(20_000_000),
        }),
        ..ReportedOutbox::default()
    };
    let (boot, models, streams) = (status.boot, vec![model], vec![stream]);
    NodeView {
        path: path(node),
        presence,
        heard_at: at(-9),
        status: Some(status),
        reported: Some(Reported {
            v: V1,
            boot,
            at: at(-9),
            models,
            streams,
            outbox,
            trust: Some(ReportedTrust {
                document: Some(TrustVersion(2)),
                releases: Intake {
                    taken: 3,
                    refused: [("altered".to_owned(), 1), ("stale".to_owned(), 2)].into(),
                },
                documents: Intake {
                    taken: 1,
                    ..Intake::default()
                },
                times: Intake {
                    taken: 40,
                    ..Intake::default()
                },
                at_least: Some(at(-29)),
                told_s: Some(20),
            }),
        }),
        stored: None,
    }
}

fn drift() -> ReportedDrift {
    ReportedDrift {
        digest: Digest::of(b"a"),
        since: at(-5_000_000),
        windows: 1_200,
        periods: 45,
        reference: 28,
        features: vec![ReportedShift {
            field: "volume".parse().unwrap(),
            psi: 1.25,
            limit: 0.25,
            drifts: true,
        }],
        error: Some(ReportedErrorDrift {
            before: 168.75,
            now: Some(320.5),
            cusum: 3.0,
            limit: 8.0,
        }),
        drifted_at: Some(at(-86_400)),
        what: Some("volume is not distributed as at first: PSI 1.25, limit 0.25".to_owned()),
    }
}

#[test]
fn models_and_pushes() {
    insta::assert_snapshot!(models(&[model_row(0), model_row(1)], at(0)));
    insta::assert_snapshot!(models(&[], at(0)));
    let preflight = Preflight {
        golden_cases: 8,
        output_error_max: 1.2e-7,
        median_us: 11.4,
        p99_us: 30.0,
        memory_bytes: 40_000,
    };
    insta::assert_snapshot!(pushed(&Pushed {
        created: true,
        model: model_row(0),
        preflight: preflight.clone()
    }));
    insta::assert_snapshot!(pushed(&Pushed {
        created: false,
        model: model_row(0),
        preflight
    }));
}

#[test]
fn rollouts_with_every_state_of_a_node() {
    let current = view(1, true, rows());
    insta::assert_snapshot!(rollouts(
        &[current.clone(), view(0, false, Vec::new())],
        at(0)
    ));
    insta::assert_snapshot!(rollout_status(
        &[current, view(0, false, Vec::new())],
        at(0)
    ));
    insta::assert_snapshot!(rollout(&view(0, true, Vec::new()), at(0)));
}

#[test]
fn nodes_in_a_list_and_alone() {
    let list = [
        node_view("gw-1", Presence::Up),
        node_view("gw-2", Presence::Down { since: at(-700) }),
        NodeView {
            status: None,
            reported: None,
            ..node_view("gw-3", Presence::Unknown)
        },
    ];
    insta::assert_snapshot!(nodes(&list, at(0)));
    let stored = Shelf {
        records: 90,
        bytes: 30_000,
        stored: 96,
        replayed: 12,
        duplicates: 3,
        retired: 6,
        ..Shelf::default()
    };
    let degraded = Presence::Degraded {
        reason: "stream i94 has no model".to_owned(),
    };
    let node = node(
        &NodeView {
            stored: Some(stored),
            ..node_view("gw-1", degraded)
        },
        at(0),
    );
    assert!(
        !node.contains('\u{1b}'),
        "a node's words must not move the cursor"
    );
    insta::assert_snapshot!(node);
    let mut calm = node_view("gw-1", Presence::Up);
    if let Some(drift) = calm
        .reported
        .as_mut()
        .and_then(|reported| reported.streams[0].drift.as_mut())
    {
        (drift.drifted_at, drift.what) = (None, None);
    }
    let calm = super::node(&calm, at(0));
    let line = "stream i94: no drift; volume has PSI 1.25, limit 0.25; error 168.7500 at first, 320.5000 now";
    assert!(calm.contains(line), "{calm}");
}

fn ledger_view(node: &str, account: Account) -> LedgerView {
    LedgerView {
        path: path(node),
        presence: Presence::Up,
        reported_at: Some(at(-5)),
        report_is_old: false,
        stale_streams: Vec::new(),
        account: Account {
            boots: 2,
            reported: true,
            ..account
        },
    }
}

/// A ledger in which every column has a number of its own, and with all that can be wrong.
fn troubled_ledger() -> LedgerView {
    let stream: lamppost_models::StreamName = "i94".parse().unwrap();
    let tally = Tally {
        produced: 9_999,
        delivered: 9_900,
        duplicated: 35,
        evicted: 21,
        expired: 20,
        damaged: 19,
        unwritten: 4,
        dropped: 3,
        forgotten: 2,
        crash: 1,
        in_flight: 11,
        missing: 18,
    };
    let missing = |from, to| Missing {
        class: Class::Prediction,
        stream: stream.clone(),
        boot: BootId::from_u64(0x9f3a),
        from,
        to,
    };
    let account = Account {
        streams: vec![StreamAccount {
            class: Class::Prediction,
            stream: stream.clone(),
            tally,
        }],
        missing: vec![missing(17, 17), missing(40, 52)],
        folded_boots: 9,
        folded_open: 1,
        unjudged_boots: 1,
        events_waiting: 3,
        events_forgotten: 2,
        waiting_joined: true,
        ..Account::default()
    };
    LedgerView {
        presence: Presence::Down { since: at(-700) },
        reported_at: Some(at(-720)),
        report_is_old: true,
        stale_streams: vec![StaleStream {
            stream,
            since: at(-900),
        }],
        ..ledger_view("gw-1", account)
    }
}

#[test]
fn ledgers_good_and_bad() {
    let sum = StreamAccount {
        class: Class::Sample,
        stream: "air".parse().unwrap(),
        tally: Tally {
            produced: 12,
            delivered: 12,
            ..Tally::default()
        },
    };
    let good = Account {
        streams: vec![sum],
        ..Account::default()
    };
    let nodes = [troubled_ledger(), ledger_view("gw-2", good)];
    insta::assert_snapshot!("ledger", ledger(&nodes, at(0)));
    let mut new = ledger_view("gw-3", Account::default());
    new.account.reported = false;
    insta::assert_snapshot!("ledger_of_nothing", ledger(&[new], at(0)));
    let json = serde_json::to_string_pretty(&nodes[0]).unwrap();
    insta::assert_snapshot!("ledger_json", json);
}

#[test]
fn predictions_of_each_kind() {
    let prediction = |result: serde_json::Value| -> StoredPrediction {
        let mut json = json!({
            "position": "3.1", "stored_at": at(0), "v": 1, "id": "0000000000009f3a-7", "ts": at(-60), "stream": "i94", "seq": 7,
            "boot": "0000000000009f3a", "latency_us": 80, "replay": false,
            "model": {"name": "traffic-flow", "version": "1.1.0", "digest": Digest::of(b"x")},
        });
        json.as_object_mut()
            .unwrap()
            .extend(result.as_object().unwrap().clone());
        serde_json::from_value(json).unwrap()
    };
    let both = vec![
        prediction(json!({"value": 4123.4567, "unit": "vehicles", "target_ts": at(3_540)})),
        prediction(json!({"label": "heavy", "score": 0.875, "replay": true})),
    ];
    let (nothing, older) = (Vec::new(), Some("3.1".parse().unwrap()));
    for (predictions, older) in [(both, older), (nothing.clone(), None), (nothing, older)] {
        insta::assert_snapshot!(super::predictions(&StoredPredictions {
            predictions,
            older
        }));
    }
}

#[test]
fn json_is_the_words_of_the_api() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&model_row(0)).unwrap());
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&view(0, true, rows().split_off(7))).unwrap()
    );
}
