//! The attacks of TUF's list (specification, section 1.5.2) on a real agent, by whoever holds its coordinator's broker and
//! artifact server, and some keys. Extraneous dependencies, which are on the list, there are none: a release names one file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use common::{Coordinator, Node, TRAFFIC_STREAM, nonsense, zoo};
use lamppost_models::key::{Role, SecretKey};
use lamppost_models::message::NodeState;
use lamppost_models::release::BundleRef;
use lamppost_models::seal::Sealed;
use lamppost_models::trust::{Chain, Trust, TrustVersion};
use lamppost_models::{Envelope, Release, Reported, SignedTime, Timestamp, V1};

const TOPIC: &str = "lamppost/v1/models/all/traffic-flow";

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn role(seeds: &[u8], threshold: usize) -> Role {
    Role::new(
        seeds.iter().map(|seed| key(*seed).public()).collect(),
        threshold,
    )
    .unwrap()
}

/// A document whose root keys are 1, 2 and 3, of which two must sign.
fn document(version: u64, release: Role, signers: &[u8]) -> Sealed {
    let trust = Trust {
        schema: V1,
        version: TrustVersion(version),
        issued_at: Timestamp::EPOCH,
        expires_at: None,
        root: role(&[1, 2, 3], 2),
        release,
    };
    let keys: Vec<SecretKey> = signers.iter().map(|seed| key(*seed)).collect();
    trust.seal(&keys).unwrap()
}

fn sealed(release: &Release, signers: &[u8]) -> Vec<u8> {
    let (first, further) = signers.split_first().unwrap();
    let further: Vec<SecretKey> = further.iter().map(|seed| key(*seed)).collect();
    serde_json::to_vec(&Envelope::seal(release, &key(*first), &further).unwrap()).unwrap()
}

fn release(sequence: u64, bundle: &BundleRef) -> Release {
    Coordinator::release("traffic-flow", sequence, bundle.clone())
}

/// The configuration of a node that is set up with the root keys.
fn rooted(coordinator: &Coordinator, freeze_after: &str) -> String {
    let keys: Vec<String> = role(&[1, 2, 3], 2)
        .keys()
        .iter()
        .map(|key| format!("\"{key}\""))
        .collect();
    let table = coordinator.table();
    let line = table
        .lines()
        .find(|line| line.trim().starts_with("keys = "))
        .unwrap();
    let root = format!(
        "keys = []\nroot = {{ keys = [{}], threshold = 2 }}\nfreeze_after = \"{freeze_after}\"",
        keys.join(", ")
    );
    table.replace(line, &root) + TRAFFIC_STREAM
}

async fn publish_chain(coordinator: &Coordinator, chain: &[Sealed]) {
    let chain = Chain {
        v: V1,
        chain: chain.to_vec(),
    };
    coordinator
        .publish_raw("lamppost/v1/trust", serde_json::to_vec(&chain).unwrap())
        .await;
}

fn takes(report: &Reported, sequence: u64, bundle: &BundleRef) -> bool {
    let row = &report.models[0];
    let active = row
        .active
        .as_ref()
        .is_some_and(|active| active.digest == bundle.digest);
    active && row.release.is_some_and(|release| release.0 == sequence)
}

async fn until_taken(coordinator: &Coordinator, sequence: u64, bundle: &BundleRef) {
    let taken = |report: &Reported| takes(report, sequence, bundle);
    let what = format!("release {sequence} is taken in");
    coordinator
        .until(&what, |inbox| {
            inbox.reported.last().is_some_and(taken).then_some(())
        })
        .await;
}

async fn until_degraded(coordinator: &Coordinator, why: &str) {
    let degraded =
        |state: &NodeState| matches!(state, NodeState::Degraded { reason } if reason.contains(why));
    coordinator
        .until(why, |inbox| {
            inbox
                .statuses
                .last()
                .is_some_and(|status| degraded(&status.state))
                .then_some(())
        })
        .await;
}

/// What was tried, and the bytes on the topic of the release.
fn attacks(good: &BundleRef, bad: &BundleRef) -> Vec<(&'static str, Vec<u8>)> {
    let new = release(9, bad);
    let mut expired = release(9, bad);
    expired.expires_at = "2020-01-01T00:00:00Z".parse().unwrap();
    let mut mixed: Envelope = serde_json::from_slice(&sealed(&release(9, good), &[7, 8])).unwrap();
    mixed.payload = serde_json::from_slice::<Envelope>(&sealed(&new, &[9, 9]))
        .unwrap()
        .payload;
    let mut endless = sealed(&new, &[7, 8]);
    endless.resize(200 * 1024, b' ');
    let mut foreign = Coordinator::release("air-quality", 9, bad.clone());
    let other_model = sealed(&foreign, &[7, 8]);
    foreign = release(9, bad);
    foreign.group = "others".parse().unwrap();
    vec![
        (
            "arbitrary software: unsigned",
            serde_json::to_vec(&new).unwrap(),
        ),
        (
            "arbitrary software: signed by a stranger",
            sealed(&new, &[9]),
        ),
        (
            "arbitrary software: signed by root keys",
            sealed(&new, &[1, 2, 3]),
        ),
        ("rollback", sealed(&release(4, bad), &[7, 8])),
        (
            "another release of the same number",
            sealed(&release(5, bad), &[7, 8]),
        ),
        ("a release that has expired", sealed(&expired, &[7, 8])),
        ("endless data", endless),
        ("mix and match", serde_json::to_vec(&mixed).unwrap()),
        ("wrong software: of another model", other_model),
        (
            "wrong software: for another group",
            sealed(&foreign, &[7, 8]),
        ),
        ("compromise of one key of a threshold", sealed(&new, &[7])),
        ("the same key twice", sealed(&new, &[7, 7])),
        (
            "one key of a threshold and a stranger",
            sealed(&new, &[9, 7]),
        ),
    ]
}

