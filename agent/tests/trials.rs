//! Trials from the release to the end: a real agent, its child processes, a sensor, and a stand-in for the coordinator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::onnx::{Above, Does, bundle};
use common::{Client, Coordinator, Node, eventually};
use lamppost_models::message::{CandidateSlot, ReportedModel, TrialState, Verdict};
use lamppost_models::release::BundleRef;
use lamppost_models::rollout::{Candidate, Exposure, Probation, Shadow, Share, TrialTerms};
use lamppost_models::trial::{TrialPhase, TrialReport};
use lamppost_models::{Release, Timestamp};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The hourly volume rises by so much: what persists is so much too low.
const RISE: f32 = 10.0;

/// A stream of volumes, and model 1.0.0, which says that nothing changes.
fn stream(dir: &Path) -> String {
    let path = dir.join("factory.tar");
    std::fs::write(&path, bundle("1.0.0", Does::Persists { more: 0.0 })).unwrap();
    format!(
        r#"
        [[model]]
        name = "traffic-flow"
        bundle = "{}"
        [[stream]]
        name = "i94-volume"
        source = {{ topic = "sensors/i94", decode = "json", time = "/ts", fields = {{ volume = {{ at = "/volume", kind = "number" }} }} }}
        window = {{ count = 1, hop = 1 }}
        model = "traffic-flow"
        label = {{ stream = "i94-volume", field = "volume", ahead = 1 }}
        "#,
        path.display()
    )
}

