//! The attacks of TUF's list (specification, section 1.5.2) on what is signed: releases, trust documents and times. What only
//! shows over time, such as a freeze, is in the agent's tests, which have the same list.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use common::{golden, golden_json};
use lamppost_models::key::{ROLE_KEYS_MAX, Role, RoleError, SecretKey};
use lamppost_models::release::{Envelope, EnvelopeError, Release};
use lamppost_models::seal::{SIGNATURES_MAX, Sealed};
use lamppost_models::signed_time::{TIME_BYTES_MAX, TimeError};
use lamppost_models::trust::{
    Anchor, CHAIN_BYTES_MAX, CHAIN_DOCUMENTS_MAX, Chain, Trust, TrustError, TrustVersion,
};
use lamppost_models::{SignedTime, Timestamp, V1};
use proptest::prelude::*;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn keys(seeds: &[u8]) -> Vec<SecretKey> {
    seeds.iter().map(|seed| key(*seed)).collect()
}

fn role(seeds: &[u8], threshold: usize) -> Role {
    let keys = seeds.iter().map(|seed| key(*seed).public()).collect();
    Role::new(keys, threshold).expect("a role")
}

fn trust(version: u64, root: Role, release: Role) -> Trust {
    Trust {
        schema: V1,
        version: TrustVersion(version),
        issued_at: Timestamp::EPOCH,
        expires_at: None,
        root,
        release,
    }
}

fn sealed(trust: &Trust, seeds: &[u8]) -> Sealed {
    trust.seal(&keys(seeds)).expect("it signs")
}

/// Roots 1, 2 and 3, two of which must sign; release key 7.
fn first() -> Trust {
    trust(1, role(&[1, 2, 3], 2), role(&[7], 1))
}

fn chain(documents: &[Sealed]) -> Chain {
    Chain {
        v: V1,
        chain: documents.to_vec(),
    }
}

/// What a node that trusts the first document comes to believe, and why no more.
fn believed(documents: &[Sealed]) -> (TrustVersion, Option<&'static str>) {
    let walk = chain(documents).follow(&Anchor::Document(first()));
    let version = walk.reached.map_or(TrustVersion(1), |trust| trust.version);
    (version, walk.stopped.map(|error| error.kind()))
}

#[test]
fn whoever_has_not_enough_root_keys_changes_nothing() {
    let old = sealed(&first(), &[1, 2]);
    let next = trust(2, role(&[1, 2, 3], 2), role(&[8], 1));
    let mine = trust(2, role(&[9], 1), role(&[9], 1));
    let mut twice = sealed(&next, &[1]);
    twice.signatures.push(twice.signatures[0].clone());
    let mut claimed = sealed(&next, &[1, 9]);
    claimed.signatures[1].key = key(2).public().id();
    let mut altered = sealed(&next, &[1, 2]);
    altered.payload = sealed(&mine, &[]).payload;
    let cases = [
        (
            "one root key of two (key compromise)",
            sealed(&next, &[1]),
            "not-signed",
        ),
        ("one root key, twice", twice, "not-signed"),
        (
            "one root key and a stranger",
            sealed(&next, &[1, 9]),
            "not-signed",
        ),
        (
            "a stranger who says to be a root key",
            claimed,
            "not-signed",
        ),
        ("the release key", sealed(&next, &[7]), "not-signed"),
        (
            "a document of one's own, signed by oneself",
            sealed(&mine, &[9]),
            "not-signed",
        ),
        (
            "the same with one root key",
            sealed(&mine, &[9, 1]),
            "not-signed",
        ),
        (
            "good signatures on another document (mix and match)",
            altered,
            "not-signed",
        ),
        ("nobody", sealed(&next, &[]), "not-signed"),
    ];
    for (attack, document, reason) in cases {
        let outcome = believed(&[old.clone(), document]);
        assert_eq!(outcome, (TrustVersion(1), Some(reason)), "{attack}");
    }
    assert_eq!(
        believed(&[old.clone(), sealed(&next, &[1, 2])]),
        (TrustVersion(2), None)
    );
    assert_eq!(
        believed(&[old, sealed(&next, &[3, 2, 9])]),
        (TrustVersion(2), None),
        "and a stranger"
    );
}