#[tokio::test]
async fn no_attack_changes_what_runs() {
    let coordinator = Coordinator::start().await;
    let (one, two) = (zoo("traffic-flow", "1.0.0"), zoo("traffic-flow", "1.1.0"));
    let (good, next) = (coordinator.offer(&one, &one), coordinator.offer(&two, &two));
    let bundle = nonsense();
    let bad = coordinator.offer(&bundle, &bundle);
    let first = document(1, role(&[7, 8, 6], 2), &[1, 2]);
    let second = document(2, role(&[7, 8, 6], 2), &[2, 3]);
    publish_chain(&coordinator, &[first.clone(), second]).await;
    coordinator
        .publish_raw(TOPIC, sealed(&release(5, &good), &[7, 8]))
        .await;
    let node = Node::start(|_| rooted(&coordinator, "15m")).await;
    until_taken(&coordinator, 5, &good).await;

    // Trust documents that must not be followed; after each, a release by the key that they name.
    let stranger = role(&[9], 1);
    for chain in [
        vec![first.clone()],
        vec![first.clone(), document(2, stranger.clone(), &[9])],
        vec![document(3, stranger.clone(), &[1])],
        vec![document(3, stranger.clone(), &[1, 7, 8, 9])],
        vec![document(9, stranger.clone(), &[1, 2])],
        vec![first.clone(); 33],
    ] {
        publish_chain(&coordinator, &chain).await;
        coordinator
            .publish_raw(TOPIC, sealed(&release(9, &bad), &[9]))
            .await;
    }
    coordinator
        .publish_raw("lamppost/v1/trust", vec![b'{'; 200 * 1024])
        .await;
    for (_, payload) in attacks(&good, &bad) {
        coordinator.publish_raw(TOPIC, payload).await;
    }
    // The broker keeps the order: this comes behind all of them.
    coordinator
        .publish_raw(TOPIC, sealed(&release(6, &next), &[8, 6]))
        .await;
    until_taken(&coordinator, 6, &next).await;
    let wrong = coordinator.look(|inbox| {
        let row = |report: &Reported| {
            let row = &report.models[0];
            let bad_candidate = row
                .candidate
                .as_ref()
                .is_some_and(|candidate| candidate.digest == bad.digest);
            bad_candidate
                || row
                    .release
                    .is_some_and(|release| ![5, 6].contains(&release.0))
        };
        inbox.reported.iter().filter(|report| row(report)).count()
    });
    assert_eq!(wrong, 0, "reports in which an attack shows");
    node.stop().await;
}

