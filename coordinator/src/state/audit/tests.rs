use lamppost_coordinator_core::rollout::audit::{Act, Actor};

use super::*;
use crate::state::testing::{at, disk_full, open};

fn note(words: &str) -> Note {
    Note {
        by: "anna@depot".parse::<Actor>().unwrap(),
        act: Act::Push,
        target: None,
        words: words.to_owned(),
    }
}

/// Appends so many notes, one a second.
fn fill(state: &mut State, notes: std::ops::Range<i64>) {
    for number in notes {
        let (writes, log) = state.append(note(&number.to_string()), at(number)).unwrap();
        state.commit(&writes).unwrap();
        state.log = log;
    }
}

/// Checks the whole log, page by page.
fn check(state: &mut State) -> Result<u64, Broken> {
    let mut head = state.audit_base();
    loop {
        match state.check_audit(head).unwrap() {
            Checked::SoFar(further) => head = further,
            Checked::Whole(head) => return Ok(head.next),
            Checked::Broken(_, broken) => return Err(broken),
        }
    }
}

#[test]
fn a_log_is_read_in_pages_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    assert_eq!(check(&mut state), Ok(0));
    fill(&mut state, 0..7);
    drop(state);
    let mut state = open(dir.path());
    fill(&mut state, 7..10);
    let numbers = |page: &AuditPage| {
        page.entries
            .iter()
            .map(|entry| entry.number)
            .collect::<Vec<_>>()
    };
    let newest = state.audit(From::Newest, 3).unwrap();
    assert_eq!((numbers(&newest), newest.next), (vec![7, 8, 9], None));
    let first = state.audit(From::Number(0), 4).unwrap();
    assert_eq!((numbers(&first), first.next), (vec![0, 1, 2, 3], Some(4)));
    let since = state.audit(From::Time(at(8)), 4).unwrap();
    assert_eq!((numbers(&since), since.head), (vec![8, 9], newest.head));
    assert!(
        state
            .audit(From::Time(at(99)), 4)
            .unwrap()
            .entries
            .is_empty()
    );
    assert_eq!(check(&mut state), Ok(10));
}

#[test]
fn a_check_goes_over_all_pages() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let some = i64::try_from(PAGE_MAX).unwrap() + 2;
    fill(&mut state, 0..some);
    assert_eq!(check(&mut state), Ok(PAGE_MAX + 2));
    state
        .commit(&[Write::delete(keys::audit(PAGE_MAX + 1))])
        .unwrap();
    assert!(
        matches!(check(&mut state), Err(Broken::Short { number, .. }) if number == PAGE_MAX + 1)
    );
}

#[test]
fn what_is_changed_left_out_or_cut_off_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    fill(&mut state, 0..6);
    let mut entry: Entry = state.read_one(&keys::audit(3)).unwrap().unwrap();
    let good = json(&entry);
    "nothing happened".clone_into(&mut entry.words);
    state
        .commit(&[Write::put(keys::audit(3), json(&entry))])
        .unwrap();
    assert_eq!(check(&mut state), Err(Broken::Content { number: 3 }));
    state.commit(&[Write::delete(keys::audit(3))]).unwrap();
    assert!(matches!(
        check(&mut state),
        Err(Broken::Gap { number: 3, .. })
    ));
    state
        .commit(&[
            Write::put(keys::audit(3), good),
            Write::delete(keys::audit(5)),
        ])
        .unwrap();
    assert!(matches!(
        check(&mut state),
        Err(Broken::Short { number: 5, .. })
    ));
}

#[test]
fn old_entries_go_and_the_rest_is_still_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    fill(&mut state, 0..3);
    // As if the log were full: the end is moved so far that each further entry displaces one.
    let first = state.audit(From::Number(0), 1).unwrap().entries.remove(0);
    state.log.base = Head::default();
    let number = first.number + ENTRIES_MAX;
    state.log.head = Head {
        next: number,
        ..state.log.head
    };
    fill(&mut state, 3..4);
    assert_eq!(state.log.base, Head::after(&first));
    assert!(state.read_one::<Entry>(&keys::audit(0)).unwrap().is_none());
    drop(state);
    assert_eq!(open(dir.path()).log.base, Head::after(&first));
}

#[test]
fn a_note_that_was_not_committed_has_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    fill(&mut state, 0..1);
    let before = state.log.head;
    let (writes, _) = state.append(note("lost"), at(2)).unwrap();
    state.fail_next_commit = Some(disk_full());
    state.commit(&writes).unwrap_err();
    drop(state);
    let mut state = open(dir.path());
    assert_eq!((state.log.head, check(&mut state)), (before, Ok(1)));
}