#[test]
fn new_root_keys_must_sign_too_so_that_nobody_is_locked_out() {
    let old = sealed(&first(), &[1, 2]);
    let next = trust(2, role(&[4, 5], 2), role(&[7], 1));
    let outcome = |seeds: &[u8]| believed(&[old.clone(), sealed(&next, seeds)]);
    assert_eq!(outcome(&[1, 2]), (TrustVersion(1), Some("not-signed")));
    assert_eq!(outcome(&[1, 2, 4]), (TrustVersion(1), Some("not-signed")));
    assert_eq!(outcome(&[1, 4, 5]), (TrustVersion(1), Some("not-signed")));
    assert_eq!(outcome(&[1, 2, 4, 5]), (TrustVersion(2), None));
    // From there on the old ones are worth nothing.
    let third = trust(3, role(&[1, 2, 3], 2), role(&[9], 1));
    let rotated = sealed(&next, &[1, 2, 4, 5]);
    let outcome = believed(&[old, rotated, sealed(&third, &[1, 2, 3])]);
    assert_eq!(
        outcome,
        (TrustVersion(2), Some("not-signed")),
        "what is proven before is proven"
    );
}

#[test]
fn a_chain_that_goes_back_skips_or_forks_changes_nothing() {
    let documents: Vec<Sealed> = (1..=4)
        .map(|version| sealed(&trust(version, role(&[1, 2, 3], 2), role(&[7], 1)), &[1, 2]))
        .collect();
    let known = Anchor::Document(trust(3, role(&[1, 2, 3], 2), role(&[7], 1)));
    let follow = |documents: &[Sealed]| {
        let walk = chain(documents).follow(&known);
        (
            walk.reached.map(|trust| trust.version.0),
            walk.stopped.map(|error| error.kind()),
        )
    };
    assert_eq!(follow(&documents[..2]), (None, Some("older")), "rollback");
    assert_eq!(follow(&documents[..3]), (None, None));
    assert_eq!(follow(&documents), (Some(4), None));
    assert_eq!(follow(&documents[3..]), (Some(4), None), "only what is new");
    let fifth = sealed(&trust(5, role(&[1, 2, 3], 2), role(&[7], 1)), &[1, 2]);
    assert_eq!(follow(std::slice::from_ref(&fifth)), (None, Some("gap")));
    assert_eq!(follow(&[documents[2].clone(), fifth]), (None, Some("gap")));
    let other = sealed(&trust(3, role(&[1, 2, 3], 2), role(&[8], 1)), &[1, 2]);
    assert_eq!(follow(&[other, documents[3].clone()]), (None, Some("fork")));
    let far = sealed(
        &trust(u64::MAX, role(&[1, 2, 3], 2), role(&[7], 1)),
        &[1, 2],
    );
    assert_eq!(
        follow(&[documents[2].clone(), far.clone()]),
        (None, Some("gap")),
        "fast-forward"
    );
    assert_eq!(
        follow(&[documents[2].clone(), documents[3].clone(), far]),
        (None, Some("gap"))
    );
}

#[test]
fn a_node_with_root_keys_alone_finds_its_way_into_the_chain() {
    let old = sealed(&first(), &[1, 2]);
    let second = trust(2, role(&[4, 5], 2), role(&[8], 1));
    let documents = [old, sealed(&second, &[1, 2, 4, 5])];
    let follow = |anchor: Role, documents: &[Sealed]| {
        let walk = chain(documents).follow(&Anchor::Roots(anchor));
        (
            walk.reached.map(|trust| trust.version.0),
            walk.stopped.map(|error| error.kind()),
        )
    };
    assert_eq!(follow(role(&[1, 2, 3], 2), &documents), (Some(2), None));
    assert_eq!(
        follow(role(&[1, 2, 3], 2), &documents[1..]),
        (Some(2), None)
    );
    assert_eq!(
        follow(role(&[4, 5], 2), &documents),
        (Some(2), None),
        "set up later"
    );
    assert_eq!(
        follow(role(&[4, 9], 2), &documents),
        (None, Some("stranger"))
    );
    assert_eq!(follow(role(&[9], 1), &documents), (None, Some("stranger")));
    // Signed by the configured keys, but not by its own.
    let half = sealed(&second, &[1, 2]);
    assert_eq!(
        follow(role(&[1, 2, 3], 2), &[half]),
        (None, Some("not-signed"))
    );
}