/// A sensor that says another hour's volume, below 0 and rising, every few milliseconds.
struct Sensor {
    hour: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn message(hour: i64, volume: f64) -> String {
    let ts = Timestamp::EPOCH.offset_ms(hour * 3_600_000);
    serde_json::json!({"ts": ts, "volume": volume}).to_string()
}

impl Sensor {
    fn start(node: &Node, from_hour: i64) -> Self {
        let hour = Arc::new(AtomicI64::new(from_hour));
        let (mut client, next) = (node.client(), Arc::clone(&hour));
        let task = tokio::spawn(async move {
            loop {
                let hour = next.fetch_add(1, Ordering::Relaxed);
                #[expect(clippy::cast_precision_loss, reason = "few hours")]
                let volume = -1e6 + hour as f64 * f64::from(RISE);
                client.publish("sensors/i94", message(hour, volume)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { hour, task }
    }

    /// Stops it, and gives the next hour.
    fn stop(self) -> i64 {
        self.task.abort();
        self.hour.load(Ordering::Relaxed) + 1
    }
}

/// A coordinator and a node on which model 1.0.0 runs.
struct Bench {
    coordinator: Coordinator,
    node: Node,
    client: Client,
}

impl Bench {
    async fn start() -> Self {
        let coordinator = Coordinator::start().await;
        Self::start_in(
            TempDir::new().unwrap(),
            coordinator,
            Duration::from_secs(10),
        )
        .await
    }

    async fn start_in(dir: TempDir, coordinator: Coordinator, stuck_after: Duration) -> Self {
        let rest = |dir: &Path| coordinator.table() + &stream(dir);
        let change = |config: &mut lamppost_agent::Config| config.stuck_after = stuck_after;
        let node = Node::start_changed(dir, rest, change).await;
        let mut client = node.client();
        client
            .subscribe("lamppost/v1/nodes/minneapolis/gw-1/#")
            .await;
        client
            .reported(|report| report.models[0].active.is_some())
            .await;
        Self {
            coordinator,
            node,
            client,
        }
    }

    /// Stops the agent, and starts it again in the same directory.
    async fn restart(self) -> Self {
        let Self {
            coordinator, node, ..
        } = self;
        let dir = node.stop().await;
        Self::start_in(dir, coordinator, Duration::from_secs(10)).await
    }

    fn offer(&self, version: &str, does: Does) -> BundleRef {
        let bytes = bundle(version, does);
        self.coordinator.offer(&bytes, &bytes)
    }

    /// A release that lets all nodes try `candidate` beside 1.0.0.
    fn release(&self, sequence: u64, candidate: &BundleRef, terms: TrialTerms) -> Release {
        let stable = self.offer("1.0.0", Does::Persists { more: 0.0 });
        let candidate = Candidate {
            bundle: candidate.clone(),
            rollout: "0000000000000007".parse().unwrap(),
            exposure: Exposure {
                share: Share::ALL,
                ..Exposure::default()
            },
            control: Share::NONE,
        };
        Release {
            candidate: Some(candidate),
            trial: Some(terms),
            ..Coordinator::release("traffic-flow", sequence, stable)
        }
    }

    async fn model(&mut self, fits: impl Fn(&ReportedModel) -> bool) -> ReportedModel {
        let report = self.client.reported(|report| fits(&report.models[0])).await;
        report.models.into_iter().next().unwrap()
    }

    /// Waits until the trial of a candidate is over, or so far.
    async fn trial(
        &mut self,
        of: &BundleRef,
        fits: impl Fn(&TrialReport) -> bool,
    ) -> ReportedModel {
        let digest = of.digest;
        self.model(|model| {
            let trial = model.trial.as_ref();
            trial.is_some_and(|trial| trial.digest == digest && fits(trial))
        })
        .await
    }

    /// Waits for a verdict before the candidate goes live; gives its detail.
    async fn refused(&mut self, of: &BundleRef) -> (Verdict, String) {
        let model = self
            .trial(of, |trial| {
                matches!(trial.phase, TrialPhase::Refused { .. })
            })
            .await;
        assert_eq!(active(&model), "1.0.0");
        let phase = model.trial.unwrap().phase;
        let TrialPhase::Refused { verdict, detail } = phase else {
            panic!("{phase:?}")
        };
        (verdict, detail)
    }

    /// What goes on working whatever a candidate does.
    async fn still_predicts(&mut self, hour: i64) {
        let mut client = self.node.client();
        for hour in hour..hour + 3 {
            client.publish("sensors/i94", message(hour, -5.0)).await;
        }
        let prediction = self.client.prediction().await;
        assert_eq!(prediction.model.version.to_string(), "1.0.0");
    }
}

fn active(model: &ReportedModel) -> String {
    let active = model.active.as_ref().expect("a version runs");
    active.version.to_string()
}

fn beside() -> Shadow {
    Shadow {
        windows: 12,
        labels: 9,
        cpu_share: 1.0,
        error_ratio_max: Some(1.0),
        ..Shadow::default()
    }
}

fn terms(shadow: Option<Shadow>, probation: Option<Probation>) -> TrialTerms {
    TrialTerms {
        shadow,
        probation,
        ..TrialTerms::default()
    }
}

#[tokio::test]
async fn a_better_candidate_is_compared_promoted_watched_and_stays() {
    let mut bench = Bench::start().await;
    let candidate = bench.offer("1.1.0", Does::Persists { more: RISE });
    let probation = Probation {
        windows: 10,
        labels: 8,
        error_ratio_max: Some(1.0),
        ..Probation::default()
    };
    let release = bench.release(1, &candidate, terms(Some(beside()), Some(probation)));
    let _sensor = Sensor::start(&bench.node, 0);
    bench.coordinator.publish(&release).await;
    let shadowing = |model: &ReportedModel| {
        matches!(
            model.candidate,
            Some(CandidateSlot {
                state: TrialState::Shadowing { of: 12, .. },
                ..
            })
        )
    };
    let model = bench.model(shadowing).await;
    assert_eq!(active(&model), "1.0.0");
    let model = bench
        .trial(&candidate, |trial| trial.phase == TrialPhase::Passed)
        .await;
    assert_eq!(active(&model), "1.1.0");
    let trial = model.trial.unwrap();
    assert_eq!((trial.release.0, trial.fetched_bytes), (1, candidate.bytes));
    let shadow = trial.shadow.unwrap();
    assert!(
        shadow.windows >= 12 && shadow.candidate.failures == 0,
        "{shadow:?}"
    );
    assert!(shadow.loss_difference.n >= 9, "{shadow:?}");
    let near = |value: f64, wanted: f32| (value - f64::from(wanted)).abs() < 0.1;
    assert!(near(shadow.active.loss.mean, RISE), "{shadow:?}");
    assert!(near(shadow.candidate.loss.mean, 0.0), "{shadow:?}");
    assert!(near(shadow.loss_difference.mean, -RISE), "{shadow:?}");
    assert!(near(shadow.disagreement.mean, RISE), "{shadow:?}");
    let watch = trial.probation.unwrap();
    assert!(watch.windows >= 10 && watch.active.loss.n >= 8, "{watch:?}");
    assert!(near(watch.active.loss.mean, 0.0), "{watch:?}");
    assert!(near(watch.before.loss.mean, RISE), "{watch:?}");
    assert_eq!(watch.crashes, 0);
}

#[tokio::test]
async fn nobody_sees_what_a_candidate_says_before_it_is_promoted() {
    let mut bench = Bench::start().await;
    let candidate = bench.offer("1.1.0", Does::Persists { more: RISE });
    let release = bench.release(1, &candidate, terms(Some(beside()), None));
    let mut listener = bench.node.client();
    listener
        .subscribe("lamppost/v1/nodes/minneapolis/gw-1/pred/#")
        .await;
    let sensor = Sensor::start(&bench.node, 0);
    bench.coordinator.publish(&release).await;
    bench
        .trial(&candidate, |trial| trial.phase == TrialPhase::Passed)
        .await;
    let last = sensor.stop();
    let mut versions = Vec::new();
    let mut seq = 0;
    while versions.last().is_none_or(|version| version == "1.0.0") {
        let prediction = listener.prediction().await;
        assert_eq!(prediction.seq, seq, "each window has one prediction");
        seq += 1;
        assert!(i64::try_from(seq).unwrap() <= last + 1);
        versions.push(prediction.model.version.to_string());
    }
    assert_eq!(versions.last().unwrap(), "1.1.0");
    assert!(versions.len() > 12);
}

#[tokio::test]
async fn a_worse_candidate_is_refused_by_the_labels_and_for_good() {
    let mut bench = Bench::start().await;
    let candidate = bench.offer("1.1.0", Does::Persists { more: -500.0 });
    let release = bench.release(1, &candidate, terms(Some(beside()), None));
    let sensor = Sensor::start(&bench.node, 0);
    bench.coordinator.publish(&release).await;
    let (verdict, detail) = bench.refused(&candidate).await;
    assert_eq!(verdict, Verdict::Worse, "{detail}");
    assert!(detail.contains("its mean error is 510"), "{detail}");
    let hour = sensor.stop();
    bench.still_predicts(hour).await;
    // Neither a restart nor the same wish again brings it back.
    let mut bench = bench.restart().await;
    let again = Release {
        sequence: lamppost_models::release::Sequence(2),
        ..release
    };
    bench.coordinator.publish(&again).await;
    bench
        .model(|model| model.release.is_some_and(|release| release.0 == 2))
        .await;
    assert_eq!(bench.refused(&candidate).await.0, Verdict::Worse);
}

#[tokio::test]
async fn a_candidate_that_gives_no_numbers_or_no_answer_is_refused() {
    let coordinator = Coordinator::start().await;
    let dir = TempDir::new().unwrap();
    let mut bench = Bench::start_in(dir, coordinator, Duration::from_secs(1)).await;
    let mut client = bench.node.client();
    let harms = [Above::Nan, Above::Counts { turns: 16_000_000 }];
    for (sequence, above) in harms.into_iter().enumerate() {
        let candidate = bench.offer(&format!("1.1.{sequence}"), Does::Until(above));
        let sequence = sequence as u64 + 1;
        let release = bench.release(sequence, &candidate, terms(Some(beside()), None));
        bench.coordinator.publish(&release).await;
        bench
            .model(|model| {
                let of = model.candidate.as_ref();
                of.is_some_and(|slot| {
                    slot.digest == candidate.digest
                        && matches!(slot.state, TrialState::Shadowing { .. })
                })
            })
            .await;
        let hour = i64::try_from(sequence).unwrap() * 100;
        client.publish("sensors/i94", message(hour, 5.0)).await;
        let (verdict, detail) = bench.refused(&candidate).await;
        assert_eq!(verdict, Verdict::Failing, "{detail}");
        bench.still_predicts(hour + 1).await;
    }
}

#[tokio::test]
async fn a_candidate_whose_process_is_killed_is_refused() {
    let mut bench = Bench::start().await;
    let candidate = bench.offer("1.1.0", Does::Persists { more: RISE });
    let release = bench.release(1, &candidate, terms(Some(beside()), None));
    bench.coordinator.publish(&release).await;
    let own = bench.node.dir.path().to_str().unwrap().to_owned();
    let child = || {
        let pids = std::fs::read_dir("/proc").unwrap();
        let mut pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.find(|pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("shadow-bundle") && line.contains(&own)
        })
    };
    let pid = eventually("the candidate's process is there", || async { child() }).await;
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let (verdict, detail) = bench.refused(&candidate).await;
    assert_eq!(verdict, Verdict::Crashed);
    assert!(detail.contains("signal 9"), "{detail}");
    bench.still_predicts(0).await;
}

#[tokio::test]
async fn a_candidate_that_takes_too_long_or_too_much_is_refused() {
    let mut bench = Bench::start().await;
    // In its check, on its golden vectors.
    let candidate = bench.offer("1.1.0", Does::Persists { more: RISE });
    let small = TrialTerms {
        memory_bytes_max: Some(1),
        ..terms(Some(beside()), None)
    };
    bench
        .coordinator
        .publish(&bench.release(1, &candidate, small))
        .await;
    let (verdict, detail) = bench.refused(&candidate).await;
    assert_eq!(verdict, Verdict::TooLarge, "{detail}");
    assert!(
        detail.starts_with("in its check, opening and running it took"),
        "{detail}"
    );
    // In shadow, on the stream.
    let candidate = bench.offer("1.2.0", Does::Until(Above::Counts { turns: 20_000 }));
    let quick = TrialTerms {
        latency_us_max: Some(5_000),
        ..terms(
            Some(Shadow {
                windows: 3,
                ..beside()
            }),
            None,
        )
    };
    bench
        .coordinator
        .publish(&bench.release(2, &candidate, quick))
        .await;
    let mut client = bench.node.client();
    let digest = candidate.digest;
    let running = |model: &ReportedModel| {
        let slot = model.candidate.as_ref();
        slot.is_some_and(|slot| {
            slot.digest == digest && matches!(slot.state, TrialState::Shadowing { .. })
        })
    };
    bench.model(running).await;
    for hour in 0..30 {
        client.publish("sensors/i94", message(hour, 5.0)).await;
    }
    let (verdict, detail) = bench.refused(&candidate).await;
    assert_eq!(verdict, Verdict::TooSlow, "{detail}");
    assert!(detail.contains("the limit is 5000 us"), "{detail}");
}

/// A node on which a candidate has passed its trial.
async fn promoted(probation: Option<Probation>, phase: TrialPhase) -> (Bench, BundleRef, i64) {
    let mut bench = Bench::start().await;
    let candidate = bench.offer("1.1.0", Does::Persists { more: RISE });
    let release = bench.release(1, &candidate, terms(None, probation));
    let sensor = Sensor::start(&bench.node, 0);
    bench.coordinator.publish(&release).await;
    let model = bench.trial(&candidate, |trial| trial.phase == phase).await;
    assert_eq!(active(&model), "1.1.0");
    (bench, candidate, sensor.stop())
}

#[tokio::test]
async fn an_abort_takes_the_candidate_back_at_once_from_the_disk() {
    let (mut bench, candidate, hour) = promoted(None, TrialPhase::Passed).await;
    bench.coordinator.stop_http();
    let aborted = Release {
        candidate: None,
        ..bench.release(
            2,
            &candidate,
            terms(Some(beside()), Some(Probation::default())),
        )
    };
    bench.coordinator.publish(&aborted).await;
    bench.model(|model| active(model) == "1.0.0").await;
    bench.still_predicts(hour).await;
}

#[tokio::test]
async fn a_revoked_version_is_left_at_once_and_does_not_come_back() {
    let probation = Probation {
        windows: 1_000_000,
        ..Probation::default()
    };
    let (mut bench, candidate, hour) = promoted(Some(probation), TrialPhase::Probation).await;
    let release = bench.release(2, &candidate, TrialTerms::default());
    let revoked = Release {
        revoked: vec![candidate.digest],
        ..release
    };
    bench.coordinator.publish(&revoked).await;
    bench
        .trial(&candidate, |trial| {
            matches!(
                trial.phase,
                TrialPhase::RolledBack {
                    verdict: Verdict::Revoked,
                    ..
                }
            )
        })
        .await;
    // It is left before the other one is open.
    let model = bench.model(|model| model.active.is_some()).await;
    assert_eq!(active(&model), "1.0.0");
    bench.still_predicts(hour).await;
    let mut bench = bench.restart().await;
    let opened = |model: &ReportedModel| model.release.is_some() && model.active.is_some();
    let model = bench.model(opened).await;
    assert_eq!(active(&model), "1.0.0");
}

#[tokio::test]
async fn a_trial_goes_on_after_restarts_without_any_link() {
    let mut bench = Bench::start().await;
    let candidate = bench.offer("1.1.0", Does::Persists { more: RISE });
    let long = Shadow {
        windows: 60,
        ..beside()
    };
    let probation = Probation {
        windows: 60,
        labels: 20,
        ..Probation::default()
    };
    let release = bench.release(1, &candidate, terms(Some(long), Some(probation)));
    let sensor = Sensor::start(&bench.node, 0);
    bench.coordinator.publish(&release).await;
    let windows = |trial: &TrialReport| trial.shadow.as_ref().map_or(0, |shadow| shadow.windows);
    let model = bench.trial(&candidate, |trial| windows(trial) >= 16).await;
    assert_eq!(active(&model), "1.0.0");
    let hour = sensor.stop();
    bench.coordinator.stop_http();
    bench.coordinator.stop_broker().await;
    // In the middle of the shadow, and then of the probation.
    let mut bench = bench.restart().await;
    let sensor = Sensor::start(&bench.node, hour);
    let watched = |trial: &TrialReport| {
        let watch = trial.probation.as_ref();
        trial.phase == TrialPhase::Probation && watch.is_some_and(|watch| watch.windows >= 16)
    };
    let model = bench.trial(&candidate, watched).await;
    assert_eq!(active(&model), "1.1.0");
    let before = model.trial.unwrap().shadow.unwrap();
    assert!(before.windows >= 60, "{before:?}");
    let hour = sensor.stop();
    let mut bench = bench.restart().await;
    let _sensor = Sensor::start(&bench.node, hour);
    let model = bench
        .trial(&candidate, |trial| trial.phase == TrialPhase::Passed)
        .await;
    assert_eq!(active(&model), "1.1.0");
    let watch = model.trial.unwrap().probation.unwrap();
    assert_eq!(watch.crashes, 0, "it was stopped on purpose");
    assert!(watch.windows >= 60, "{watch:?}");
}

#[tokio::test]
async fn a_version_that_hangs_in_probation_is_left_and_the_broker_goes_on() {
    let coordinator = Coordinator::start().await;
    let dir = TempDir::new().unwrap();
    let mut bench = Bench::start_in(dir, coordinator, Duration::from_secs(1)).await;
    let harm = Does::Until(Above::Counts { turns: 16_000_000 });
    let candidate = bench.offer("1.1.0", harm);
    let probation = Probation::default();
    let release = bench.release(1, &candidate, terms(None, Some(probation)));
    bench.coordinator.publish(&release).await;
    bench.model(|model| active(model) == "1.1.0").await;
    let mut client = bench.node.client();
    for (hour, volume) in [(0, -5.0), (1, 5.0), (2, -5.0)] {
        client.publish("sensors/i94", message(hour, volume)).await;
    }
    let model = bench
        .trial(&candidate, |trial| {
            matches!(
                trial.phase,
                TrialPhase::RolledBack {
                    verdict: Verdict::Failing,
                    ..
                }
            )
        })
        .await;
    assert_eq!(active(&model), "1.0.0");
    let TrialPhase::RolledBack { detail, .. } = model.trial.unwrap().phase else {
        panic!("it was rolled back")
    };
    assert_eq!(detail, "an inference was not over after 1s");
    // The same connection, the same counts, another thread.
    let mut seqs = Vec::new();
    for hour in 3..6 {
        client.publish("sensors/i94", message(hour, -5.0)).await;
    }
    while seqs.len() < 3 {
        let prediction = bench.client.prediction().await;
        if prediction.model.version.to_string() == "1.0.0" {
            seqs.push(prediction.seq);
        }
    }
    assert!(
        seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seqs:?}"
    );
    let report = bench
        .client
        .reported(|report| report.streams[0].counters.predictions > seqs[2])
        .await;
    assert_eq!(report.streams[0].counters.failed, 1);
    bench.node.stop().await;
}
