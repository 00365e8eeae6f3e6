use lamppost_models::release::Sequence;
use lamppost_models::{Digest, V1};

use super::*;
use crate::api::ModelRow;
use crate::state::ModelError;
use crate::state::testing::{at, disk_full, open};

fn target() -> Target {
    Target {
        group: "all".parse().unwrap(),
        model: "flow".parse().unwrap(),
    }
}

fn row(minor: u64, content: &[u8]) -> ModelRow {
    ModelRow {
        v: V1,
        name: "flow".parse().unwrap(),
        version: Version::new(1, minor, 0),
        digest: Digest::of(content),
        bytes: 10,
        task: lamppost_models::manifest::Task::Forecasting,
        summary: "flow".to_owned(),
        pushed_at: at(0),
    }
}

fn by() -> Actor {
    "anna@depot".parse().unwrap()
}

/// Has the whole group run a version now, and gives the release.
fn start(state: &mut State, minor: u64, now: Timestamp) -> Result<Rollout, RolloutError> {
    let wanted = StartRollout {
        model: target().model,
        version: Version::new(1, minor, 0),
        group: target().group,
        policy: None,
        all_at_once: true,
    };
    state.start(wanted, by(), RolloutId::from_u64(minor), now)?;
    Ok(state.book.current(&target()).unwrap().clone())
}

#[test]
fn a_version_is_immutable() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    assert!(state.add_model(&row(0, b"a"), by()).unwrap());
    assert!(!state.add_model(&row(0, b"a"), by()).unwrap());
    let error = state.add_model(&row(0, b"b"), by()).unwrap_err();
    assert!(matches!(error, ModelError::Conflict { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&Digest::of(b"a").to_string())
            && text.contains(&Digest::of(b"b").to_string()),
        "{text}"
    );
}

#[test]
fn rollouts_and_models_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    for minor in 0..2 {
        state
            .add_model(&row(minor, &minor.to_le_bytes()), by())
            .unwrap();
        start(&mut state, minor, at(1)).unwrap();
    }
    drop(state);
    let mut state = open(dir.path());
    assert_eq!(state.models().count(), 2);
    state.roll_back(&target(), None, &by(), at(2)).unwrap();
    let back = state.book.current(&target()).unwrap().clone();
    assert_eq!(
        (back.sequence, back.stable.version),
        (Sequence(3), Version::new(1, 0, 0))
    );
    drop(state);
    let state = open(dir.path());
    assert_eq!(state.book.current(&target()).unwrap().sequence, Sequence(3));
    assert_eq!(state.book.history(&target()).count(), 3);
}

#[test]
fn the_oldest_rollout_is_deleted_with_the_one_that_has_no_room() {
    use lamppost_coordinator_core::rollout::HISTORY_MAX;
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    for minor in 0..2 {
        state
            .add_model(&row(minor, &minor.to_le_bytes()), by())
            .unwrap();
    }
    for step in 0..HISTORY_MAX as u64 + 3 {
        start(&mut state, step % 2, at(1)).unwrap();
    }
    let history = |state: &State| {
        state
            .book
            .history(&target())
            .map(|rollout| rollout.sequence.0)
            .collect::<Vec<_>>()
    };
    let kept = history(&state);
    assert_eq!((kept.len(), kept[0]), (HISTORY_MAX, 4));
    assert_eq!(state.store.scan_prefix(b"rollout/").count(), HISTORY_MAX);
    drop(state);
    assert_eq!(history(&open(dir.path())), kept);
}

#[test]
fn a_version_that_is_not_there_cannot_start() {
    let dir = tempfile::tempdir().unwrap();
    let error = start(&mut open(dir.path()), 9, at(1)).unwrap_err();
    assert!(matches!(error, RolloutError::NoModel { .. }));
}

#[test]
fn a_rollout_that_was_not_persisted_did_not_happen() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.add_model(&row(0, b"a"), by()).unwrap();
    state.fail_next_commit = Some(disk_full());
    start(&mut state, 0, at(1)).unwrap_err();
    assert!(state.stopped());
    assert!(state.book.current(&target()).is_none());
}

#[test]
fn releases_are_renewed_once_and_durably() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.add_model(&row(0, b"a"), by()).unwrap();
    let rollout = start(&mut state, 0, at(1)).unwrap();
    assert_eq!(state.renew(at(2)).unwrap(), []);
    let due = rollout.renewal_due();
    assert_eq!(
        state.renew(due).unwrap(),
        [state.book.current(&target()).unwrap().clone()]
    );
    assert_eq!(state.renew(due).unwrap(), []);
    drop(state);
    let current = open(dir.path()).book.current(&target()).unwrap().clone();
    assert_eq!(
        (current.issued_at, current.sequence),
        (due, rollout.sequence)
    );
}
