//! Bytes that every later version must read: each file parses, and writes back to the same JSON.
//!
//! A file here is never changed and never removed; what a new field looks like goes into a new file.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::BTreeSet;

use common::{ZOO, golden, golden_json, golden_path, zoo};
use lamppost_models::bundle::Bundle;
use lamppost_models::ledger::EventBatch;
use lamppost_models::manifest::{Golden, Manifest};
use lamppost_models::message::{NodeRow, PredictionBatch, SampleBatch};
use lamppost_models::release::{Envelope, PublicKey, Release, ReleaseKey};
use lamppost_models::seal::Sealed;
use lamppost_models::signed_time::TimeQuestion;
use lamppost_models::trust::Chain;
use lamppost_models::{Ack, Prediction, Reported, SignedTime, Status, Trust};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a file and holds it to what it says.
type Check = fn(&str);

/// Every file, with the type that reads it.
const FILES: [(&str, Check); 34] = [
    ("ack.json", holds::<Ack>),
    ("event-batch.json", holds::<EventBatch>),
    ("golden.json", holds::<Golden>),
    ("manifest-classification.json", holds_manifest),
    ("manifest-forecast.json", holds_manifest),
    ("manifest-reconstruction.json", holds_manifest),
    ("manifest-regression.json", holds_manifest),
    ("manifest-score.json", holds_manifest),
    ("manifest-trained.json", holds_manifest),
    ("node-row.json", holds::<NodeRow>),
    ("prediction-anomaly.json", holds::<Prediction>),
    ("prediction-batch.json", holds::<PredictionBatch>),
    ("prediction-classification.json", holds::<Prediction>),
    ("prediction-forecast.json", holds::<Prediction>),
    ("release-envelope.json", holds::<Envelope>),
    ("release-envelope-two.json", holds::<Envelope>),
    ("release-candidate.json", holds::<Release>),
    ("release.json", holds::<Release>),
    ("reported-drift.json", holds::<Reported>),
    ("reported-ledger.json", holds::<Reported>),
    ("reported-trial.json", holds::<Reported>),
    ("reported-trust.json", holds::<Reported>),
    ("reported.json", holds::<Reported>),
    ("sample-batch.json", holds::<SampleBatch>),
    ("sample-origin.json", holds::<SampleBatch>),
    ("signed-time.json", holds::<Sealed>),
    ("status-degraded.json", holds::<Status>),
    ("status-down.json", holds::<Status>),
    ("status-tags.json", holds::<Status>),
    ("status-up.json", holds::<Status>),
    ("time.json", holds::<SignedTime>),
    ("time-question.json", holds::<TimeQuestion>),
    ("trust.json", holds::<Trust>),
    ("trust-chain.json", holds::<Chain>),
];

fn holds<T: Serialize + DeserializeOwned>(file: &str) {
    let parsed: T =
        serde_json::from_slice(&golden(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    // By way of text: a JSON value made directly would show an f32 with the digits of an f64.
    let text = serde_json::to_string(&parsed).expect("it writes");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        written,
        golden_json(file),
        "{file} is written back differently"
    );
}

fn holds_manifest(file: &str) {
    Manifest::parse(&golden(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    holds::<Manifest>(file);
}

/// Files that are no messages.
const TEXTS: [&str; 2] = ["release-key.txt", "zoo-bundles.txt"];

#[test]
fn every_golden_file_parses_and_writes_back_to_the_same_json() {
    for (file, check) in FILES {
        check(file);
    }
}

#[test]
fn no_golden_file_is_left_unread() {
    let listed: BTreeSet<String> = FILES.iter().map(|(file, _)| (*file).to_owned()).collect();
    let entries = std::fs::read_dir(golden_path("")).expect("the folder");
    let found = entries.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8")
    });
    let found: BTreeSet<String> = found
        .filter(|file| !TEXTS.contains(&file.as_str()))
        .collect();
    assert_eq!(found, listed);
}

#[test]
fn the_golden_envelope_which_openssl_signed_opens_with_its_key_alone() {
    let text = String::from_utf8(golden("release-key.txt")).expect("UTF-8");
    let key: PublicKey = text.trim().parse().expect("a key");
    let release = Envelope::open(&golden("release-envelope.json"), &[key]).expect("it is signed");
    assert_eq!(
        serde_json::to_value(&release).expect("JSON"),
        golden_json("release.json")
    );
    Envelope::open(&golden("release-envelope.json"), &[]).expect_err("no key is trusted");
}

#[test]
fn signing_the_golden_release_gives_the_golden_envelope() {
    let key = ReleaseKey::from_seed(&[7; 32]);
    assert_eq!(
        key.public().to_string(),
        String::from_utf8(golden("release-key.txt"))
            .expect("UTF-8")
            .trim()
    );
    let release: Release = serde_json::from_value(golden_json("release.json")).expect("a release");
    let envelope = key.sign(&release).expect("it signs");
    assert_eq!(
        serde_json::to_value(envelope).expect("JSON"),
        golden_json("release-envelope.json")
    );
}

#[test]
fn the_zoo_packs_to_the_same_bytes_for_ever() {
    let mut digests = Vec::new();
    for (name, version) in ZOO {
        let parts = zoo(name, version);
        let packed =
            Bundle::pack(&parts.manifest, &parts.model, &parts.golden).expect("a good bundle");
        let bundle = Bundle::read(&packed).expect("what was packed");
        assert_eq!(
            (bundle.manifest().name.as_str(), bundle.model()),
            (name, parts.model.as_slice())
        );
        digests.push(format!("{} {name} {version}", bundle.digest()));
    }
    let listed = String::from_utf8(golden("zoo-bundles.txt")).expect("UTF-8");
    assert_eq!(digests, listed.lines().collect::<Vec<_>>());
}
