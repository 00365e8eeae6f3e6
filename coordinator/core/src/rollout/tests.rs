use lamppost_models::Digest;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_hours(720);

fn at(seconds: i64) -> Timestamp {
    Timestamp::EPOCH.offset_ms(seconds * 1000)
}

fn target() -> Target {
    Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    }
}

fn bundle(minor: u64) -> BundleRef {
    BundleRef {
        version: Version::new(1, minor, 0),
        digest: Digest::of(&minor.to_le_bytes()),
        bytes: 10,
    }
}

fn terms(now: i64) -> Terms {
    Terms {
        now: at(now),
        lifetime: LIFE,
        seen: Sequence(0),
    }
}

fn plan_start(book: &Book, minor: u64) -> Result<Rollout, PlanError> {
    book.plan_start(&target(), bundle(minor), terms(1))
}

fn start(book: &mut Book, minor: u64) -> Rollout {
    let rollout = book.plan_start(&target(), bundle(minor), terms(1)).unwrap();
    book.apply(rollout.clone());
    rollout
}

#[test]
fn starts_and_rolls_back_step_by_step() {
    let mut book = Book::new();
    for minor in 0..3 {
        assert_eq!(start(&mut book, minor).sequence, Sequence(minor + 1));
    }
    let back = book.plan_rollback(&target(), terms(2)).unwrap();
    assert_eq!((back.sequence, &back.stable), (Sequence(4), &bundle(1)));
    assert_eq!(back.cause, Cause::Rollback { of: Sequence(3) });
    book.apply(back);
    let further = book.plan_rollback(&target(), terms(3)).unwrap();
    assert_eq!(
        (further.sequence, &further.stable),
        (Sequence(5), &bundle(0))
    );
    book.apply(further);
    let refused = book.plan_rollback(&target(), terms(4)).unwrap_err();
    assert!(matches!(
        refused,
        PlanError::NothingBefore {
            sequence: Sequence(5),
            ..
        }
    ));
}

#[test]
fn a_plan_changes_nothing_until_it_is_applied() {
    let book = Book::new();
    plan_start(&book, 0).unwrap();
    assert_eq!(book.current(&target()), None);
    assert!(matches!(
        book.plan_rollback(&target(), terms(1)),
        Err(PlanError::NoRelease { .. })
    ));
}

#[test]
fn a_coordinator_that_lost_its_book_goes_on_above_what_nodes_have_seen() {
    let mut book = Book::new();
    let seen = Terms {
        seen: Sequence(41),
        ..terms(1)
    };
    let first = book.plan_start(&target(), bundle(0), seen).unwrap();
    assert_eq!((first.sequence, first.replaces), (Sequence(42), None));
    book.apply(first);
    start(&mut book, 1);
    let back = book
        .plan_rollback(
            &target(),
            Terms {
                seen: Sequence(50),
                ..terms(1)
            },
        )
        .unwrap();
    assert_eq!((back.sequence, back.stable), (Sequence(51), bundle(0)));
}

#[test]
fn the_same_bundle_again_is_refused() {
    let mut book = Book::new();
    start(&mut book, 1);
    let refused = book.plan_start(&target(), bundle(1), terms(2)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "flow 1.1.0 is already the release of group all (sequence 1): there is nothing to start"
    );
}

#[test]
fn a_release_is_renewed_before_it_expires_and_keeps_its_sequence() {
    let mut book = Book::new();
    let rollout = start(&mut book, 1);
    let due = rollout.renewal_due();
    assert!(book.due(due.offset_ms(-1)).is_empty());
    assert_eq!(book.due(due), std::slice::from_ref(&rollout));
    let renewed = rollout.renewed(due, LIFE);
    assert!(renewed.expires_at > rollout.expires_at && renewed.sequence == rollout.sequence);
    book.apply(renewed);
    assert!(book.due(due).is_empty());
    assert_eq!(book.history(&target()).count(), 1);
}

#[test]
fn the_first_group_with_a_release_decides() {
    let mut book = Book::new();
    start(&mut book, 1);
    let groups: Vec<GroupId> = ["canary", "all", "late"]
        .map(|group| group.parse().unwrap())
        .into();
    assert_eq!(book.deciding(&target().model, &groups), Some(&groups[1]));
    assert_eq!(book.deciding(&"other".parse().unwrap(), &groups), None);
}

proptest! {
    /// Against a plain stack of versions: start pushes, rollback pops.
    #[test]
    fn rollback_is_a_pop_and_sequences_only_grow(steps in vec(prop_oneof![3 => (0..4_u64).prop_map(Some), 2 => Just(None)], 0..60)) {
        let (mut book, mut stack) = (Book::new(), Vec::new());
        let mut last = Sequence(0);
        for step in steps {
            let plan = if let Some(minor) = step {
                let plan = plan_start(&book, minor);
                prop_assert_eq!(plan.is_err(), stack.last() == Some(&bundle(minor)));
                if plan.is_ok() {
                    stack.push(bundle(minor));
                }
                plan
            } else {
                let plan = book.plan_rollback(&target(), terms(1));
                prop_assert_eq!(plan.is_ok(), stack.len() > 1);
                if plan.is_ok() {
                    stack.pop();
                }
                plan
            };
            if let Ok(rollout) = plan {
                prop_assert!(rollout.sequence > last);
                last = rollout.sequence;
                let json = serde_json::to_vec(&rollout).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<Rollout>(&json).unwrap(), &rollout);
                book.apply(rollout);
            }
            prop_assert_eq!(book.current(&target()).map(|rollout| &rollout.stable), stack.last());
        }
    }
}

#[test]
fn format_1_parses_for_ever() {
    let json = r#"{"v":1,"group":"all","model":"flow","sequence":3,"stable":{"version":"1.1.0",
        "digest":"sha256:fc4883270efe2d9945b82200517e4003b03326e1723fbe75a499148ad5652ef4","bytes":24576},
        "replaces":1,"cause":"rollback","of":2,"started_at":"2026-11-24T08:00:00Z",
        "issued_at":"2026-11-24T08:00:00Z","expires_at":"2026-12-24T08:00:00Z"}"#;
    let rollout: Rollout = serde_json::from_str(json).unwrap();
    assert_eq!(
        (rollout.cause, rollout.replaces),
        (Cause::Rollback { of: Sequence(2) }, Some(Sequence(1)))
    );
    assert_eq!(rollout.target, target());
    let written = serde_json::to_value(&rollout).unwrap();
    assert_eq!(
        written,
        serde_json::from_str::<serde_json::Value>(json).unwrap()
    );
}

#[test]
fn the_history_is_bounded() {
    let mut book = Book::new();
    for minor in 0..HISTORY_MAX as u64 {
        start(&mut book, minor);
    }
    let rollout = plan_start(&book, 999).unwrap();
    assert_eq!(
        book.displaced_by(&rollout).map(|oldest| oldest.sequence),
        Some(Sequence(1))
    );
    book.apply(rollout.clone());
    assert_eq!(
        book.displaced_by(&rollout),
        None,
        "a renewal displaces nothing"
    );
    assert_eq!(book.history(&target()).count(), HISTORY_MAX);
}
