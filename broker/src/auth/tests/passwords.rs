//! Hashes and digests of passwords.

use crate::auth::{Key, PasswordHash};
use proptest::prelude::*;

#[test]
fn hashes_that_are_weak_or_exhausting_are_refused() {
    let output = "A".repeat(43);
    let hash =
        |algorithm: &str, params: &str| format!("${algorithm}${params}$c29tZXNhbHQ${output}");
    for (algorithm, params) in [
        ("argon2id", "v=19$m=19456,t=2,p=1"),
        ("argon2id", "v=19$m=7168,t=5,p=1"),
        ("argon2id", "v=19$m=65536,t=10,p=4"),
    ] {
        let text = hash(algorithm, params);
        let parsed = PasswordHash::parse(&text).unwrap();
        assert_eq!(parsed.as_str(), text);
        assert!(!format!("{parsed:?}").contains("AAAA"));
    }
    for (algorithm, params, wanted) in [
        ("argon2i", "v=19$m=19456,t=2,p=1", "argon2i in version 19"),
        ("argon2id", "v=16$m=19456,t=2,p=1", "argon2id in version 16"),
        ("argon2id", "m=19456,t=2,p=1", "in version 0"),
        ("argon2id", "v=19$m=7167,t=9,p=1", "m = 7167, expected 7168"),
        ("argon2id", "v=19$m=65537,t=2,p=1", "m = 65537"),
        ("argon2id", "v=19$m=4294967295,t=2,p=1", "m = 4294967295"),
        (
            "argon2id",
            "v=19$m=65536,t=11,p=1",
            "t = 11, expected 1 to 10",
        ),
        ("argon2id", "v=19$m=19456,t=1,p=1", "m x t = 19456"),
        ("argon2id", "v=19$m=65536,t=3,p=5", "p = 5, expected 1 to 4"),
        (
            "argon2id",
            "v=19$m=65536,t=3,q=5",
            "expected a hash of the form",
        ),
        ("scrypt", "ln=17,r=8,p=1", "scrypt"),
    ] {
        let error = PasswordHash::parse(&hash(algorithm, params)).unwrap_err();
        assert!(error.to_string().contains(wanted), "{params}: {error}");
    }
    for text in [
        "",
        "secret",
        "$argon2id$v=19$m=19456,t=2,p=1",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAA",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAA",
    ] {
        assert!(PasswordHash::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_hash_of_another_program_matches() {
    // From the test suite of the reference implementation (P-H-C/phc-winner-argon2, src/test.c).
    let text =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let hash = PasswordHash::parse(text).unwrap();
    assert_eq!(hash.matches(b"password"), Ok(true));
    assert_eq!(hash.matches(b"Password"), Ok(false));
}

#[test]
fn a_key_makes_digests_its_own() {
    let (one, two) = (Key::new().unwrap(), Key::new().unwrap());
    let digest = one.digest("ada", b"pw");
    assert!(digest.is_same(&one.digest("ada", b"pw")));
    for other in [
        one.digest("ad", b"apw"),
        one.digest("ada", b"pW"),
        two.digest("ada", b"pw"),
    ] {
        assert!(!digest.is_same(&other));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_as_a_hash_is_read_or_refused(text in "(\\$argon2id\\$v=19\\$)?[a-z0-9=,$/+]{0,60}") {
        if let Ok(hash) = PasswordHash::parse(&text) {
            prop_assert_eq!(hash.as_str(), text);
        }
    }
}
