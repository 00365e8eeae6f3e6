#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use lamppost_models::key::{Role, SecretKey};

use super::edit::{self, Change, EditError, RoleName};
use super::*;

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

/// A chain of one document: roots 1, 2, 3 of which two must sign, release key 7.
fn chain() -> Chain {
    let trust = edit::first(role(&[1, 2, 3], 2), role(&[7], 1), now(), None);
    Chain {
        v: V1,
        chain: vec![trust.seal(&[key(1), key(2)]).unwrap()],
    }
}

fn add(seeds: &[u8]) -> Change {
    Change {
        add: seeds.iter().map(|seed| key(*seed).public()).collect(),
        ..Change::default()
    }
}

fn append(
    chain: &mut Chain,
    name: RoleName,
    change: Change,
    with: &[u8],
) -> Result<Trust, EditError> {
    let with: Vec<SecretKey> = with.iter().map(|seed| key(*seed)).collect();
    edit::append(chain, &[(name, change)], now(), None, &with)
}

fn text(error: &dyn std::error::Error) -> String {
    crate::error::chain(error)
}

#[test]
fn signatures_are_collected_and_those_that_count_for_nothing_are_refused() {
    let mut chain = chain();
    append(&mut chain, RoleName::Release, add(&[8]), &[1]).unwrap();
    let error = edit::newest(&chain).unwrap_err();
    assert!(matches!(error, EditError::Unfinished { .. }), "{error}");
    assert!(append(&mut chain.clone(), RoleName::Release, add(&[9]), &[1, 2]).is_err());
    let error = edit::sign(&mut chain, &key(7)).unwrap_err();
    assert!(text(&error).contains("would count for nothing"), "{error}");
    edit::sign(&mut chain, &key(1)).unwrap();
    assert!(edit::newest(&chain).is_err(), "one key counts once");
    edit::sign(&mut chain, &key(3)).unwrap();
    assert_eq!(edit::newest(&chain).unwrap().release, role(&[7, 8], 1));
}

#[test]
fn new_root_keys_need_the_old_ones_and_themselves() {
    let mut chain = chain();
    let change = Change {
        drop: role(&[1, 2, 3], 2).ids(),
        ..add(&[4, 5])
    };
    append(&mut chain, RoleName::Root, change, &[1, 2]).unwrap();
    assert!(edit::newest(&chain).is_err(), "the old ones alone");
    edit::sign(&mut chain, &key(4)).unwrap();
    edit::sign(&mut chain, &key(5)).unwrap();
    assert_eq!(edit::newest(&chain).unwrap().root, role(&[4, 5], 2));
    append(&mut chain, RoleName::Release, add(&[8]), &[4, 5]).unwrap();
    assert_eq!(edit::newest(&chain).unwrap().version, TrustVersion(3));
}

#[test]
fn a_revocation_must_leave_enough_keys_and_something_must_change() {
    let mut chain = chain();
    let newest = edit::newest(&chain).unwrap();
    let error = edit::revocation(&newest, "0123456789abcdef", None).unwrap_err();
    assert!(matches!(error, EditError::NoKey { .. }), "{error}");
    let last = edit::revocation(&newest, &key(7).public().id(), None).unwrap();
    let error = edit::append(&mut chain, &last, now(), None, &[]).unwrap_err();
    assert!(
        text(&error).contains("0 keys are none or too many"),
        "{error}"
    );
    let error = append(&mut chain, RoleName::Release, Change::default(), &[]).unwrap_err();
    assert!(matches!(error, EditError::Nothing), "{error}");
    let root = edit::revocation(&newest, &key(3).public().id(), None).unwrap();
    edit::append(&mut chain, &root, now(), None, &[key(1), key(2)]).unwrap();
    assert_eq!(edit::newest(&chain).unwrap().root, role(&[1, 2], 2));
}

#[test]
fn what_is_installed_grows_and_nothing_else_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, signers) = (dir.path(), [key(7).public()]);
    assert_eq!(read(dir).unwrap(), None);
    let first = chain();
    install(dir, &first, Some(&signers)).unwrap();
    let mut second = first.clone();
    append(&mut second, RoleName::Release, add(&[8]), &[1, 2]).unwrap();
    // The new document alone is enough.
    let alone = Chain {
        v: V1,
        chain: second.chain[1..].to_vec(),
    };
    let installed = install(dir, &alone, Some(&signers)).unwrap();
    assert_eq!(installed.chain, second);
    assert_eq!(
        install(dir, &second, Some(&signers)).unwrap(),
        installed,
        "again"
    );
    assert_eq!(read(dir).unwrap(), Some(installed));

    let error = install(dir, &first, Some(&signers)).unwrap_err();
    assert!(
        text(&error).contains("document 2 is known already"),
        "{}",
        text(&error)
    );
    let mut fork = first;
    append(&mut fork, RoleName::Release, add(&[9]), &[1, 2]).unwrap();
    let error = install(dir, &fork, Some(&signers)).unwrap_err();
    assert!(
        text(&error).contains("differs from the document 2"),
        "{}",
        text(&error)
    );
    let mut unsigned = second.clone();
    append(&mut unsigned, RoleName::Release, add(&[9]), &[1]).unwrap();
    let error = install(dir, &unsigned, Some(&signers)).unwrap_err();
    assert!(
        text(&error).contains("1 of the trusted keys signed it, 2 must"),
        "{}",
        text(&error)
    );
    assert_eq!(read(dir).unwrap().unwrap().chain, second);
}

#[test]
fn a_coordinator_whose_key_is_not_named_does_not_start_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let signers = Arc::new(Signers::load(dir.path(), &[]).unwrap());
    Authority::open(dir.path(), Arc::clone(&signers)).unwrap();
    let error = install(dir.path(), &chain(), Some(&signers.public())).unwrap_err();
    assert!(matches!(error, InstallError::Unlisted { .. }), "{error}");
    install(dir.path(), &chain(), None).unwrap();
    let Err(error) = Authority::open(dir.path(), signers) else {
        panic!("the key is not named")
    };
    let error = text(&error);
    assert!(
        error.contains("Set releases.signers to files of keys that it names"),
        "{error}"
    );
}

#[test]
fn a_threshold_needs_as_many_signers() {
    let dir = tempfile::tempdir().unwrap();
    let trust = edit::first(role(&[1], 1), role(&[7, 8, 9], 2), now(), None);
    let chain = Chain {
        v: V1,
        chain: vec![trust.seal(&[key(1)]).unwrap()],
    };
    let error = install(dir.path(), &chain, Some(&[key(7).public()])).unwrap_err();
    assert!(matches!(error, InstallError::TooFew { .. }), "{error}");
    install(
        dir.path(),
        &chain,
        Some(&[key(7).public(), key(9).public()]),
    )
    .unwrap();
}

#[test]
fn a_full_chain_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = chain();
    for seed in 10..10 + u8::try_from(CHAIN_DOCUMENTS_MAX).unwrap() {
        let change = Change {
            drop: edit::newest(&chain).unwrap().release.ids(),
            ..add(&[seed])
        };
        append(&mut chain, RoleName::Release, change, &[1, 2]).unwrap();
        let installed = install(dir.path(), &chain, None);
        if chain.chain.len() <= CHAIN_DOCUMENTS_MAX {
            installed.unwrap();
        } else {
            assert!(matches!(installed, Err(InstallError::Full { .. })));
        }
    }
    assert_eq!(
        read(dir.path()).unwrap().unwrap().newest.version,
        TrustVersion(32)
    );
}
