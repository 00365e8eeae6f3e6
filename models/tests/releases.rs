//! Releases in their envelopes: what is signed opens, and nothing else does.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::{golden, golden_json};
use lamppost_models::Digest;
use lamppost_models::release::{
    BundleRef, ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, PublicKey, Release, ReleaseKey,
    Sequence,
};
use lamppost_models::{Timestamp, V1};
use proptest::prelude::*;
use serde_json::{Value, json};

fn key() -> ReleaseKey {
    ReleaseKey::from_seed(&[7; 32])
}

fn other() -> ReleaseKey {
    ReleaseKey::from_seed(&[8; 32])
}

fn envelope() -> Vec<u8> {
    golden("release-envelope.json")
}

fn release() -> impl Strategy<Value = Release> {
    let name = "[a-z][a-z0-9._-]{0,63}";
    let time =
        || (0..4_000_000_000_000_i64).prop_map(|ms| Timestamp::from_ms(ms).expect("in range"));
    (
        name,
        name,
        any::<u64>(),
        time(),
        time(),
        any::<[u64; 3]>(),
        any::<u64>(),
    )
        .prop_map(
            |(group, model, sequence, issued_at, expires_at, [major, minor, patch], bytes)| {
                Release {
                    schema: V1,
                    group: group.parse().expect("a name"),
                    model: model.parse().expect("a name"),
                    sequence: Sequence(sequence),
                    issued_at,
                    expires_at,
                    stable: BundleRef {
                        version: semver::Version::new(major, minor, patch),
                        digest: Digest::of(&bytes.to_le_bytes()),
                        bytes,
                    },
                    candidate: None,
                    trial: None,
                    hours: None,
                    revoked: Vec::new(),
                }
            },
        )
}

fn seal(envelope: &Envelope) -> Vec<u8> {
    serde_json::to_vec(envelope).expect("JSON")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_release_opens_as_it_was_signed(release in release()) {
        let sealed = seal(&key().sign(&release).expect("it signs"));
        prop_assert!(sealed.len() <= ENVELOPE_BYTES_MAX);
        let opened = Envelope::open(&sealed, &[other().public(), key().public()]).expect("it is signed");
        prop_assert_eq!(opened, release);
    }

    #[test]
    fn a_signature_is_of_one_release_alone(one in release(), two in release()) {
        prop_assume!(one != two);
        let (first, second) = (key().sign(&one).expect("it signs"), key().sign(&two).expect("it signs"));
        let swapped = Envelope { payload: second.payload, ..first };
        let error = Envelope::open(&seal(&swapped), &[key().public()]).expect_err("altered");
        prop_assert!(matches!(error, EnvelopeError::Signature { .. }), "{}", error);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Envelope::open(&bytes, &[key().public()]).is_err());
    }
}

#[test]
fn an_envelope_with_any_byte_flipped_is_refused() {
    let trusted = [key().public()];
    let sealed = serde_json::to_vec(&golden_json("release-envelope.json")).expect("JSON");
    Envelope::open(&sealed, &trusted).expect("as it is, it opens");
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1 << (at % 7);
        Envelope::open(&altered, &trusted).expect_err(&format!("byte {at} was flipped"));
    }
}

#[test]
fn an_envelope_cut_anywhere_is_refused() {
    let sealed = envelope();
    let trimmed = sealed.trim_ascii_end().len();
    for length in 0..trimmed {
        Envelope::open(&sealed[..length], &[key().public()]).expect_err("cut short");
    }
}

#[test]
fn a_release_without_an_envelope_is_refused_as_unsigned() {
    let error = Envelope::open(&golden("release.json"), &[key().public()]).expect_err("unsigned");
    assert!(matches!(error, EnvelopeError::NotSigned(_)), "{error}");
    assert_eq!(error.to_string(), "release is in no signed envelope");
}