#[tokio::test]
async fn a_stolen_release_key_is_revoked_and_what_it_did_is_undone() {
    let mut coordinator = Coordinator::start().await;
    let (one, two) = (zoo("traffic-flow", "1.0.0"), zoo("traffic-flow", "1.1.0"));
    let (theirs, ours) = (coordinator.offer(&one, &one), coordinator.offer(&two, &two));
    let first = document(1, role(&[7], 1), &[1, 2]);
    let second = document(2, role(&[8], 1), &[1, 3]);
    publish_chain(&coordinator, std::slice::from_ref(&first)).await;
    let node = Node::start(|_| rooted(&coordinator, "2s")).await;

    // The thief uses up the numbers (fast-forward), and has it be 2099, so that what expires before is refused.
    coordinator
        .publish_raw(TOPIC, sealed(&release(u64::MAX, &theirs), &[7]))
        .await;
    until_taken(&coordinator, u64::MAX, &theirs).await;
    coordinator.answer_time(7, "2099-01-01T00:00:00Z".parse().unwrap());
    let late = SignedTime {
        schema: V1,
        time: "2099-01-01T00:00:00Z".parse().unwrap(),
        nonce: None,
        trust: None,
    };
    let late = late.seal([&key(7)]).unwrap();
    coordinator
        .publish_raw("lamppost/v1/time", serde_json::to_vec(&late).unwrap())
        .await;
    let mut honest = release(2, &ours);
    honest.expires_at = "2090-01-01T00:00:00Z".parse().unwrap();
    coordinator.publish_raw(TOPIC, sealed(&honest, &[8])).await;

    // The revocation is enough: nothing is published a second time.
    coordinator.answer_time(8, Timestamp::EPOCH);
    publish_chain(&coordinator, &[first.clone(), second]).await;
    until_taken(&coordinator, 2, &ours).await;
    let dir = node.stop().await;

    // After a restart, from an old copy of all that was said.
    coordinator.stop_broker().await;
    coordinator.start_broker().await;
    publish_chain(&coordinator, &[first]).await;
    coordinator
        .publish_raw(TOPIC, sealed(&release(u64::MAX, &theirs), &[7]))
        .await;
    let before = coordinator.look(|inbox| inbox.reported.len());
    let node = Node::start_in(dir, |_| rooted(&coordinator, "2s")).await;
    coordinator
        .until("it reports", |inbox| {
            (inbox.reported.len() > before).then_some(())
        })
        .await;
    let mut third = release(3, &ours);
    third.expires_at = "2090-01-01T00:00:00Z".parse().unwrap();
    coordinator.publish_raw(TOPIC, sealed(&third, &[8])).await;
    until_taken(&coordinator, 3, &ours).await;
    let releases = coordinator.look(|inbox| {
        let since = inbox.reported[before..].iter();
        since
            .map(|report| report.models[0].release.map(|release| release.0))
            .collect::<Vec<_>>()
    });
    assert!(!releases.contains(&Some(u64::MAX)), "{releases:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_freeze_is_noticed_and_said() {
    let coordinator = Coordinator::start().await;
    let one = zoo("traffic-flow", "1.0.0");
    let good = coordinator.offer(&one, &one);
    publish_chain(&coordinator, &[document(1, role(&[7], 1), &[1, 2])]).await;
    let mut old = release(5, &good);
    old.expires_at = "2090-01-01T00:00:00Z".parse().unwrap();
    coordinator.publish_raw(TOPIC, sealed(&old, &[7])).await;
    let node = Node::start(|_| rooted(&coordinator, "1s")).await;
    until_taken(&coordinator, 5, &good).await;
    // All that was retained is there, and nobody answers.
    until_degraded(&coordinator, "has not proved the time").await;
    // A stranger's answers prove nothing.
    coordinator.answer_time(9, "2026-11-25T10:00:00Z".parse().unwrap());
    let asked = coordinator.look(|inbox| inbox.statuses.len());
    coordinator
        .until("it says so again", |inbox| {
            (inbox.statuses.len() > asked + 3).then_some(())
        })
        .await;
    until_degraded(&coordinator, "has not proved the time").await;
    coordinator.answer_time(7, "2026-11-25T10:00:00Z".parse().unwrap());
    coordinator
        .until("the time is proved", |inbox| {
            inbox
                .statuses
                .last()
                .is_some_and(|status| status.state == NodeState::Up)
                .then_some(())
        })
        .await;
    // Whoever lets answers pass and holds releases back is noticed when the last one expires.
    coordinator.answer_time(7, "2091-01-01T00:00:00Z".parse().unwrap());
    until_degraded(
        &coordinator,
        "release 5 of traffic-flow for all expired at 2090-01-01T00:00:00Z",
    )
    .await;
    node.stop().await;
}

#[tokio::test]
async fn an_artifact_server_that_gives_other_bytes_is_believed_nothing() {
    let coordinator = Coordinator::start().await;
    let (one, two) = (zoo("traffic-flow", "1.0.0"), zoo("traffic-flow", "1.1.0"));
    let good = coordinator.offer(&one, &one);
    publish_chain(&coordinator, &[document(1, role(&[7], 1), &[1, 2])]).await;
    coordinator
        .publish_raw(TOPIC, sealed(&release(1, &good), &[7]))
        .await;
    let node = Node::start(|_| rooted(&coordinator, "15m")).await;
    until_taken(&coordinator, 1, &good).await;

    // An older bundle in the place of the new one, no end of bytes, and none.
    let endless = [two.clone(), vec![0; 4 << 20]].concat();
    for (at, served) in [(2, one.clone()), (3, endless), (4, Vec::new())] {
        let next = coordinator.offer(&two, &served);
        coordinator
            .publish_raw(TOPIC, sealed(&release(at, &next), &[7]))
            .await;
        coordinator
            .until("it is fetched in vain", |inbox| {
                let row = &inbox.reported.last()?.models[0];
                let waits =
                    row.candidate.as_ref()?.state != lamppost_models::message::TrialState::Checking;
                (waits && row.release.is_some_and(|release| release.0 == at)).then_some(())
            })
            .await;
        let active =
            coordinator.look(|inbox| inbox.reported.last().unwrap().models[0].active.clone());
        assert_eq!(active.unwrap().digest, good.digest);
    }
    let next = coordinator.offer(&two, &two);
    coordinator
        .publish_raw(TOPIC, sealed(&release(5, &next), &[7]))
        .await;
    until_taken(&coordinator, 5, &next).await;
    node.stop().await;
}