#[test]
fn endless_data_is_not_read() {
    let json = serde_json::to_vec(&chain(&[sealed(&first(), &[1, 2])])).expect("JSON");
    let mut endless = json;
    Chain::read(&endless).expect("as it is, it is read");
    endless.resize(CHAIN_BYTES_MAX + 1, b' ');
    assert!(matches!(
        Chain::read(&endless),
        Err(TrustError::TooLarge { .. })
    ));
    let many = vec![sealed(&first(), &[]); CHAIN_DOCUMENTS_MAX + 1];
    let json = serde_json::to_vec(&chain(&many)).expect("JSON");
    assert!(matches!(
        Chain::read(&json),
        Err(TrustError::Documents { documents: 33 })
    ));
    assert!(matches!(
        Chain::read(b"{\"v\":1,\"chain\":[]}"),
        Err(TrustError::Documents { documents: 0 })
    ));
    let time = vec![b' '; TIME_BYTES_MAX + 1];
    assert!(matches!(
        SignedTime::open(&time, &role(&[7], 1)),
        Err(TimeError::TooLarge { .. })
    ));
    let mut signed = sealed(&first(), &[1]);
    signed.signatures = vec![signed.signatures[0].clone(); SIGNATURES_MAX + 1];
    assert!(Trust::open_own(&signed).is_err());
    let all: Vec<u8> = (0..=u8::try_from(ROLE_KEYS_MAX).expect("few")).collect();
    let keys = all.iter().map(|seed| key(*seed).public()).collect();
    assert_eq!(
        Role::new(keys, 1),
        Err(RoleError::Keys {
            keys: ROLE_KEYS_MAX + 1
        })
    );
}