#[test]
fn a_release_signed_by_an_unknown_key_is_refused_and_the_key_named() {
    let error = Envelope::open(&envelope(), &[other().public()]).expect_err("another key");
    let wanted = format!(
        "release is signed by key {}, which is not among the trusted keys",
        key().public().id()
    );
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn a_key_id_alone_gives_no_trust() {
    // Signed by one key, and claiming to be of the trusted one.
    let release: Release = serde_json::from_value(golden_json("release.json")).expect("a release");
    let forged = Envelope {
        key: key().public().id(),
        ..other().sign(&release).expect("it signs")
    };
    let error = Envelope::open(&seal(&forged), &[key().public()]).expect_err("forged");
    assert!(matches!(error, EnvelopeError::Signature { .. }), "{error}");
}

#[test]
fn a_signature_over_the_bare_payload_is_none_on_a_release() {
    use ed25519_dalek::Signer as _;
    let signing = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let envelope: Envelope = serde_json::from_slice(&envelope()).expect("an envelope");
    let payload = BASE64.decode(&envelope.payload).expect("base64");
    let bare = Envelope {
        signature: BASE64.encode(signing.sign(&payload).to_bytes()),
        ..envelope
    };
    let error = Envelope::open(&seal(&bare), &[key().public()]).expect_err("without the prefix");
    assert!(matches!(error, EnvelopeError::Signature { .. }), "{error}");
}

#[test]
fn fields_that_are_no_base64_or_of_another_length_are_named() {
    let with = |field: &str, value: &str| {
        let mut envelope = golden_json("release-envelope.json");
        envelope[field] = json!(value);
        Envelope::open(envelope.to_string().as_bytes(), &[key().public()])
            .expect_err("malformed")
            .to_string()
    };
    assert_eq!(
        with("signature", "AAAA"),
        "signature of the envelope is malformed"
    );
    assert_eq!(
        with("signature", "not base64!"),
        "signature of the envelope is malformed"
    );
    assert_eq!(
        with("payload", "%%%"),
        "payload of the envelope is malformed"
    );
}

#[test]
fn an_envelope_over_the_limit_is_refused_before_it_is_read() {
    let mut large = envelope();
    large.resize(ENVELOPE_BYTES_MAX + 1, b' ');
    let error = Envelope::open(&large, &[key().public()])
        .expect_err("too large")
        .to_string();
    assert_eq!(error, "release has 16385 bytes, the limit is 16384");
    large.truncate(ENVELOPE_BYTES_MAX);
    Envelope::open(&large, &[key().public()]).expect("blanks behind it are nothing");
}

#[test]
fn signed_bytes_that_are_no_release_of_this_version_are_refused() {
    use ed25519_dalek::Signer as _;
    let signing = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let open = |release: &Value| {
        let payload = release.to_string();
        let signature = signing.sign(format!("lamppost release v1\0{payload}").as_bytes());
        let sealed = json!({
            "v": 1, "key": key().public().id(),
            "signature": BASE64.encode(signature.to_bytes()), "payload": BASE64.encode(payload),
        });
        Envelope::open(sealed.to_string().as_bytes(), &[key().public()])
    };
    let mut release = golden_json("release.json");
    open(&release).expect("this helper signs as the crate does");
    release["a_later_field"] = json!({"mode": "shadow"});
    open(&release).expect("fields that a later coordinator adds are ignored");
    release["schema"] = json!(2);
    let error = open(&release).expect_err("version 2");
    let EnvelopeError::Release(source) = error else {
        panic!("{error}")
    };
    assert!(
        source
            .to_string()
            .contains("format version 2 is not supported"),
        "{source}"
    );
}

#[test]
fn a_public_key_is_read_back_and_another_spelling_refused() {
    let text = key().public().to_string();
    assert_eq!(text.parse::<PublicKey>().expect("the same"), key().public());
    assert_eq!(
        serde_json::from_str::<PublicKey>(&json!(text).to_string()).expect("the same"),
        key().public()
    );
    for wrong in [
        "",
        "ed25519:",
        "ed25519:AAAA",
        &text[8..],
        &format!("{text}="),
        &text.replace("ed25519", "rsa"),
    ] {
        let error = wrong.parse::<PublicKey>().expect_err(wrong).to_string();
        assert!(
            error.contains("is not ed25519: and 32 bytes in base64"),
            "{error}"
        );
    }
}

#[test]
fn the_secret_half_is_not_in_its_debug_text() {
    let text = format!("{:?}", key());
    assert!(
        text.contains(&key().public().to_string()) && !text.contains("7, 7, 7"),
        "{text}"
    );
}
