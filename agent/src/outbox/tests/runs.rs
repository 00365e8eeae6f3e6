//! The runs of the agent, as the ledger is told of them; and the day's budget.

use lamppost_models::BootId;
use lamppost_models::ledger::{Durability, Ended, EventBatch, LedgerEventKind};

use super::*;

fn boot(number: u64) -> BootId {
    BootId::from_u64(number)
}

fn ended(outbox: &mut Outbox) -> Vec<Ended> {
    let epoch = outbox.epoch();
    let batches = outbox.peek_events(Cursor::default(), 64).unwrap();
    let messages = batches.iter().map(|batch| batch.message(epoch));
    let events =
        messages.flat_map(|text| serde_json::from_slice::<EventBatch>(&text).unwrap().records);
    events
        .filter_map(|event| match event.event {
            LedgerEventKind::Ended(ended) => Some(ended),
            LedgerEventKind::Lost(_) => None,
        })
        .collect()
}

const fn end(boot: u64, clean: bool, durability: Durability) -> Ended {
    Ended {
        boot: BootId::from_u64(boot),
        clean,
        durability,
    }
}

#[test]
fn the_next_run_tells_how_the_one_before_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    outbox.begin_run(boot(1), Durability::Outage, at(0));
    assert_eq!(ended(&mut outbox), [], "the first");
    outbox.end_run().unwrap();
    drop(outbox);

    let mut outbox = open(dir.path());
    outbox.begin_run(boot(2), Durability::Always, at(0));
    let first = end(1, true, Durability::Outage);
    assert_eq!(ended(&mut outbox), [first]);
    // A kill.
    let killed = image(dir.path());
    drop(outbox);
    let mut outbox = open(killed.path());
    outbox.begin_run(boot(3), Durability::Outage, at(0));
    let second = end(2, false, Durability::Always);
    assert_eq!(
        ended(&mut outbox),
        [first, second],
        "nobody acknowledged the first"
    );
}

#[test]
fn a_full_disk_delays_the_note_and_loses_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    outbox.begin_run(boot(1), Durability::Outage, at(0));
    drop(outbox);
    let mut outbox = open(dir.path());
    // Nothing can be written to.
    outbox.abandon();
    outbox.begin_run(boot(2), Durability::Outage, at(0));
    drop(outbox);
    let mut outbox = open(dir.path());
    outbox.begin_run(boot(3), Durability::Outage, at(0));
    let outage = |number| end(number, false, Durability::Outage);
    assert_eq!(ended(&mut outbox), [outage(1), outage(2)]);
    drop(outbox);
    let mut outbox = open(dir.path());
    outbox.begin_run(boot(4), Durability::Outage, at(0));
    assert_eq!(ended(&mut outbox), [outage(1), outage(2), outage(3)]);
}

#[test]
fn a_damaged_file_tells_of_no_run_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(dir.path());
    fs::write(dir.path().join("run"), b"lamppost-run 9 x\n\xff").unwrap();
    outbox.begin_run(boot(1), Durability::Outage, at(0));
    assert_eq!(ended(&mut outbox), []);
    assert_eq!(
        fs::read_to_string(dir.path().join("run")).unwrap(),
        "lamppost-run 1 0000000000000001 outage runs\n"
    );
}

#[test]
fn what_was_sent_today_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path());
    assert_eq!(outbox.spent(), None);
    let spent = Spent {
        since: at(0),
        bytes: 12_345,
    };
    outbox.keep_spent(spent).unwrap();
    drop(outbox);
    assert_eq!(open(dir.path()).spent(), Some(spent));
    let text = fs::read_to_string(dir.path().join("budget")).unwrap();
    assert_eq!(text, "lamppost-budget 1 2027-01-15T08:00:00Z 12345\n");
    for cut in 0..text.len() {
        fs::write(dir.path().join("budget"), &text[..cut]).unwrap();
        assert_eq!(open(dir.path()).spent(), None, "{:?}", &text[..cut]);
    }
}