#[test]
fn impossible_roles_are_refused_wherever_they_come_from() {
    let public = key(1).public();
    assert!(matches!(Role::new(vec![], 1), Err(RoleError::Keys { .. })));
    assert!(matches!(
        Role::new(vec![public, public], 1),
        Err(RoleError::Twice { .. })
    ));
    assert!(matches!(
        Role::new(vec![public], 0),
        Err(RoleError::Threshold { .. })
    ));
    assert!(matches!(
        Role::new(vec![public], 2),
        Err(RoleError::Threshold { .. })
    ));
    let text = format!(r#"{{"keys":["{public}","{public}"],"threshold":2}}"#);
    let error = serde_json::from_str::<Role>(&text).expect_err("one key cannot sign twice");
    assert!(error.to_string().contains("one key counts once"), "{error}");
}

#[test]
fn a_release_needs_as_many_keys_as_the_role_asks_for() {
    let release: Release = serde_json::from_value(golden_json("release.json")).expect("a release");
    let two_of_three = role(&[7, 8, 9], 2);
    let open = |first: u8, further: &[u8]| {
        let envelope = Envelope::seal(&release, &key(first), &keys(further)).expect("it signs");
        let json = serde_json::to_vec(&envelope).expect("JSON");
        Envelope::verify(&json, &two_of_three)
    };
    let verified = open(7, &[9]).expect("two of three");
    assert_eq!(verified.release, release);
    assert_eq!(
        verified.signers,
        [key(7).public().id(), key(9).public().id()]
    );
    assert!(open(1, &[7, 9]).is_ok(), "the first may be another's");
    for (attack, first, further) in [
        ("one stolen key", 7, &[][..]),
        ("one stolen key, twice", 7, &[7]),
        ("one stolen key and a stranger", 7, &[1]),
        ("one stolen key behind a stranger", 1, &[8]),
    ] {
        let error = open(first, further).expect_err(attack);
        assert!(
            matches!(
                error,
                EnvelopeError::TooFew {
                    signers: 1,
                    threshold: 2
                }
            ),
            "{attack}: {error}"
        );
    }
    assert!(matches!(
        open(1, &[2]),
        Err(EnvelopeError::UnknownKey { .. })
    ));
    // A node of before looks at the first signature alone.
    let envelope = Envelope::seal(&release, &key(7), &keys(&[8])).expect("it signs");
    let json = serde_json::to_vec(&envelope).expect("JSON");
    Envelope::open(&json, &[key(7).public()]).expect("the first one is its own");
}

#[test]
fn a_signature_on_one_format_is_none_on_another() {
    // All are signed by the same key, whose release role has it as its root, too.
    let all = role(&[7], 1);
    let document = trust(1, all.clone(), all.clone());
    let release: Release = serde_json::from_value(golden_json("release.json")).expect("a release");
    let time = SignedTime {
        schema: V1,
        time: Timestamp::EPOCH,
        nonce: None,
        trust: None,
    };
    let trust = document.seal(&keys(&[7])).expect("it signs");
    let time = time.seal(&keys(&[7])).expect("it signs");
    let envelope = key(7).sign(&release).expect("it signs");
    let as_release = |sealed: &Sealed| {
        let envelope = Envelope {
            v: V1,
            key: sealed.signatures[0].key.clone(),
            signature: sealed.signatures[0].signature.clone(),
            signatures: Vec::new(),
            payload: sealed.payload.clone(),
        };
        Envelope::verify(&serde_json::to_vec(&envelope).expect("JSON"), &all)
    };
    assert!(matches!(
        as_release(&trust),
        Err(EnvelopeError::Signature { .. })
    ));
    assert!(matches!(
        as_release(&time),
        Err(EnvelopeError::Signature { .. })
    ));
    let of_release = Sealed {
        v: V1,
        signatures: vec![lamppost_models::seal::Signature {
            key: envelope.key,
            signature: envelope.signature,
        }],
        payload: envelope.payload,
    };
    for sealed in [&of_release, &trust] {
        let json = serde_json::to_vec(sealed).expect("JSON");
        assert!(matches!(
            SignedTime::open(&json, &all),
            Err(TimeError::Signatures(_))
        ));
    }
    for sealed in [
        of_release,
        Sealed {
            payload: trust.payload.clone(),
            ..time
        },
    ] {
        assert!(Trust::open_own(&sealed).is_err());
    }
    Trust::open_own(&trust).expect("as what it is, it is good");
}

#[test]
fn a_time_is_signed_by_any_release_key_and_nobody_else() {
    let json = golden("signed-time.json");
    let (time, signers) = SignedTime::open(&json, &role(&[8, 9], 2)).expect("one is enough");
    assert_eq!(
        serde_json::to_value(time).expect("JSON"),
        golden_json("time.json")
    );
    assert_eq!(signers, [key(8).public().id()]);
    assert!(SignedTime::open(&json, &role(&[7], 1)).is_err());
    let open = |json: &[u8]| SignedTime::open(json, &role(&[8], 1));
    let mut forged: Sealed = serde_json::from_slice(&json).expect("a sealed time");
    forged.signatures.clear();
    assert!(
        open(&serde_json::to_vec(&forged).expect("JSON")).is_err(),
        "nobody signed it"
    );
}

#[test]
fn the_golden_chain_leads_from_its_first_document_to_its_last() {
    let chain = Chain::read(&golden("trust-chain.json")).expect("a chain");
    let newest = serde_json::to_value(chain.check().expect("it is signed")).expect("JSON");
    assert_eq!(newest, golden_json("trust.json"));
    let walk = chain.follow(&Anchor::Document(first_golden(&chain)));
    let newest: Trust = serde_json::from_value(newest).expect("a document");
    assert_eq!(walk.reached, Some(newest.clone()));
    let at = |text: &str| text.parse().expect("a time");
    assert!(
        !newest.expired(at("2028-01-10T07:59:59Z")) && newest.expired(at("2028-01-10T08:00:00Z"))
    );
    let verified = Envelope::verify(&golden("release-envelope-two.json"), &newest.release)
        .expect("signed by two");
    assert_eq!(
        serde_json::to_value(verified.release).expect("JSON"),
        golden_json("release.json")
    );
}

fn first_golden(chain: &Chain) -> Trust {
    Trust::open_own(&chain.chain[0]).expect("its own keys signed it")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is done to the bytes of a chain, a node comes to believe what was in it, or nothing.
    #[test]
    fn no_mutation_of_a_chain_yields_trust(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let genuine = Chain::read(&golden("trust-chain.json")).expect("a chain");
        let anchor = Anchor::Document(first_golden(&genuine));
        let newest = genuine.check().expect("it is signed");
        let mut bytes = serde_json::to_vec(&genuine).expect("JSON");
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 7),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        if let Ok(chain) = Chain::read(&bytes) {
            let walk = chain.follow(&anchor);
            prop_assert!(walk.reached.is_none_or(|reached| reached == newest));
        }
    }

    /// The same for signatures and documents that are cut out, doubled, exchanged and put elsewhere.
    #[test]
    fn no_shuffle_of_documents_and_signatures_yields_trust(
        moves in prop::collection::vec((0..6_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let mine = trust(2, role(&[9], 1), role(&[9], 1));
        let genuine = Chain::read(&golden("trust-chain.json")).expect("a chain");
        let anchor = Anchor::Document(first_golden(&genuine));
        let newest = genuine.check().expect("it is signed");
        let mut documents = genuine.chain;
        documents.push(sealed(&mine, &[9, 1]));
        for (kind, one, two) in moves {
            let (one, two) = (one.index(documents.len()), two.index(documents.len()));
            match kind {
                0 => documents.swap(one, two),
                1 => documents[one].payload = documents[two].payload.clone(),
                2 => documents[one].signatures = documents[two].signatures.clone(),
                3 => {
                    let more = documents[two].signatures.clone();
                    documents[one].signatures.extend(more);
                }
                4 => drop(documents[one].signatures.pop()),
                _ => documents.insert(one, documents[two].clone()),
            }
        }
        let walk = chain(&documents).follow(&anchor);
        prop_assert!(walk.reached.is_none_or(|reached| reached == newest));
        let roots = chain(&documents).follow(&Anchor::Roots(role(&[1, 2, 3], 2)));
        prop_assert!(roots.reached.is_none_or(|reached| reached == newest || reached.version == TrustVersion(1)));
    }
}
